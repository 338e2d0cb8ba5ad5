"""docs/plugins: a page for each plugin that comes with popproxy, its options those of the model, its examples good, as
those of docs/recipes.md are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from popproxy.config.load import load
from popproxy.config.problems import ConfigError
from popproxy.config.reference import with_reference

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "plugins"
NAMES = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["popproxy.plugins"])
FENCE = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(match.group(1), id=f"{page.stem} at {text.count(chr(10), 0, match.start()) + 2}")
    for page in [*sorted(PAGES.glob("*.md")), PAGES.parent / "recipes.md"]
    for text in [page.read_text("utf-8")]
    for match in FENCE.finditer(text)
]
LISTENER = '\n[[listener]]\nname = "pop3s"\nbind = ["[::]:995"]\ntls = "implicit"\n'
UPSTREAM = '\n[upstream.main]\nservers = ["pop3s://mail.example.com"]\n'


@pytest.mark.parametrize("name", NAMES)
def test_its_options_are_those_of_the_model(name: str) -> None:
    page = PAGES / f"{name}.md"
    write = f"popproxy config reference --plugin {name} --page docs/plugins/{name}.md"
    assert page.exists(), f"write a page with a heading, examples and two markers for the options; then: {write}"
    text = page.read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    assert text == with_reference(text, name), f"write the options again: {write}"


def test_there_is_no_page_without_a_plugin() -> None:
    assert [page.stem for page in sorted(PAGES.glob("*.md"))] == NAMES


def test_the_readme_names_each() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"\]\(docs/plugins/(\w+)\.md\)", readme)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_an_example(name: str) -> None:
    assert f'use = "{name}"' in "".join(FENCE.findall((PAGES / f"{name}.md").read_text("utf-8")))


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_good_config(example: str, tmp_path: Path) -> None:
    """Files it names need not be there; a listener and an upstream are added when it has none."""
    for table, text in (("[[listener]]", LISTENER), ("[upstream.", UPSTREAM)):
        if table not in example:
            example += text
    file = tmp_path / "popproxy.toml"
    file.write_text(example, "utf-8")
    try:
        load(file)
    except ConfigError as error:
        assert [str(problem) for problem in error.problems if "cannot read" not in problem.message] == []


@pytest.mark.parametrize("name", NAMES)
def test_what_a_plugin_needs_is_told_with_an_example(name: str, tmp_path: Path) -> None:
    file = tmp_path / "popproxy.toml"
    file.write_text(f'[[plugin]]\nuse = "{name}"\n{LISTENER}{UPSTREAM}', "utf-8")
    try:
        load(file)
    except ConfigError as error:
        assert [str(problem) for problem in error.problems if problem.hint == "write it"] == []

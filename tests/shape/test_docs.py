"""What pages for people say: links and paths lead somewhere, commands are those of the program, configs are good."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from popproxy.config.load import load
from popproxy.config.problems import ConfigError
from popproxy.run.cli import parser

ROOT = Path(__file__).parents[2]
SKIPPED = (".venv", ".cache", "build", "dist")
PAGES = [page for page in sorted(ROOT.rglob("*.md")) if not set(page.relative_to(ROOT).parts) & set(SKIPPED)]
TEXTS = {page: page.read_text("utf-8") for page in PAGES}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:tests|popproxy|plugins|docs|deploy|grafana)/[\w./-]*\w)(?:::\w+)?`")
_ENDS = frozenset({"&", "&&", "|", "||", ";", ">", "2>", "<"})


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return _FENCE.sub("", TEXTS[page])


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    # The past may name what is gone; what keeps a decision true may not be gone.
    if page.name != "CHANGELOG.md":
        ways = (ROOT, ROOT / "plugins", page.parent)
        dead += [path for path in _PATH.findall(prose(page)) if not any((way / path).exists() for way in ways)]
    assert dead == []


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each ``popproxy ...`` in its shell blocks."""
    for kind, block in _FENCE.findall(TEXTS[page]):
        if kind != "sh":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|[\s/])popproxy (?=[a-z])(.*)", line)
            if found is None or line.startswith(("useradd", "install", "ln", "usermod", "systemctl")):
                continue
            lexer = shlex.shlex(found[1], posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
            yield words[: next((place for place, word in enumerate(words) if word in _ENDS), len(words))]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_those_of_the_program(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = parser()
    for words in commands(page):
        try:
            made.parse_args(words)
        except SystemExit as stop:
            assert stop.code == 0, f"popproxy {shlex.join(words)}: {capsys.readouterr().err}"


CONFIGS = [
    pytest.param(block, id=name(page))
    for page in (ROOT / "README.md", ROOT / "grafana" / "README.md", ROOT / "docs" / "observe.md")
    for kind, block in _FENCE.findall(TEXTS[page])
    for block in ([block] if kind == "toml" else re.findall(r"popproxy\.toml <<'END'\n(.*?)^END$", block, re.M | re.S))
    if "[[listener]]" in block
]


@pytest.mark.parametrize("config", CONFIGS)
def test_whole_configs_are_good(config: str, tmp_path: Path) -> None:
    """Files they name need not be there."""
    file = tmp_path / "popproxy.toml"
    file.write_text(config, "utf-8")
    try:
        load(file)
    except ConfigError as error:
        absent = re.compile("cannot read|there is no directory")
        assert [str(one) for one in error.problems if absent.search(one.message) is None] == []


def test_targets_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    known = set(re.findall(r"^(?!\.)([\w./-]+):(?!=)", makefile, re.MULTILINE)) | {".venv/run.stamp", ".venv/dev.stamp"}
    for page, text in TEXTS.items():
        blocks = "".join(block for kind, block in _FENCE.findall(text) if kind == "sh")
        asked = re.findall(r"^make ([\w./-]+)", blocks, re.MULTILINE) + re.findall(r"`make ([\w./-]+)", text)
        assert set(asked) <= known, name(page)

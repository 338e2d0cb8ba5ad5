"""deploy/examples: ``popproxy check`` has nothing to say about any, and deploy/README.md names each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from popproxy.run.asked import EX_OK
from popproxy.run.cli import main
from tests.run.examples import EXAMPLES, NAMES, Site


@pytest.mark.parametrize("name", NAMES)
def test_check_has_nothing_to_say(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(Site(tmp_path).installed(name))]) == EX_OK
    printed = capsys.readouterr()
    assert printed.err == ""
    assert ": good: " in printed.out


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_for(name: str) -> None:
    assert (EXAMPLES / name).read_text("utf-8").startswith("# ")


def test_the_readme_names_each() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    assert sorted(re.findall(r"\(examples/([\w.-]+\.toml)\)", readme)) == NAMES
    assert len(NAMES) >= 1

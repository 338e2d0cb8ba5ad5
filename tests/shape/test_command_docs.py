"""docs/commands.md says what the command line has."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from popproxy.run.cli import main, parser
from popproxy.run.manual import manual

ROOT = Path(__file__).resolve().parents[2]


def test_docs_are_generated() -> None:
    written = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert written == manual(), "run: python -m popproxy.run.manual > docs/commands.md"


def test_the_module_writes_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "popproxy" / "run" / "manual.py"), run_name="__main__")
    assert capsys.readouterr().out == manual()


def test_every_command_is_there_and_answers_help(capsys: pytest.CaptureFixture[str]) -> None:
    headings = [line.split()[2:] for line in manual().splitlines() if line.startswith(("## popproxy", "### popproxy"))]
    assert ["upstreams", "drain"] in headings and ["doctor"] in headings
    assert parser().prog == "popproxy"
    for words in headings:
        assert main([*words, "--help"]) == 0
        assert f"usage: popproxy {words[0]}" in capsys.readouterr().out

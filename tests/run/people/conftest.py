from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from popproxy.run import asked
from popproxy.run.cli import main
from popproxy.run.people import finding


class Typed:
    """Types commands in this process. ``place`` is where --admin points, empty for no such option."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.place = ""

    def __call__(self, command: str, *arguments: str) -> tuple[int, str, str]:
        """Exit code and both streams."""
        where = ("--admin", self.place) if self.place else ()
        code = main([*command.split(), *arguments, *where])
        told = self._capsys.readouterr()
        return code, told.out, told.err

    def json(self, command: str, *arguments: str) -> tuple[int, Any]:
        """Exit code, and what --json printed."""
        code, out, _ = self(command, *arguments, "--json")
        assert out.isascii()
        return code, json.loads(out)


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


@pytest.fixture(autouse=True)
def no_popproxy_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (asked.CONFIG_VARIABLE, "RUNTIME_DIRECTORY", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(asked, "SYSTEM_CONFIG", tmp_path / "system.toml")
    monkeypatch.setattr(finding, "SOCKET", tmp_path / "usual.sock")


Wide = Callable[[int], None]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Wide:
    """Let the terminal be so wide."""
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))

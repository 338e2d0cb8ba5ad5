"""Configs as text: what is wrong in them, or what they compile to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.config.load import Loaded, load
from popproxy.config.problems import ConfigError

LISTENER = '[[listener]]\nname = "pop3s"\nbind = ["[::]:995"]\ntls = "implicit"\n'
UPSTREAM = '[upstream.main]\nservers = ["pop3s://mail.example.com"]\n'


@pytest.fixture
def good(tmp_path: Path) -> Callable[[str], Loaded]:
    """Loads a text that must be good; a listener and an upstream are put before it when it has none."""

    def loaded(text: str = "") -> Loaded:
        file = tmp_path / "popproxy.toml"
        file.write_text(completed(text), "utf-8")
        return load(file)

    return loaded


@pytest.fixture
def bad(tmp_path: Path) -> Callable[[str], list[str]]:
    """Loads a text that must be bad, completed as by ``good``: ``line: key: message; hint`` for each problem."""

    def found(text: str) -> list[str]:
        file = tmp_path / "popproxy.toml"
        file.write_text(completed(text), "utf-8")
        with pytest.raises(ConfigError) as caught:
            load(file)
        return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]

    return found


def completed(text: str) -> str:
    """``text`` with the tables behind it that every config needs, so that its own lines keep their numbers."""
    if "listener]]" not in text:
        text += "\n" + LISTENER
    if "[upstream" not in text:
        text += "\n" + UPSTREAM
    return text

"""plugins/skeleton.py is a file to copy: it works as it stands, alone and in a config."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from popproxy.api import Code, Counter, Explained, Refuse, SessionSummary, SessionView, parse
from popproxy.api.plugin import HOOKS, overrides

SKELETON = Path(__file__).parents[2] / "plugins" / "skeleton.py"
MODULE: dict[str, Any] = runpy.run_path(str(SKELETON), run_name="skeleton")
SUMMARY = SessionSummary("quit", "update", 1.0, {"RETR": 2}, 2, 0, 10, 10)


class Tally:
    """A counter."""

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Fakes:
    """Services that remember."""

    def __init__(self) -> None:
        self.log = self
        self.metrics = self
        self.tally = Tally()
        self.lines: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def counter(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> dict[str, Counter]:
        return {"": self.tally}


def started(messages: int) -> tuple[Any, Fakes]:
    plugin = MODULE["Ration"](MODULE["RationConfig"](messages=messages))
    services = Fakes()
    plugin.start(services)
    return plugin, services


def test_its_own_test_passes() -> None:
    runpy.run_path(str(SKELETON), run_name="__main__")


def test_the_ration_is_counted_per_session() -> None:
    plugin, services = started(1)
    one, other = SessionView("1", "pop3"), SessionView("2", "pop3")
    assert plugin.on_command(one, parse(b"RETR 1")) is None
    assert plugin.on_command(other, parse(b"RETR 1")) is None
    refused = plugin.on_command(one, parse(b"RETR 1"))
    assert isinstance(refused, Refuse)
    assert refused.code is Code.SYS_TEMP
    assert services.tally.value == 1


def test_only_retr_is_counted() -> None:
    plugin, services = started(1)
    session = SessionView("1", "pop3")
    for line in (b"STAT", b"TOP 1 0", b"LIST", b"DELE 1"):
        assert plugin.on_command(session, parse(line)) is None
    assert services.tally.value == 0


def test_it_tells_when_the_ration_was_used() -> None:
    plugin, services = started(1)
    session = SessionView("1", "pop3", login="joe")
    plugin.on_close(session, SUMMARY)
    assert services.lines == []
    plugin.on_command(session, parse(b"RETR 1"))
    plugin.on_close(session, SUMMARY)
    assert services.lines == [("ration_used", {"session": "1", "user": "joe"})]


def test_it_explains_itself_without_being_started() -> None:
    plugin = MODULE["Ration"](MODULE["RationConfig"](messages=3))
    assert plugin.explain(SessionView("1", "pop3"), "joe") == Explained(("may retrieve 3 messages",))


def test_its_options() -> None:
    config = MODULE["RationConfig"]
    assert config().messages == 100
    for options in ({"messages": 0}, {"message": 1}):
        with pytest.raises(ValidationError):
            config.model_validate(options)


def test_it_shows_the_hooks_it_uses() -> None:
    assert [hook for hook in HOOKS if overrides(MODULE["Ration"], hook)] == ["on_command", "on_close"]

"""Observers hear what is counted, decide nothing, and cannot hurt a session."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Observer, Plugin, PluginConfig, Refuse, SessionSummary, SessionView
from popproxy.api.testing import play

SCRIPT = """
C: STAT
U> STAT
U< +OK 1 9
S: +OK 1 9
C: RETR 1
U> RETR 1
U< +OK
U< one
U< .
S: +OK
S: one
S: .
C: DELE 7
U> DELE 7
U< -ERR no
S: -ERR no
"""


class Hears(Observer):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def login(self, mechanism: str, result: str, seconds: float) -> None:
        self.heard.append(("login", mechanism, result))

    def commands(self, verb: str, outcome: str, seconds: float, count: int) -> None:
        assert seconds >= 0
        self.heard.append((verb, outcome, count))

    def transfer(self, verb: str, seconds: float, octets: int) -> None:
        self.heard.append(("transfer", verb, octets))

    def hook(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        self.heard.append((plugin, hook, verdict))

    def hook_failed(self, plugin: str, hook: str, action: str) -> None:
        self.heard.append((plugin, hook, action))

    def violation(self, side: str, kind: str) -> None:
        self.heard.append((side, kind))

    def ended(self, summary: SessionSummary) -> None:
        self.heard.append(("ended", summary.reason, summary.retrieved))


class Watches(Plugin[PluginConfig]):
    def __init__(self, observer: Any = None) -> None:
        super().__init__(PluginConfig())
        self.observer = observer

    def observe(self, session: SessionView) -> Observer | None:
        if isinstance(self.observer, Exception):
            raise self.observer
        found: Observer | None = self.observer
        return found


class Denies(Plugin[PluginConfig]):
    def on_command(self, session: SessionView, command: Any) -> Refuse | None:
        if command.name == "NOOP":
            raise ZeroDivisionError
        return Refuse("no") if command.name == "RSET" else None


def test_it_hears_what_the_metrics_hear() -> None:
    hears = Hears()
    play(Watches(hears), SCRIPT, logged_in=True)
    assert hears.heard == [
        ("login", "USER", "ok"), ("STAT", "ok", 1), ("RETR", "ok", 1), ("transfer", "RETR", 8), ("DELE", "err", 1),
        ("ended", "client_eof", 1),
    ]  # fmt: skip


def test_it_hears_of_other_plugins_and_of_violations() -> None:
    hears = Hears()
    script = "C: RSET\nS: -ERR [SYS/PERM] no\nC: NOOP\nU> NOOP\nU< +OK\nS: +OK\nC+ \"STAT\\n\"\nS~ -ERR.*\n"
    play([Denies(PluginConfig()), Watches(hears)], script, logged_in=True, may_fail=True)
    found = [item for item in hears.heard if item[0] in ("Denies", "client")]
    assert found == [
        ("Denies", "on_command", "deny"), ("Denies", "on_command", "fail_open"), ("client", "bare_lf"),
    ]  # fmt: skip


class Breaks(Hears):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.calls = 0

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "__dict__").get("method"):
            self.calls += 1
            raise ZeroDivisionError
        return super().__getattribute__(name)


@pytest.mark.parametrize("method", ["login", "commands", "transfer", "ended"])
def test_one_that_raises_hears_no_more_and_the_others_go_on(method: str) -> None:
    breaks, hears = Breaks(method), Hears()
    played = play([Watches(breaks), Watches(hears)], SCRIPT, logged_in=True, may_fail=True)
    assert breaks.calls == 1
    assert hears.heard[-1] == ("ended", "client_eof", 1)
    (note,) = [note for note in played.notes if note.event == "plugin_error"]
    assert note.fields["hook"] == "observe"
    assert note.fields["error"] == "ZeroDivisionError"


@pytest.mark.parametrize("observer", [ZeroDivisionError(), "an observer"])
def test_observe_that_fails_costs_the_observer_only(observer: Any) -> None:
    played = play(Watches(observer), SCRIPT, logged_in=True, may_fail=True)
    assert [note.event for note in played.notes if note.event == "plugin_error"] == ["plugin_error"]


def test_none_is_no_observer() -> None:
    played = play(Watches(None), SCRIPT, logged_in=True)
    assert played.commands["STAT", "ok"] == 1


def test_observe_is_a_plain_def() -> None:
    with pytest.raises(TypeError, match="observe must be a plain def"):

        class Waits(Plugin[PluginConfig]):
            async def observe(self, session: SessionView) -> None:  # type: ignore[override]
                return None

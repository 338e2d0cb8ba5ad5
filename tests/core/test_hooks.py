"""Calling hooks: order, verdicts, and every way a plugin can fail, sync and async."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from popproxy.api import Answer, Fail, Hangup, Refuse
from popproxy.core import hooks
from popproxy.core.chain import Chain, Entry, Subscriber
from popproxy.core.effects import Await, Note, Returned
from popproxy.core.failures import Failure, Kind
from popproxy.core.lies import Lie
from tests.core.rig import Meter, plugin


class Host:
    def __init__(self) -> None:
        self.effects: list[Any] = []
        self.meter: Any = Meter()
        self.now = 0.0
        self.clock: Callable[[], float] = lambda: self.now
        self.asked: list[Callable[[Any], None]] = []

    def ask(self, answer: Callable[[Any], None]) -> int:
        self.asked.append(answer)
        return len(self.asked)


class Call:
    """One call of on_command's chain. ``stop``: verdicts that end it; ``refuse``: verdicts that cannot stand."""

    def __init__(self, *functions: Callable[..., Any], fail: Fail = Fail.OPEN, refuse: Any = None) -> None:
        self.host = Host()
        self.used: list[Any] = []
        self.ends = 0
        self.refuse = refuse
        self.argument: object = "first"
        chain = Chain(
            [Subscriber(f"p{number}", plugin(on_command=hook), fail) for number, hook in enumerate(functions, 1)]
        )
        self.inline = hooks.call(
            self.host, chain["on_command"], lambda: ("view", self.argument), self.use, self.then
        )

    def use(self, entry: Entry, verdict: Any) -> bool:
        if verdict is self.refuse:
            raise Lie("not here")
        self.used.append((entry.subscriber.name, verdict))
        self.argument = "second"
        return isinstance(verdict, (Refuse, Hangup))

    def then(self) -> None:
        self.ends += 1

    def back(self, outcome: Any) -> None:
        effect = next(effect for effect in self.host.effects if isinstance(effect, Await))
        self.host.effects.remove(effect)
        effect.awaitable.close()  # type: ignore[attr-defined]
        self.host.asked[effect.id - 1](outcome)


async def waits(session: object, command: object) -> Any: ...


def passes(session: object, command: object) -> None: ...


def test_no_plugin_costs_nothing() -> None:
    call = Call()
    assert (call.inline, call.ends, call.host.effects, call.host.meter.calls) == (True, 1, [], [])


def test_in_order_with_what_was_decided_before() -> None:
    seen: list[Any] = []

    def look(session: object, command: object) -> Answer:
        seen.append((session, command))
        return Answer(True)

    call = Call(look, passes, look)
    assert call.inline
    assert seen == [("view", "first"), ("view", "second")]
    assert [name for name, _ in call.used] == ["p1", "p3"]
    assert call.host.meter.calls == [
        ("p1", "on_command", "modify"),
        ("p2", "on_command", "pass"),
        ("p3", "on_command", "modify"),
    ]
    assert call.ends == 1


@pytest.mark.parametrize("verdict", [Refuse("no"), Hangup()])
def test_a_final_verdict_ends_the_chain(verdict: Any) -> None:
    call = Call(passes, lambda *_: verdict, lambda *_: pytest.fail("asked behind the end"))
    assert call.used == [("p2", verdict)]
    assert call.host.meter.calls[1] == ("p2", "on_command", "deny")
    assert call.ends == 1


def test_an_async_hook_suspends_the_rest() -> None:
    seen: list[str] = []
    call = Call(passes, waits, lambda *_: seen.append("later"))
    assert not call.inline
    assert (seen, call.ends) == ([], 0)
    call.host.now = 2.5
    call.back(Returned(None))
    assert (seen, call.ends) == (["later"], 1)


def test_two_async_hooks_in_a_row() -> None:
    call = Call(waits, waits)
    call.back(Returned(Answer(True)))
    assert call.ends == 0
    call.back(Returned(None))
    assert call.ends == 1
    assert [name for name, _ in call.used] == ["p1"]


def test_an_async_hook_may_end_the_chain() -> None:
    call = Call(waits, lambda *_: pytest.fail("asked behind the end"))
    call.back(Returned(Refuse("no")))
    assert (call.ends, len(call.used)) == (1, 1)


FAILURES: list[tuple[str, Any]] = [
    ("ValueError", ValueError("broken")),
    ("KeyError", KeyError("x")),
    ("RecursionError", RecursionError()),
    ("SystemExit", SystemExit(1)),
    ("TimeoutError", TimeoutError()),
    ("Lie", 5),
    ("Lie", Answer(False, "[AUTH] x")),
]


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize(("name", "what"), FAILURES)
@pytest.mark.parametrize("awaited", [False, True])
def test_promise_7_every_failure_in_both_modes(fail: Fail, name: str, what: Any, awaited: bool) -> None:
    def sync(session: object, command: object) -> Any:
        if isinstance(what, BaseException):
            raise what
        return what

    later: list[str] = []
    call = Call(waits if awaited else sync, lambda *_: later.append("asked"), fail=fail)
    if awaited:
        call.back(Returned(error=what) if isinstance(what, BaseException) else Returned(what))
    closed = fail is Fail.CLOSED
    assert call.used == ([("p1", hooks.BROKEN)] if closed else [])
    assert later == ([] if closed else ["asked"])
    assert call.ends == 1
    assert call.host.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]
    (note,) = [effect for effect in call.host.effects if isinstance(effect, Note)]
    assert (note.level, note.event) == ("error", "plugin_error")
    assert note.fields["error"] == name
    assert set(note.fields) == {"plugin", "hook", "action", "error", "detail"}


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("awaited", [False, True])
def test_promise_7_a_verdict_that_cannot_stand_here(fail: Fail, awaited: bool) -> None:
    answer = Answer(True)
    call = Call(waits if awaited else lambda *_: answer, fail=fail, refuse=answer)
    if awaited:
        call.back(Returned(answer))
    assert call.used == ([("p1", hooks.BROKEN)] if fail is Fail.CLOSED else [])
    assert len(call.host.meter.errors) == 1
    assert call.host.meter.calls == []


def test_a_deadline_is_told_in_words() -> None:
    call = Call(waits)
    call.back(Returned(error=TimeoutError()))
    assert call.host.effects[0].fields["detail"] == "the deadline passed"


def test_an_outcome_that_is_none_is_a_failure() -> None:
    call = Call(waits, fail=Fail.CLOSED)
    call.back(Failure(Kind.LOST))
    assert call.used == [("p1", hooks.BROKEN)]


def test_a_sync_hook_that_gives_a_coroutine_has_lied() -> None:
    call = Call(lambda *_: waits(None, None))
    assert call.host.meter.errors == [("p1", "on_command", "fail_open")]
    assert "coroutine" in call.host.effects[0].fields["detail"]


def test_promise_7_an_error_without_a_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text either")

    def raises(session: object, command: object) -> None:
        raise Mute

    call = Call(raises)
    assert call.ends == 1
    assert call.host.effects[0].fields["detail"].startswith("raised at ")


def test_promise_6_the_text_of_what_a_plugin_raises_is_not_logged() -> None:
    def raises(session: object, command: object) -> None:
        raise ValueError("the password is sesame")

    call = Call(raises)
    assert call.ends == 1
    assert "sesame" not in repr(call.host.effects[0].fields)
    assert str(call.host.effects[0].error) == "the password is sesame"


def test_what_stops_the_process_passes() -> None:
    def stops(session: object, command: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Call(stops)

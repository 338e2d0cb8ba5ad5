"""Calling hooks: in order, with deadlines, and with every way a plugin can fail contained (promise 7).

A sync hook is called inline. An async one suspends whoever called: its awaitable goes out as an effect and the
rest of the chain runs when the outcome comes back. What a hook returns is checked by type: a plugin that lies has
failed like one that raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from popproxy.api.bodies import BodyFilter
from popproxy.api.plugin import Fail
from popproxy.api.verdicts import Answer, Edit, Hangup, Hide, Refuse, Replace, Rewrite, Route, Sizes
from popproxy.core.chain import Entry
from popproxy.core.effects import Await, Effect, Note, Returned
from popproxy.core.meter import SessionMeter
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.errors import Code

ALLOWED: dict[str, tuple[type, ...]] = {
    "on_connect": (Refuse,),
    "on_capabilities": (Capabilities,),
    "on_login": (Refuse, Route),
    "on_login_result": (Answer,),
    "on_maildrop": (Hide, Sizes),
    "on_command": (Refuse, Rewrite, Answer, Hangup),
    "on_reply": (Answer,),
    "open_body": (BodyFilter,),
    "on_message": (Edit, Replace, Refuse),
}
BROKEN = Refuse("Internal error, try again later", Code.SYS_TEMP, "a plugin failed")
"""What Fail.CLOSED makes of a failure."""

Use = Callable[[Entry, Any], bool]
"""Takes a verdict that is not None; true ends the chain."""


class Host(Protocol):
    """What the caller of hooks must have."""

    effects: list[Effect]
    meter: SessionMeter
    clock: Callable[[], float]

    def ask(self, answer: Callable[[Any], None]) -> int:
        """An id for an effect; ``answer`` gets its outcome."""
        ...


def call(
    host: Host,
    entries: tuple[Entry, ...],
    arguments: Callable[[], tuple[Any, ...]],
    use: Use,
    then: Callable[[], None],
) -> bool:
    """Call ``entries`` in order, give their verdicts to ``use``, then call ``then`` once.

    ``arguments`` is evaluated for every hook, so that a later plugin sees what an earlier one decided. Returns
    false when an async hook suspended the chain: then ``then`` runs later, otherwise it has run. A BROKEN refusal
    goes to ``use`` for a failed plugin that is Fail.CLOSED.
    """
    return _step(host, entries, 0, arguments, use, then)


def _step(
    host: Host,
    entries: tuple[Entry, ...],
    place: int,
    arguments: Callable[[], tuple[Any, ...]],
    use: Use,
    then: Callable[[], None],
) -> bool:
    while place < len(entries):
        entry = entries[place]
        place += 1
        started = host.clock()
        try:
            value = entry.call(*arguments())
        except Exception as error:
            if _failed(host, entry, error, use):
                break
            continue
        if entry.awaits:
            following = place

            def resume(outcome: Any, entry: Entry = entry, following: int = following, at: float = started) -> None:
                if _judge(host, entry, outcome, at, use):
                    then()
                else:
                    _step(host, entries, following, arguments, use, then)

            host.effects.append(Await(host.ask(resume), entry, value))
            return False
        if _judge(host, entry, Returned(value), started, use):
            break
    then()
    return True


def _judge(host: Host, entry: Entry, outcome: Any, started: float, use: Use) -> bool:
    if not isinstance(outcome, Returned):
        return _failed(host, entry, TypeError("the hook was not awaited"), use)
    if outcome.error is not None:
        return _failed(host, entry, outcome.error, use)
    value = outcome.value
    if value is not None and not isinstance(value, ALLOWED[entry.hook]):
        if inspect.iscoroutine(value):
            value.close()
        allowed = ", ".join(kind.__name__ for kind in ALLOWED[entry.hook])
        return _failed(host, entry, TypeError(f"returned {type(value).__name__}; allowed: {allowed} or None"), use)
    verdict = "pass" if value is None else "deny" if isinstance(value, (Refuse, Hangup)) else "modify"
    host.meter.plugin(entry.subscriber.name, entry.hook, verdict, host.clock() - started)
    if value is None:
        return False
    try:
        return use(entry, value)
    except (TypeError, ValueError) as error:
        return _failed(host, entry, error, use)


def _failed(host: Host, entry: Entry, error: BaseException, use: Use) -> bool:
    report(host, entry, error)
    return entry.subscriber.fail is Fail.CLOSED and use(entry, BROKEN)


def report(host: Host, entry: Entry, error: BaseException) -> None:
    """Count and log a plugin's failure."""
    action = "fail_closed" if entry.subscriber.fail is Fail.CLOSED else "fail_open"
    host.meter.plugin_error(entry.subscriber.name, entry.hook, action)
    fields = {"plugin": entry.subscriber.name, "hook": entry.hook, "action": action, "error": type(error).__name__}
    text = "the deadline passed" if isinstance(error, TimeoutError) else str(error)
    host.effects.append(Note("error", "plugin_error", {**fields, "detail": text}))

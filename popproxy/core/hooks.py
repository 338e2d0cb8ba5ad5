"""Calling hooks: in order, with deadlines, and with every way a plugin can fail contained (promise 7).

A sync hook is called inline. An async one suspends whoever called: its awaitable goes out as an effect and the
rest of the chain runs when the outcome comes back. What a hook returns is checked: a plugin that lies has failed
like one that raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from popproxy.api.plugin import Fail
from popproxy.api.verdicts import Hangup, Refuse
from popproxy.core.chain import Entry
from popproxy.core.effects import Await, Effect, Note, Returned
from popproxy.core.lies import ALLOWED, Lie, check
from popproxy.core.meter import SessionMeter
from popproxy.wire.errors import Code
from popproxy.wire.replies import err

__all__ = ["ALLOWED", "BROKEN", "BROKEN_LINE", "CONTAINED", "Host", "Lie", "Use", "call", "report", "told"]

BROKEN = Refuse("Internal error, try again later", Code.SYS_TEMP, "a plugin failed")
"""What Fail.CLOSED makes of a failure."""
BROKEN_LINE = err(BROKEN.text, Code.SYS_TEMP.value)
"""The reply of BROKEN."""

CONTAINED = (Exception, SystemExit)
"""What a plugin may raise without ending more than its own say."""

Use = Callable[[Entry, Any], bool]
"""Takes a verdict that is not None; true ends the chain. Raises Lie for one that cannot stand here."""


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
    if not entries:
        then()
        return True
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
        except CONTAINED as error:
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
    ends = False
    if value is not None:
        try:
            check(entry.hook, value)
            ends = use(entry, value)
        except Lie as found:
            if inspect.iscoroutine(value):
                value.close()
            return _failed(host, entry, found, use)
    verdict = "pass" if value is None else "deny" if isinstance(value, Refuse | Hangup) else "modify"
    host.meter.plugin(entry.subscriber.name, entry.hook, verdict, host.clock() - started)
    return ends


def _failed(host: Host, entry: Entry, error: BaseException, use: Use) -> bool:
    report(host, entry, error)
    return entry.subscriber.fail is Fail.CLOSED and use(entry, BROKEN)


def report(host: Host, entry: Entry, error: BaseException) -> None:
    """Count and log a plugin's failure, by type and place: the text of what a plugin raises may hold a secret."""
    action = "fail_closed" if entry.subscriber.fail is Fail.CLOSED else "fail_open"
    host.meter.plugin_error(entry.subscriber.name, entry.hook, action)
    fields = {"plugin": entry.subscriber.name, "hook": entry.hook, "action": action, "error": type(error).__name__}
    text = "the deadline passed" if isinstance(error, TimeoutError) else told(error)
    host.effects.append(Note("error", "plugin_error", {**fields, "detail": text}, error))


_OURS = (
    "popproxy.core.",
    "popproxy.api.bodies",
    "popproxy.api.explained",
    "popproxy.api.padding",
    "popproxy.api.verdicts",
)


def told(error: BaseException) -> str:
    """Our own words about a plugin that lied (promise 6 holds for them); of its own words only where they arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_OURS):
        return str(error)
    return f"raised at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


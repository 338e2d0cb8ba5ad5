"""A session's meter with observers: whatever is counted is told to them, too, and none of them can hurt it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from popproxy.api.observer import Observer
from popproxy.api.views import SessionSummary
from popproxy.core.chain import Subscriber
from popproxy.core.hooks import CONTAINED
from popproxy.core.meter import OUTCOMES, SessionMeter
from popproxy.wire.commands import VERB_NAMES

Failed = Callable[[Subscriber, BaseException], None]


class ObservedMeter:
    """core.meter.SessionMeter of one session. ``failed`` hears of what an observer raised; it is left out then."""

    __slots__ = ("_failed", "_meter", "_observers", "commands", "message", "pipelined")

    def __init__(self, meter: SessionMeter, observers: Sequence[tuple[Subscriber, Observer]], failed: Failed) -> None:
        self._meter = meter
        self._observers = list(observers)
        self._failed = failed
        self.commands = meter.commands
        self.pipelined = meter.pipelined
        self.message = meter.message

    def latency(self, verb: int, seconds: float, count: int, outcome: int) -> None:
        """See core.meter."""
        self._meter.latency(verb, seconds, count, outcome)
        self._tell("commands", VERB_NAMES[verb], OUTCOMES[outcome], seconds, count)

    def transfer(self, verb: int, seconds: float, octets: int) -> None:
        """See core.meter."""
        self._meter.transfer(verb, seconds, octets)
        self._tell("transfer", VERB_NAMES[verb], seconds, octets)

    def auth(self, mechanism: str, result: str, seconds: float) -> None:
        """See core.meter."""
        self._meter.auth(mechanism, result, seconds)
        self._tell("login", mechanism, result, seconds)

    def violation(self, side: str, kind: str) -> None:
        """See core.meter."""
        self._meter.violation(side, kind)
        self._tell("violation", side, kind)

    def plugin(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        """See core.meter."""
        self._meter.plugin(plugin, hook, verdict, seconds)
        self._tell("hook", plugin, hook, verdict, seconds)

    def plugin_error(self, plugin: str, hook: str, action: str) -> None:
        """See core.meter."""
        self._meter.plugin_error(plugin, hook, action)
        self._tell("hook_failed", plugin, hook, action)

    def ended(self, summary: SessionSummary) -> None:
        """The session is over."""
        self._tell("ended", summary)
        self._observers.clear()

    def _tell(self, what: str, *facts: Any) -> None:
        for pair in tuple(self._observers):
            try:
                getattr(pair[1], what)(*facts)
            except CONTAINED as error:
                self._observers.remove(pair)
                self._failed(pair[0], error)


def observed(subscribers: Sequence[Subscriber], view: Any, meter: SessionMeter, failed: Failed) -> SessionMeter:
    """``meter``, or one that tells those of ``subscribers`` who want to hear of this session."""
    found: list[tuple[Subscriber, Observer]] = []
    for subscriber in subscribers:
        if subscriber.when is not None and not subscriber.when.applies(view, None):
            continue
        try:
            observer = subscriber.plugin.observe(view)
            if observer is not None and not isinstance(observer, Observer):
                raise TypeError(f"observe() returned {type(observer).__name__}; return an Observer or None")
        except CONTAINED as error:
            failed(subscriber, error)
        else:
            if observer is not None:
                found.append((subscriber, observer))
    return ObservedMeter(meter, found, failed) if found else meter

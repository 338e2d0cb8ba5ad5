"""Observations to look into: the session id of the last failed login and of the last slow command, for OpenMetrics.

Off unless the config asks for it; then every session counts through a TracedMeter of its own, and when it is off it
counts as if this file were not here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from time import time
from typing import TYPE_CHECKING, Protocol

from popproxy.metrics.cells import Exemplar, Index
from popproxy.metrics.names import METRICS
from popproxy.metrics.words import FAST, TIMED, Values
from popproxy.wire.commands import VERB_NAMES

if TYPE_CHECKING:
    from popproxy.metrics.meters import ListenerMeter

SLOW = 1.0
"""Seconds from which on a command is one to look into."""
_SHOWN = re.compile(r"[A-Za-z0-9._:;,/@+=~!*()<>\[\]|-]{1,100}")
"""Session ids that no reader of OpenMetrics stumbles over; it allows 128 characters for label and value together."""

_AUTH = METRICS["auth_attempts"]
_AUTH_ROW = Index(_AUTH)
_OTHER = ("_other",)


class Named(Protocol):
    """A session. A trusted proxy may give it another id while it lasts."""

    @property
    def id(self) -> str:
        """As in the log."""
        ...


class Exemplars:
    """The newest one of every place, by metric. Written by the event loop's thread, read by any."""

    def __init__(self) -> None:
        self._found: dict[str, dict[tuple[Values, int], Exemplar]] = {}

    def note(self, metric: str, values: Values, place: int, session: Named, value: float) -> None:
        """``session`` was observed in this series, in bucket ``place``. An id that cannot be shown is left out: a proxy
        in front may send one of any octets."""
        name = session.id
        if _SHOWN.fullmatch(name) is not None:
            self._found.setdefault(metric, {})[values, place] = (values, place, name, value, time())

    def of(self, metric: str) -> Iterator[Exemplar]:
        """Those of one metric."""
        yield from list(self._found.get(metric, {}).values())


class TracedMeter:
    """core.meter.SessionMeter of one session: counts in ``meter``, and notes ``session`` where something is wrong."""

    __slots__ = (
        "_exemplars", "_listener", "_meter", "_session", "commands", "message", "pipelined", "plugin", "plugin_error",
        "transfer", "violation",
    )  # fmt: skip

    def __init__(self, meter: ListenerMeter, listener: str, exemplars: Exemplars, session: Named) -> None:
        self._meter = meter
        self._listener = listener
        self._exemplars = exemplars
        self._session = session
        self.commands = meter.commands
        self.pipelined = meter.pipelined
        self.transfer = meter.transfer
        self.message = meter.message
        self.violation = meter.violation
        self.plugin = meter.plugin
        self.plugin_error = meter.plugin_error

    def latency(self, verb: int, seconds: float, count: int, outcome: int) -> None:
        """See core.meter."""
        self._meter.latency(verb, seconds, count, outcome)
        if seconds >= SLOW:
            values = (VERB_NAMES[verb],) if VERB_NAMES[verb] in TIMED else _OTHER
            place = bisect_left(FAST, seconds)
            self._exemplars.note("command_duration_seconds", values, place, self._session, seconds)

    def auth(self, mechanism: str, result: str, seconds: float) -> None:
        """See core.meter."""
        self._meter.auth(mechanism, result, seconds)
        if result != "ok":
            values = (self._listener, *_AUTH.rows[_AUTH_ROW[mechanism, result]])
            self._exemplars.note("auth_attempts", values, 0, self._session, 1.0)

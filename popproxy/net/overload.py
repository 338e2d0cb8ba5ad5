"""When new connections are shed, so that those that are open go on: lag of the loop, memory, descriptors.

``Marks`` decides and knows nothing of the machine; ``Overload`` measures, and tells metrics and log. It is asked for
every new connection and beats ten times a second: what it reads of /proc, it reads once a second at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, inf
from typing import Literal, Protocol

from popproxy.config.overload import Share
from popproxy.config.plan import OverloadPlan
from popproxy.core.effects import Level
from popproxy.metrics.overload import OverloadMeter
from popproxy.net import system

Resource = Literal["lag", "memory", "sockets"]

BACK: Mapping[Resource, float] = {"lag": 0.5, "memory": 0.95, "sockets": 0.95}
"""Share of the mark below which shedding ends. Lag comes and goes in fractions of a second, the others slowly."""
_SMOOTH = 1.0
_READ_SECONDS = 1.0
_EACH = 2
"""Sockets of a session: the client's and the upstream's, which it will have when it logs in."""


class Marks:
    """Which marks are passed: at the mark and above, until the value is below its share of ``back`` again."""

    def __init__(self, marks: Mapping[Resource, float], back: Mapping[Resource, float] = BACK) -> None:
        self._begin = dict(marks)
        self._end = {resource: mark * back[resource] for resource, mark in marks.items()}
        self.passed: set[Resource] = set()

    def look(self, resource: Resource, value: float) -> bool | None:
        """Take note of ``value``. True: from now on it sheds; False: it does no more; None: no change."""
        if resource in self.passed:
            if value >= self._end[resource]:
                return None
            self.passed.remove(resource)
            return False
        mark = self._begin.get(resource)
        if mark is None or value < mark:
            return None
        self.passed.add(resource)
        return True


class EventLog(Protocol):
    """Where log lines go; run/logs.py has one."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


class Overload:
    """The marks of one process. ``open`` are the clients' connections of all listeners."""

    def __init__(self, plan: OverloadPlan, meter: OverloadMeter, log: EventLog) -> None:
        self._meter = meter
        self._log = log
        self._limits = _limits(plan)
        self._marks = Marks(self._limits)
        self._lag = 0.0
        self._beat_at: float | None = None
        self._read_at = -_READ_SECONDS
        self._began: dict[Resource, float] = {}
        self._resting = 0
        self.open = 0
        self._tell_marks()

    def _tell_marks(self) -> None:
        for resource, limit in self._limits.items():
            self._meter.mark(resource, limit)

    def begin(self) -> None:
        """Everything is open that the process needs without a client."""
        self._resting = system.descriptors() or 0

    def take(self, plan: OverloadPlan, now: float) -> None:
        """From ``now`` on other marks hold. What is shed because of a mark that is gone is shed no more."""
        before, self._limits = self._limits, _limits(plan)
        if self._limits == before:
            return
        passed = self._marks.passed
        self._marks = Marks(self._limits)
        self._marks.passed = {resource for resource in passed if resource in self._limits}
        for resource in passed - self._limits.keys():
            self._told(resource, False, 0.0, before[resource], now)
        self._tell_marks()

    def refuses(self, now: float) -> str:
        """Why a client that is here now cannot stay, in words; empty when it can. ``now`` is the loop's time."""
        sockets = self._resting + _EACH * (self.open + 1)
        # A glance between two readings knows too little to end the shedding.
        if sockets >= self._limits.get("sockets", inf) and "sockets" not in self._marks.passed:
            self._look("sockets", sockets, now)
        if not self._marks.passed:
            return ""
        return f"overload: {', '.join(sorted(self._marks.passed))}"

    def beat(self, now: float, late: float) -> None:
        """A timer of the loop fired at ``now``, ``late`` seconds behind its time."""
        passed = _SMOOTH if self._beat_at is None else now - self._beat_at
        self._beat_at = now
        self._lag += (late - self._lag) * (1.0 - exp(-passed / _SMOOTH))
        self._look("lag", self._lag, now)
        if now - self._read_at < _READ_SECONDS:
            return
        self._read_at = now
        memory, descriptors = system.resident(), system.descriptors()
        if memory is not None:
            self._look("memory", memory, now)
        self._look("sockets", max(descriptors or 0, self._resting + _EACH * self.open), now)

    def _look(self, resource: Resource, value: float, now: float) -> None:
        self._meter.value(resource, value)
        change = self._marks.look(resource, value)
        if change is not None:
            self._told(resource, change, value, self._limits[resource], now)

    def _told(self, resource: Resource, begins: bool, value: float, mark: float, now: float) -> None:
        self._meter.shedding(resource, begins)
        if begins:
            self._began[resource] = now
        self._log.event(
            "warning" if begins else "info",
            "overload" if begins else "overload_over",
            resource=resource,
            value=round(value, 3),
            mark=round(mark, 3),
            seconds=0.0 if begins else round(now - self._began[resource], 3),
        )


def _limits(plan: OverloadPlan) -> dict[Resource, float]:
    """The marks in seconds, octets and descriptors; without those that nothing is known of."""
    marks: dict[Resource, float | None] = {
        "lag": plan.lag,
        "memory": _part(plan.memory, system.memory_limit()),
        "sockets": _part(plan.sockets, system.descriptor_limit()),
    }
    return {resource: mark for resource, mark in marks.items() if mark is not None}


def _part(mark: int | Share | None, whole: int | None) -> float | None:
    if isinstance(mark, Share):
        return None if whole is None else mark.of * whole
    return mark

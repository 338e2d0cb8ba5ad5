"""What becomes of an upstream's servers, told to the log and the metrics."""

from __future__ import annotations

from typing import Protocol

from popproxy.core.effects import Level
from popproxy.core.failures import Failure
from popproxy.metrics.meters import UpstreamMeter


class EventLog(Protocol):
    """Where log lines go; run/logs.py has one."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


class UpstreamWatch:
    """net.group.Watch of one upstream."""

    def __init__(self, upstream: str, log: EventLog, meter: UpstreamMeter) -> None:
        self._upstream = upstream
        self._log = log
        self._meter = meter

    def turned(self, server: str, up: bool, failure: Failure | None, seconds: float) -> None:
        """See Watch."""
        self._meter.turned(server, up)
        if up:
            self._log.event("info", "upstream_up", upstream=self._upstream, server=server, seconds=round(seconds, 3))
        else:
            kind, detail = ("", "") if failure is None else (failure.kind.value, failure.detail)
            self._log.event(
                "error", "upstream_down", upstream=self._upstream, server=server, kind=kind, detail=detail
            )

    def queue(self, length: int) -> None:
        """See Watch."""
        self._meter.queue(length)

    def waited(self, result: str, seconds: float) -> None:
        """See Watch."""
        self._meter.queued(result, seconds)

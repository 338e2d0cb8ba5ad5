"""The question ``pulse``: what a page that is looked at shows anew each second, cheap enough for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.desk import Desk
from popproxy.net.dialer import Dialer


class Pulse:
    """Answers ``pulse`` of one worker: its sessions by state, totals to make rates of, and its upstreams' states."""

    def __init__(self, desk: Desk, metrics: WorkerMetrics, dialers: Callable[[], Mapping[str, Dialer]]) -> None:
        self._metrics = metrics
        self._dialers = dialers
        desk.add("pulse", self._answer)

    async def _answer(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``at`` is the machine's steady clock; totals count since the worker began."""
        return {"at": monotonic(), **self._metrics.pulse(), "upstreams": list(map(_state, self._dialers().values()))}


def _state(dialer: Dialer) -> dict[str, Any]:
    group = dialer.group
    states = {
        member.name: "drained" if member.name in group.drained else member.breaker.state for member in group.members
    }
    return {"name": dialer.plan.name, "sessions": group.sessions, "waiting": group.waiting, "servers": states}

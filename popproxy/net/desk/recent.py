"""The question ``recent``: who was turned away lately, in memory that does not grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from time import time
from typing import Any

from popproxy.net.desk import Desk
from popproxy.net.desk.asking import LONGEST, number
from popproxy.net.desk.overheard import Overheard

KEPT = 100
"""Events that a worker remembers."""
EVENTS = ("refused", "login_failed", "tls_failed", "session")
_FIELDS = ("session", "listener", "client", "client_port", "user", "mechanism", "code", "reason", "detail")


class Recent:
    """Answers ``recent`` of one worker. Of sessions only those are told that ended by ``policy``."""

    def __init__(self, desk: Desk, log: Overheard, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._ring: deque[dict[str, Any]] = deque(maxlen=KEPT)
        log.listen(self._heard, *EVENTS)
        desk.add("recent", self._answer)

    async def _answer(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The latest ``limit`` events, the latest first. Names of fields are those of the log."""
        limit = number(arguments, "limit", KEPT, KEPT)
        return [event for event, _ in zip(reversed(self._ring), range(limit), strict=False)]

    def _heard(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "session" and fields["reason"] != "policy":
            return
        told = {field: _short(fields.get(field)) for field in _FIELDS}
        self._ring.append({"time": round(self._clock(), 3), "event": name, **told})


def _short(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")[:LONGEST]
    return value[:LONGEST] if isinstance(value, str) else value

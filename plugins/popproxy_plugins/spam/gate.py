"""How many scans run at once, and how many may wait for their turn."""

from __future__ import annotations

import asyncio
from types import TracebackType

from popproxy_plugins.spam.verdict import ScanFailed, Unscanned


class Gate:
    """``async with gate:`` is one of ``scans`` places. ScanFailed when ``queue`` others wait already.

    First come, first served. Who waits is bounded in time by whoever cancels it.
    """

    __slots__ = ("_places", "_queue", "_waiting")

    def __init__(self, scans: int, queue: int) -> None:
        self._places = asyncio.Semaphore(scans)
        self._queue = queue
        self._waiting = 0

    async def __aenter__(self) -> None:
        if self._places.locked() and self._waiting >= self._queue:
            raise ScanFailed(Unscanned.BUSY, f"{self._waiting} messages wait already")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()

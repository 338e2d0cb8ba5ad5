"""A bounded pool of threads for what would block the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from popproxy.api.services import Busy

T = TypeVar("T")

THREADS = min(4, os.cpu_count() or 1)
"""At once: hashing a password takes a whole processor, and argon2 tens of MiB."""
WAITING = 1000
"""Calls that wait for a thread; more are refused at once, because nobody would wait that long."""


class Pool:
    """api.Threads, shared by all plugins of a worker. Threads are made when the first call comes."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._threads = threads
        self._most = threads + waiting
        self._busy = 0
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See api.Threads."""
        if self._busy >= self._most:
            raise Busy(f"{self._busy} calls run or wait for one of {self._threads} threads")
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, "popproxy-plugin")
        loop = asyncio.get_running_loop()
        call = self._executor.submit(function, *args)
        self._busy += 1
        # Not at the end of the await: a call that was given up still keeps its thread.
        call.add_done_callback(lambda _: self._ended(loop))
        return await asyncio.wrap_future(call)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._free)

    def _free(self) -> None:
        self._busy -= 1

    def close(self) -> None:
        """Drop what waits, wait for nothing. What runs ends by itself."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

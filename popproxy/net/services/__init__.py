"""api.Services of one plugin, made by the worker and closed behind the plugin's stop()."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from popproxy.api.backends import Backend
from popproxy.api.cache import Cache
from popproxy.api.plugin import Fail
from popproxy.api.services import Clock, Counter, Http, Log, Metrics, Resolver, Stream, Threads, WatchedFile
from popproxy.api.store import Store
from popproxy.net.services.file import File
from popproxy.net.services.http import HttpClient
from popproxy.net.services.lookup import SingleFlight
from popproxy.net.services.stream import Connections
from popproxy.net.services.threads import Pool

__all__ = ["PluginServices", "Pool"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

Spawn = Callable[[Awaitable[Any]], "asyncio.Task[Any]"]


class WorkerClock:
    """api.Clock on the machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class LoopResolver:
    """api.Resolver on the loop's getaddrinfo, which runs in a thread."""

    async def addresses(self, host: str) -> list[str]:
        """IPv4 and IPv6 addresses as text. Raises OSError when there is none."""
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(info[4][0]) for info in found))

    async def name(self, address: str) -> str | None:
        """See api.Resolver."""
        try:
            host, _ = await asyncio.get_running_loop().getnameinfo((address, 0), socket.NI_NAMEREQD)
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                return None
            raise
        return host


class PluginServices:
    """api.Services of one plugin. ``threads`` belong to the worker; ``spawn`` is the worker's."""

    def __init__(
        self,
        log: Log,
        metrics: Metrics,
        threads: Pool,
        store: Store,
        spawn: Spawn,
        fail: Fail,
        deadline: float,
    ) -> None:
        self.fail = fail
        self.deadline = deadline
        self.log: Log = log
        self.metrics: Metrics = metrics
        self.clock: Clock = WorkerClock()
        self.resolver: Resolver = LoopResolver()
        self.threads: Threads = threads
        self.store = store
        self._client = HttpClient()
        self.http: Http = self._client
        self._connections = Connections()
        self._spawn = spawn
        self._files: list[File[Any]] = []
        self._loads: dict[str, Counter] = {}

    def lookup(
        self,
        name: str,
        fetch: Callable[[K], Awaitable[V | None]],
        *,
        timeout: float = 5.0,
        ttl: float = 60.0,
        negative_ttl: float = 10.0,
        size: int = 10_000,
        backend: Backend | None = None,
    ) -> SingleFlight[K, V]:
        """See api.Services."""
        counters = self.metrics.counter(
            f"{name}_lookups", f"Look-ups of {name}", "result", ("cached", "found", "unknown", "failed")
        )
        cache: Cache[K, V] = Cache(self.clock.monotonic, ttl, negative_ttl, size)
        return SingleFlight(name, fetch, counters, self._spawn, cache, timeout, backend)

    async def file(
        self,
        path: str | PathLike[str],
        parse: Callable[[bytes], T],
        changed: Callable[[T], None] | None = None,
    ) -> WatchedFile[T]:
        """See api.Services."""
        if not self._loads:
            self._loads = self.metrics.counter("file_loads", "Files read", "result", ("ok", "failed"))
        file = File(Path(path), parse, changed, self.threads, self.log, self._loads, self._spawn)
        await file.load()
        self._files.append(file)
        return file

    async def stream(self, address: str, timeout: float = 10.0) -> Stream:
        """See api.Services."""
        return await self._connections.connect(address, timeout)

    async def close(self) -> None:
        """Close every connection and watch no file any more."""
        for file in self._files:
            file.close()
        self._connections.close()
        await self._client.close()

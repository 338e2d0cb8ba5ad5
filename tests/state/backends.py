"""The stores that the conformance suite runs on. A backend is added here and nowhere else.

An entry of BACKENDS makes a rig for one test: an async context manager that takes a directory and gives a ``Rig``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from popproxy.state.memory import MemoryStore
from popproxy.state.redis.plan import RedisPlan, read_url
from popproxy.state.redis.store import RedisStore
from popproxy.state.space import Backend
from popproxy.state.sqlite import SqliteStore
from tests.integration.redis_server import server

LEASE = 3.0
"""Seconds that an owner lives without a heart-beat in all rigs."""


@dataclass(frozen=True, slots=True)
class Rig:
    """One store for one test, nothing in it.

    ``move`` lets that many seconds pass by the store's clock: at once, or by waiting where the clock is a server's
    (then ``exact`` is False; the suite asks for two seconds at most). ``another`` opens the same store as another
    worker would (closed with the rig); None when a store has one worker only. ``start``: code for another process, an
    expression of a Backend that is not open yet, whole with its imports (``__import__``); None as before.
    """

    backend: Backend
    move: Callable[[float], Awaitable[None]]
    exact: bool = True
    another: Callable[[], Awaitable[Backend]] | None = None
    start: str | None = None


Making = Callable[[Path], AbstractAsyncContextManager[Rig]]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Rig]:
    """In the memory of this process."""
    time = [1_700_000_000.0]

    async def move(seconds: float) -> None:
        time[0] += seconds

    backend = MemoryStore(lambda: time[0])
    await backend.open()
    try:
        yield Rig(backend, move)
    finally:
        await backend.close()


async def _wait(seconds: float) -> None:
    await asyncio.sleep(seconds)


@asynccontextmanager
async def sqlite(directory: Path, shared: bool = False) -> AsyncIterator[Rig]:
    """In a file; by the host's clock when it is ``shared`` with other processes."""
    time = [1_700_000_000.0]
    path = directory / "store.db"
    opened: list[SqliteStore] = []

    async def move(seconds: float) -> None:
        time[0] += seconds

    async def another() -> Backend:
        backend = SqliteStore(path, lease=LEASE, busy=20.0, clock=None if shared else lambda: time[0])
        opened.append(backend)
        await backend.open()
        return backend

    start = f"__import__('popproxy.state.sqlite').state.sqlite.SqliteStore({path!r}, lease={LEASE}, busy=20.0)"
    start = start.replace("PosixPath", "__import__('pathlib').Path")
    try:
        yield Rig(await another(), _wait if shared else move, not shared, another, start)
    finally:
        for backend in opened:
            await backend.close()


@asynccontextmanager
async def sqlite_shared(directory: Path) -> AsyncIterator[Rig]:
    """In a file, by the host's clock."""
    async with sqlite(directory, shared=True) as rig:
        yield rig


@asynccontextmanager
async def redis(_: Path) -> AsyncIterator[Rig]:
    """In a server of its own, by that server's clock."""
    with server() as running:
        url = f"redis://127.0.0.1:{running.port}"
        opened: list[RedisStore] = []

        async def another() -> Backend:
            # A time-out that a busy machine keeps, and a lease that outlives it.
            backend = RedisStore(RedisPlan(read_url(url), timeout=LEASE * 0.9, lease=LEASE))
            opened.append(backend)
            await backend.open()
            return backend

        room = "__import__('popproxy.state.redis.{0}').state.redis.{0}"
        plan = f"{room}.RedisPlan({room}.read_url({url!r}), timeout={LEASE * 0.9}, lease={LEASE})".format("plan")
        try:
            yield Rig(await another(), _wait, False, another, f"{room}.RedisStore({{1}})".format("store", plan))
        finally:
            for backend in opened:
                await backend.close()


BACKENDS: dict[str, Making] = {"memory": memory, "sqlite": sqlite, "redis": redis}
"""Every store: test_conformance."""
SHARED: dict[str, Making] = {"sqlite": sqlite_shared, "redis": redis}
"""Those that several processes share, by their own clock, with ``another`` and ``start``: test_shared."""

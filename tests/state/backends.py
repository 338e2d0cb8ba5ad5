"""The stores that the conformance suite runs on. A backend is added here and nowhere else.

Each entry makes a rig for one test: an async context manager that gives a ``Rig``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from popproxy.state.memory import MemoryStore
from popproxy.state.space import Backend


@dataclass(frozen=True, slots=True)
class Rig:
    """One store for one test. ``move`` lets that many seconds pass by the store's own clock, without waiting where it
    can be helped; None where the clock is a server's. ``another`` opens the same store as another worker would (closed
    with the rig); None when there is only one. ``pause`` stops the heart-beat of a worker."""

    backend: Backend
    move: Callable[[float], Awaitable[None]] | None
    another: Callable[[], Awaitable[Backend]] | None


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
        yield Rig(backend, move, None)
    finally:
        await backend.close()


BACKENDS: dict[str, Making] = {"memory": memory}

"""Look-ups: a cache with lifetimes in front of a source that is asked once per key at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from popproxy.api.backends import Backend
from popproxy.api.cache import Cache
from popproxy.api.services import Counter, LookupFailed, Unavailable

K = TypeVar("K")
V = TypeVar("V")


class _Flight(Generic[V]):
    """A question under way, and how many wait for its answer."""

    __slots__ = ("task", "waiting")

    def __init__(self) -> None:
        self.task: asyncio.Task[V | None]
        self.waiting = 0


class SingleFlight(Generic[K, V]):
    """api.Lookup. A flight is a task of its own: one session that goes away does not end it for the others, the
    last one does. So there are never more flights than sessions."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[K], Awaitable[V | None]],
        counters: Mapping[str, Counter],
        spawn: Callable[[Awaitable[Any]], asyncio.Task[Any]],
        cache: Cache[K, V],
        timeout: float,
        backend: Backend | None = None,
    ) -> None:
        if timeout <= 0:
            raise ValueError(f"lookup {name!r}: timeout={timeout}: give it time")
        self._name = name
        self._fetch = fetch
        self._count = counters
        self._spawn = spawn
        self._timeout = timeout
        self._cache = cache
        self._backend = backend
        self._flights: dict[K, _Flight[V]] = {}

    async def get(self, key: K) -> V | None:
        """See api.Lookup."""
        known = self._cache.get(key)
        if known is not None:
            self._count["cached"].inc()
            if self._backend is not None:
                self._backend.cached("negative" if known[0] is None else "hit")
            return known[0]
        if self._backend is not None:
            self._backend.cached("miss")
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = self._spawn(self._ask(key, flight))
        flight.waiting += 1
        try:
            # wait() and not shield(): the task's own end must be told from that of whoever waits here.
            await asyncio.wait({flight.task})
        finally:
            flight.waiting -= 1
            if flight.task.done():
                # Looked at here, so that nobody calls it lost when who waited was cancelled at the same moment.
                _ = flight.task.cancelled() or flight.task.exception()
            elif not flight.waiting:
                self._drop(key, flight)
                flight.task.cancel()
        if flight.task.cancelled():
            raise LookupFailed(f"{self._name}: the look-up was ended")
        return flight.task.result()

    def forget(self, key: K) -> None:
        """See api.Lookup."""
        self._cache.forget(key)
        # Who waits already gets the old answer; it is not kept.
        self._flights.pop(key, None)

    def clear(self) -> None:
        """See api.Lookup."""
        self._cache.clear()
        self._flights.clear()

    def _drop(self, key: K, flight: _Flight[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _ask(self, key: K, flight: _Flight[V]) -> V | None:
        try:
            async with asyncio.timeout(self._timeout):
                value = await self._fetch(key)
        except TimeoutError as error:
            self._count["failed"].inc()
            raise LookupFailed(f"{self._name}: no answer within {self._timeout:g} s") from error
        except (Unavailable, OSError) as error:
            self._count["failed"].inc()
            raise LookupFailed(f"{self._name}: {error}") from error
        else:
            self._count["unknown" if value is None else "found"].inc()
            if self._flights.get(key) is flight:
                self._cache.put(key, value)
            return value
        finally:
            self._drop(key, flight)

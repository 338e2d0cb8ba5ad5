"""Cache: bounded memory of answers with lifetimes. Pure; the clock is handed in."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Answers by key; a None is an answer, too ("not known").

    ``ttl`` and ``negative_ttl`` are the lifetimes of answers and of Nones in seconds, 0 keeps nothing. Of more than
    ``size`` keys the one not used for longest goes.
    """

    __slots__ = ("_clock", "_entries", "_negative_ttl", "_size", "_ttl")

    def __init__(self, clock: Callable[[], float], ttl: float, negative_ttl: float, size: int) -> None:
        if ttl < 0 or negative_ttl < 0 or size < 1:
            raise ValueError(f"a cache with ttl={ttl}, negative_ttl={negative_ttl}, size={size}: too small")
        self._clock = clock
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._size = size
        # The order is that of use: dicts keep it.
        self._entries: dict[K, tuple[float, V | None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> tuple[V | None] | None:
        """The answer in a tuple of one; None when there is none, or it is too old."""
        entry = self._entries.pop(key, None)
        if entry is None or entry[0] <= self._clock():
            return None
        self._entries[key] = entry
        return (entry[1],)

    def put(self, key: K, value: V | None) -> None:
        """Keep ``value`` for its lifetime."""
        self._entries.pop(key, None)
        lifetime = self._negative_ttl if value is None else self._ttl
        if lifetime <= 0:
            return
        self._entries[key] = (self._clock() + lifetime, value)
        if len(self._entries) > self._size:
            del self._entries[next(iter(self._entries))]

    def forget(self, key: K) -> None:
        """Drop the answer for ``key``."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()

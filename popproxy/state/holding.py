"""Which places this worker holds: by outcome, to give them back, and by key, to tell the store.

A store counts the places at a key per owner, and every worker is one owner. The worker alone knows the truth about its
own: it tells the store how many it holds, never how many more or fewer. So what was told twice, or may have been lost
on the way, is told again and right.
"""

from __future__ import annotations

from collections.abc import Iterable


class Holding:
    """The places that one owner holds. Keys come with their space."""

    def __init__(self) -> None:
        self._tickets: dict[int, tuple[str, ...]] = {}
        self._counts: dict[str, int] = {}
        self._unsettled: set[str] = set()
        self._last = 0

    def __len__(self) -> int:
        """Keys at which something is held."""
        return len(self._counts)

    def count(self, key: str) -> int:
        """Places held at ``key``."""
        return self._counts.get(key, 0)

    def take(self, keys: tuple[str, ...]) -> int:
        """The store gave one place at each of ``keys`` and has counted them. The ticket to release them with, 0 for
        none."""
        if not keys:
            return 0
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1
        self._last += 1
        self._tickets[self._last] = keys
        return self._last

    def release(self, ticket: int) -> tuple[str, ...]:
        """Hold no more what ``ticket`` names; the store has to be told. The keys; none when it is unknown, or released
        already."""
        keys = self._tickets.pop(ticket, ())
        for key in keys:
            left = self._counts[key] - 1
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]
        self._unsettled.update(keys)
        return keys

    def clear(self) -> None:
        """Release everything."""
        self._tickets.clear()
        self._unsettled.update(self._counts)
        self._counts.clear()

    def doubt(self, keys: Iterable[str]) -> None:
        """What the store counts for us at ``keys`` may be wrong: it has to be told."""
        self._unsettled.update(keys)

    @property
    def unsettled(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._unsettled)

    def settle(self) -> dict[str, int]:
        """What to tell the store now: how many places we hold at each key that is in doubt. If it could not be told,
        ``doubt`` the keys again."""
        told = {key: self._counts.get(key, 0) for key in self._unsettled}
        self._unsettled.clear()
        return told

    def everything(self) -> dict[str, int]:
        """All that is held, for a store that does not know us, or not any more."""
        return dict(self._counts)

"""Verdicts that are known, so that no message is scanned twice: a bounded number, each for a bounded time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from popproxy_plugins.spam.verdict import Scored


class Verdicts:
    """At most ``size`` verdicts, each for ``seconds`` on ``clock``; the one that was used longest ago goes first."""

    __slots__ = ("_clock", "_kept", "_seconds", "_size")

    def __init__(self, size: int, seconds: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, Scored]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Scored | None:
        """The verdict, if it is known and fresh."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, verdict = found
        if self._clock() >= until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return verdict

    def put(self, key: Hashable, verdict: Scored) -> None:
        """Keep it."""
        self._kept[key] = (self._clock() + self._seconds, verdict)
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

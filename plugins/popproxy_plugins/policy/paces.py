"""The pace of each user, shared by the user's sessions of this worker."""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from popproxy.api import Pace

_KEPT = 1000
"""Paces that outlive their sessions: with a burst of one second, who comes again sooner finds what was spent."""


class Share:
    """A session's hold on a pace."""

    __slots__ = ("__weakref__", "pace")

    def __init__(self, pace: Pace) -> None:
        self.pace = pace


class Paces:
    """What is shared. Nobody has to give anything back: a pace ends when no session holds its Share and _KEPT others
    were asked for since."""

    __slots__ = ("_kept", "_shared")

    def __init__(self) -> None:
        self._shared: WeakValueDictionary[tuple[str, float, int], Share] = WeakValueDictionary()
        self._kept: OrderedDict[tuple[str, float, int], Share] = OrderedDict()

    def __len__(self) -> int:
        return len(self._shared)

    def of(self, user: str, rate: float, burst: int) -> Share:
        """The pace of ``user``; sessions with another rate, of another rule, have another one."""
        key = (user, rate, burst)
        share = self._shared.get(key)
        if share is None:
            share = self._shared[key] = Share(Pace(rate, burst))
        self._kept[key] = share
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return share

"""The pace of each user, shared by the user's sessions of this worker, for as long as there are some."""

from __future__ import annotations

from weakref import WeakValueDictionary

from popproxy.api import Pace


class Share:
    """A session's hold on a pace."""

    __slots__ = ("__weakref__", "pace")

    def __init__(self, pace: Pace) -> None:
        self.pace = pace


class Paces:
    """What is shared now. Nobody has to give anything back: a pace ends with the last session that holds its Share."""

    __slots__ = ("_shared",)

    def __init__(self) -> None:
        self._shared: WeakValueDictionary[tuple[str, float, int], Share] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._shared)

    def of(self, user: str, rate: float, burst: int) -> Share:
        """The pace of ``user``; sessions with another rate, of another rule, have another one."""
        key = (user, rate, burst)
        share = self._shared.get(key)
        if share is None:
            share = self._shared[key] = Share(Pace(rate, burst))
        return share

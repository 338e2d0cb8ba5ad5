"""The octets of a user's day: told to the store as they go out, seldom, and without waiting for it.

What the store has not heard of yet the sessions of one worker know of each other, so that many at once get no more than
one would. Sessions of other workers are known as of the last login.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

from popproxy.api import Sliding, Spend, Store
from popproxy_plugins.policy.claims import DAY

STEP = 1 << 20
"""Octets that the store need not know of yet."""


class Purse:
    """One user's day in this worker, whatever the limits: ``taken`` octets by its sessions, of which the store was
    ``told`` so many, and ``elsewhere`` those of others and of before, as of the last login."""

    __slots__ = ("__weakref__", "elsewhere", "taken", "told")

    def __init__(self) -> None:
        self.elsewhere = self.taken = self.told = 0


class Purses:
    """The purses of this worker; one ends with the last session that has it."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: WeakValueDictionary[str, Purse] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, key: str, used: int) -> Purse:
        """The purse of ``key``, of which the store says that ``used`` octets are gone."""
        purse = self._open.get(key)
        if purse is None:
            purse = self._open[key] = Purse()
        purse.elsewhere = used - purse.told
        return purse


class Day:
    """The octets of a user's day, as one session takes them. ``taken`` by it, on their way or sent; of what was sent
    since ``counted`` the store has not heard yet. ``audit``: nobody is refused by it."""

    __slots__ = ("audit", "counted", "key", "limit", "purse", "taken")

    def __init__(self, key: str, limit: int, purse: Purse, audit: bool) -> None:
        self.audit = audit
        self.key = key
        self.limit = limit
        self.purse = purse
        self.counted = 0
        self.taken = 0

    def lacks(self, octets: int) -> bool:
        """Whether there is less than it takes for this session to have ``octets`` since its login."""
        return octets - self.taken > self.limit - self.purse.elsewhere - self.purse.taken

    def take(self, octets: int) -> None:
        """The session has taken ``octets`` since its login, or is about to."""
        if octets > self.taken:
            self._taken(octets)

    def _taken(self, octets: int) -> None:
        self.purse.taken += octets - self.taken
        self.taken = octets

    def tell(self, store: Store, sent: int) -> None:
        """Post what went out since the last time; ``sent`` since the login."""
        amount, self.counted = sent - self.counted, sent
        self.purse.told += amount
        store.post(Spend(self.key, Sliding(self.limit, DAY), amount, "force"))

    def end(self, store: Store, sent: int) -> None:
        """The session is over: what was announced and never came is given back."""
        self._taken(sent)
        if sent > self.counted:
            self.tell(store, sent)


def went_out(store: Store, days: Iterable[Day], sent: int) -> None:
    """``sent`` octets since the login; the store is told when it is worth it."""
    for day in days:
        day.take(sent)
        if sent - day.counted >= STEP:
            day.tell(store, sent)

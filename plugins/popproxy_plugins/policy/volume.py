"""The octets of a user's day: told to the store as they go out, seldom, and without waiting for it."""

from __future__ import annotations

from collections.abc import Iterable

from popproxy.api import Sliding, Spend, Store
from popproxy_plugins.policy.claims import DAY

STEP = 1 << 20
"""Octets that the store need not know of yet."""


class Day:
    """The octets of a user's day, as far as this session knows: ``left`` of them at the login. Of what was sent since
    ``counted`` the store has not heard yet. ``audit``: nobody is refused by it."""

    __slots__ = ("audit", "counted", "key", "left", "limit")

    def __init__(self, key: str, limit: int, left: int, audit: bool) -> None:
        self.audit = audit
        self.key = key
        self.limit = limit
        self.left = left
        self.counted = 0


def told(store: Store, days: Iterable[Day], sent: int, least: int = STEP) -> None:
    """Post what went out since the last time, when it is ``least`` octets or more; ``sent`` since the login."""
    for day in days:
        amount = sent - day.counted
        if amount >= least:
            day.counted = sent
            store.post(Spend(day.key, Sliding(day.limit, DAY), amount, "force"))

"""The meter of the store. A process has one store: the label is its kind."""

from __future__ import annotations

from bisect import bisect_left

from popproxy.metrics.cells import Families, Index
from popproxy.metrics.names import METRICS
from popproxy.metrics.words import STORE

_ERROR = Index(METRICS["store_errors"])


class StoreMeter:
    """What is counted of the store called ``kind`` in the config."""

    __slots__ = ("_errors", "_lost", "_seconds", "_up")

    def __init__(self, families: Families, kind: str) -> None:
        self._seconds = families.histograms["rate_limit_store_duration_seconds"].bind(kind)[0]
        self._errors = families.counters["store_errors"].bind(kind)
        self._lost = families.counters["store_posts_lost"].bind(kind)
        self._up = families.gauges["store_up"].bind(kind)

    def took(self, seconds: float) -> None:
        """A run was answered, so long after it was asked."""
        cell = self._seconds
        cell[bisect_left(STORE, seconds)] += 1
        cell[-1] += seconds

    def failed(self, reason: str, times: int = 1) -> None:
        """The store did not answer, or was not asked (``reason`` of names.STORE_ERRORS)."""
        self._errors[_ERROR[reason,]] += times

    def up(self, up: bool) -> None:
        """Whether it answers."""
        self._up[0] = int(up)

    def lost(self, posts: int) -> None:
        """So many posts will never be done."""
        self._lost[0] += posts

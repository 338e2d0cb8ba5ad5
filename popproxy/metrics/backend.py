"""api.Backend: what plugins ask about users, counted in the families that all of them share."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from popproxy.api.backends import reason_of
from popproxy.metrics.cells import Families, Index
from popproxy.metrics.names import METRICS
from popproxy.metrics.words import FAST

_ERROR = Index(METRICS["auth_backend_errors"])
_CACHED = Index(METRICS["auth_cache_requests"])


class BackendMeter:
    """The back end of the plugin called ``name`` in the config. Made again, it goes on counting."""

    __slots__ = ("_cache", "_errors", "_seconds")

    def __init__(self, families: Families, name: str) -> None:
        self._seconds = families.histograms["auth_backend_duration_seconds"].bind(name)[0]
        self._errors = families.counters["auth_backend_errors"].bind(name)
        self._cache = families.counters["auth_cache_requests"].bind(name)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """See api.Backend."""
        began = monotonic()
        try:
            yield
        except Exception as error:
            self._errors[_ERROR[reason_of(error),]] += 1
            self._took(monotonic() - began)
            raise
        self._took(monotonic() - began)

    def _took(self, seconds: float) -> None:
        self._seconds[bisect_left(FAST, seconds)] += 1
        self._seconds[-1] += seconds

    def cached(self, result: str) -> None:
        """See api.Backend."""
        self._cache[_CACHED[result,]] += 1

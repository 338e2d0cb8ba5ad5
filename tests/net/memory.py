"""How much memory this process holds: the proxy, its clients and its servers are all in it, and must all stay small."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Octets resident now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * PAGE


class Growth:
    """The most that ``look`` has seen since the beginning, in octets."""

    def __init__(self) -> None:
        gc.collect()
        self._begin = resident()
        self.most = 0

    def look(self) -> None:
        """Measure now."""
        self.most = max(self.most, resident() - self._begin)


@contextmanager
def bounded(octets: int) -> Iterator[Growth]:
    """The process may not grow by more than ``octets`` between the looks of the block."""
    growth = Growth()
    yield growth
    growth.look()
    assert growth.most < octets, f"grew by {growth.most} octets, {octets} are allowed"

"""When a worker that died is started again: at once, and later each time when it dies again soon. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST, LONGEST = 0.1, 30.0
"""Seconds before the third start of a worker that does not live, and the longest that is waited."""
SETTLED = 5.0
"""A worker that has served for so many seconds is a good one: its death counts as the first."""


@dataclass(slots=True)
class Restarts:
    """The deaths of one slot. ``count`` is how often a worker was started in place of a dead one."""

    settled: float = SETTLED
    longest: float = LONGEST
    count: int = 0
    _row: int = 0

    def died(self, served: float) -> float:
        """A worker is dead that had served for ``served`` seconds (0: it never came to that). Returns the seconds to
        wait before the next one is started."""
        self.count += 1
        self._row = 1 if served >= self.settled else self._row + 1
        if self._row == 1:
            return 0.0
        return min(self.longest, FIRST * 2.0 ** min(self._row - 2, 30))

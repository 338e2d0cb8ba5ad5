"""What each window is in figures: three numbers that are moved to now, looked at, and added to.

memory and sqlite compute here, redis in Lua; the conformance suite holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from popproxy.api.store import Fixed, Room, Sliding, TokenBucket, Window


@dataclass(frozen=True, slots=True)
class Level:
    """What is used of a window. Fixed and Sliding: ``count`` in the period number ``at``, ``before`` in the one before
    it. TokenBucket: ``count`` used at the time ``at``."""

    count: float = 0.0
    before: float = 0.0
    at: float = 0.0


def moved(window: Window, level: Level | None, now: float) -> Level:
    """``level`` as it is at ``now``; a clock that went back moves nothing. None is an unused window."""
    if isinstance(window, TokenBucket):
        if level is None:
            return Level(0.0, 0.0, now)
        at = max(now, level.at)
        return Level(max(0.0, level.count - (at - level.at) * window.limit / window.seconds), 0.0, at)
    period = float(now // window.seconds)
    if level is None:
        return Level(0.0, 0.0, period)
    if period <= level.at:
        return level
    return Level(0.0, level.count if period == level.at + 1 else 0.0, period)


def used(window: Window, level: Level, now: float) -> float:
    """How much of ``limit`` is used; ``level`` was moved to ``now``."""
    if isinstance(window, Sliding):
        return level.count + level.before * (1.0 - _share(window, level, now))
    return level.count


def room(window: Window, level: Level, amount: int, now: float) -> Room:
    """Whether ``amount`` more has room; ``level`` was moved to ``now``."""
    taken = used(window, level, now)
    # Used is rounded up and compared with a tolerance far below one: a hundred steps of a tenth are ten.
    if taken + amount <= window.limit + 1e-6:
        return Room(True, ceil(taken - 1e-6), window.limit)
    return Room(False, ceil(taken - 1e-6), window.limit, _wait(window, level, amount, now))


def added(level: Level, amount: int) -> Level:
    """``level`` with ``amount`` more."""
    return Level(level.count + amount, level.before, level.at)


def life(window: Window) -> float:
    """Seconds after which a level says nothing any more."""
    return window.seconds * (1 if isinstance(window, TokenBucket) else 2)


def _share(window: Fixed | Sliding, level: Level, now: float) -> float:
    """Which share of the current period is over, 0 to 1."""
    return min(1.0, max(0.0, now / window.seconds - level.at))


def _wait(window: Window, level: Level, amount: int, now: float) -> float:
    if amount > window.limit:
        return inf
    if isinstance(window, TokenBucket):
        return (level.count + amount - window.limit) * window.seconds / window.limit
    left = (level.at + 1) * window.seconds - now
    if isinstance(window, Fixed):
        return left
    free = window.limit - amount
    if level.count <= free:
        # Enough of the period before will have passed: before * (1 - share) = free - count.
        return left - (free - level.count) / level.before * window.seconds
    return left + (1.0 - free / level.count) * window.seconds

"""What each window is in figures: three numbers that are moved to now, looked at, and added to.

memory and sqlite compute here, redis in Lua; the conformance suite holds them equal. The numbers belong to a
kind and a length, not to a limit: machines with another limit at the same key count together.

A clock that goes back frees nothing: what is used stays used. A level that seems to come from more than one window
ahead was written by a clock that was wrong: it counts as if it were of now, so that no window is closed for longer than
its own length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from popproxy.api.store import LONGEST_LIFE, Fixed, Room, Sliding, TokenBucket, Window

_SMALL = 1e-6
"""Far below one, and above what floats lose."""


@dataclass(frozen=True, slots=True)
class Level:
    """What is used of a window. Fixed and Sliding: ``count`` in the period number ``at``, ``before`` in the one before
    it. TokenBucket: ``count`` used at the time ``at``."""

    count: float = 0.0
    before: float = 0.0
    at: float = 0.0


def same(window: Window, other: Window) -> bool:
    """Whether both count the same: the limit does not matter."""
    return type(window) is type(other) and window.seconds == other.seconds


def moved(window: Window, level: Level | None, now: float) -> Level:
    """``level`` as it is at ``now``. None is an unused window."""
    if isinstance(window, TokenBucket):
        if level is None:
            return Level(0.0, 0.0, now)
        if level.at > now:
            return level if level.at - now <= window.seconds else Level(level.count, 0.0, now)
        return Level(max(0.0, level.count - (now - level.at) * window.limit / window.seconds), 0.0, now)
    period = float(now // window.seconds)
    if level is None:
        return Level(0.0, 0.0, period)
    if level.at - 1 <= period <= level.at:
        return level
    if period < level.at:
        return Level(level.count, level.before, period)
    return Level(0.0, level.count if period == level.at + 1 else 0.0, period)


def used(window: Window, level: Level, now: float) -> float:
    """How much of ``limit`` is used; ``level`` was moved to ``now``."""
    if isinstance(window, Sliding):
        return level.count + level.before * (1.0 - _share(window, level, now))
    return level.count


def shown(window: Window, level: Level, now: float) -> int:
    """``used`` as Room says it: rounded up, but a hundred steps of a tenth are ten."""
    return ceil(used(window, level, now) - _SMALL)


def room(window: Window, level: Level, amount: int, now: float) -> Room:
    """Whether ``amount`` more has room; ``level`` was moved to ``now``."""
    taken = shown(window, level, now)
    if used(window, level, now) + amount <= window.limit + _SMALL:
        return Room(True, taken, window.limit)
    return Room(False, taken, window.limit, _wait(window, level, amount, now))


def added(level: Level, amount: int) -> Level:
    """``level`` with ``amount`` more."""
    return Level(level.count + amount, level.before, level.at)


def ends(window: Window, level: Level) -> float:
    """When ``level`` says nothing any more, seconds since the epoch; by the limit of who writes it."""
    if isinstance(window, Fixed):
        return (level.at + 1) * window.seconds
    if isinstance(window, Sliding):
        return (level.at + 2) * window.seconds
    # What was forced above the limit takes longer to flow off; from a bucket of nothing it never does.
    windows = max(1.0, level.count / window.limit) if window.limit else 1.0
    return level.at + min(LONGEST_LIFE, windows * window.seconds)


def _share(window: Fixed | Sliding, level: Level, now: float) -> float:
    """Which share of the current period is over, 0 to 1."""
    return min(1.0, max(0.0, now / window.seconds - level.at))


def _wait(window: Window, level: Level, amount: int, now: float) -> float:
    if amount > window.limit or not window.limit:
        return inf
    if isinstance(window, TokenBucket):
        # Nothing flows off before ``at``, which is behind now when the clock went back.
        return level.at - now + (level.count + amount - window.limit) * window.seconds / window.limit
    left = (level.at + 1) * window.seconds - now
    if isinstance(window, Fixed):
        return left
    free = window.limit - amount
    if level.count <= free:
        # Enough of the period before will have passed: before * (1 - share) = free - count.
        return left - (free - level.count) / level.before * window.seconds
    return left + (1.0 - free / level.count) * window.seconds

"""Pace: how many octets a second may go to clients. Pure: whoever asks says what time it is."""

from __future__ import annotations

from math import inf


class Pace:
    """A token bucket of octets that one session has for itself, or that several share.

    ``rate`` octets per second flow in, up to ``burst``; a session that has sent nothing for a while may send ``burst``
    at once. What is spent beyond that is a debt, which everybody who shares the bucket pays by waiting. Not for several
    threads. ValueError for a rate or a burst that is not above 0.
    """

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        if not 0 < rate < inf:
            raise ValueError(f"Pace: rate={rate!r}; write octets per second, above 0")
        if burst <= 0:
            raise ValueError(f"Pace: burst={burst!r}; write octets, above 0")
        self.rate = float(rate)
        self.burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def spend(self, octets: int, now: float) -> float:
        """``octets`` were sent at ``now``, in seconds of a clock that never goes back: the seconds to wait before more
        may be sent, 0.0 for none. With 0 octets: how long that would be by now."""
        if self._at is not None and now > self._at:
            self._left = min(float(self.burst), self._left + (now - self._at) * self.rate)
        if self._at is None or now > self._at:
            self._at = now
        self._left -= octets
        return 0.0 if self._left >= 0 else -self._left / self.rate

    def __repr__(self) -> str:
        return f"Pace(rate={self.rate:g}, burst={self.burst})"

"""The circuit breaker of one server: when it is out of rotation, and when a login may try it again.

Pure: time comes in, decisions go out. ``fall`` faults in a row take the server out; then one login at a time is a
trial (half-open), at first ``backoff`` seconds later, after each trial that fails twice as late, at most ``longest``.
``rise`` successful trials in a row bring it back. What took it out decides what a success is: a login, or only the way
to one. A trial that nobody ends is forgotten after a while, so nothing a caller forgets keeps a server out for ever.
"""

from __future__ import annotations

from popproxy.config.plan import HealthPlan

PATIENCE = 60.0
"""Seconds after which a trial without an outcome is forgotten."""


class Breaker:
    """``up``: in rotation. ``since``: when that last changed."""

    __slots__ = (
        "_backoff", "_began", "_by_login", "_due", "_faults", "_numbers", "_rules", "_trial", "_who", "_wins",
        "since", "up",
    )  # fmt: skip

    def __init__(self, rules: HealthPlan, now: float = 0.0) -> None:
        self.up = True
        self.since = now
        self._rules = rules
        self._faults = 0
        self._who: str | None = None
        self._wins = 0
        self._backoff = rules.backoff
        self._due = now
        self._by_login = False
        self._trial = 0
        self._began = now
        self._numbers = 0

    @property
    def state(self) -> str:
        """``up``, ``down``, or ``trial``: down, and a login tries it."""
        return "up" if self.up else "trial" if self._trial else "down"

    def next_trial(self, now: float) -> float | None:
        """Seconds until a login may try it; None while it is up."""
        return None if self.up else max(0.0, self._due - now)

    def admits(self, now: float, urgent: bool = False) -> bool:
        """Whether a login may go there now. ``urgent``: no server is up, so a trial need not wait until it is due, and
        one that takes long keeps the others out no longer than ``backoff``."""
        if self.up:
            return True
        alone = self._rules.backoff if urgent else PATIENCE
        return (not self._trial or now >= self._began + alone) and (urgent or now >= self._due)

    def begin(self, now: float) -> int:
        """A login goes there: the number by which its outcome is told, 0 when it is no trial."""
        if self.up:
            return 0
        self._numbers += 1
        self._trial = self._numbers
        self._began = now
        return self._trial

    def succeeded(self, number: int, now: float) -> bool:
        """It serves. Returns whether that brought it back into rotation."""
        if self.up:
            self._faults = 0
            self._who = None
            return False
        if not number:
            # Begun before it went out: a trial decides.
            return False
        self._end(number)
        self._wins += 1
        if self._wins < self._rules.rise:
            self._due = now
            return False
        self._turn(True, now)
        return True

    def reached(self, number: int, now: float) -> bool:
        """The trial came to where a login begins. Returns whether it has succeeded by that: where logins took the
        server out only a login can."""
        if self.up or self._by_login:
            return False
        self.succeeded(number, now)
        return True

    def failed(self, number: int, now: float, who: str | None = None) -> bool:
        """It does not. Returns whether that took it out of rotation.

        ``who``: the login or client that shows it. The same one twice in a row counts once: the fault may be its own.
        """
        if self.up:
            if who is not None and who == self._who:
                return False
            self._who = who
            self._faults += 1
            if self._faults < self._rules.fall:
                return False
            self._by_login = who is not None
            self._turn(False, now)
            self._backoff = self._rules.backoff
            self._due = now + self._backoff
            return True
        if number and number == self._trial:
            # Logins that were under way when it went out do not make it wait longer.
            self._end(number)
            self._wins = 0
            self._backoff = min(self._backoff * 2, self._rules.longest)
            self._due = now + self._backoff
        return False

    def dropped(self, number: int) -> None:
        """The login ended without showing anything: another one may try at once."""
        self._end(number)

    def answered(self, now: float) -> bool:
        """A probe was greeted. Returns whether that brought the server back into rotation.

        A greeting proves nothing about logins: while the server is up it excuses no fault, and where logins took it
        out it only lets the next one try at once.
        """
        if self.up:
            return False
        if self._by_login:
            self._due = now
            return False
        return self.succeeded(self.begin(now), now)

    def _end(self, number: int) -> None:
        if number == self._trial:
            self._trial = 0

    def _turn(self, up: bool, now: float) -> None:
        self.up = up
        self.since = now
        self._faults = self._wins = self._trial = 0
        self._who = None

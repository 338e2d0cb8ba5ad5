"""A pump's client that is sent no more octets per second than it may have (api/pace.py).

What the session puts out leaves in slices; while some of it waits, or its time has not come, the session counts its
client as blocked: nothing is read from upstream then, and its clock runs for nobody. There is one timer, which ends at
the next slice: a client is never left without octets for longer than those who share its pace need for theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from popproxy.api.pace import Pace

if TYPE_CHECKING:
    from popproxy.net.pump import Pump

_LEAST, _MOST = 64, 65536
"""Octets of a slice, which is a quarter of a second's: a client may give up that hears nothing for a minute."""
_SHORTEST = 0.001
"""Seconds that are not worth a timer: what they are short of is waited for later."""


class Pacer:
    """Stands between ``_send_client`` of one pump and the transport. ``full``: the transport wants no more now."""

    __slots__ = ("_ending", "_paces", "_place", "_pump", "_slice", "_timer", "_waiting", "full")

    def __init__(self, pump: Pump, paces: tuple[Pace, ...]) -> None:
        self._pump = pump
        self._paces = paces
        self._slice = min(max(int(min(pace.rate for pace in paces) / 4), _LEAST), _MOST)
        self._waiting: deque[bytes] = deque()
        self._place = 0
        self._ending = False
        self._timer: asyncio.TimerHandle | None = None
        self.full = pump.client_blocked

    @property
    def resting(self) -> bool:
        """Whether only the pace holds the client up: no time-out counts that."""
        return self._timer is not None and not self.full

    @property
    def _holds(self) -> bool:
        return self.full or self._timer is not None or bool(self._waiting)

    def write(self, client: asyncio.Transport, data: bytes) -> None:
        """Send, now or when its time comes.

        What others who share a pace have taken ahead is waited for first: otherwise each new session would have a slice
        that nobody pays for, and who comes again and again has no pace."""
        self._waiting.append(data)
        if self._timer is None and not self.full and not self._rests(0):
            self._go(client)
        if not self._pump.client_blocked and self._holds:
            self._pump.client_blocked = True
            self._pump.session.client_blocked(True)

    def resumed(self, client: asyncio.Transport) -> bool:
        """The transport takes octets again. Whether the session may, too."""
        self.full = False
        if self._timer is None:
            self._go(client)
        return not self._holds

    def ended(self, client: asyncio.Transport) -> bool:
        """The session is over. Whether everything is out; otherwise the pump's ``close_client`` is called when it is.

        A client that takes nothing any more is left to Farewell, which has a time for that."""
        self._ending = self._timer is not None and bool(self._waiting) and not self.full
        if not self._ending:
            self.release(client)
        return not self._ending

    def release(self, client: asyncio.Transport | None) -> None:
        """No pace any more: what waits leaves at once."""
        self._paces = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if client is not None:
            self._go(client)
        self._waiting.clear()

    def _go(self, client: asyncio.Transport) -> None:
        """Slices, until one has to be waited for."""
        while self._waiting and not (self.full and self._paces):
            data = self._waiting[0]
            piece = data[self._place : self._place + self._slice] if self._paces else data[self._place :]
            self._place += len(piece)
            if self._place >= len(data):
                self._waiting.popleft()
                self._place = 0
            client.write(piece)
            if self._rests(len(piece)):
                return

    def _rests(self, octets: int) -> bool:
        """These were sent. Whether more has to wait; then there is a timer."""
        now = monotonic()
        wait = max((pace.spend(octets, now) for pace in self._paces), default=0.0)
        if wait < _SHORTEST:
            return False
        self._timer = self._pump.front.loop.call_later(wait, self._wake)
        return True

    def _wake(self) -> None:
        self._timer = None
        client = self._pump.client
        if client is not None and not self.full:
            self._go(client)
        if self._ending and (self.full or not self._waiting):
            self._pump.close_client()
        else:
            self._pump.eased(self._holds)

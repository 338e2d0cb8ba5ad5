"""The client's lines before the login: one at a time, none while something is awaited, none too long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING

from popproxy.core.limits import BURST
from popproxy.core.phases import Phase
from popproxy.wire.lines import LineBuffer
from popproxy.wire.replies import err

if TYPE_CHECKING:
    from popproxy.core.session import Session


class Reading(ABC):
    """``busy`` while an outcome is awaited: client lines wait in the buffer. They also wait while the client takes no
    replies, and when those the proxy made at once exceed BURST (``pulling``)."""

    __slots__ = ("_buffer", "_deadline", "_running", "_said", "busy", "s")

    def __init__(self, session: Session) -> None:
        self.s = session
        self.busy = False
        self._buffer = LineBuffer(session.plan.limits.line)
        self._deadline = session.deadline
        self._running = False
        self._said = 0

    @abstractmethod
    def _line(self, line: bytes) -> None:
        """A line, its end included."""

    @abstractmethod
    def _long(self) -> bool:
        """Whether the line that is on its way may be as long as those of AUTH."""

    def suspend(self) -> None:
        """Let the client's lines wait for an outcome."""
        self.busy = True
        self.s.deadline = inf

    def resume(self) -> None:
        """Back to the client's lines."""
        self.busy = False
        self.s.deadline = self._deadline
        self._lines()

    def say(self, reply: bytes) -> None:
        """Send it to the client."""
        s = self.s
        s.to_client.append(reply)
        self._said += len(reply)
        if self._said > BURST:
            s.pulling = True

    def _lines(self) -> None:
        """Every line that may be looked at now. Not called again by what it calls: a flood would nest as deep."""
        if self._running:
            return
        s, buffer = self.s, self._buffer
        self._running = True
        self._said = 0
        while not (self.busy or s.deaf or s.blocked or s.pulling or s.phase is not Phase.AUTHORIZATION):
            line = buffer.next() if buffer.data else None
            if line is None:
                if buffer.data:
                    self._check_length()
                s.want_client = True
                break
            self._line(line)
        else:
            if s.phase in (Phase.GREETING, Phase.AUTHORIZATION, Phase.LOGGING_IN):
                s.want_client = not buffer.data or len(buffer) <= s.plan.limits.line
        self._running = False

    def _check_length(self) -> None:
        limits = self.s.plan.limits
        self._buffer.limit = limits.auth_line if self._long() else limits.line
        if self._buffer.overlong:
            self._overlong(self._buffer.limit)

    def _overlong(self, limit: int) -> None:
        """A line is too long, whether its end has come or not."""
        self.s.meter.violation("client", "overlong")
        self.say(err(f"Line longer than {limit} octets"))
        self.s.end("protocol_error", "overlong line")

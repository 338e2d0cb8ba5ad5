"""One table of what can go wrong upstream, and what each fault means.

Law: trouble upstream is never [AUTH]; a client that was already answered gets no second answer; another server is
tried only while the client has not been answered and the first one cannot have used its credentials.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from popproxy.wire.errors import Code, Refusal
from popproxy.wire.values import value


class Kind(Enum):
    """Fault kinds. The value is the word used in logs and metrics."""

    DNS = "dns"
    REFUSED = "refused"
    CONNECT_TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    NO_STLS = "no_stls"
    GREETING = "greeting"
    GREETING_TIMEOUT = "greeting_timeout"
    LOGIN_TIMEOUT = "login_timeout"
    COMMAND_TIMEOUT = "command_timeout"
    UPDATE_TIMEOUT = "update_timeout"
    LOST = "lost"
    RESET = "reset"
    PROTOCOL = "protocol"
    OVERLONG = "overlong"
    UNASKED = "unasked"
    CREDENTIALS = "credentials"
    TEMPORARY = "temporary"
    BUSY = "busy"
    DOWN = "down"
    XCLIENT = "xclient"
    LOOP = "loop"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a fault means. ``retry``: another server may be tried, for this one did nothing. ``early``: another one may
    be tried if this one was told no secret of the client's. ``health``: it speaks against the server's health. Then how
    loud the log is, and how the session ended."""

    retry: bool
    early: bool
    health: bool
    level: Literal["warning", "error"]
    ends: str


_UNAVAILABLE = "Mail server not available, try again later"
_IMPOSSIBLE = "Login is not possible"
_R = Rule
RULES: dict[Kind, Rule] = {
    Kind.DNS: _R(True, True, True, "error", "upstream_error"),
    Kind.REFUSED: _R(True, True, True, "error", "upstream_error"),
    Kind.CONNECT_TIMEOUT: _R(True, True, True, "error", "upstream_timeout"),
    Kind.UNREACHABLE: _R(True, True, True, "error", "upstream_error"),
    Kind.TLS: _R(True, True, True, "error", "upstream_error"),
    Kind.NO_STLS: _R(True, True, True, "error", "upstream_error"),
    Kind.GREETING: _R(True, True, True, "error", "upstream_error"),
    Kind.GREETING_TIMEOUT: _R(True, True, True, "error", "upstream_timeout"),
    Kind.LOGIN_TIMEOUT: _R(False, True, True, "error", "upstream_timeout"),
    Kind.COMMAND_TIMEOUT: _R(False, False, False, "warning", "upstream_timeout"),
    Kind.UPDATE_TIMEOUT: _R(False, False, False, "warning", "upstream_timeout"),
    Kind.LOST: _R(False, True, True, "warning", "upstream_eof"),
    Kind.RESET: _R(False, True, True, "warning", "upstream_eof"),
    Kind.PROTOCOL: _R(False, True, True, "error", "upstream_error"),
    Kind.OVERLONG: _R(False, True, True, "error", "upstream_error"),
    Kind.UNASKED: _R(False, True, True, "error", "upstream_error"),
    Kind.CREDENTIALS: _R(False, False, False, "error", "upstream_error"),
    Kind.TEMPORARY: _R(False, False, True, "warning", "upstream_error"),
    Kind.BUSY: _R(False, False, False, "warning", "upstream_error"),
    Kind.DOWN: _R(False, False, False, "warning", "upstream_error"),
    Kind.XCLIENT: _R(True, True, True, "error", "upstream_error"),
    Kind.LOOP: _R(False, False, False, "error", "upstream_error"),
    Kind.INTERNAL: _R(False, False, False, "error", "upstream_error"),
}


@value
class Failure:
    """A fault upstream as data. ``detail`` is private and for the log; it holds no secret."""

    kind: Kind
    detail: str = ""

    @property
    def rule(self) -> Rule:
        """What it means."""
        return RULES[self.kind]

    def refusal(self) -> Refusal:
        """What a client is told that has not been answered yet (RFC 3206 section 4)."""
        if self.kind is Kind.CREDENTIALS:
            # Trying again later will not help: somebody has to change the config.
            return Refusal(_IMPOSSIBLE, Code.SYS_PERM, self.detail)
        return Refusal(_UNAVAILABLE, Code.SYS_TEMP, self.detail)

"""The phases of a session and where each may lead: data only (RFC 1939 sections 3 to 6)."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a session stands. ``word`` is the value, used in logs and metrics; ``leads`` the phases it may lead to.

    Both are plain attributes: Enum's own ``value`` and hash are Python calls, and every RETR changes phase twice.
    """

    GREETING = "greeting"
    AUTHORIZATION = "authorization"
    LOGGING_IN = "logging_in"
    TRANSACTION = "transaction"
    STREAMING = "streaming"
    UPDATE = "update"
    CLOSED = "closed"

    word: str
    leads: tuple[Phase, ...]

    def __init__(self, word: str) -> None:
        self.word = word
        self.leads = ()


CLOSED = Phase.CLOSED
"""To be asked for at every event: a look-up in the class itself goes through its metaclass and takes thrice as long."""
_P = Phase
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    _P.GREETING: frozenset({_P.AUTHORIZATION, _P.CLOSED}),
    _P.AUTHORIZATION: frozenset({_P.LOGGING_IN, _P.CLOSED}),
    _P.LOGGING_IN: frozenset({_P.AUTHORIZATION, _P.TRANSACTION, _P.CLOSED}),
    _P.TRANSACTION: frozenset({_P.STREAMING, _P.UPDATE, _P.CLOSED}),
    _P.STREAMING: frozenset({_P.TRANSACTION, _P.CLOSED}),
    _P.UPDATE: frozenset({_P.CLOSED}),
    _P.CLOSED: frozenset(),
}
"""STREAMING is a reply with more than one line on its way; UPDATE begins when QUIT is sent upstream."""

for _phase, _next in TRANSITIONS.items():
    _phase.leads = tuple(_next)

REASONS: tuple[str, ...] = (
    "quit",
    "client_eof",
    "client_reset",
    "idle_timeout",
    "login_timeout",
    "client_stalled",
    "upstream_eof",
    "upstream_error",
    "upstream_timeout",
    "policy",
    "shutdown",
    "kicked",
    "protocol_error",
    "tls",
    "internal_error",
)
"""Why a session ended."""

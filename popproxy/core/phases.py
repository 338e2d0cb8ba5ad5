"""The phases of a session and where each may lead: data only (RFC 1939 sections 3 to 6)."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a session stands. The value is the word used in logs and metrics."""

    GREETING = "greeting"
    AUTHORIZATION = "authorization"
    LOGGING_IN = "logging_in"
    TRANSACTION = "transaction"
    STREAMING = "streaming"
    UPDATE = "update"
    CLOSED = "closed"


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
    "protocol_error",
    "tls",
)
"""Why a session ended."""

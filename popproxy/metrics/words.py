"""The words that labels may have, and the bounds of histograms' buckets.

The enums that core owns are repeated here (siblings are blind to each other) and tests/shape/test_meter_contract.py
holds them equal.
"""

from __future__ import annotations

from typing import get_args

from popproxy.wire.proxyline import Reason

Values = tuple[str, ...]

OTHER = "_other"

OUTCOMES: Values = ("ok", "err", "denied", "timeout", "upstream_lost", "malformed")
AUTH_RESULTS: Values = (
    "ok", "bad_credentials", "tempfail", "policy", "rate_limited", "in_use", "tls_required", "malformed", "aborted",
)  # fmt: skip
MECHANISMS: Values = (
    "USER", "PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2", "CRAM-MD5", "APOP", OTHER,
)  # fmt: skip
VIOLATIONS: Values = (
    "bare_lf", "bare_cr", "nul", "overlong", "unknown", "arguments", "number", "phase", "after_stls",
    "greeting", "status", "unasked", "sasl", OTHER,
)  # fmt: skip
VERDICTS: Values = ("pass", "modify", "deny")
PLUGIN_ACTIONS: Values = ("fail_open", "fail_closed")
REASONS: Values = (
    "quit", "client_eof", "client_reset", "idle_timeout", "login_timeout", "client_stalled", "upstream_eof",
    "upstream_error", "upstream_timeout", "policy", "shutdown", "kicked", "protocol_error", "tls",
    "internal_error",
)  # fmt: skip
STATES: dict[str, str] = {
    "greeting": "authorization",
    "authorization": "authorization",
    "logging_in": "authorization",
    "transaction": "transaction",
    "streaming": "transaction",
    "update": "update",
}
"""Phase of a session: the RFC 1939 state it is counted under."""

ATTEMPTED: frozenset[str] = frozenset({"ok", "bad_credentials", "tempfail", "policy", "rate_limited", "in_use"})
"""Results of a login whose credentials were complete: the ones that have a duration."""
TIMED: Values = (
    "USER", "PASS", "APOP", "AUTH", "STLS", "CAPA", "QUIT", "STAT", "LIST", "RETR", "DELE", "NOOP", "RSET", "TOP",
    "UIDL",
)  # fmt: skip
"""Verbs with a duration of their own. The others have one together: nobody acts on the speed of XTND ARCHIVE."""
TRANSFERS: Values = ("RETR", "TOP", "LIST", "UIDL")
ADMIN_REFUSALS: Values = ("token", "nothing", "host", "origin", "content_type")
"""Why a request for /v1 was refused: a wrong token, neither token nor certificate, or what a web page could ask."""
REJECTIONS: Values = ("limit", "proxy_header", "draining", "denied", "tls", "overload")
RESOURCES: Values = ("lag", "memory", "sockets")
PROXY_ERRORS: Values = (*get_args(Reason), "timeout", "eof")
TLS_MODES: Values = ("implicit", "stls")
TLS_FAILURES: Values = (
    "protocol", "no_shared_cipher", "cert_rejected", "unverified", "timeout", "eof", "alpn", "plaintext", "reset",
)  # fmt: skip
CIPHERS_13: Values = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")
CIPHERS_12: Values = (
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-SHA384", "ECDHE-RSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA256",
)  # fmt: skip
"""OpenSSL's names of what Python's default context can agree on as a server: none with DHE, for which it has no
parameters."""
DIALS: Values = ("ok", "refused", "timeout", "unreachable", "dns", "tls", "greeting")
DIAL_FAULTS: dict[str, str] = {"no_stls": "tls", "greeting_timeout": "greeting"}
"""Fault kinds of a dial that are counted under another word."""
DIAL_PHASES: Values = ("dns", "tcp", "tls", "greeting")
RETRIES: Values = (
    "dns", "refused", "timeout", "unreachable", "tls", "no_stls", "greeting", "greeting_timeout", "login_timeout",
    "lost", "reset", "protocol", "overlong", "unasked", "xclient",
)  # fmt: skip
"""Fault kinds behind which another server may be tried."""
TURNS: Values = ("up", "down")
QUEUED: Values = ("ok", "timeout", "full", "gone")
SIDES: Values = ("client", "upstream")
STORE_ERRORS: Values = (
    "unreachable", "timeout", "refused", "auth", "busy", "loading", "full", "read_only", "protocol", "broken", "fault",
    "resting",
)  # fmt: skip

FAST = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Network round trips to time-outs."""
SHORT = (0.001, 0.01, 0.1, 1.0)
"""Hooks: few bounds, because there is a series of each for every hook of every plugin."""
STORE = (0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
"""From a dictionary to a time-out."""
CONNECT = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
LIFE = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0)
SIZES = tuple(256.0 * 4**n for n in range(11))
LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

"""Where a session counts. metrics implements it; core only knows its shape.

The hot path increments plain lists; the methods are for what happens once per login, message or fault.
"""

from __future__ import annotations

from typing import Protocol

OUTCOMES: tuple[str, ...] = ("ok", "err", "denied", "timeout", "upstream_lost", "malformed")
OK, ERR, DENIED, TIMEOUT, UPSTREAM_LOST, MALFORMED = range(6)

AUTH_RESULTS: tuple[str, ...] = (
    "ok",
    "bad_credentials",
    "tempfail",
    "policy",
    "rate_limited",
    "in_use",
    "tls_required",
    "malformed",
    "aborted",
)

MECHANISMS: tuple[str, ...] = (
    "USER",
    "PLAIN",
    "LOGIN",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "OAUTHBEARER",
    "XOAUTH2",
    "CRAM-MD5",
    "APOP",
    "_other",
)

VIOLATIONS: tuple[str, ...] = (
    "bare_lf",
    "bare_cr",
    "nul",
    "overlong",
    "unknown",
    "arguments",
    "number",
    "phase",
    "after_stls",
    "greeting",
    "status",
    "unasked",
    "sasl",
    "_other",
)

VERDICTS: tuple[str, ...] = ("pass", "modify", "deny")
PLUGIN_ACTIONS: tuple[str, ...] = ("fail_open", "fail_closed")


class SessionMeter(Protocol):
    """The counters of one listener; all its sessions share one."""

    commands: list[int]
    """Answered commands at ``verb_index * len(OUTCOMES) + outcome``."""
    pipelined: list[int]
    """One element: commands that were read while an earlier one was not answered yet."""

    def latency(self, verb: int, seconds: float, count: int, outcome: int) -> None:
        """``count`` commands of this verb got the first octet of their reply after ``seconds``; ``outcome`` is a place
        in OUTCOMES."""
        ...

    def transfer(self, verb: int, seconds: float, octets: int) -> None:
        """A multi-line reply of ``octets`` took ``seconds`` from its first to its last octet."""
        ...

    def message(self, verb: int, ok: bool) -> None:
        """RETR, TOP or DELE was answered."""
        ...

    def auth(self, mechanism: str, result: str, seconds: float) -> None:
        """A login attempt ended (``result`` of AUTH_RESULTS) ``seconds`` after the credentials were complete."""
        ...

    def violation(self, side: str, kind: str) -> None:
        """``side`` is ``client`` or ``upstream``, ``kind`` one of VIOLATIONS."""
        ...

    def plugin(self, plugin: str, hook: str, verdict: str, seconds: float) -> None:
        """A hook was called and returned in time."""
        ...

    def plugin_error(self, plugin: str, hook: str, action: str) -> None:
        """A hook raised, hung or lied; ``action`` is one of PLUGIN_ACTIONS."""
        ...

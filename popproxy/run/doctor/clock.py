"""The clocks: certificates and tokens are judged by the local one, and a greeting may tell the server's."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings

_STAMP = re.compile(rb"<([!-;=?-~]+)@[!-;=?-~]*>")
_DECIMAL, _HEXADECIMAL = re.compile(rb"[12][0-9]{9}"), re.compile(rb"[5-9a-fA-F][0-9a-fA-F]{7}")
BORN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right shows less: this program is younger."""
APART = 120.0
"""Seconds that two clocks may differ."""
_NEAR = 400 * 86400.0


def told(greeting: bytes, now: float) -> float | None:
    """The time in the timestamp of a greeting (RFC 1939 section 7), seconds since the epoch; None when it tells none.

    Servers write it in decimal or, like Dovecot, in hexadecimal digits, beside other numbers: so only what is within
    about a year of ``now`` is taken for a time.
    """
    found = _STAMP.search(greeting)
    if found is None:
        return None
    parts = found[1].split(b".")
    times = [float(part) for part in parts if _DECIMAL.fullmatch(part)]
    times += [float(int(part, 16)) for part in parts if _HEXADECIMAL.fullmatch(part)]
    near = [time for time in times if abs(time - now) < _NEAR]
    return min(near, key=lambda time: abs(time - now)) if near else None


def judge(case: Case, greeting: bytes, findings: Findings) -> None:
    """The server's clock against the local one."""
    now = case.wall()
    theirs = told(greeting, now)
    if theirs is None:
        return
    apart = theirs - now
    if abs(apart) <= APART:
        findings.ok("clock", "clock", "the server's clock, in its greeting, agrees with the local one")
    else:
        findings.warn(
            "clock",
            "clock_apart",
            f"the server's clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the local one",
            "let both be set by NTP: certificates, tokens and the ages of messages are judged by them",
        )


def local(now: float, findings: Findings) -> None:
    """Whether the local clock can be right."""
    if now < BORN:
        findings.fail(
            "clock",
            "clock_local",
            f"the clock of this machine says {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC, which is long past",
            "set it (timedatectl set-ntp true): no certificate is valid at that time",
        )

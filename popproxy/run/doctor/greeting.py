"""The greeting: a POP3 server's, one that refuses, none in time, or that of another protocol; then STLS."""

from __future__ import annotations

import re

from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Heard
from popproxy.run.doctor import tls
from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings, shown
from popproxy.run.doctor.talk import Talk
from popproxy.wire.replies import parse_status

SLOW = 2.0
"""Seconds from which on a greeting is slow: mail programs wait no longer than ten or twenty for everything."""

_OTHERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"220[ -].*(?i:ftp)"), "FTP", "POP3 is on port 110 or 995"),
    (re.compile(rb"220[ -]"), "SMTP (or LMTP)", "POP3 is on port 110 or 995, SMTP on 25, 465 and 587"),
    (re.compile(rb"\* (OK|PREAUTH|BYE)\b"), "IMAP", "POP3 is on port 110 or 995, IMAP on 143 and 993"),
    (re.compile(rb"HTTP/\d|<(!DOCTYPE|html)", re.I), "HTTP", "POP3 is on port 110 or 995"),
    (re.compile(rb"SSH-\d"), "SSH", "POP3 is on port 110 or 995"),
    (re.compile(rb"20[01][ -]"), "NNTP", "POP3 is on port 110 or 995"),
    (re.compile(rb'"IMPLEMENTATION"', re.I), "ManageSieve", "POP3 is on port 110 or 995"),
    (re.compile(rb"[\x14-\x17]\x03[\x00-\x04]"), "TLS", "write pop3s:// instead of pop3://"),
)

CODES = {
    b"IN-USE": ("the maildrop is in use", "another session holds it: wait for its end, or end it on the server"),
    b"LOGIN-DELAY": ("too soon after the last login", "wait, or lower the server's least time between two logins"),
    b"SYS/TEMP": ("trouble of the server's own, for now", "see the server's log; it says that trying later helps"),
    b"SYS/PERM": ("trouble of the server's own, until somebody acts", "see the server's log"),
    b"AUTH": ("the credentials are not right", "see whether user name and password are those of the server"),
    b"UTF8": ("the maildrop needs UTF8", "a client must ask for UTF8 (RFC 6856) before it logs in"),
}
"""What a response code means (RFC 2449, RFC 3206, RFC 6856), and what helps. By the code's first part or all of it."""


def protocol_of(octets: bytes) -> tuple[str, str] | None:
    """Which other protocol begins like this, and what to write instead."""
    for pattern, name, advice in _OTHERS:
        if pattern.match(octets):
            return name, advice
    return None


def meaning(code: bytes | None) -> tuple[str, str] | None:
    """What a response code means and what helps; None for one that nobody knows."""
    if code is None:
        return None
    return CODES.get(code) or next((CODES[known] for known in CODES if code.startswith(known + b"/")), None)


def greet(case: Case, talk: Talk, findings: Findings) -> Heard | None:
    """The greeting; None, and why, when there is no good one."""
    heard = talk.ask(b"", case.times.greeting, kind=Kind.GREETING_TIMEOUT)
    if isinstance(heard, Failure):
        _no_greeting(case, talk, heard, findings)
        return None
    if not heard.ok:
        status = parse_status(heard.raw[:-2])
        known = meaning(status.code if status else None)
        text = f"the server refuses this host: {shown(heard.raw)}"
        advice = "see the server's log, and its limits of connections for each client address (all come from the proxy)"
        if known is not None:
            text, advice = f"{text}, which means: {known[0]}", f"{known[1]}; {advice}"
        findings.fail("greeting", "greeting_refused", text, advice, talk.seconds)
        return None
    text = f"the server greets with {shown(heard.raw)}"
    if talk.seconds > SLOW:
        findings.warn(
            "greeting",
            "greeting_slow",
            f"{text}, but slowly",
            "most often the server looks up the name of this host: give it a reverse DNS entry, or switch that off",
            talk.seconds,
        )
    else:
        findings.ok("greeting", "greeting", text, talk.seconds)
    return heard


def _no_greeting(case: Case, talk: Talk, failure: Failure, findings: Findings) -> None:
    took = talk.seconds
    octets = talk.heard
    if talk.secure and tls.client_certificate(case, failure.detail, findings):
        # With TLS 1.3 a server tells only after the handshake.
        return
    if failure.kind is Kind.GREETING_TIMEOUT and not octets and not case.again:
        try:
            talk.sock.sendall(b"CAPA\r\n")
        except OSError:
            octets = b""
        else:
            # Who waits for the client to begin answers this: HTTP does.
            octets = talk.peek(min(2.0, case.times.greeting))
    other = protocol_of(octets)
    if other is not None:
        findings.fail(
            "greeting", "greeting_other", f"this is {other[0]}, not POP3: {shown(octets)}", other[1], took
        )
    elif octets:
        findings.fail(
            "greeting",
            "greeting_strange",
            f"this is not POP3: the server begins with {shown(octets)}",
            "look for a slip in host and port; a POP3 server begins with +OK (RFC 1939 section 4)",
            took,
        )
    elif failure.kind is Kind.GREETING_TIMEOUT:
        findings.fail(
            "greeting",
            "greeting_timeout",
            f"the server took the connection but says nothing within {case.times.greeting:g} s",
            "it may be overloaded, wait for a PROXY header (send_proxy), or speak another protocol than POP3",
            took,
        )
    else:
        findings.fail(
            "greeting",
            "greeting_closed",
            f"the server closes the connection without a word ({failure.detail})",
            "see its log: it may refuse this host's address (hosts.allow, login_trusted_networks, a firewall, a limit)",
            took,
        )


def stls(case: Case, talk: Talk, findings: Findings) -> bool:
    """Whether TLS is on, by STLS."""
    before = talk.ask(b"CAPA\r\n", case.times.login, multiline=True)
    announced = isinstance(before, Heard) and before.ok and b"STLS" in [line.upper() for line in before.lines]
    heard = before if isinstance(before, Failure) else talk.ask(b"STLS\r\n", case.times.login)
    if isinstance(heard, Failure):
        findings.fail(
            "tls",
            "stls_failed",
            f"the server does not answer {'CAPA' if heard is before else 'STLS'} properly: {heard.detail}",
            "see the server's log",
        )
        return False
    if not heard.ok:
        missing = "" if announced else ", nor does it announce STLS"
        findings.fail(
            "tls",
            "stls_refused",
            f"the server does not begin TLS{missing}: {shown(heard.raw)}",
            "give the server a certificate and switch TLS on, or write pop3s:// if it has TLS on port 995; only where "
            "nobody can listen on the way: pop3+clear://",
        )
        return False
    if not announced:
        findings.warn(
            "tls",
            "stls_unannounced",
            "the server takes STLS but does not announce it in CAPA",
            "correct that on the server: mail programs that ask first will not use TLS",
        )
    failure = talk.start_tls()
    if failure is not None and talk.trouble is None:
        findings.fail(
            "tls",
            "stls_injected",
            f"the server says more in clear behind its reply to STLS: {failure.detail}",
            "somebody may sit in between; else update the server (CVE-2011-0411)",
        )
    return failure is None

"""The examination: from the name of an upstream to its QUIT, in the order in which a login would go."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from time import time

from popproxy.api.credentials import Credentials
from popproxy.config.plan import CertificatePlan, Plan, UpstreamPlan
from popproxy.core.failures import Failure
from popproxy.core.leg import Heard
from popproxy.net.own import OwnAddresses
from popproxy.net.tls import CertificateFiles, client_context
from popproxy.run.doctor import abilities, clock, connecting, greeting, introducing, login, names, tls
from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Finding, Findings
from popproxy.run.doctor.talk import Handshake, Talk, shake


def examine(
    plan: Plan, upstream: UpstreamPlan, credentials: Credentials | None, wall: Callable[[], float] = time
) -> list[Finding]:
    """All that is found about ``upstream``, server by server. Raises TlsConfigError for certificate files that cannot
    be used."""
    own = OwnAddresses()
    for listener in plan.listeners:
        for bind in listener.bind:
            if bind.family == "inet" and bind.port:
                own.add(bind.host, bind.port)
    context = _context(upstream) if any(server.tls != "off" for server in upstream.servers) else None
    found: list[Finding] = []
    for server in upstream.servers:
        case = Case(upstream, server, plan.timeouts, plan.limits, context, own, credentials, wall)
        found += _server(case)
    return found


def _context(upstream: UpstreamPlan) -> ssl.SSLContext:
    return client_context(
        ca_file=upstream.ca_file, verify=upstream.verify, client_certificate=_files(upstream.client_certificate)
    )


def _files(plan: CertificatePlan | None) -> CertificateFiles | None:
    if plan is None:
        return None
    secret = None if plan.password is None else plan.password.get_secret_value().encode()
    return CertificateFiles(plan.cert, plan.key, secret)


def _server(case: Case) -> Findings:
    findings = Findings(case.server.url)
    clock.local(case.wall(), findings)
    found = names.addresses(case.server, case.times.connect, findings)
    good = connecting.reachable(case, found, findings)
    for place, address in enumerate(good):
        findings.address = address
        if place == 0:
            _visit(case, address, findings)
        else:
            _compare(case, address, findings)
    return findings


def _compare(case: Case, address: str, findings: Findings) -> None:
    """Another address of the same name: only what is wrong with it is told."""
    other = Findings(case.server.url)
    talk = _approach(case, address, other)
    if talk is not None:
        talk[0].close()
    for finding in other:
        if finding.mark in ("warn", "fail"):
            findings.add(finding)


def _visit(case: Case, address: str, findings: Findings) -> None:
    """The whole way, at one address."""
    approached = _approach(case, address, findings)
    if approached is None:
        introducing.unreached(case, address, _approach, findings)
        return
    talk, greeted = approached
    try:
        clock.judge(case, greeted.raw, findings)
        if not introducing.understood(case, address, talk, _approach, findings):
            return
        if not introducing.xclient(case, talk, greeted, findings):
            return
        known = abilities.ask(case, talk, findings)
        if isinstance(known, Failure):
            return
        abilities.judge(case, known, talk.secure, findings)
        inside = login.attempt(case, talk, known, findings)
        if inside:
            login.maildrop(case, talk, findings)
        login.leave(case, talk, inside, findings)
    finally:
        talk.close()


def _approach(case: Case, address: str, findings: Findings) -> tuple[Talk, Heard] | None:
    """A connection that was greeted, with TLS where the URL asks for it; None, and why, when there is none."""
    try:
        sock = connecting.dial(case, address)
    except OSError as error:
        findings.fail("tcp", "tcp_unsteady", f"the second connection failed: {error}", "see the server's limits")
        return None
    implicit = case.server.tls == "implicit"
    if implicit:
        assert case.context is not None, "a server with TLS has a context"
        try:
            sock = shake(sock, case.context, case.name, case.times.upstream_handshake)
        except Handshake as error:
            _no_tls(case, address, error, findings)
            return None
        tls.judge(case, sock, findings)
    talk = Talk(sock, case.limits, case.context, case.name, case.times.upstream_handshake)
    greeted = greeting.greet(case, talk, findings)
    if greeted is None:
        talk.close()
        if case.server.tls != "implicit" and not case.again:
            _perhaps_tls(case, address, findings)
        return None
    if case.server.tls == "starttls":
        if not greeting.stls(case, talk, findings):
            talk.close()
            if talk.trouble is not None:
                tls.explain(case, talk.trouble, lambda context: _look(case, address, context), findings)
            return None
        assert isinstance(talk.sock, ssl.SSLSocket)
        tls.judge(case, talk.sock, findings)
    elif case.server.tls == "off":
        findings.warn(
            "tls",
            "tls_off",
            "no TLS (pop3+clear://): who can listen between proxy and server reads every password and message",
            "write pop3:// (STLS) or pop3s://, unless both are on one machine or the network is your own",
        )
    return talk, greeted


def _no_tls(case: Case, address: str, error: Handshake, findings: Findings) -> None:
    """No TLS from the first octet: perhaps the server says in clear what it is."""
    octets = _overhear(case, address) if error.no_tls else b""
    if octets:
        tls.plain_words(octets, findings)
        return
    tls.explain(case, error, lambda context: _look(case, address, context), findings)


def _overhear(case: Case, address: str) -> bytes:
    """What the server says to who says nothing."""
    try:
        sock = connecting.dial(case, address)
    except OSError:
        return b""
    talk = Talk(sock, case.limits, None, case.name, case.times.upstream_handshake)
    try:
        return talk.peek(min(3.0, case.times.greeting))
    finally:
        talk.close()


def _perhaps_tls(case: Case, address: str, findings: Findings) -> None:
    """A server that says nothing may wait for a TLS client."""
    if any(finding.word in ("greeting_timeout", "greeting_closed") for finding in findings) and _look(
        case, address, tls.lenient(False), "implicit"
    ):
        findings.fail(
            "tls",
            "tls_unexpected",
            "the server speaks TLS from the first octet on this port",
            "write pop3s:// instead of pop3:// or pop3+clear://",
        )


def _look(case: Case, address: str, context: ssl.SSLContext, how: str = "") -> tls.Seen | None:
    """What the server shows to ``context``; None when there is no TLS with it either."""
    case, how = case.once_more(case.plan.send_proxy), how or case.server.tls
    try:
        sock = connecting.dial(case, address)
    except OSError:
        return None
    talk = Talk(sock, case.limits, context, case.name, case.times.upstream_handshake)
    try:
        if how == "implicit":
            talk.sock = shake(sock, context, case.name, case.times.upstream_handshake)
        else:
            quiet = Findings(case.server.url)
            if greeting.greet(case, talk, quiet) is None or not greeting.stls(case, talk, quiet):
                return None
        return tls.seen(talk.sock) if isinstance(talk.sock, ssl.SSLSocket) else None
    except Handshake:
        return None
    finally:
        talk.close()

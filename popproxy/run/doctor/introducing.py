"""PROXY header and XCLIENT: whether the server understands what the config lets the proxy tell it of clients."""

from __future__ import annotations

from collections.abc import Callable

from popproxy.core.failures import Failure
from popproxy.core.introduction import HOPS
from popproxy.core.leg import Heard
from popproxy.net.introduce import Version
from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings, shown
from popproxy.run.doctor.talk import Talk
from popproxy.wire.xclient import Xclient, command_lines, offered

Approach = Callable[[Case, str, Findings], tuple[Talk, Heard] | None]
"""Connects to an address and hears its greeting, under TLS where the URL asks for it."""

_VERSIONS: tuple[Version, ...] = ("v2", "v1")
_SILENT = frozenset({"greeting_timeout", "greeting_closed", "tls_timeout", "tls_failed"})
"""What a server that waits for a PROXY header looks like."""


def unreached(case: Case, address: str, approach: Approach, findings: Findings) -> None:
    """Nobody was greeted: see whether it is for a PROXY header too many, or too few."""
    if case.plan.send_proxy is not None:
        if _works(case, None, address, approach):
            _not_spoken(case, findings)
        return
    if not any(finding.word in _SILENT for finding in findings):
        return
    for version in _VERSIONS:
        if _works(case, version, address, approach):
            findings.fail(
                "greeting",
                "proxy_expected",
                "with a PROXY header in front the server answers: it expects one on this port",
                f'write send_proxy = "{version}" for this upstream, or use a port without it',
            )
            return


def understood(case: Case, address: str, talk: Talk, approach: Approach, findings: Findings) -> bool:
    """Whether the server took the PROXY header for one: who does not, answers it like a command."""
    if case.plan.send_proxy is None:
        return True
    heard = talk.ask(b"CAPA\r\n", case.times.login, multiline=True)
    if isinstance(heard, Heard) and heard.ok and not talk.unasked:
        findings.ok("greeting", "proxy", f"the server takes the PROXY header ({case.plan.send_proxy})")
        return True
    if _works(case, None, address, approach, capa=True):
        _not_spoken(case, findings)
        return False
    return True


def _works(case: Case, version: Version | None, address: str, approach: Approach, capa: bool = False) -> bool:
    """Whether the server greets, and with ``capa`` answers CAPA, who begins with this header."""
    other = case.once_more(version)
    approached = approach(other, address, Findings(case.server.url))
    if approached is None:
        return False
    talk, _ = approached
    heard = talk.ask(b"CAPA\r\n", other.times.login, multiline=True) if capa else None
    talk.close()
    return not capa or (isinstance(heard, Heard) and heard.ok is True)


def _not_spoken(case: Case, findings: Findings) -> None:
    findings.fail(
        "greeting",
        "proxy_not_spoken",
        f'send_proxy = "{case.plan.send_proxy}" is configured, but the server takes the header for a command; without '
        "it all is well",
        "let the server expect it (Dovecot: haproxy = yes in the inet_listener, and haproxy_trusted_networks), or take "
        "send_proxy out",
    )


def xclient(case: Case, talk: Talk, greeted: Heard, findings: Findings) -> bool:
    """Whether it can go on: XCLIENT is taken where it is required."""
    wish, announced = case.policy.xclient, offered(greeted.raw)
    if wish == "off":
        if announced:
            findings.remark(
                "greeting",
                "xclient_unused",
                "the server would believe this host about its clients' addresses",
                "write xclient = true, so that its log and its limits see clients instead of the proxy",
            )
        return True
    if not announced:
        return _missing(
            wish == "required",
            "xclient_not_announced",
            f'xclient = "{wish}" is configured, but the server does not announce [XCLIENT] to this host',
            findings,
        )
    host, port = talk.sock.getsockname()[:2]
    told = Xclient(addr=host, port=port, session="doctor", ttl=HOPS - 1, forward=case.policy.forward)
    for line in command_lines(told):
        heard = talk.ask(line, case.times.login)
        if isinstance(heard, Failure) or not heard.ok:
            said = heard.detail if isinstance(heard, Failure) else shown(heard.raw)
            return _missing(
                wish == "required",
                "xclient_refused",
                f"the server announces [XCLIENT] but does not take it: {said}",
                findings,
            ) and not isinstance(heard, Failure)
    findings.ok("greeting", "xclient", "the server takes XCLIENT")
    return True


def _missing(required: bool, word: str, text: str, findings: Findings) -> bool:
    advice = "put this host's address into the server's login_trusted_networks (Dovecot), or take xclient out"
    if required:
        findings.fail("greeting", word, text, advice)
    else:
        findings.warn("greeting", word, f"{text}: it will see the proxy's address instead of the clients'", advice)
    return not required

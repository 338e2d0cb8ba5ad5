"""TCP: each address of a server, in the order in which the proxy tries them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from time import monotonic

from popproxy.config.urls import bracketed
from popproxy.run.doctor.case import Case
from popproxy.run.doctor.findings import Findings
from popproxy.run.doctor.names import SLOW

MOST = 8
"""Addresses of one server that are tried."""


def dial(case: Case, address: str, header: bytes | None = None) -> socket.socket:
    """A connection that has begun with the PROXY header of the config, or with ``header``. Raises OSError."""
    sock = socket.create_connection((address, case.server.port), timeout=case.times.connect)
    first = case.header if header is None else header
    if first:
        try:
            sock.sendall(first)
        except OSError:
            sock.close()
            raise
    return sock


def reachable(case: Case, addresses: Sequence[str], findings: Findings) -> list[str]:
    """Those of ``addresses`` that take connections."""
    good: list[str] = []
    dead: list[str] = []
    for address in addresses[:MOST]:
        findings.address = address
        (good if _try(case, address, findings, bool(good)) else dead).append(address)
    findings.address = ""
    if len(addresses) > MOST:
        findings.remark("tcp", "tcp_more", f"{len(addresses) - MOST} more addresses were not tried")
    if good and dead and addresses.index(dead[0]) < addresses.index(good[0]):
        findings.warn(
            "tcp",
            "tcp_first_dead",
            f"{dead[0]} comes first and does not work: every login waits for it before {good[0]} is tried",
            "take the dead address out of the DNS, or write the one that works into the URL",
        )
    return good


def _try(case: Case, address: str, findings: Findings, others: bool) -> bool:
    """Whether ``address`` takes connections. ``others``: one of the same server does."""
    place = f"{bracketed(address)}:{case.server.port}"
    if case.own.holds(address, case.server.port):
        findings.fail(
            "tcp",
            "tcp_loop",
            f"{place} is a listener of this proxy, which would connect to itself",
            "write the mail server's own name, address or port into the URL",
        )
        return False
    started = monotonic()
    try:
        sock = dial(case, address, b"")
    except OSError as error:
        word, text, advice = _words(error, case, place)
        took = monotonic() - started
        if others or (":" in address and word == "tcp_unreachable"):
            findings.warn("tcp", word, text, advice, took)
        else:
            findings.fail("tcp", word, text, advice, took)
        return False
    took = monotonic() - started
    sock.close()
    if took > SLOW:
        findings.warn(
            "tcp", "tcp_slow", f"{place} took the connection slowly", "look for packet loss on the way there", took
        )
    else:
        findings.ok("tcp", "tcp", f"{place} takes connections", took)
    return True


def _words(error: OSError, case: Case, place: str) -> tuple[str, str, str]:
    if isinstance(error, ConnectionRefusedError):
        return (
            "tcp_refused",
            f"{place} refuses connections: nothing listens on this port there, or a firewall says no",
            "start the POP3 server there, or correct the port: 995 is TLS from the start (pop3s://), 110 is in clear "
            "or with STLS (pop3://)",
        )
    if isinstance(error, ConnectionResetError):
        return (
            "tcp_reset",
            f"{place} takes the connection and resets it at once",
            "see the server's log: it may refuse this host's address, or have too many connections; a firewall can do "
            "the same",
        )
    if isinstance(error, TimeoutError):
        return (
            "tcp_timeout",
            f"{place} does not answer within {case.times.connect:g} s",
            "a firewall on the way drops packets without a word, or the machine is down: try `nc -vz` from this "
            "machine and from one nearer to the server",
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        family = "IPv6" if place.startswith("[") else "IPv4"
        return (
            "tcp_unreachable",
            f"{place} cannot be reached: {error.strerror}",
            f"there is no way to that {family} address: see `ip route get`, or take the address out of the DNS",
        )
    return "tcp_failed", f"{place}: {error.strerror or error}", "see `ip route get` and the firewall of this machine"

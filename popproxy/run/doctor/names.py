"""DNS: the addresses of a server's name, by the resolver that the proxy uses."""

from __future__ import annotations

import queue
import socket
import threading
from ipaddress import ip_address
from time import monotonic

from popproxy.config.urls import Server
from popproxy.run.doctor.findings import Findings

SLOW = 1.0
"""Seconds from which on a step is called slow."""


def addresses(server: Server, seconds: float, findings: Findings) -> list[str]:
    """The addresses of ``server`` in the order in which they are tried, none when there is none."""
    try:
        return [str(ip_address(server.host))]
    except ValueError:
        pass
    answers: queue.SimpleQueue[list[tuple[str, str]] | OSError] = queue.SimpleQueue()
    started = monotonic()
    # A thread, because the resolver knows no deadline; one that hangs ends with the process.
    threading.Thread(target=_ask, args=(server, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        findings.fail(
            "dns",
            "dns_timeout",
            f"no answer about the name {server.host} within {seconds:g} s",
            "see which name servers /etc/resolv.conf names, and whether they can be reached (UDP and TCP port 53)",
        )
        return []
    took = monotonic() - started
    if isinstance(answer, OSError):
        _refused(server, answer, took, findings)
        return []
    found = list(dict.fromkeys(address for address, _ in answer))
    names = [name for _, name in answer if name and name.rstrip(".").lower() != server.host.rstrip(".")]
    alias = f", an alias of {names[0]}" if names else ""
    text = f"{server.host}{alias}: {', '.join(found)} ({_families(found)})"
    if took > SLOW:
        findings.warn(
            "dns",
            "dns_slow",
            f"{text}, but the answer was slow",
            "each login asks again: run a caching resolver on this machine, or remove a dead one from /etc/resolv.conf",
            took,
        )
    else:
        findings.ok("dns", "dns", text, took)
    return found


def _ask(server: Server, answers: queue.SimpleQueue[list[tuple[str, str]] | OSError]) -> None:
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except OSError as error:
        answers.put(error)
    except UnicodeError as error:
        answers.put(OSError(f"no name of the DNS: {error}"))
    else:
        answers.put([(str(info[4][0]), info[3]) for info in found])


def _refused(server: Server, error: OSError, took: float, findings: Findings) -> None:
    said = error.strerror or str(error)
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        findings.fail(
            "dns",
            "dns_unavailable",
            f"the name {server.host} cannot be looked up now: {said}",
            "the name server does not answer, or fails: see /etc/resolv.conf, and ask it with `getent ahosts "
            f"{server.host}`",
            took,
        )
        return
    findings.fail(
        "dns",
        "dns_none",
        f"the name {server.host} has no address: {said}",
        f"look for a slip in the name; `getent ahosts {server.host}` asks as the proxy does, also /etc/hosts",
        took,
    )


def _families(addresses: list[str]) -> str:
    six = sum(":" in address for address in addresses)
    four = len(addresses) - six
    parts = [f"{count} x {name}" for count, name in ((four, "IPv4"), (six, "IPv6")) if count]
    return ", ".join(parts)

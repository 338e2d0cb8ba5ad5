"""Reading a whole maildrop by the raw client, and comparing two readings of it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Protocol

from tests.integration.clients import Leg
from tests.integration.daemon import Account
from tests.integration.proxy import Proxy
from tests.wireclient import WireClient

Commands = list[tuple[bytes, bool]]
TOPS = (0, 1, 5, 100000)
LEGS: tuple[Leg, ...] = ("clear", "stls", "tls")


class Server(Protocol):
    """A POP3 server on 127.0.0.1: `port` speaks POP3 with STLS, `port_tls` POP3 inside TLS."""

    port: int
    port_tls: int

    def account(self, letters: Sequence[tuple[str, bytes]] = (), password: bytes | None = None) -> Account:
        """A new maildrop holding `letters`."""


def script(count: int) -> Commands:
    """Everything that can be asked of a maildrop of `count` letters, and of one letter more."""
    commands: Commands = [(b"NOOP", False), (b"STAT", False), (b"LIST", True), (b"UIDL", True)]
    for number in range(1, count + 2):
        commands += [(b"LIST %d" % number, False), (b"UIDL %d" % number, False)]
        commands += [(b"TOP %d %d" % (number, lines), True) for lines in TOPS]
        commands.append((b"RETR %d" % number, True))
    return [*commands, (b"DELE %d" % (count + 1), False), (b"RSET", False), (b"STAT", False)]


def difference(commands: Commands, expected: Sequence[bytes], found: Sequence[bytes]) -> str:
    """Where `found` first differs, in a line; empty when it does not. (pytest's own would compare megabytes.)"""
    for (command, _), right, wrong in zip(commands, expected, found, strict=True):
        if right == wrong:
            continue
        shorter = min(len(right), len(wrong))
        at = next((index for index in range(shorter) if right[index] != wrong[index]), shorter)
        near = slice(max(0, at - 40), at + 40)
        return f"{command!r}: {len(right)} and {len(wrong)} octets, at {at}: {right[near]!r} and {wrong[near]!r}"
    return ""


def url(server: Server, leg: Leg) -> str:
    """The server's URL for one kind of upstream leg."""
    return {
        "clear": f"pop3+clear://127.0.0.1:{server.port}",
        "stls": f"pop3://localhost:{server.port}",
        "tls": f"pop3s://localhost:{server.port_tls}",
    }[leg]


def proxy_port(proxy: Proxy, leg: Leg) -> int:
    """The proxy's port for one kind of client leg."""
    return {"clear": proxy.clear, "stls": proxy.pop3, "tls": proxy.pop3s}[leg]


def connect(proxy: Proxy, leg: Leg, trust: ssl.SSLContext) -> WireClient:
    """A client on one kind of leg, its greeting read, TLS on if there is to be any."""
    address = ("127.0.0.1", proxy_port(proxy, leg))
    if leg == "tls":
        return WireClient(address, implicit=trust)
    client = WireClient(address)
    if leg == "stls":
        client.stls(trust)
    return client


def logged_in(proxy: Proxy, leg: Leg, trust: ssl.SSLContext, account: Account) -> WireClient:
    """`connect`, then USER and PASS."""
    client = connect(proxy, leg, trust)
    reply = client.user_pass(account.name, account.password)
    assert reply.startswith(b"+OK"), reply
    return client

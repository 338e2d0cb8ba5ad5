"""Byte for byte: what a client reads through the proxy is what it reads from the server.

Every letter of the corpus and every listing, over each leg of the client, over each leg upstream, one command at a
time and pipelined. RFC 1939 sections 3, 5 and 7; RFC 2449 section 6.6.
"""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest

from tests.integration.clients import Leg
from tests.integration.conftest import ProxyTo, Start
from tests.integration.daemon import Account
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Setup
from tests.integration.reading import LEGS, Commands, connect, difference, logged_in, script, url
from tests.letters import as_sent
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

WINDOW = 16


@pytest.fixture(scope="module")
def asked() -> Commands:
    return script(len(LETTERS))


@pytest.fixture(scope="module")
def direct(dovecot: Dovecot, reader: Account, asked: Commands) -> list[bytes]:
    """The replies of Dovecot itself."""
    with WireClient(("127.0.0.1", dovecot.port)) as client:
        assert client.user_pass(reader.name, reader.password).startswith(b"+OK")
        return client.run(asked)


def test_direct_reading_is_exact(direct: list[bytes], asked: Commands) -> None:
    """The harness itself: the server sends what was stored, and the client loses none of it."""
    replies = dict(zip((command for command, _ in asked), direct, strict=True))
    for number, (name, letter) in enumerate(LETTERS, 1):
        body = replies[b"RETR %d" % number].partition(b"\r\n")[2].removesuffix(b".\r\n")
        if not letter.startswith(b"."):  # see UNSTUFFED
            body = (b"\r\n" + body).replace(b"\r\n.", b"\r\n")[2:]
        assert body == (as_sent(letter) or b"\r\n"), f"{name}: {body[:80]!r}"
        size = int(replies[b"LIST %d" % number].split()[2])
        assert len(body) - size in (0, 2), f"{name}: LIST says {size}, RETR sends {len(body)}"  # 2: a CRLF added


def test_direct_reading_pipelined(dovecot: Dovecot, reader: Account, direct: list[bytes], asked: Commands) -> None:
    with WireClient(("127.0.0.1", dovecot.port)) as client:
        assert client.user_pass(reader.name, reader.password).startswith(b"+OK")
        assert difference(asked, direct, client.run(asked, WINDOW)) == ""


@pytest.mark.parametrize("window", [1, WINDOW], ids=["sequential", "pipelined"])
@pytest.mark.parametrize("client_leg", LEGS)
@pytest.mark.parametrize("upstream_leg", LEGS)
def test_through_the_proxy(
    dovecot: Dovecot,
    reader: Account,
    proxy_to: ProxyTo,
    trust: ssl.SSLContext,
    asked: Commands,
    direct: list[bytes],
    upstream_leg: Leg,
    client_leg: Leg,
    window: int,
) -> None:
    with logged_in(proxy_to(url(dovecot, upstream_leg)), client_leg, trust, reader) as client:
        assert difference(asked, direct, client.run(asked, window)) == ""
        assert client.single(b"QUIT").startswith(b"+OK")
        assert client.read_eof() == b""


@pytest.mark.parametrize("client_leg", LEGS)
def test_through_the_proxy_on_asyncio(
    dovecot: Dovecot,
    reader: Account,
    start: Start,
    setup: Setup,
    trust: ssl.SSLContext,
    asked: Commands,
    direct: list[bytes],
    client_leg: Leg,
) -> None:
    """The same without uvloop."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), arguments=("--loop", "asyncio")))
    with logged_in(proxy, client_leg, trust, reader) as client:
        assert difference(asked, direct, client.run(asked, WINDOW)) == ""


@pytest.mark.parametrize("client_leg", LEGS)
def test_a_whole_session_in_one_packet(
    dovecot: Dovecot, reader: Account, proxy_to: ProxyTo, trust: ssl.SSLContext, client_leg: Leg
) -> None:
    """Login, everything else and QUIT are sent before one reply is read (RFC 2449 section 6.6)."""
    commands = [(b"STAT", False), (b"UIDL", True), (b"RETR 1", True), (b"TOP 2 0", True), (b"QUIT", False)]
    rest = b"".join(command + b"\r\n" for command, _ in commands)
    with WireClient(("127.0.0.1", dovecot.port)) as client:
        assert client.user_pass(reader.name, reader.password).startswith(b"+OK")
        client.send(rest)
        expected = [client.read_reply(multi) for _, multi in commands]
    with connect(proxy_to(url(dovecot, "tls")), client_leg, trust) as client:
        client.send(b"USER %s\r\nPASS %s\r\n" % (reader.name, reader.password) + rest)
        assert client.read_line().startswith(b"+OK")
        assert client.read_line().startswith(b"+OK")
        found = [client.read_reply(multi) for _, multi in commands]
        assert client.read_eof() == b""
    assert found[:-1] == expected[:-1]
    assert found[-1].startswith(b"+OK")

"""DELE takes effect through the client's own QUIT and through nothing else (promise 1, RFC 1939 section 6)."""

from __future__ import annotations

import signal
import socket
import ssl
import struct
from dataclasses import replace

import pytest

from tests.integration import proxy as proxies
from tests.integration.clients import Leg
from tests.integration.conftest import ProxyTo
from tests.integration.daemon import STOP, Account
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import LEGS, logged_in, url
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

THREE = [pair for pair in LETTERS if pair[0] in ("empty_body", "utf8_body", "five_megabytes_of_base64")]


@pytest.fixture(scope="module")
def proxy(dovecot: Dovecot, proxy_to: ProxyTo) -> Proxy:
    """A proxy which speaks TLS with Dovecot."""
    return proxy_to(url(dovecot, "tls"))


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    return dovecot.account(THREE)


def all_kept(dovecot: Dovecot, account: Account) -> bool:
    """Whether all letters are there, asked once Dovecot has ended every session of the account."""
    eventually(lambda: len(dovecot.endings(account)) == dovecot.logins(account) > 0, "end of every session")
    return dovecot.kept(account) == sorted(letter for _, letter in THREE)


def drop(client: WireClient, how: str) -> None:
    """Go away without QUIT."""
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "half-close":
        client.socket.shutdown(socket.SHUT_WR)
        client.read_eof()
    elif how == "half a QUIT":
        client.send(b"QUIT")
    elif how == "in a letter":
        number = 1 + [len(letter) for _, letter in THREE].index(max(len(letter) for _, letter in THREE))
        client.send(b"RETR %d\r\n" % number)
        client.socket.recv(1000)
    client.close()


@pytest.mark.parametrize("how", ["close", "reset", "half-close", "half a QUIT", "in a letter"])
@pytest.mark.parametrize("leg", LEGS)
def test_client_gone_without_quit(
    dovecot: Dovecot, proxy: Proxy, trust: ssl.SSLContext, account: Account, leg: Leg, how: str
) -> None:
    with logged_in(proxy, leg, trust, account) as client:
        assert client.single(b"DELE 1").startswith(b"+OK")
        assert client.single(b"DELE 2").startswith(b"+OK")
        drop(client, how)
    assert all_kept(dovecot, account)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_proxy_gone_before_quit(
    dovecot: Dovecot, setup: Setup, trust: ssl.SSLContext, account: Account, end: signal.Signals
) -> None:
    """SIGTERM drains: an idle session is closed without a word, and without a QUIT upstream."""
    server = url(dovecot, "tls")
    running = proxies.start(replace(setup, server=server))
    proxy = running.__enter__()
    with logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"DELE 1").startswith(b"+OK")
        proxy.daemon.process.send_signal(end)
        assert client.read_eof() == b""
    proxy.daemon.process.wait(STOP)
    if end is signal.SIGKILL:
        with pytest.raises(AssertionError, match="exits with -9"):
            running.__exit__(None, None, None)
    else:
        running.__exit__(None, None, None)
    assert all_kept(dovecot, account)


@pytest.mark.parametrize("leg", LEGS)
def test_quit_commits(dovecot: Dovecot, proxy: Proxy, trust: ssl.SSLContext, account: Account, leg: Leg) -> None:
    """One packet with the deletions and QUIT is enough, even when nobody waits for the answer any more."""
    with logged_in(proxy, leg, trust, account) as client:
        client.send(b"DELE 1\r\nDELE 2\r\nDELE 3\r\nQUIT\r\n")
        assert [client.read_line()[:3] for _ in range(4)] == [b"+OK"] * 4
        assert client.read_eof() == b""
    eventually(lambda: dovecot.kept(account) == [], "empty maildrop")


def test_quit_commits_after_half_close(
    dovecot: Dovecot, proxy: Proxy, trust: ssl.SSLContext, account: Account
) -> None:
    """A client may shut its sending side once it sent QUIT; its replies still come."""
    with logged_in(proxy, "clear", trust, account) as client:
        client.send(b"DELE 1\r\nQUIT\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_line().startswith(b"+OK")
        assert client.read_line().startswith(b"+OK")
        assert client.read_eof() == b""
    eventually(lambda: len(dovecot.kept(account)) == 2, "one deletion")


def test_rset_takes_it_back(dovecot: Dovecot, proxy: Proxy, trust: ssl.SSLContext, account: Account) -> None:
    with logged_in(proxy, "tls", trust, account) as client:
        commands = [(b"DELE 1", False), (b"LIST 1", False), (b"RSET", False), (b"LIST 1", False), (b"QUIT", False)]
        assert [reply[:1] for reply in client.run(commands)] == [b"+", b"-", b"+", b"+", b"+"]
    assert all_kept(dovecot, account)

"""Each real server as upstream: logins of every kind, refusals, CAPA, listings and letters."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.integration.clients import Leg
from tests.integration.conftest import ProxyTo, Start
from tests.integration.daemon import SECRETS, Account
from tests.integration.dovecot import LETTERS, LOCKING, UNSTUFFED, Dovecot
from tests.integration.proxy import Setup
from tests.integration.reading import LEGS, Server, connect, difference, logged_in, script, url
from tests.letters import DIFFICULT, SERVERS_MAY_SKIP
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

WRAPPED = frozenset({"utf8_header", "latin_1_header", "byte_order_mark_first"})
"""Courier wraps a letter with an 8-bit header into a multipart, with another boundary each time."""
SOME = [pair for pair in LETTERS if len(pair[1]) < 3000 and pair[0] not in SERVERS_MAY_SKIP | WRAPPED]
WRONG = b"not-the-password-at-all"
SECRETS.add(WRONG)

Logs = Callable[[WireClient, Account, bytes], bytes]
WAYS: dict[str, Logs] = {
    "USER": lambda client, account, password: client.user_pass(account.name, password),
    "PLAIN in one line": lambda client, account, password: client.auth_plain(account.name, password),
    "PLAIN in two": lambda client, account, password: client.auth_plain(account.name, password, initial=False),
    "LOGIN": lambda client, account, password: client.auth_login(account.name, password),
}
OWN = {b"RESP-CODES", b"AUTH-RESP-CODE", b"USER", b"SASL"}
"""What the proxy announces by itself. USER and SASL may not differ between the states (RFC 2449 section 6)."""


@pytest.fixture(scope="module", params=["dovecot", "courier", "cyrus"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def account(server: Server) -> Account:
    return server.account(SOME)


def capabilities(client: WireClient) -> dict[bytes, bytes]:
    """CAPA: names and parameters."""
    reply = client.multi(b"CAPA")
    assert reply.startswith(b"+OK"), reply
    lines = [line.partition(b" ") for line in reply.split(b"\r\n")[1:-2]]
    assert len({name for name, _, _ in lines}) == len(lines), reply
    return {name.upper(): parameters for name, _, parameters in lines}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("leg", LEGS)
def test_login(
    server: Server, account: Account, proxy_to: ProxyTo, trust: ssl.SSLContext, leg: Leg, way: str
) -> None:
    """On a leg of each kind upstream, by each way a client has."""
    with connect(proxy_to(url(server, leg)), "tls", trust) as client:
        reply = WAYS[way](client, account, account.password)
        assert reply.startswith(b"+OK"), reply
        assert client.single(b"STAT").startswith(b"+OK %d " % len(SOME))
        assert client.single(b"QUIT").startswith(b"+OK")


@pytest.mark.parametrize(
    "upstream",
    [
        pytest.param('mechanism = "plain"', id="PLAIN in one line"),
        pytest.param('mechanism = "plain"\ninitial_response = "never"', id="PLAIN in two"),
        pytest.param('mechanism = "login"', id="LOGIN"),
        pytest.param('mechanism = "user"', id="USER"),
    ],
)
def test_upstream_mechanisms(
    server: Server, account: Account, start: Start, setup: Setup, trust: ssl.SSLContext, upstream: str
) -> None:
    proxy = start(replace(setup, server=url(server, "tls"), upstream=upstream))
    with logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"STAT").startswith(b"+OK %d " % len(SOME))
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(account.name, WRONG).startswith(b"-ERR [AUTH] ")


def test_bad_password(server: Server, account: Account, proxy_to: ProxyTo, trust: ssl.SSLContext) -> None:
    """[AUTH] (RFC 3206 section 6), the same words for a user who does not exist, and a second chance."""
    with connect(proxy_to(url(server, "tls")), "tls", trust) as client:
        reply = client.user_pass(account.name, WRONG)
        assert reply.startswith(b"-ERR [AUTH] "), reply
        assert client.single(b"STAT").startswith(b"-ERR")
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        assert client.single(b"STAT").startswith(b"+OK %d " % len(SOME))
    with connect(proxy_to(url(server, "tls")), "tls", trust) as client:
        assert client.user_pass(b"nobody-of-this-name", WRONG) == reply


def test_capabilities_before_login(server: Server, proxy_to: ProxyTo, trust: ssl.SSLContext) -> None:
    """What the proxy does by itself: login only where a password is safe."""
    proxy = proxy_to(url(server, "tls"))
    with WireClient(("127.0.0.1", proxy.pop3)) as client:
        clear = capabilities(client)
        assert b"STLS" in clear
        assert not {b"USER", b"SASL"} & clear.keys()
        client.stls(trust)
        safe = capabilities(client)
        assert b"STLS" not in safe
        assert {b"USER", b"SASL"} <= safe.keys()
        assert set(safe[b"SASL"].split()) >= {b"PLAIN", b"LOGIN"}
    with connect(proxy, "tls", trust) as client:
        assert capabilities(client) == safe
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert {b"USER", b"SASL", b"STLS"} <= capabilities(client).keys()


def test_capabilities_after_login(
    server: Server, account: Account, proxy_to: ProxyTo, trust: ssl.SSLContext
) -> None:
    """The intersection: nothing the server does not announce now, everything of it that the proxy relays."""
    with WireClient(("127.0.0.1", server.port_tls), implicit=trust) as client:
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        theirs = capabilities(client)
    with logged_in(proxy_to(url(server, "tls")), "tls", trust, account) as client:
        found = capabilities(client)
    assert found.keys() - OWN <= theirs.keys()
    relayed = {b"TOP", b"UIDL", b"PIPELINING", b"EXPIRE", b"LOGIN-DELAY", b"UTF8"} & theirs.keys()
    assert relayed <= found.keys()
    assert {name: found[name] for name in relayed} == {name: theirs[name] for name in relayed}
    assert b"STLS" not in found


@pytest.mark.parametrize("window", [1, 16], ids=["sequential", "pipelined"])
@pytest.mark.parametrize("leg", LEGS)
def test_letters(
    server: Server, account: Account, proxy_to: ProxyTo, trust: ssl.SSLContext, leg: Leg, window: int
) -> None:
    """STAT, LIST, UIDL, TOP and RETR of every letter, as from the server itself."""
    asked = script(len(SOME))
    with WireClient(("127.0.0.1", server.port)) as client:
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        direct = client.run(asked)
    with logged_in(proxy_to(url(server, leg)), "tls", trust, account) as client:
        assert difference(asked, direct, client.run(asked, window)) == ""


def test_deletions(server: Server, proxy_to: ProxyTo, trust: ssl.SSLContext) -> None:
    """Without QUIT nothing is gone, with QUIT the marked ones are."""
    account = server.account(SOME[:5])
    proxy = proxy_to(url(server, "tls"))
    with logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"DELE 1").startswith(b"+OK")
    with logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"STAT").startswith(b"+OK 5 ")
        assert client.single(b"DELE 2").startswith(b"+OK")
        assert client.single(b"DELE 4").startswith(b"+OK")
        assert client.single(b"QUIT").startswith(b"+OK")
    with logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"STAT").startswith(b"+OK 3 ")


@pytest.mark.parametrize(
    "password",
    [
        b"  two spaces before and after  ",
        b"p\xe4ssw\xf6rd \xff latin and more",
        "пароль-in-utf8".encode(),
        b"colon:percent%hash#quote\"back\\slash",
        b"+OK -ERR . QUIT",
        b"l" + b"o" * 200 + b"ng",
    ],
    ids=["spaces", "8-bit", "UTF-8", "signs", "protocol", "long"],
)
@pytest.mark.parametrize("mechanism", ["user", "plain"])
def test_odd_passwords(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext, password: bytes, mechanism: str
) -> None:
    """PASS takes everything after its one space (RFC 1939 section 7); SASL any octets but NUL."""
    account = dovecot.account(SOME[:1], password)
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream=f'mechanism = "{mechanism}"'))
    for name, way in WAYS.items():
        with connect(proxy, "tls", trust) as client:
            reply = way(client, account, account.password)
            assert reply.startswith(b"+OK"), f"{name}: {reply!r}"
            assert client.single(b"STAT").startswith(b"+OK 1 ")


def test_maildrop_in_use(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """The server's [IN-USE] (RFC 2449 section 8.1.1) reaches the client; it is neither [AUTH] nor [SYS/TEMP]."""
    account = dovecot.account(SOME[:2])
    proxy = start(replace(setup, server=f"pop3s://{LOCKING}:{dovecot.port_tls}"))
    with logged_in(proxy, "tls", trust, account) as first:
        with connect(proxy, "tls", trust) as second:
            assert second.user_pass(account.name, account.password).startswith(b"-ERR [IN-USE] ")
        assert first.single(b"STAT").startswith(b"+OK 2 ")


@pytest.mark.parametrize("window", [1, 16], ids=["sequential", "pipelined"])
@pytest.mark.parametrize("letter", sorted(UNSTUFFED))
def test_a_letter_the_server_breaks(
    dovecot: Dovecot, proxy_to: ProxyTo, trust: ssl.SSLContext, letter: str, window: int
) -> None:
    """The server ends a reply twice: the second end must never become the answer of another command."""
    account = dovecot.account([pair for pair in DIFFICULT if pair[0] == letter])
    with logged_in(proxy_to(url(dovecot, "tls")), "tls", trust, account) as client:
        client.send(b"RETR 1\r\nSTAT\r\nNOOP\r\n" if window > 1 else b"RETR 1\r\n")
        body = client.read_reply(multi=True)
        assert body.startswith(b"+OK")
        assert body.endswith(b"\r\n.\r\n")
        if window == 1:
            client.send(b"STAT\r\n")
        rest = client.read_eof() if window > 1 else _line_or_nothing(client)
        assert rest == b"" or rest.startswith((b"+OK 1 ", b"-ERR")), rest


def _line_or_nothing(client: WireClient) -> bytes:
    try:
        return client.read_line()
    except (EOFError, ConnectionResetError):
        return b""

"""Groups of real servers: one killed, one stalled, logins keep succeeding; and who the client is goes on to them."""

from __future__ import annotations

import re
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from popproxy.config.urls import parse_server
from popproxy.net.balance import ranking
from tests.integration import dovecot as dovecot_server
from tests.integration.conftest import NAMES, Need, Start, issued
from tests.integration.daemon import Account, listening
from tests.integration.dovecot import Dovecot
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import connect, url
from tests.ports import free_ports
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

USERS = 12
QUICK = """
[upstream.main.health]
fall = 2
backoff = "500ms"
longest = "2s"
[timeouts]
greeting = "1s"
upstream_handshake = "1s"
"""


@pytest.fixture
def three(need: Need, authority: trustme.CA) -> Iterator[list[Dovecot]]:
    """Three servers with the same users. Each maildrop has as many letters as the number of its server."""
    need("dovecot-pop3d")
    with ExitStack() as stack:
        yield [stack.enter_context(dovecot_server.start(*issued(authority, *NAMES))) for _ in range(3)]


def accounts(servers: list[Dovecot]) -> list[Account]:
    made: list[Account] = []
    for _ in range(USERS):
        same = [
            server.account([(f"letter{number}", b"Subject: x\r\n\r\nx\r\n") for number in range(place)])
            for place, server in enumerate(servers, 1)
        ]
        assert len({account.user for account in same}) == 1
        made.append(same[0])
    return made


def login(proxy: Proxy, trust: ssl.SSLContext, account: Account) -> int:
    """Log in; the number of the server."""
    with connect(proxy, "tls", trust) as client:
        reply = client.user_pass(account.name, account.password)
        assert reply.startswith(b"+OK"), reply
        number = int(client.single(b"STAT").split()[1])
        assert client.single(b"QUIT").startswith(b"+OK")
    return number


def events(proxy: Proxy, name: str) -> list[dict[str, object]]:
    return [line for line in proxy.lines() if line["event"] == name]


@pytest.mark.parametrize("balance", ["sticky", "round_robin", "least_sessions", "first"])
def test_one_killed_one_stalled_logins_keep_succeeding(
    balance: str, three: list[Dovecot], start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    users = accounts(three)
    # The stalled one is asked for STLS: it must hang before its greeting.
    urls = [url(three[0], "tls"), url(three[1], "stls"), url(three[2], "tls")]
    group = [parse_server(text) for text in urls]
    homes = {user.user: group.index(ranking(group, user.user)[0]) + 1 for user in users}
    upstream = f'balance = "{balance}"\n{QUICK}'
    proxy = start(replace(setup, server=urls[0], more=tuple(urls[1:]), upstream=upstream))

    whole = {user.user: login(proxy, trust, user) for user in users}
    expected = {"first": {1}}.get(balance, {1, 2, 3})
    assert set(whole.values()) == expected
    if balance == "sticky":
        assert whole == homes

    three[0].signal(signal.SIGKILL)
    three[1].signal(signal.SIGSTOP)
    try:
        # A lock of a killed session is no matter of the proxy's: these maildrops are the third server's own.
        for turn in range(3):
            left = {user.user: login(proxy, trust, user) for user in users}
            assert set(left.values()) == {3}, (turn, left)
        eventually(lambda: len(events(proxy, "upstream_down")) >= 2, "two servers out of rotation")
        down = {line["server"]: line["kind"] for line in events(proxy, "upstream_down")}
        names = [f"{server.host}:{server.port}" for server in group]
        assert down[names[0]] == "refused" and down[names[1]] == "greeting_timeout", down
        assert not events(proxy, "login_failed") and not events(proxy, "upstream_failed")
        metrics = proxy.get("/metrics")[1].decode()
        for place, name in enumerate(names):
            assert f'popproxy_upstream_up{{server="{name}",upstream="main"}} {float(place == 2)}' in metrics
        # Both are known now: most logins do not even try them, but for a trial now and then.
        tried = len(events(proxy, "upstream_retry"))
        for user in users:
            login(proxy, trust, user)
        assert len(events(proxy, "upstream_retry")) - tried < len(users)
    finally:
        three[1].signal(signal.SIGCONT)
    if balance != "first":
        eventually(
            lambda: 2 in {login(proxy, trust, user) for user in users} and bool(events(proxy, "upstream_up")),
            "return of the stalled server",
        )
    proxy.wait_for_sessions(len(users) * 5)


def test_all_down_and_back_again(
    need: Need, authority: trustme.CA, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    need("dovecot-pop3d")
    with dovecot_server.start(*issued(authority, *NAMES)) as server:
        user = server.account()
        proxy = start(replace(setup, server=url(server, "tls"), upstream=QUICK))
        server.signal(signal.SIGSTOP)
        for _ in range(3):
            with connect(proxy, "tls", trust) as client:
                assert client.user_pass(user.name, user.password).startswith(b"-ERR [SYS/TEMP]")
        server.signal(signal.SIGCONT)
        # With one server there is no back-off to wait for.
        assert login(proxy, trust, user) == 0


# Who the client is

HAPROXY = """
haproxy_trusted_networks = 127.0.0.0/8
service pop3-login {{
  inet_listener pop3h {{
    {address} = 127.0.0.1
    port = {port}
    haproxy = yes
  }}
}}
"""
TRUSTED = "login_trusted_networks = 127.0.0.0/8\n"


def from_afar(proxy: Proxy, trust: ssl.SSLContext, source: str) -> WireClient:
    """A client with an address of its own."""
    return WireClient(("127.0.0.1", proxy.pop3s), implicit=trust, source=source)


def address_word() -> str:
    """Dovecot 2.4 calls the address of a listener otherwise."""
    return "listen" if "dovecot_config_version" in dovecot_server._configuration(Path("/x"), 1, 2)[0] else "address"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_dovecot_learns_the_client_by_a_proxy_header(
    version: str, need: Need, authority: trustme.CA, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    need("dovecot-pop3d")
    (port,) = free_ports(1)
    more = HAPROXY.format(port=port, address=address_word())
    with dovecot_server.start(*issued(authority, *NAMES), more=more) as server:
        server.daemon.wait_until(lambda: listening("127.0.0.1", port), "the port for PROXY headers")
        user = server.account()
        upstream = f'send_proxy = "{version}"\nhealth = {{ probe = "200ms" }}'
        proxy = start(replace(setup, server=f"pop3://localhost:{port}", upstream=upstream))
        with from_afar(proxy, trust, "127.0.0.77") as client:
            assert client.user_pass(user.name, user.password).startswith(b"+OK")
            line = re.search(rf"Login: user=<{user.user}>.*", server.log())
            assert line is not None and "rip=127.0.0.77" in line[0], server.log()[-2000:]
        # Its probes, with a header that speaks for nobody, count as well.
        ok = f'popproxy_upstream_health_checks_total{{result="ok",server="localhost:{port}",upstream="main"}}'
        eventually(lambda: ok in proxy.get("/metrics")[1].decode(), "a probe that succeeds")
        assert not events(proxy, "upstream_down")


@pytest.mark.parametrize("leg", ["stls", "tls"])
@pytest.mark.parametrize("wish", ["true", '"required"'])
def test_dovecot_learns_the_client_by_xclient(
    wish: str, leg: str, need: Need, authority: trustme.CA, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    need("dovecot-pop3d")
    with dovecot_server.start(*issued(authority, *NAMES), more=TRUSTED) as server:
        user = server.account()
        upstream = f'xclient = {wish}\nforward = {{ proxy = "edge 1" }}'
        proxy = start(replace(setup, server=url(server, leg), upstream=upstream))  # type: ignore[arg-type]
        with from_afar(proxy, trust, "127.0.0.78") as client:
            assert client.user_pass(user.name, user.password).startswith(b"+OK")
            line = re.search(rf"Login: user=<{user.user}>.*", server.log())
            assert line is not None and "rip=127.0.0.78" in line[0], server.log()[-2000:]
            client.single(b"QUIT")
        session = proxy.wait_for_sessions(1)[0]["session"]
        assert f"session=<{session}>" in line[0], line[0]
        # A refused password is no trouble of XCLIENT's.
        with from_afar(proxy, trust, "127.0.0.78") as client:
            assert client.user_pass(user.name, b"wrong-by-intent").startswith(b"-ERR [AUTH]")


def test_a_dovecot_that_does_not_trust_us(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    """It announces no [XCLIENT]: what is wished is left, what is required is refused."""
    user = dovecot.account()
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream="xclient = true"))
    assert login(proxy, trust, user) == 0
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream='xclient = "required"'))
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(user.name, user.password).startswith(b"-ERR [SYS/TEMP]")
    eventually(lambda: bool(events(proxy, "upstream_failed")), "upstream_failed")
    assert events(proxy, "upstream_failed")[0]["kind"] == "xclient"


def test_a_dovecot_in_front_tells_who_the_client_is(
    dovecot: Dovecot, need: Need, authority: trustme.CA, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    """Dovecot as proxy sends XCLIENT where it is announced: the session is the real client's, its TTL one less."""
    need("dovecot-pop3d")
    with dovecot_server.start(*issued(authority, *NAMES)) as front:
        user = dovecot.account()
        same = front.account()
        while same.user != user.user:
            same = front.account() if int(same.user[6:]) < int(user.user[6:]) else same
            user = dovecot.account() if int(user.user[6:]) < int(same.user[6:]) else user
        listener = 'xclient = { trusted = ["127.0.0.0/8"] }'
        proxy = start(replace(setup, server=url(dovecot, "tls"), listener=listener, upstream="xclient = true"))
        front.proxies(user, "127.0.0.1", proxy.pop3s)
        time.sleep(1.1)  # Dovecot looks for new lines of its users once a second
        with WireClient(("127.0.0.1", front.port_tls), implicit=trust, source="127.0.0.79") as client:
            assert client.user_pass(user.name, user.password).startswith(b"+OK")
            assert client.single(b"STAT").startswith(b"+OK 0")
            client.single(b"QUIT")
        line = proxy.wait_for_sessions(1)[0]
        assert line["client"] == "127.0.0.79", line
        assert f"session=<{line['session']}>" in front.log()

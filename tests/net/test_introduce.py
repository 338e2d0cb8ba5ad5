"""The client's address on its way: PROXY headers to servers, XCLIENT between proxies, and loops that end."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Route, ServerAddress, SessionView, TlsView
from popproxy.net.introduce import own_header, proxy_header
from popproxy.net.own import OwnAddresses
from popproxy.wire.proxyline import ProxyDecoder, ProxyHeader, encode_v2
from tests.core.rig import plugin
from tests.net.running import PASSWORD, USER, Proxy, Setup, both_loops, client_context, eventually, running
from tests.net.tlspeers import server_side
from tests.net.upstream import Peer, Script, Upstream, answering
from tests.ports import free_ports
from tests.wireclient import WireClient

UNAVAILABLE = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"


def introduced(headers: list[ProxyHeader], then: Script) -> Script:
    """Reads a PROXY header, and not an octet more, then plays ``then``."""

    def script(peer: Peer) -> None:
        decoder = ProxyDecoder()
        header = None
        while header is None:
            data = peer.socket.recv(decoder.want)
            assert data, "closed before the header"
            header = decoder.feed(data)
        headers.append(header)
        then(peer)

    return script


def over_tls(peer: Peer) -> None:
    peer.tls(server_side())
    answering()(peer)


def over_stls(peer: Peer) -> None:
    peer.greet()
    assert peer.line() == b"STLS"
    peer.send(b"+OK\r\n")
    peer.tls(server_side())
    while not (line := peer.line()).startswith(b"PASS"):
        peer.send(b"-ERR none\r\n" if line == b"CAPA" else b"+OK\r\n")
    peer.send(b"+OK in\r\n")
    peer.until_gone()


LEGS: dict[str, Script] = {"pop3+clear": answering(), "pop3": over_stls, "pop3s": over_tls}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("scheme", LEGS)
@both_loops
def test_a_server_is_told_by_a_proxy_header(loop: str, scheme: str, version: str, tmp_path: Path) -> None:
    headers: list[ProxyHeader] = []
    with Upstream(introduced(headers, LEGS[scheme])) as server:
        host = "127.0.0.1" if scheme == "pop3+clear" else "localhost"
        setup = Setup([f"{scheme}://{host}:{server.port}"], loop, upstream=f'send_proxy = "{version}"')
        with running(setup, tmp_path) as proxy, proxy.logged_in() as client:
            own, there = client.socket.getsockname(), client.socket.getpeername()
            client.close()
            session = proxy.session()["session"]
    (header,) = headers
    assert (header.version, header.local) == (int(version[1]), False)
    assert (header.source, header.destination, header.tls) == (own, there, None)
    if version == "v2":
        assert (header.unique_id, header.ttl) == (session.encode(), 4)


@both_loops
def test_a_server_is_told_of_the_clients_tls(loop: str, tmp_path: Path) -> None:
    headers: list[ProxyHeader] = []
    with Upstream(introduced(headers, answering())) as server:
        setup = Setup([server.url], loop, tls="implicit", upstream='send_proxy = "v2"')
        with running(setup, tmp_path) as proxy:
            proxy.logged_in(implicit=client_context(), name="localhost").close()
            proxy.session()
    tls = headers[0].tls
    assert tls is not None and tls.client_ssl and not tls.verified and str(tls.version).startswith("TLSv1.")
    assert headers[0].authority == "localhost"


def test_who_has_no_address_is_not_told_of(tmp_path: Path) -> None:
    headers: list[ProxyHeader] = []
    path = tmp_path / "pop3.sock"
    listeners = f'[[listener]]\nname = "main"\nbind = ["unix:{path}"]\ntls = "off"\nauth_before_tls = "allow"\n'
    with Upstream(introduced(headers, answering())) as server:
        with running(Setup([server.url], listeners=listeners, upstream='send_proxy = "v2"'), tmp_path) as proxy:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                client.sendall(b"USER alice\r\nPASS x\r\n")
                got = b""
                while got.count(b"\n") < 3:
                    got += client.recv(1000)
            proxy.session()
    assert headers == [ProxyHeader(2, True)]


def test_a_server_that_dies_before_the_header_is_left(tmp_path: Path) -> None:
    headers: list[ProxyHeader] = []
    with Upstream(lambda peer: peer.reset()) as bad, Upstream(introduced(headers, answering())) as good:
        with running(Setup([bad.url, good.url], upstream='send_proxy = "v2"'), tmp_path) as proxy:
            proxy.logged_in().close()
            proxy.session()
    assert len(headers) == 1


TEXT = st.text(max_size=40) | st.sampled_from(["unix", "192.0.2.1", "::1", "2001:db8::1", "fe80::1%eth0", ""])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["v1", "v2"]), TEXT, TEXT, st.integers(-5, 70000), TEXT, st.integers(0, 99))
def test_whatever_a_plugin_made_of_the_view_the_header_is_whole(
    version: Any, client: str, local: str, port: int, name: str, ttl: int
) -> None:
    view = SessionView(name[:5], "pop3", client, port, local, port, TlsView("TLSv1.3", server_name=name))
    made = proxy_header(version, view, ttl)
    decoder = ProxyDecoder()
    header = decoder.feed(made + b"behind")
    assert header is not None and bytes(decoder.leftover) == b"behind"
    assert header.local is (made == own_header(version))


# Not to ourselves


def test_own_addresses() -> None:
    own = OwnAddresses()
    own.add("127.0.0.1", 110)
    own.add("::1", 111)
    own.add("0.0.0.0", 995)
    own.add("::", 996)
    held = [("127.0.0.1", 110), ("::1", 111), ("127.0.0.1", 995), ("127.9.9.9", 995), ("127.0.0.1", 996), ("::1", 996)]
    # What the system takes for this host, and IPv4 in the clothes of IPv6.
    held += [("0.0.0.0", 110), ("0.0.0.0", 995), ("::", 111), ("::", 996), ("0.0.0.0", 996)]
    held += [("::ffff:127.0.0.1", 110), ("::ffff:7f00:1", 995), ("::ffff:0:0", 110)]
    for address, port in held:
        assert own.holds(address, port), (address, port)
    free = [("127.0.0.2", 110), ("127.0.0.1", 111), ("192.0.2.1", 995), ("::1", 995), ("192.0.2.1", 996), ("::1", 110)]
    free += [("0.0.0.0", 111), ("::", 110), ("::ffff:192.0.2.1", 995)]
    for address, port in free:
        assert not own.holds(address, port), (address, port)


def routed_home(proxy_of: list[Proxy], host: str) -> Any:
    return plugin(on_login=lambda *_: Route(server=ServerAddress(host, proxy_of[0].address()[1])))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@both_loops
def test_a_server_that_is_a_listener_of_ours_is_not_dialed(loop: str, host: str, tmp_path: Path) -> None:
    proxies: list[Proxy] = []
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, plugins=[routed_home(proxies, host)])
    with running(setup, tmp_path) as proxy:
        proxies.append(proxy)
        with proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        line = proxy.wait("upstream_failed")
        assert line["kind"] == "loop" and "a listener of this proxy" in line["detail"]
        proxy.session()
        assert len(proxy.lines("session")) == 1


def test_a_group_that_holds_us_serves_by_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the second server leads to us: DNS can change after `popproxy check`."""
    with Upstream(answering()) as good:
        (port,) = free_ports(1)
        listeners = (
            f'[[listener]]\nname = "main"\nbind = ["127.0.0.1:{port}"]\ntls = "off"\nauth_before_tls = "allow"\n'
        )

        async def found(server: Any) -> list[str]:
            return ["127.0.0.1"]

        monkeypatch.setattr("popproxy.net.dialer._addresses", found)
        servers = [f"pop3+clear://mail.example.org:{port}", good.url]
        with running(Setup(servers, listeners=listeners), tmp_path) as proxy:
            proxy.logged_in().close()
            assert proxy.session()["server"] == good.url[13:]


# Two proxies that lead to each other


WAYS = {
    "xclient": ('xclient = { trusted = ["127.0.0.0/8"] }', "xclient = true"),
    "proxy": ('proxy_protocol = { trusted = ["127.0.0.0/8"] }', 'send_proxy = "v2"'),
    "both": (
        'proxy_protocol = { trusted = ["127.0.0.0/8"] }\nxclient = { trusted = ["127.0.0.0/8"] }',
        'send_proxy = "v2"\nxclient = "required"',
    ),
}


@pytest.mark.parametrize("way", WAYS)
@both_loops
def test_two_proxies_that_lead_to_each_other(loop: str, way: str, tmp_path: Path) -> None:
    """The TTL goes down at each of them, so the circle ends, and the client has its answer."""
    here, there = WAYS[way]
    ports = free_ports(2)
    with ExitStack() as stack:
        proxies = []
        for number in (0, 1):
            directory = tmp_path / str(number)
            directory.mkdir()
            listeners = (
                f'[[listener]]\nname = "main"\nbind = ["127.0.0.1:{ports[number]}"]\ntls = "off"\n'
                f'auth_before_tls = "allow"\n{here}\n'
            )
            setup = Setup([f"pop3+clear://127.0.0.1:{ports[1 - number]}"], loop, listeners=listeners, upstream=there)
            proxies.append(stack.enter_context(running(setup, directory, circle=True)))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", ports[0]), 20))
        if "proxy_protocol" in here:
            client.sendall(encode_v2(("127.0.0.9", 5000), ("127.0.0.1", 995)))
        client.sendall(b"USER alice\r\nPASS x\r\n")
        got = b""
        while got.count(b"\n") < 3:
            data = client.recv(1000)
            assert data, got
            got += data
        assert got.endswith(UNAVAILABLE)
        client.close()
        eventually(lambda: sum(len(proxy.lines("session")) for proxy in proxies) == 6, "end of six sessions")
        kinds = [line["kind"] for proxy in proxies for line in proxy.lines("upstream_failed")]
        assert "loop" in kinds
        # Whoever reads the log of either finds the real client, and one session by one name.
        sessions = [line for proxy in proxies for line in proxy.lines("session")]
        if way != "proxy":
            assert len({line["session"] for line in sessions}) == 1
        if way != "xclient":
            assert {line["client"] for line in sessions} == {"127.0.0.9"}


@both_loops
def test_xclient_from_a_client_that_is_not_trusted(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as server:
        setup = Setup([server.url], loop, listener='xclient = { trusted = ["192.0.2.0/24"] }')
        with running(setup, tmp_path) as proxy:
            client = WireClient(proxy.address(), timeout=20)
            assert client.single(b"XCLIENT ADDR=192.0.2.9").startswith(b"+OK Not from a trusted address")
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            client.close()
            assert proxy.session()["client"] == "127.0.0.1"


@both_loops
def test_xclient_rules_the_log(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as server:
        setup = Setup([server.url], loop, listener='xclient = { trusted = ["127.0.0.0/8"] }')
        with running(setup, tmp_path) as proxy:
            client = WireClient(proxy.address(), timeout=20)
            assert client.single(b"XCLIENT ADDR=2001:db8::9 PORT=7 SESSION=outer") == b"+OK Updated\r\n"
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            client.close()
            line = proxy.session()
            assert (line["client"], line["client_port"], line["session"]) == ("2001:db8::9", 7, "outer")

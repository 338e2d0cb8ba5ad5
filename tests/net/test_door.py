"""From accept to the first octet of a session: PROXY headers, implicit TLS, limits, and being sent away."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.net.running import (
    PASSWORD,
    USER,
    Proxy,
    Setup,
    both_loops,
    client_context,
    eventually,
    read_rest,
    reset,
    running,
)
from tests.net.tlspeers import BareClient
from tests.net.upstream import PATIENCE, Upstream, answering
from tests.wireclient import WireClient

TRUST = 'proxy_protocol = { trusted = ["127.0.0.0/8", "::1"] }'
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 995\r\n"
BUSY = b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
all_modes = pytest.mark.parametrize("tls", ["off", "starttls", "implicit"])


def v2(source: str = "192.0.2.7", tlvs: bytes = b"", command: int = 1) -> bytes:
    six = ":" in source
    own = "2001:db8::1" if six else "198.51.100.1"
    body = ip_address(source).packed + ip_address(own).packed + struct.pack("!HH", 5555, 995) + tlvs
    return SIGNATURE + bytes((0x20 | command, 0x21 if six else 0x11)) + struct.pack("!H", len(body)) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


SSL_TLV = tlv(0x02, b"mail.example.org") + tlv(
    0x20, b"\x01\x00\x00\x00\x00" + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"TLS_AES_128_GCM_SHA256")
)


def behind(proxy: Proxy, header: bytes, tls: str = "off", piece: int = 0, number: int = 0) -> WireClient:
    """A client whose balancer sends ``header`` first, in pieces of ``piece`` octets when it is not 0."""
    client = WireClient.__new__(WireClient)
    client._name, client._buffer = "127.0.0.1", bytearray()
    client.socket = socket.create_connection(proxy.address(number), PATIENCE)
    for start in range(0, len(header), piece or len(header)):
        client.socket.sendall(header[start : start + (piece or len(header))])
        if piece:
            time.sleep(0.001)
    if tls == "implicit":
        client._handshake(client_context())
    client.greeting = client.read_line()
    if tls == "starttls":
        client.stls(client_context())
    return client


@pytest.mark.parametrize("piece", [0, 1, 7])
@pytest.mark.parametrize("header", [V1, v2(), v2("2001:db8::7"), v2(tlvs=tlv(0x04, b"x" * 300))])
@all_modes
@both_loops
def test_the_header_says_who_the_client_is(loop: str, tls: str, header: bytes, piece: int, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        with running(Setup([upstream.url], loop, tls, listener=TRUST), tmp_path) as proxy:
            with behind(proxy, header, tls, piece) as client:
                assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
                assert client.single(b"STAT") == b"+OK 0 0\r\n"
            line = proxy.session()
            six = header[13:14] == b"\x21"
            assert (line["client"], line["client_port"]) == ("2001:db8::7" if six else "192.0.2.7", 5555)


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN a b c\r\n", v2(command=0)])
@both_loops
def test_a_header_that_says_nothing_leaves_the_balancer_s_address(loop: str, header: bytes, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, listener=TRUST), tmp_path) as proxy:
        behind(proxy, header).close()
        assert proxy.session()["client"] == "127.0.0.1"


@both_loops
def test_tls_in_front_counts_as_tls(loop: str, tmp_path: Path) -> None:
    """The balancer ended TLS: logins are taken on the clear leg, STLS is refused, the log knows the cipher."""
    listeners = f'[[listener]]\nname = "main"\nbind = ["127.0.0.1:0"]\ntls = "starttls"\n{TRUST}\n'
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, listeners=listeners), tmp_path) as proxy:
            with behind(proxy, v2()) as client:
                assert client.user_pass(USER, PASSWORD).startswith(b"-ERR")
            with behind(proxy, v2(tlvs=SSL_TLV)) as client:
                assert client.single(b"STLS").startswith(b"-ERR")
                assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            line = proxy.session(2)
            assert (line["tls"], line["cipher"]) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")


BAD = [
    (b"USER alice\r\n", "signature"),
    (b"GET / HTTP/1.1\r\n\r\n", "signature"),
    (b"\x16\x03\x01\x02\x00\x01\x00", "signature"),
    (b"PROXY TCP4 192.0.2.7\r\n", "address"),
    (b"PROXY TCP9 a b 1 2\r\n", "family"),
    (b"PROXY UNKNOWN " + b"x" * 200, "overlong"),
    (SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12), "version"),
    (SIGNATURE + b"\x21\x11\xff\xff", "overlong"),
    (SIGNATURE + b"\x21\x11\x00\x02" + bytes(2), "length"),
]


@pytest.mark.parametrize(("octets", "reason"), BAD)
@all_modes
@both_loops
def test_a_header_that_cannot_be_believed_ends_the_connection(
    loop: str, tls: str, octets: bytes, reason: str, tmp_path: Path
) -> None:
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, tls, listener=TRUST), tmp_path) as proxy:
            with socket.create_connection(proxy.address(), PATIENCE) as sock:
                sock.sendall(octets)
                assert at_end(sock)
            assert proxy.wait("refused")["reason"] == "proxy_header"
            assert proxy.sample("proxy_protocol_errors_total", listener="main", reason=reason) == 1
            assert proxy.sample("connections_rejected_total", listener="main", reason="proxy_header") == 1
            assert proxy.lines("session") == []


def at_end(sock: socket.socket) -> bool:
    """Whether the proxy closed without a word; unread octets make its FIN a RST."""
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("end", ["close", "half-close", "reset"])
@both_loops
def test_a_balancer_that_leaves_before_the_header_is_whole(loop: str, end: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, listener=TRUST), tmp_path) as proxy:
        sock = socket.create_connection(proxy.address(), PATIENCE)
        sock.sendall(V1[:20])
        eventually(lambda: len(proxy.worker.fronts[0].door.waiting) == 1, "connection at the door")
        if end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        if end == "half-close":
            sock.shutdown(socket.SHUT_WR)
            assert at_end(sock)
        sock.close()
        assert proxy.wait("refused")["reason"] == "proxy_header"
        assert proxy.sample("proxy_protocol_errors_total", listener="main", reason="eof") == 1
        eventually(lambda: proxy.total("connections_active") == 0, "end of the connection")


@all_modes
@both_loops
def test_a_header_from_elsewhere_is_not_read(loop: str, tls: str, tmp_path: Path) -> None:
    listener = 'proxy_protocol = { trusted = ["192.0.2.0/24"] }'
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, tls, listener=listener), tmp_path) as proxy:
            with socket.create_connection(proxy.address(), PATIENCE) as sock:
                assert at_end(sock)
            line = proxy.wait("refused")
            assert (line["reason"], line["client"]) == ("proxy_header", "127.0.0.1")


@all_modes
@both_loops
def test_the_limit_of_connections(loop: str, tls: str, tmp_path: Path) -> None:
    """Who is too many is told so where that costs nothing; a place that becomes free is given away again."""
    implicit = client_context() if tls == "implicit" else None
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, tls, listener="max_connections = 2"), tmp_path) as proxy:
            assert proxy.sample("connections_limit", listener="main") == 2
            first, second = proxy.client(implicit=implicit), proxy.client(implicit=implicit)
            with socket.create_connection(proxy.address(), PATIENCE) as third:
                told = b"" if implicit else BUSY
                assert third.recv(1000) == told
                assert at_end(third)
            assert proxy.wait("refused")["reason"] == "limit"
            assert proxy.sample("connections_rejected_total", listener="main", reason="limit") == 1
            assert proxy.sample("connections_active", listener="main") == 2
            first.close()
            eventually(lambda: proxy.sample("connections_active", listener="main") == 1, "free place")
            with proxy.client(implicit=implicit) as again:
                assert again.greeting.startswith(b"+OK")
            second.close()
            proxy.session(3)
            assert proxy.sample("connections_total", listener="main") == 4


@pytest.mark.parametrize("tls", ["off", "implicit"])
@both_loops
def test_who_waits_at_the_door_counts_as_open(loop: str, tls: str, tmp_path: Path) -> None:
    listener = TRUST + "\nmax_connections = 2"
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, tls, listener=listener), tmp_path) as proxy:
            waiting = [socket.create_connection(proxy.address(), PATIENCE) for _ in range(2)]
            eventually(lambda: proxy.sample("connections_active", listener="main") == 2, "two at the door")
            with socket.create_connection(proxy.address(), PATIENCE) as third:
                assert third.recv(1000) == (b"" if tls == "implicit" else BUSY)
            for sock in waiting:
                sock.close()
            eventually(lambda: proxy.sample("connections_active", listener="main") == 0, "an empty door")
            with behind(proxy, V1, tls) as client:
                assert client.greeting.startswith(b"+OK")
            assert proxy.session()["client"] == "192.0.2.7"


@pytest.mark.parametrize("where", ["header", "handshake"])
@both_loops
def test_a_drain_sends_those_at_the_door_away(loop: str, where: str, tmp_path: Path) -> None:
    listener = TRUST if where == "header" else ""
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, "implicit", listener=listener), tmp_path) as proxy:
            with socket.create_connection(proxy.address(), PATIENCE) as sock:
                eventually(lambda: len(proxy.worker.fronts[0].door.waiting) == 1, "connection at the door")
                began = time.monotonic()
                proxy.stop(5.0)
                assert time.monotonic() - began < 2
                assert at_end(sock)
            assert proxy.sample("connections_rejected_total", listener="main", reason="draining") == 1


@both_loops
def test_a_handshake_that_fails_is_told_and_counted(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, "implicit"), tmp_path) as proxy:
        with socket.create_connection(proxy.address(), PATIENCE) as sock:
            sock.sendall(b"USER alice\r\n")
            assert at_end(sock)
        line = proxy.wait("tls_failed")
        assert (line["mode"], line["reason"], line["client"]) == ("implicit", "plaintext", "127.0.0.1")
        assert proxy.sample("tls_handshake_failures_total", listener="main", mode="implicit", reason="plaintext") == 1
        assert proxy.sample("connections_rejected_total", listener="main", reason="tls") == 1
        assert proxy.lines("session") == []


@both_loops
def test_a_client_that_resets_in_the_handshake(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, "implicit"), tmp_path) as proxy:
        for _ in range(5):
            client = WireClient.__new__(WireClient)
            client.socket = socket.create_connection(proxy.address(), PATIENCE)
            client.send(BareClient(client.socket, client_context()).hello())
            assert client.socket.recv(1)
            reset(client)
        proxy.wait("tls_failed", 5)
        eventually(lambda: proxy.total("connections_active") == 0, "end of all connections")


@both_loops
def test_what_follows_the_header_belongs_to_the_session(loop: str, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        with running(Setup([upstream.url], loop, listener=TRUST), tmp_path) as proxy:
            eager = b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\nSTAT\r\n"
            with behind(proxy, V1 + eager) as client:
                assert [client.read_line() for _ in range(3)] == [b"+OK\r\n", b"+OK welcome\r\n", b"+OK 0 0\r\n"]
                client.socket.shutdown(socket.SHUT_WR)
                assert read_rest(client) == b""


@both_loops
def test_whoever_may_open_a_unix_socket_may_send_a_header(loop: str, tmp_path: Path) -> None:
    listeners = f'[[listener]]\nname = "main"\nbind = ["unix:{tmp_path}/s"]\ntls = "implicit"\n{TRUST}\n'
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, listeners=listeners), tmp_path) as proxy:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(f"{tmp_path}/s")
                sock.sendall(V1)
                with client_context().wrap_socket(sock) as client:
                    assert client.recv(100).startswith(b"+OK")
            assert proxy.session()["client"] == "192.0.2.7"


@both_loops
def test_a_header_with_the_addresses_of_unix_sockets_leaves_the_balancer_s(loop: str, tmp_path: Path) -> None:
    body = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
    header = SIGNATURE + b"\x21\x31" + struct.pack("!H", len(body)) + body
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, listener=TRUST), tmp_path) as proxy:
        behind(proxy, header).close()
        assert proxy.session()["client"] == "127.0.0.1"


@both_loops
def test_a_connection_the_loop_does_not_take_is_no_leak(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        """A loop that makes no transport any more."""

        def __init__(self, real: asyncio.AbstractEventLoop) -> None:
            self.real = real

        async def connect_accepted_socket(self, *_: object) -> None:
            raise OSError(errno.ENOBUFS, "No buffer space available")

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, listener=TRUST), tmp_path) as proxy:
        monkeypatch.setattr(proxy.worker.fronts[0], "loop", Refusing(proxy._loop))
        with socket.create_connection(proxy.address(), PATIENCE) as sock:
            sock.sendall(V1)
            assert at_end(sock)
        assert "No buffer space" in proxy.wait("refused")["detail"]
        eventually(lambda: proxy.total("connections_active") == 0, "end of the connection")

"""STLS on the clients' leg: what must not cross it (promise 3), and how it ends (RFC 2595 section 4)."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.net.upgrade import Upgrade
from tests.net.running import (
    LISTENER,
    PASSWORD,
    USER,
    Proxy,
    Setup,
    both_loops,
    client_context,
    eventually,
    half_close,
    read_rest,
    reset,
    running,
)
from tests.net.tlspeers import BareClient, run, server_side, tcp_pair
from tests.net.tlspeers import reset as reset_socket
from tests.net.upstream import PATIENCE, Upstream, answering
from tests.wireclient import WireClient

STRICT = LISTENER.replace('auth_before_tls = "allow"', "")


def setup(upstream: Upstream, loop: str, handshake: float = PATIENCE) -> Setup:
    return Setup([upstream.url], loop, "starttls", timeouts={"handshake": handshake})


@both_loops
def test_a_login_needs_tls_and_works_behind_it(loop: str, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        strict = Setup([upstream.url], loop, listeners=STRICT.format(tls="starttls"))
        with running(strict, tmp_path) as proxy, proxy.client() as client:
            assert client.single(b"USER " + USER).startswith(b"-ERR")
            assert client.single(b"PASS " + PASSWORD).startswith(b"-ERR")
            assert b"USER" not in client.multi(b"CAPA")
            client.stls(client_context())
            assert b"USER" in client.multi(b"CAPA") and b"STLS" not in client.multi(b"CAPA")
            assert client.single(b"STLS").startswith(b"-ERR")
            assert client.user_pass(USER, PASSWORD) == b"+OK welcome\r\n"
            assert client.single(b"STLS").startswith(b"-ERR")
            assert client.single(b"STAT") == b"+OK 0 0\r\n"
            assert proxy.sample(
                "tls_handshakes_total",
                listener="main",
                mode="stls",
                version="TLSv1.3",
                cipher=client.socket.cipher()[0],  # type: ignore[attr-defined]
                resumed="false",
            ) == 1
    assert b"STLS" not in upstream.received


@both_loops
def test_user_before_stls_is_forgotten(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.single(b"USER mallory").startswith(b"+OK")
            client.stls(client_context())
            assert client.single(b"PASS " + PASSWORD) == b"-ERR Send USER first\r\n"
    assert b"mallory" not in upstream.received


@pytest.mark.parametrize(
    "behind", [b"NOOP\r\n", b"USER mallory\r\nPASS x\r\n", b"C", b"\r\n", b"\x16\x03\x01\x02\x00\x01"]
)
@both_loops
def test_commands_behind_stls_are_never_answered(loop: str, behind: bytes, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            client.send(b"STLS\r\n" + behind)
            assert read_rest(client) in (b"+OK Begin TLS\r\n", b"")
        line = proxy.session()
        assert line["reason"] == "protocol_error" and "STLS" in line["detail"]
        assert proxy.sample("protocol_violations_total", side="client", kind="after_stls") == 1


@both_loops
def test_a_client_hello_glued_to_stls_is_an_error_not_a_hang(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            client.send(b"STLS\r\n" + BareClient(client.socket, client_context()).hello())
            assert read_rest(client) in (b"+OK Begin TLS\r\n", b"")
        assert proxy.session()["reason"] == "protocol_error"


@both_loops
def test_commands_in_the_clear_instead_of_a_handshake_are_never_answered(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.single(b"STLS").startswith(b"+OK")
            client.send(b"CAPA\r\nNOOP\r\n")
            assert read_rest(client) == b""
        assert proxy.session()["reason"] == "tls"
        assert proxy.wait("tls_failed")["reason"] == "plaintext"


@pytest.mark.parametrize("end", ["close", "reset", "half-close"])
@both_loops
def test_a_client_that_leaves_in_the_handshake(loop: str, end: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.single(b"STLS").startswith(b"+OK")
            client.send(BareClient(client.socket, client_context()).hello()[:40])
            if end == "reset":
                reset(client)
            elif end == "half-close":
                half_close(client)
                assert read_rest(client) == b""
        assert proxy.session()["reason"] == "tls"


@both_loops
def test_a_handshake_that_never_comes_ends_in_time(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop, handshake=0.3), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.single(b"STLS").startswith(b"+OK")
            began = time.monotonic()
            assert read_rest(client) == b""
            assert time.monotonic() - began < 1.3
        assert proxy.session()["reason"] == "tls"
        assert proxy.wait("tls_failed")["reason"] == "timeout"


def narrow(proxy: Proxy) -> WireClient:
    """A client that takes as little as the kernel lets it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sock.settimeout(PATIENCE)
    sock.connect(proxy.address())
    client = WireClient.__new__(WireClient)
    client._name, client._buffer, client.socket = "127.0.0.1", bytearray(), sock
    client.greeting = client.read_line()
    return client


Outcome = tuple[TlsTransport | None, TlsFailure | None]


class Scene:
    """A plain transport with more in its buffer than the kernel takes, and an Upgrade of it."""

    def __init__(self, plain: asyncio.Transport, theirs: socket.socket) -> None:
        self.plain = plain
        self.theirs = theirs
        self.outcomes: list[Outcome] = []
        self.told = asyncio.Event()

    def upgrade(self, seconds: float) -> Upgrade:
        loop = asyncio.get_running_loop()

        def begin(sock: socket.socket, ready: Callable[[TlsTransport, TlsFailure | None], None]) -> TlsTransport:
            return TlsTransport(
                loop, sock, server_side(), server_side=True, handshake_timeout=PATIENCE, ready=ready
            )

        def ready(transport: TlsTransport | None, failure: TlsFailure | None) -> None:
            self.outcomes.append((transport, failure))
            self.told.set()

        return Upgrade(loop, self.plain, seconds, begin, ready)


async def full(octets: int = 8 << 20) -> Scene:
    theirs, ours = tcp_pair()
    plain, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    plain.write(bytes(octets))
    assert plain.get_write_buffer_size() > 0
    return Scene(plain, theirs)


@both_loops
def test_what_is_due_leaves_before_the_handshake(loop: str) -> None:
    async def scene() -> None:
        stage = await full()
        stage.upgrade(PATIENCE)

        def shake() -> bytes:
            with stage.theirs as sock:
                left = 8 << 20
                while left:
                    left -= len(sock.recv(min(left, 1 << 16)))
                with client_context().wrap_socket(sock) as tls:
                    return str(tls.version()).encode()

        assert await asyncio.to_thread(shake) == b"TLSv1.3"
        await asyncio.wait_for(stage.told.wait(), PATIENCE)
        ((transport, failure),) = stage.outcomes
        assert failure is None and transport is not None
        transport.abort()
        await asyncio.sleep(0.05)

    run(loop, scene)


@both_loops
def test_a_peer_that_does_not_take_what_is_due_fails_in_time(loop: str) -> None:
    async def scene() -> None:
        stage = await full()
        stage.upgrade(0.1)
        await asyncio.wait_for(stage.told.wait(), PATIENCE)
        ((transport, failure),) = stage.outcomes
        assert transport is None and failure is not None and failure.reason == "timeout"
        assert stage.plain.is_closing()
        stage.theirs.close()
        await asyncio.sleep(0.05)
        assert len(stage.outcomes) == 1

    run(loop, scene)


@both_loops
def test_a_peer_that_resets_before_the_handshake(loop: str) -> None:
    async def scene() -> None:
        stage = await full()
        stage.upgrade(PATIENCE)
        reset_socket(stage.theirs)
        await asyncio.wait_for(stage.told.wait(), PATIENCE)
        ((transport, failure),) = stage.outcomes
        assert transport is None and failure is not None and failure.reason == "reset"
        await asyncio.sleep(0.05)
        assert len(stage.outcomes) == 1

    run(loop, scene)


@pytest.mark.parametrize("octets", [0, 8 << 20])
@pytest.mark.parametrize("seconds", [0.0, 0.05])
@both_loops
def test_nothing_is_told_behind_abort(loop: str, octets: int, seconds: float) -> None:
    async def scene() -> None:
        stage = await full(octets) if octets else await empty()
        upgrade = stage.upgrade(0.1)
        await asyncio.sleep(seconds)
        upgrade.abort()
        await asyncio.sleep(0.2)
        assert stage.outcomes == []
        stage.theirs.settimeout(PATIENCE)
        with suppress(ConnectionResetError):
            while await asyncio.to_thread(stage.theirs.recv, 1 << 20):
                pass
        stage.theirs.close()

    run(loop, scene)


async def empty() -> Scene:
    theirs, ours = tcp_pair()
    plain, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    return Scene(plain, theirs)


@both_loops
def test_no_descriptor_for_tls_is_a_failure(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene() -> None:
        stage = await empty()
        monkeypatch.setattr("popproxy.net.upgrade.detach", none)
        stage.upgrade(PATIENCE)
        await asyncio.wait_for(stage.told.wait(), PATIENCE)
        ((transport, failure),) = stage.outcomes
        assert transport is None and failure is not None and "Too many open files" in failure.detail
        assert await asyncio.to_thread(stage.theirs.recv, 1) == b""
        stage.theirs.close()

    run(loop, scene)


@both_loops
def test_stls_waits_until_the_answers_before_it_are_taken(loop: str, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        client = narrow(proxy)
        listing = client.multi(b"CAPA")
        count = 6000
        client.send(b"CAPA\r\n" * count + b"STLS\r\n")
        time.sleep(0.2)
        for _ in range(count):
            assert client.read_reply(multi=True) == listing
        assert client.read_line().startswith(b"+OK")
        assert not client._buffer
        client.socket = client_context().wrap_socket(client.socket)
        assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
        assert client.single(b"STAT") == b"+OK 0 0\r\n"
        client.close()
        proxy.session()


@both_loops
def test_the_deadline_of_a_drain_ends_a_handshake(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.single(b"STLS").startswith(b"+OK")
            eventually(lambda: proxy.worker.sessions == 1, "session")
            proxy.stop(0.2)
            assert read_rest(client) == b""
        assert proxy.session()["reason"] == "shutdown"


@both_loops
def test_a_resumed_handshake_is_counted_as_one(loop: str, tmp_path: Path) -> None:
    context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with Upstream(answering()) as upstream, running(setup(upstream, loop), tmp_path) as proxy:
        with proxy.client() as client:
            client.stls(context)
            session = client.socket.session  # type: ignore[attr-defined]
        with proxy.client() as client:
            client.single(b"STLS")
            client.socket = context.wrap_socket(client.socket, session=session)
            assert client.single(b"NOOP").startswith(b"-ERR")
            assert client.socket.session_reused
        proxy.session(2)
        resumed = [
            sample.value
            for family in proxy.registry.collect()
            for sample in family.samples
            if sample.name == "popproxy_tls_handshakes_total" and sample.labels["resumed"] == "true"
        ]
        assert sum(resumed) == 1

"""The connection upstream: what comes before the session knows of it, STLS, and every way it ends."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from popproxy.net import upstreamside
from tests.net.running import PASSWORD, USER, Setup, both_loops, eventually, reset, running
from tests.net.tlspeers import server_side
from tests.net.upstream import PATIENCE, Gone, Peer, Script, Upstream, slam, slam_with_reset

UNAVAILABLE = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"


def secret_free(upstream: Upstream) -> bool:
    return USER not in upstream.received and PASSWORD not in upstream.received


def greet_and_close(peer: Peer) -> None:
    peer.send(b"+OK ready\r\n")


def greet_and_half_close(peer: Peer) -> None:
    peer.send(b"+OK ready\r\n")
    peer.half_close()
    peer.until_gone()


def refuse_and_close(peer: Peer) -> None:
    peer.send(b"-ERR [SYS/TEMP] too busy\r\n")


@pytest.mark.parametrize(
    "script", [slam, slam_with_reset, greet_and_close, greet_and_half_close, refuse_and_close]
)
@both_loops
def test_an_end_before_the_session_knows_of_the_connection(loop: str, script: Script, tmp_path: Path) -> None:
    """The outcome of the dial and the end of the connection race; no order of them may hang the login."""
    with Upstream(script) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        for _ in range(5):
            with proxy.client() as client:
                began = time.monotonic()
                assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
                assert time.monotonic() - began < 5
        assert PASSWORD not in upstream.received
        assert proxy.wait("upstream_failed", 5)["upstream"] == "main"


@both_loops
def test_a_server_that_says_no_more_is_gone_although_it_reads(loop: str, tmp_path: Path) -> None:
    def half(peer: Peer) -> None:
        peer.login()
        peer.half_close()
        peer.until_gone()

    with Upstream(half) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            client.read_eof()
        line = proxy.session()
        assert (line["reason"], line["state"]) == ("upstream_eof", "transaction")


@both_loops
def test_a_server_that_closes_and_does_not_read_is_gone_at_once(loop: str, tmp_path: Path) -> None:
    """Commands stand in our write buffer when the end comes: it is not waited until they are sent."""
    go = threading.Event()

    def deaf(peer: Peer) -> None:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.login()
        assert peer.line() == b"XTND XMIT"
        peer.send(b"+OK\r\n")
        assert go.wait(PATIENCE)
        peer.half_close()
        time.sleep(1.0)

    tail = '[protocol]\nopen = ["XTND XMIT"]'
    with Upstream(deaf) as upstream, running(Setup([upstream.url], loop, tail=tail), tmp_path) as proxy:
        with proxy.logged_in() as client:
            assert client.single(b"XTND XMIT") == b"+OK\r\n"
            client.socket.setblocking(False)
            while proxy.sample("backpressure_pauses_total", side="client") == 0:
                try:
                    client.socket.send(bytes(65536))
                except BlockingIOError:
                    time.sleep(0.01)
            go.set()
            began = time.monotonic()
            assert proxy.session()["reason"] == "upstream_eof"
            assert time.monotonic() - began < upstreamside._CLOSE_SECONDS


@pytest.mark.parametrize("tls", ["off", "implicit"])
@both_loops
def test_a_server_that_does_not_read_is_not_waited_for(
    loop: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is over, an upload stands in our buffer: the connection ends although nobody takes it."""
    monkeypatch.setattr(upstreamside, "_CLOSE_SECONDS", 0.2)
    ended = threading.Event()

    def deaf(peer: Peer) -> None:
        if tls == "implicit":
            peer.tls(server_side())
        peer.login()
        assert peer.line() == b"XTND XMIT"
        peer.send(b"+OK\r\n")
        assert ended.wait(PATIENCE)
        time.sleep(0.5)
        with pytest.raises((Gone, OSError)):
            while True:
                peer._receive()

    tail = '[protocol]\nopen = ["XTND XMIT"]'
    with Upstream(deaf) as upstream:
        url = upstream.url if tls == "off" else f"pop3s://localhost:{upstream.port}"
        setup = Setup([url], loop, tail=tail, timeouts={"idle": 0.5})
        with running(setup, tmp_path) as proxy, proxy.logged_in() as client:
            assert client.single(b"XTND XMIT") == b"+OK\r\n"
            client.socket.setblocking(False)
            while proxy.sample("backpressure_pauses_total", side="client") == 0:
                try:
                    client.socket.send(bytes(65536))
                except BlockingIOError:
                    time.sleep(0.01)
            assert proxy.session()["reason"] == "idle_timeout"
            ended.set()
            eventually(lambda: not proxy.worker.fronts[0].dialers["main"].closing, "end of the connection upstream")
    assert not upstream.received.endswith(b".\r\n")


@both_loops
def test_a_client_that_resets_stops_the_dial(loop: str, tmp_path: Path) -> None:
    """TLS with a server that never answers: the handshake ends with the client, not with its own time-out."""
    gone = threading.Event()

    def mute(peer: Peer) -> None:
        peer.until_gone()
        gone.set()

    with Upstream(mute) as upstream:
        with running(Setup([f"pop3s://localhost:{upstream.port}"], loop), tmp_path) as proxy:
            client = proxy.client()
            client.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\n")
            eventually(lambda: len(upstream.received) > 100, "ClientHello")
            reset(client)
            assert proxy.session()["reason"] == "client_reset"
            assert gone.wait(PATIENCE)


# STLS upstream


def stls(*, answer: bytes = b"+OK\r\n", glued: bytes = b"", greeting: bytes = b"+OK ready\r\n") -> Script:
    """Greets, answers STLS with ``answer`` and at once ``glued``; then serves a login over TLS."""

    def script(peer: Peer) -> None:
        peer.send(greeting)
        assert peer.line() == b"STLS"
        peer.send(answer + glued)
        if not answer.startswith(b"+OK"):
            peer.until_gone()
            return
        peer.tls(server_side())
        while True:
            line = peer.line()
            if line == b"CAPA":
                peer.send(b"+OK\r\nUSER\r\nPIPELINING\r\n.\r\n")
            else:
                peer.send(b"+OK 0 0\r\n")

    return script


def over_stls(upstream: Upstream, loop: str) -> Setup:
    return Setup([f"pop3://localhost:{upstream.port}"], loop)


@both_loops
def test_stls_upstream_comes_before_everything(loop: str, tmp_path: Path) -> None:
    with Upstream(stls()) as upstream, running(over_stls(upstream, loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            assert client.single(b"STAT") == b"+OK 0 0\r\n"
        proxy.session()
    assert upstream.received.startswith(b"STLS\r\n") and upstream.received.count(b"STLS") == 1
    assert b"CAPA" in upstream.received


@pytest.mark.parametrize("answer", [b"-ERR not today\r\n", b"-ERR\r\n"])
@both_loops
def test_a_server_that_refuses_stls_gets_no_secret(loop: str, answer: bytes, tmp_path: Path) -> None:
    with Upstream(stls(answer=answer)) as upstream:
        with running(over_stls(upstream, loop), tmp_path) as proxy, proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            assert proxy.wait("upstream_failed")["kind"] == "no_stls"
        assert secret_free(upstream)


@pytest.mark.parametrize("glued", [b"+OK\r\n", b"+OK\r\n+OK welcome\r\n", b"x", b"+OK"])
@both_loops
def test_replies_injected_behind_stls_are_never_taken(loop: str, glued: bytes, tmp_path: Path) -> None:
    with Upstream(stls(glued=glued)) as upstream:
        with running(over_stls(upstream, loop), tmp_path) as proxy, proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        assert secret_free(upstream)


@both_loops
def test_an_answer_to_stls_that_comes_too_early_does_not_hang(loop: str, tmp_path: Path) -> None:
    with Upstream(stls(greeting=b"+OK ready\r\n+OK begin\r\n", answer=b"+OK\r\n")) as upstream:
        with running(over_stls(upstream, loop), tmp_path) as proxy, proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        assert secret_free(upstream)


@pytest.mark.parametrize("end", ["close", "reset", "plaintext", "silence"])
@both_loops
def test_a_handshake_upstream_that_fails(loop: str, end: str, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"+OK ready\r\n")
        assert peer.line() == b"STLS"
        peer.send(b"+OK\r\n")
        if end == "reset":
            peer.reset()
        elif end == "plaintext":
            peer._receive()
            peer.send(b"+OK 0 0\r\n")
            peer.until_gone()
        elif end == "silence":
            peer.until_gone()

    with Upstream(script) as upstream:
        setup = Setup([f"pop3://localhost:{upstream.port}"], loop, timeouts={"upstream_handshake": 0.3})
        with running(setup, tmp_path) as proxy, proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            assert proxy.wait("upstream_failed")["kind"] in ("tls", "lost", "reset")
        assert secret_free(upstream)


@both_loops
def test_a_client_that_resets_in_a_handshake_upstream(loop: str, tmp_path: Path) -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(b"+OK ready\r\n")
        peer.line()
        peer.send(b"+OK\r\n")
        peer.until_gone()
        gone.set()

    with Upstream(script) as upstream, running(over_stls(upstream, loop), tmp_path) as proxy:
        client = proxy.client()
        client.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\n")
        eventually(lambda: len(upstream.received) > 100, "ClientHello")
        reset(client)
        assert proxy.session()["reason"] == "client_reset"
        assert gone.wait(PATIENCE)

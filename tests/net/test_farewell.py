"""How a client's connection ends: every octet owed arrives, errors are readable, nobody is waited for in vain."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.net import farewell
from tests.net.running import (
    LISTENER,
    PASSWORD,
    USER,
    Proxy,
    Setup,
    both_loops,
    eventually,
    half_close,
    read_rest,
    running,
)
from tests.net.test_pump import both_legs, digest_of, large, octets_of, options, take
from tests.net.upstream import PATIENCE, Peer, Upstream
from tests.wireclient import WireClient


@both_legs
@both_loops
def test_an_error_reaches_a_client_that_goes_on_sending(
    loop: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "LINGER_SECONDS", 0.3)
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, tls, limits={"bad_commands": 3})
    with running(setup, tmp_path) as proxy, proxy.client(**options(tls)) as client:
        sender = threading.Thread(target=push, args=(client.send, b"WHAT\r\n" * 50_000))
        sender.start()
        if tls == "off":
            got = read_rest(client)
            assert got.count(b"-ERR") == 3
        sender.join(PATIENCE)
        assert proxy.session()["reason"] == "protocol_error"


def push(send: Callable[[bytes], None], data: bytes) -> None:
    try:
        send(data)
    except OSError:
        return


@both_loops
def test_an_error_reaches_a_client_that_sends_without_end(loop: str, tmp_path: Path) -> None:
    """More than LINGER_OCTETS: it is cut, but not before the error is out."""
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy, proxy.client() as client:
        sender = threading.Thread(target=push, args=(client.send, b"x" * (8 << 20)))
        sender.start()
        assert client.read_line().startswith(b"-ERR Line longer than")
        assert proxy.session()["reason"] == "protocol_error"
        sender.join(PATIENCE)
        assert not sender.is_alive()


@both_legs
@both_loops
def test_a_client_that_does_not_close_behind_an_error_is_closed(
    loop: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "LINGER_SECONDS", 0.3)
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, tls, limits={"bad_commands": 1})
    with running(setup, tmp_path) as proxy, proxy.client(**options(tls)) as client:
        assert client.single(b"WHAT").startswith(b"-ERR")
        assert read_rest(client) == b""
        began = time.monotonic()
        assert proxy.session()["reason"] == "protocol_error"
        assert time.monotonic() - began < 1.3


@both_legs
@both_loops
def test_a_client_that_closes_behind_an_error_is_not_waited_for(loop: str, tls: str, tmp_path: Path) -> None:
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, tls, limits={"bad_commands": 1})
    with running(setup, tmp_path) as proxy:
        with proxy.client(**options(tls)) as client:
            assert client.single(b"WHAT").startswith(b"-ERR")
            half_close(client)
            read_rest(client)
        assert proxy.session()["seconds"] < farewell.LINGER_SECONDS


@both_legs
@both_loops
def test_a_slow_client_gets_all_it_is_owed_although_its_session_is_over(
    loop: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RETR and QUIT pipelined: the deletions are done, so the message must arrive."""
    monkeypatch.setattr(farewell, "STALL_SECONDS", 0.25)
    chunks = 12
    with Upstream(large(chunks), quits=1) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            proxy.call(small_kernel_buffer(proxy))
            client.send(b"RETR 1\r\nQUIT\r\n")
            whole = b""
            while len(whole) < octets_of(chunks):
                time.sleep(0.03)
                whole += client.socket.recv(16_000) or pytest.fail(f"closed after {len(whole)} octets")
            whole += read_rest(client)
        assert len(whole) == octets_of(chunks) + len(b"+OK bye\r\n")
        assert whole.endswith(b"\r\n.\r\n+OK bye\r\n")
        assert proxy.session()["reason"] == "quit"


async def small_kernel_buffer(proxy: Proxy) -> None:
    transport = next(iter(proxy.worker.fronts[0].pumps))._client
    assert transport is not None
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)


@both_legs
@both_loops
def test_a_client_that_takes_nothing_more_is_cut(
    loop: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "STALL_SECONDS", 0.3)

    def cut_off(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(b"+OK\r\n", b"x" * (16 << 20))

    with Upstream(cut_off) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.send(b"RETR 1\r\n")
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
            proxy.call(ended(proxy))
            began = time.monotonic()
            assert proxy.session()["reason"] == "shutdown"
            assert time.monotonic() - began < 1.6


async def ended(proxy: Proxy) -> None:
    """As if the session had come to its end with octets left in the client's buffer."""
    for pump in list(proxy.worker.fronts[0].pumps):
        pump._tell(pump.session.end, "shutdown")


@pytest.mark.parametrize("reads", [True, False])
@both_loops
def test_the_same_holds_on_a_unix_socket(
    loop: str, reads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "STALL_SECONDS", 0.25)
    chunks = 12
    listeners = LISTENER.format(tls="off").replace("127.0.0.1:0", f"unix:{tmp_path}/s")
    with Upstream(large(chunks), quits=1) as upstream:
        with running(Setup([upstream.url], loop, listeners=listeners), tmp_path) as proxy:
            with WireClient(tmp_path / "s", timeout=PATIENCE) as client:
                client.user_pass(USER, PASSWORD)
                client.send(b"RETR 1\r\nQUIT\r\n")
                if not reads:
                    eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
                    proxy.call(ended(proxy))
                    assert proxy.session()["reason"] == "shutdown"
                    return
                whole = b""
                while len(whole) < octets_of(chunks):
                    time.sleep(0.03)
                    whole += client.socket.recv(16_000) or pytest.fail(f"closed after {len(whole)} octets")
                assert whole + read_rest(client) == whole[: octets_of(chunks)] + b"+OK bye\r\n"
            assert proxy.session()["reason"] == "quit"


@both_loops
def test_octets_behind_quit_do_not_reset_the_last_reply(loop: str, tmp_path: Path) -> None:
    chunks = 96
    with Upstream(large(chunks), quits=1) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            client.send(b"RETR 1\r\nQUIT\r\n" + b"NOOP\r\n" * 1000)
            time.sleep(0.2)
            client.send(b"NOOP\r\n" * 1000)
            assert take(client, octets_of(chunks)) == digest_of(chunks)
            assert read_rest(client) == b"+OK bye\r\n"
        assert proxy.session()["reason"] == "quit"


@both_legs
@both_loops
def test_a_client_that_is_gone_behind_its_quit_has_quit(loop: str, tls: str, tmp_path: Path) -> None:
    gone = threading.Event()
    heard = []

    def one_by_one(peer: Peer) -> None:
        peer.login(b"+OK\r\nUSER\r\n.\r\n")
        for _ in range(2):
            heard.append(peer.line())
            assert gone.wait(PATIENCE)
            peer.send(b"+OK\r\n")
        peer.until_gone()

    with Upstream(one_by_one, quits=1) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.send(b"DELE 1\r\nQUIT\r\n")
            eventually(lambda: heard == [b"DELE 1"], "DELE")
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        assert proxy.session()["reason"] == "quit"
        assert heard == [b"DELE 1", b"QUIT"]


@both_legs
@both_loops
def test_the_drains_deadline_holds_for_a_farewell(loop: str, tls: str, tmp_path: Path) -> None:
    with Upstream(large(400)) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.send(b"RETR 1\r\n")
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
            proxy.call(ended(proxy))
            began = time.monotonic()
            proxy.stop(0.2)
            assert time.monotonic() - began < 1.2
            assert proxy.session()["reason"] == "shutdown"

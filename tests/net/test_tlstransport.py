"""TLS on a descriptor: data, half-close, back-pressure and every way to end, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from popproxy.net.tlstransport import TlsTransport
from tests.net.tlspeers import (
    LOOPS,
    PATIENCE,
    V12,
    V13,
    BareClient,
    Feeder,
    Recorder,
    Scripted,
    begin,
    client_side,
    established,
    noise,
    reset,
    run,
    server_side,
    stdlib_client,
    tcp_pair,
)

both_loops = pytest.mark.parametrize("loop", LOOPS)
both_versions = pytest.mark.parametrize("version", [V12, V13])
BULK = 8 << 20


def send_pieces(client: ssl.SSLSocket, data: bytes, seed: int) -> None:
    chance = Random(seed)
    left = memoryview(data)
    while left:
        piece = left[: chance.choice((1, 100, 5000, 16384, 16385, 200_000))]
        client.sendall(piece)
        left = left[len(piece) :]


def read_exactly(client: ssl.SSLSocket, octets: int) -> bytes:
    parts = []
    while octets:
        data = client.recv(min(octets, 65536))
        assert data
        parts.append(data)
        octets -= len(data)
    return b"".join(parts)


@both_versions
@both_loops
def test_bulk_upload_with_random_pauses_is_identical(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder, version)
        data, chance = noise(BULK, 1), Random(2)

        def toggle() -> None:
            if not transport.is_closing():
                (transport.pause_reading if chance.random() < 0.5 else transport.resume_reading)()
                asyncio.get_running_loop().call_later(chance.choice((0, 0.001)), toggle)

        toggle()
        with client:
            await asyncio.to_thread(send_pieces, client, data, 3)
            assert await recorder.octets(BULK) == data
        assert recorder.largest <= 262144 + 16384
        await recorder.lost

    run(loop, scene)


@both_versions
@both_loops
def test_bulk_download_is_identical_and_the_buffer_stays_bounded(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        data = noise(BULK, 4)
        feeder = Feeder(data, piece=100_000)
        client, transport = await established(feeder, version)
        feeder.feed()
        assert "pause" in feeder.calls
        with client:
            assert await asyncio.to_thread(read_exactly, client, BULK) == data
        await feeder.lost
        _, high = transport.get_write_buffer_limits()
        assert feeder.largest_buffer <= high + feeder.piece
        assert feeder.calls.count("resume") >= feeder.calls.count("pause") - 1
        assert transport.get_write_buffer_size() == 0

    run(loop, scene)


class Echo(Feeder):
    """Sends back what it gets; reads only as fast as it can write."""

    def __init__(self) -> None:
        super().__init__(b"", 1)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.largest_buffer = max(self.largest_buffer, self.transport.get_write_buffer_size())

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


@both_versions
@both_loops
def test_echo_full_duplex_between_two_of_ours(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        theirs.setblocking(False)
        data = noise(BULK, 5)
        echo, feeder = Echo(), Feeder(data, piece=262144)
        _, served = begin(ours, server_side(version), echo, check_alpn=b"pop3")
        asking, shaken = begin(
            theirs, client_side(version, ["pop3"]), feeder, server_side=False, server_hostname="localhost"
        )
        assert (await served, await shaken) == (None, None)
        assert asking.tls.alpn == echo.transport.tls.alpn == "pop3"
        feeder.feed()
        assert await feeder.octets(BULK) == data
        assert echo.largest_buffer <= 65536 + 262144 + 16384
        feeder.transport.close()
        assert await feeder.lost is None
        assert await echo.lost is None

    run(loop, scene)


@both_loops
def test_one_busy_connection_leaves_turns_to_others(loop: str) -> None:
    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder)
        transport.pause_reading()
        transport.write(bytes(3 << 20))
        seen: list[int] = []

        def look() -> None:
            seen.append(len(recorder.received))
            if not recorder.lost.done():
                asyncio.get_running_loop().call_soon(look)

        with client:
            sender = asyncio.get_running_loop().run_in_executor(None, client.sendall, bytes(2 << 20))
            await asyncio.sleep(0.05)
            transport.resume_reading()
            look()
            await sender
            await recorder.octets(2 << 20)
            await asyncio.to_thread(read_exactly, client, 3 << 20)
        await recorder.lost
        steps = [after - before for before, after in pairwise(seen)]
        assert max(steps) <= 1 << 20

    run(loop, scene)


# Half-close, in both directions.


@both_versions
@both_loops
def test_a_client_that_closes_its_side_still_gets_the_answer(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        recorder = Recorder(keep_open=True)
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side(version), recorder)
        client = BareClient(theirs, client_side(version))
        await asyncio.to_thread(client.shake)
        assert await outcome is None
        client.send(b"QUIT\r\n")
        client.half_close()
        await asyncio.wait_for(recorder.ended, PATIENCE)
        assert recorder.received == b"QUIT\r\n"
        assert not transport.ragged_eof
        answer = noise(1 << 20, 6)
        transport.write(answer)
        transport.close()
        assert await asyncio.to_thread(client.read_to_end) == answer
        assert await recorder.lost is None
        assert recorder.calls.count("eof") == 1
        theirs.close()

    run(loop, scene)


@both_versions
@both_loops
def test_write_eof_loses_nothing_of_what_the_peer_still_sends(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        recorder = Recorder()
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side(version), recorder)
        client = BareClient(theirs, client_side(version))
        await asyncio.to_thread(client.shake)
        assert await outcome is None
        transport.pause_reading()
        before, after = noise(60_000, 7), noise(1 << 20, 8)
        await asyncio.to_thread(client.send, before)  # lies in the receive queue when close_notify is made
        assert transport.can_write_eof()
        transport.write(b"the last word")
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"more")
        assert await asyncio.to_thread(client.read_to_end) == b"the last word"
        transport.resume_reading()
        await asyncio.to_thread(client.send, after)
        assert await recorder.octets(len(before) + len(after)) == before + after
        client.half_close()
        await asyncio.wait_for(recorder.ended, PATIENCE)
        assert await recorder.lost is None
        assert not transport.ragged_eof
        theirs.close()

    run(loop, scene)


@both_versions
@both_loops
def test_write_eof_waits_for_what_is_buffered(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        recorder = Recorder(keep_open=True)
        client, transport = await established(recorder, version)
        data = noise(BULK, 9)
        transport.write(data)
        transport.write_eof()
        assert transport.get_write_buffer_size() > 0
        with client:
            assert await asyncio.to_thread(read_exactly, client, BULK) == data
            assert await asyncio.to_thread(client.recv, 1) == b""
            client.sendall(b"still here")
            assert await recorder.octets(10) == b"still here"
            transport.close()
            assert await recorder.lost is None

    run(loop, scene)


@both_loops
def test_an_end_that_comes_while_paused_is_told_on_resume(loop: str) -> None:
    async def scene() -> None:
        class Stop(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                self.transport.pause_reading()

        recorder = Stop(keep_open=True)
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side(), None)
        recorder.transport = transport
        client = BareClient(theirs, client_side())
        await asyncio.to_thread(client.shake)
        assert await outcome is None
        client.send(b"LIST\r\n")
        client.half_close()
        await asyncio.sleep(0.05)
        transport.set_protocol(recorder)
        transport.resume_reading()
        assert await recorder.octets(6) == b"LIST\r\n"
        await asyncio.sleep(0.05)
        assert recorder.calls == []
        transport.resume_reading()
        await asyncio.wait_for(recorder.ended, PATIENCE)
        transport.abort()
        await recorder.lost
        theirs.close()

    run(loop, scene)


@both_loops
def test_an_end_without_close_notify_is_flagged(loop: str) -> None:
    async def scene() -> None:
        recorder = Recorder(keep_open=True)
        client, transport = await established(recorder)
        client.sendall(b"RETR 1\r\n")
        await recorder.octets(8)
        client.shutdown(socket.SHUT_WR)  # a FIN, no close_notify
        assert await asyncio.wait_for(recorder.lost, PATIENCE) is None
        assert recorder.calls == ["eof", "lost"]
        assert transport.ragged_eof
        client.close()

    run(loop, scene)


# Every way to end.


@both_versions
@both_loops
def test_close_sends_what_is_buffered_then_close_notify(loop: str, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder, version)
        data = noise(BULK, 10)
        transport.writelines([data[:10], bytearray(data[10:20]), memoryview(data)[20:]])
        transport.close()
        assert transport.is_closing()
        transport.write(b"ignored after close()")
        with client:
            assert await asyncio.to_thread(read_exactly, client, BULK) == data
            assert await asyncio.to_thread(client.recv, 1) == b""  # an SSLEOFError without close_notify
        assert await recorder.lost is None
        assert transport.get_extra_info("socket").fileno() == -1

    run(loop, scene)


@both_loops
def test_close_on_unread_octets_does_not_eat_the_last_words(loop: str) -> None:
    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder)
        transport.pause_reading()
        client.sendall(b"NOOP\r\n" * 20_000)
        await asyncio.sleep(0.05)
        transport.write(b"-ERR too many errors\r\n")
        transport.close()
        assert await recorder.lost is None
        with client:
            assert await asyncio.to_thread(client.recv, 100) == b"-ERR too many errors\r\n"
            assert await asyncio.to_thread(client.recv, 100) == b""

    run(loop, scene)


@both_loops
def test_close_gives_up_on_a_peer_that_does_not_read(loop: str) -> None:
    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder, close_timeout=0.2)
        transport.write(bytes(32 << 20))
        transport.close()
        transport.close()
        lost = await asyncio.wait_for(recorder.lost, PATIENCE)
        assert isinstance(lost, TimeoutError)
        assert "octets unsent" in str(lost)
        client.close()

    run(loop, scene)


def by_close(transport: TlsTransport, _client: ssl.SSLSocket) -> None:
    transport.close()
    transport.close()


def by_abort(transport: TlsTransport, _client: ssl.SSLSocket) -> None:
    transport.abort()
    transport.abort()


def by_close_then_abort(transport: TlsTransport, _client: ssl.SSLSocket) -> None:
    transport.write(bytes(32 << 20))
    transport.close()
    transport.abort()


def by_peer_end(_transport: TlsTransport, client: ssl.SSLSocket) -> None:
    client.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.unwrap()


def by_peer_cut(_transport: TlsTransport, client: ssl.SSLSocket) -> None:
    client.shutdown(socket.SHUT_WR)


def by_peer_reset(_transport: TlsTransport, client: ssl.SSLSocket) -> None:
    reset(client)


def by_reset_while_writing(transport: TlsTransport, client: ssl.SSLSocket) -> None:
    transport.pause_reading()
    transport.write(bytes(32 << 20))
    reset(client)


def by_reset_behind_data(transport: TlsTransport, client: ssl.SSLSocket) -> None:
    transport.pause_reading()
    client.setblocking(False)
    with contextlib.suppress(ssl.SSLWantWriteError):
        for _ in range(64):
            client.send(bytes(16384))
    reset(client)
    transport.resume_reading()


def by_raise(_transport: TlsTransport, client: ssl.SSLSocket) -> None:
    client.sendall(b"raise")


def by_garbage(_transport: TlsTransport, client: ssl.SSLSocket) -> None:
    os.write(client.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))


ENDINGS: list[tuple[Callable[[TlsTransport, ssl.SSLSocket], None], type[Exception] | None]] = [
    (by_close, None),
    (by_abort, None),
    (by_close_then_abort, None),
    (by_peer_end, None),
    (by_peer_cut, None),
    (by_peer_reset, ConnectionError),
    (by_reset_while_writing, ConnectionError),
    (by_reset_behind_data, ConnectionError),
    (by_raise, ZeroDivisionError),
    (by_garbage, ssl.SSLError),
]


@pytest.mark.parametrize(("ending", "error"), ENDINGS)
@both_loops
def test_connection_lost_comes_once_and_no_descriptor_is_left(
    loop: str, ending: Callable[[TlsTransport, ssl.SSLSocket], None], error: type[Exception] | None
) -> None:
    class Raiser(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"raise":
                raise ZeroDivisionError

    async def scene() -> None:
        raised: list[BaseException | None] = []
        running = asyncio.get_running_loop()
        if error is ZeroDivisionError:
            running.set_exception_handler(lambda _, context: raised.append(context.get("exception")))
        recorder = Raiser()
        client, transport = await established(recorder)
        descriptors = open_descriptors()
        ending(transport, client)
        lost = await asyncio.wait_for(recorder.lost, PATIENCE)
        await asyncio.sleep(0.02)
        assert recorder.calls.count("lost") == 1
        assert lost is None if error is None else isinstance(lost, error)
        assert [type(one) for one in raised] == ([ZeroDivisionError] if error is ZeroDivisionError else [])
        transport.write(b"nobody hears this")
        transport.resume_reading()
        transport.close()
        transport.abort()
        client.close()
        await asyncio.sleep(0)
        assert open_descriptors() <= descriptors - 2
        assert transport.get_write_buffer_size() == 0

    run(loop, scene)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# What OpenSSL may ask for in between.


class Balky(ssl.SSLSocket):
    """Refuses each kind of call a few times the wrong way round, as OpenSSL does around post-handshake messages."""

    refusals = 0

    def read(self, len: int = 1024, buffer: bytearray | None = None) -> bytes:  # type: ignore[override]
        if type(self).refusals % 3 == 1:
            type(self).refusals += 1
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "a read that must write first")
        type(self).refusals += 1
        return super().read(len)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if type(self).refusals % 3 == 2:
            type(self).refusals += 1
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "a write that must read first")
        type(self).refusals += 1
        return super().write(data)


@both_loops
def test_reads_that_must_write_and_writes_that_must_read(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        context = server_side()
        context.sslsocket_class = Balky
        echo = Echo()
        _, outcome = begin(ours, context, echo)
        client = await asyncio.to_thread(stdlib_client, theirs, client_side())
        assert await outcome is None

        def converse() -> None:
            expected = b"".join(b"%d\r\n" % number for number in range(200))
            for line in expected.splitlines(keepends=True):
                client.sendall(line)
            client.settimeout(0.01)
            answer = b""
            while len(answer) < len(expected):
                try:
                    answer += client.recv(65536)
                except TimeoutError:
                    client.sendall(b"x")  # a write that waits to read needs something to read
                    expected += b"x"
            assert answer == expected

        with client:
            await asyncio.to_thread(converse)
        await echo.lost
        assert Balky.refusals > 20

    run(loop, scene)


def s_client(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["openssl", "s_client", "-tls1_3", "-alpn", "pop3", "-connect", f"127.0.0.1:{port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@both_loops
def test_key_update_of_s_client(loop: str) -> None:
    async def scene() -> None:
        running = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            process = s_client(listener.getsockname()[1])
            sock, _ = await running.sock_accept(listener)
        echo = Echo()
        transport, outcome = begin(sock, server_side(), echo, check_alpn=b"pop3")
        assert process.stdin is not None and process.stdout is not None
        seen = b""

        def until(mark: bytes) -> None:
            nonlocal seen
            assert process.stdout is not None
            while mark not in seen:
                data = os.read(process.stdout.fileno(), 65536)
                assert data, seen
                seen += data

        try:
            assert await outcome is None
            for words, mark in ((b"before\n", b"before"), (b"K\n", b"KEYUPDATE"), (b"after\n", b"after")):
                os.write(process.stdin.fileno(), words)
                await asyncio.wait_for(asyncio.to_thread(until, mark), PATIENCE)
            assert b"ALPN protocol: pop3" in seen
            transport.close()
            await echo.lost
        finally:
            process.kill()
            process.communicate()

    run(loop, scene)


# The rest of the interface.


@both_loops
def test_what_a_transport_must_refuse(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        transport, outcome = begin(ours, server_side())
        with pytest.raises(RuntimeError, match="handshake"):
            transport.write(b"early")
        with pytest.raises(RuntimeError, match="no TLS yet"):
            _ = transport.tls
        assert transport.get_extra_info("cipher", "none") == "none"
        with pytest.raises(TypeError, match=r"asyncio\.Protocol"):
            transport.set_protocol(asyncio.SubprocessProtocol())
        with pytest.raises(ValueError, match="high"):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.close()  # before ready: as abort
        await asyncio.sleep(0.02)
        assert not outcome.done()
        assert theirs.recv(1) == b""
        theirs.close()

    run(loop, scene)


@both_loops
def test_a_close_notify_the_kernel_does_not_take_is_sent_later(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        recorder = Recorder()
        busy = ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the send buffer is full")
        transport, outcome = begin(ours, Scripted.server(unwrap=[busy, busy]), recorder)
        client = await asyncio.to_thread(stdlib_client, theirs, client_side())
        assert await outcome is None
        transport.close()
        assert not recorder.lost.done()
        with client:
            assert await asyncio.to_thread(client.recv, 1) == b""
        assert await recorder.lost is None

    run(loop, scene)


@pytest.mark.parametrize("closing", [False, True])
@both_loops
def test_a_half_close_the_kernel_does_not_take_is_sent_later(
    loop: str, closing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[int] = []
    write = os.write

    async def scene() -> None:
        recorder = Recorder(keep_open=True)
        client, transport = await established(recorder)
        connection = transport.get_extra_info("socket").fileno()

        def full(fd: int, data: bytes) -> int:
            if fd == connection and len(refused) < 3:
                refused.append(fd)
                if len(refused) == 2:
                    return write(fd, data[:1])
                raise BlockingIOError
            return write(fd, data)

        monkeypatch.setattr("popproxy.net.tlstransport.os.write", full)
        transport.write_eof()
        if closing:
            transport.close()
        with client:
            assert await asyncio.to_thread(client.recv, 1) == b""
        assert len(refused) == 3
        assert await asyncio.wait_for(recorder.lost, PATIENCE) is None

    run(loop, scene)


@pytest.mark.parametrize("call", ["popproxy.net.tlstransport.os.write", "popproxy.net.descriptor.socket.socketpair"])
@both_loops
def test_a_half_close_that_fails_ends_the_connection(loop: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder)
        with monkeypatch.context() as patch:
            patch.setattr(call, fail)
            transport.write_eof()
        assert isinstance(await recorder.lost, OSError)
        client.close()

    run(loop, scene)


@both_loops
def test_a_write_openssl_fails_ends_the_connection(loop: str) -> None:
    async def scene() -> None:
        theirs, ours = tcp_pair()
        recorder = Recorder()
        transport, outcome = begin(ours, Scripted.server(write=[ssl.SSLError(1, "[SSL] internal error")]), recorder)
        client = await asyncio.to_thread(stdlib_client, theirs, client_side())
        assert await outcome is None
        transport.write(bytearray(b"+OK\r\n"))
        assert isinstance(await recorder.lost, ssl.SSLError)
        assert recorder.calls == ["lost"]
        client.close()

    run(loop, scene)


@both_loops
def test_limits_names_and_facts(loop: str) -> None:
    async def scene() -> None:
        recorder = Recorder()
        client, transport = await established(recorder)
        assert transport.get_protocol() is recorder
        assert transport.is_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert transport.get_extra_info("peername") == client.getsockname()
        assert transport.get_extra_info("sockname") == client.getpeername()
        assert transport.get_extra_info("ssl_object") is transport.get_extra_info("socket")
        assert transport.get_extra_info("cipher") == client.cipher()
        assert transport.get_extra_info("compression") is None
        assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
        assert transport.get_extra_info("nothing", 7) == 7
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        transport.abort()
        await recorder.lost
        client.close()

    run(loop, scene)

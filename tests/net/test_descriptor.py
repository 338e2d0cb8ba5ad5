"""Taking a connection away from a plain transport: nothing is read, sent or lost."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import cast

import pytest

from popproxy.net.descriptor import detach, drop_unread
from tests.net.tlspeers import (
    LOOPS,
    PATIENCE,
    Recorder,
    begin,
    client_side,
    established,
    noise,
    run,
    server_side,
    stdlib_client,
    tcp_pair,
)

both_loops = pytest.mark.parametrize("loop", LOOPS)


class Plain(asyncio.Protocol):
    """STLS as a server sees it: says +OK, stops reading, and is left behind."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.received += data
        if data.endswith(b"STLS\r\n"):
            self.transport.pause_reading()
            self.transport.write(b"+OK\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost += 1


async def plain(*, accepted: bool) -> tuple[socket.socket, Plain]:
    """A blocking peer and a plain transport, made by the loop's server or around a socket."""
    loop = asyncio.get_running_loop()
    if not accepted:
        theirs, ours = tcp_pair()
        _, protocol = await loop.create_connection(Plain, sock=ours)
        return theirs, protocol
    made: asyncio.Future[Plain] = loop.create_future()

    class Announced(Plain):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.set_result(self)

    server = await loop.create_server(Announced, "127.0.0.1", 0)
    theirs = socket.create_connection(server.sockets[0].getsockname(), timeout=PATIENCE)
    protocol = await made
    server.close()
    return theirs, protocol


async def written(transport: asyncio.Transport) -> None:
    for _ in range(1000):
        if not transport.get_write_buffer_size() and not transport.is_reading():
            return
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("accepted", [True, False])
@both_loops
def test_stls_over_a_detached_connection(loop: str, accepted: bool) -> None:
    async def scene() -> None:
        theirs, protocol = await plain(accepted=accepted)
        theirs.sendall(b"STLS\r\n")
        assert await asyncio.to_thread(theirs.recv, 100) == b"+OK\r\n"
        await written(protocol.transport)
        parking, recorder = Recorder(), Recorder()
        sock = detach(protocol.transport, parking)
        transport, outcome = begin(sock, server_side(), recorder, check_alpn=b"pop3")
        client = await asyncio.to_thread(stdlib_client, theirs, client_side())
        assert await outcome is None
        assert await parking.lost is None
        assert protocol.lost == 0
        client.sendall(b"CAPA\r\n")
        assert await recorder.octets(6) == b"CAPA\r\n"
        transport.write(b"+OK\r\n")
        transport.close()
        with client:
            assert await asyncio.to_thread(client.recv, 100) == b"+OK\r\n"
            assert await asyncio.to_thread(client.recv, 100) == b""
        assert await recorder.lost is None

    run(loop, scene)


@pytest.mark.parametrize("accepted", [True, False])
@both_loops
def test_no_octet_is_eaten_and_nothing_is_sent(loop: str, accepted: bool) -> None:
    async def scene() -> None:
        theirs, protocol = await plain(accepted=accepted)
        theirs.sendall(b"STLS\r\n")
        assert await asyncio.to_thread(theirs.recv, 100) == b"+OK\r\n"
        await written(protocol.transport)
        early, late = noise(50_000, 1), noise(50_000, 2)
        theirs.sendall(early)
        await asyncio.sleep(0.02)
        before = open_descriptors()
        sock = detach(protocol.transport)
        theirs.sendall(late)
        await asyncio.sleep(0.02)
        assert open_descriptors() == before
        assert protocol.received == b"STLS\r\n"
        assert protocol.lost == 0
        got = b""
        while len(got) < 100_000:
            got += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65536), PATIENCE)
        assert got == early + late
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):  # neither octets nor an end
            theirs.recv(1)
        assert sock.gettimeout() == 0
        assert not os.get_inheritable(sock.fileno())
        assert sock.family == socket.AF_INET
        sock.close()
        theirs.close()

    run(loop, scene)


@both_loops
def test_what_cannot_be_detached(loop: str) -> None:
    async def scene() -> None:
        theirs, protocol = await plain(accepted=False)
        transport = protocol.transport
        with pytest.raises(RuntimeError, match="pause reading"):
            detach(transport)
        transport.pause_reading()
        transport.write(bytes(32 << 20))
        with pytest.raises(RuntimeError, match="octets are not sent"):
            detach(transport)
        transport.abort()
        with pytest.raises(RuntimeError, match="closing"):
            detach(transport)
        theirs.close()
        recorder = Recorder()
        client, encrypted = await established(recorder)
        encrypted.pause_reading()
        with pytest.raises(RuntimeError, match="not a plain one"):
            detach(encrypted)
        encrypted.abort()
        await recorder.lost
        client.close()

    run(loop, scene)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_drop_unread_empties_the_queue_and_minds_no_end() -> None:
    theirs, ours = tcp_pair()
    theirs.sendall(b"NOOP\r\n" * 1000)
    assert ours.recv(1, socket.MSG_PEEK) == b"N"
    drop_unread(ours.fileno())
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    theirs.close()
    drop_unread(ours.fileno())
    assert ours.recv(1) == b""
    ours.close()

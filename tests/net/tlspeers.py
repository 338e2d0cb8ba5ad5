"""Both ends of a loopback connection for the TLS tests: our transport on one, a blocking stdlib peer on the other."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import trustme
import uvloop

from popproxy.net.tlstransport import TlsFailure, TlsTransport

PATIENCE = 20.0  # seconds until a hanging test fails; nothing is measured with it
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("localhost")
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def run(loop: str, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Plays one scene on a loop of this name; what a callback raises fails the test."""
    faults: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: faults.append(context))
        runner.run(asyncio.wait_for(scene(), 2 * PATIENCE))
    assert not faults


def server_side(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    context.set_alpn_protocols(["pop3"])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def client_side(version: ssl.TLSVersion | None = None, alpn: list[str] | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair over loopback TCP: the peer's end, blocking with PATIENCE, and ours, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        ours, _ = listener.accept()
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours.setblocking(False)
    return theirs, ours


def reset(sock: socket.socket) -> None:
    """Closes with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


class Recorder(asyncio.Protocol):
    """Writes down what happens; answers an end of input as told."""

    def __init__(self, *, keep_open: bool = False) -> None:
        self.received = bytearray()
        self.calls: list[str] = []
        self.largest = 0
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.keep_open = keep_open
        self.transport: TlsTransport
        self._awaited: tuple[int, asyncio.Future[None]] | None = None

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.received += data
        self.largest = max(self.largest, len(data))
        if self._awaited is not None and len(self.received) >= self._awaited[0]:
            self._awaited[1].set_result(None)
            self._awaited = None

    def eof_received(self) -> bool:
        self.calls.append("eof")
        if not self.ended.done():
            self.ended.set_result(None)
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)

    async def octets(self, total: int) -> bytes:
        """Waits until ``total`` octets have come in all."""
        if len(self.received) < total:
            future = asyncio.get_running_loop().create_future()
            self._awaited = total, future
            await asyncio.wait_for(future, PATIENCE)
        return bytes(self.received)


class Feeder(Recorder):
    """Sends a great deal, as fast as the peer takes it, and no faster."""

    def __init__(self, data: bytes, piece: int) -> None:
        super().__init__()
        self.left = memoryview(data)
        self.piece = piece
        self.largest_buffer = 0
        self.paused = False

    def feed(self) -> None:
        while self.left and not self.paused:
            self.transport.write(bytes(self.left[: self.piece]))
            self.left = self.left[self.piece :]
            self.largest_buffer = max(self.largest_buffer, self.transport.get_write_buffer_size())

    def pause_writing(self) -> None:
        super().pause_writing()
        self.paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.paused = False
        self.feed()


def begin(
    sock: socket.socket, context: ssl.SSLContext, protocol: asyncio.Protocol | None = None, **options: Any
) -> tuple[TlsTransport, asyncio.Future[TlsFailure | None]]:
    """Our end: the transport, and how its handshake ends. With a protocol, reading starts when it is done."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[TlsFailure | None] = loop.create_future()

    def ready(transport: TlsTransport, failure: TlsFailure | None) -> None:
        outcome.set_result(failure)
        if failure is None and protocol is not None:
            transport.set_protocol(protocol)
            transport.resume_reading()

    options = {"server_side": True, "handshake_timeout": PATIENCE, **options}
    transport = TlsTransport(loop, sock, context, ready=ready, **options)
    if isinstance(protocol, Recorder):
        protocol.transport = transport
    return transport, outcome


async def established(
    protocol: asyncio.Protocol | None, version: ssl.TLSVersion | None = None, **options: Any
) -> tuple[ssl.SSLSocket, TlsTransport]:
    """A stdlib client and our server side, the handshake done."""
    theirs, ours = tcp_pair()
    transport, outcome = begin(ours, server_side(version), protocol, **options)
    client = await asyncio.to_thread(stdlib_client, theirs, client_side(version))
    assert await outcome is None
    return client, transport


def stdlib_client(sock: socket.socket, context: ssl.SSLContext, **options: Any) -> ssl.SSLSocket:
    return context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False, **options)


class Scripted(ssl.SSLSocket):
    """Fails its calls as told, oldest first, then works: what the kernel or OpenSSL do only under pressure."""

    faults: ClassVar[dict[str, list[Exception | None]]] = {}

    @classmethod
    def server(cls, **faults: list[Exception | None]) -> ssl.SSLContext:
        """A server context; None in a list is a call that works."""
        context = server_side()
        context.sslsocket_class = type("Scripted", (cls,), {"faults": faults})
        return context

    def _perhaps(self, call: str) -> None:
        faults = self.faults.get(call)
        fault = faults.pop(0) if faults else None
        if fault is not None:
            raise fault

    def do_handshake(self, block: bool = False) -> None:
        self._perhaps("do_handshake")
        super().do_handshake(block)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._perhaps("write")
        return super().write(data)

    def unwrap(self) -> socket.socket:
        self._perhaps("unwrap")
        return super().unwrap()


class BareClient:
    """A TLS client whose octets the test carries itself: it can cut segments and close one side only."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        """The octets of the ClientHello, not sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self.outgoing.read()
        raise AssertionError("a handshake without an answer")

    def _drive(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                self.flush()
                return result

    def flush(self) -> None:
        self.sock.sendall(self.outgoing.read())

    def shake(self) -> None:
        self._drive(self.tls.do_handshake)

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), 65536):
            self.tls.write(data[start : start + 65536])
            self.flush()

    def read_to_end(self) -> bytes:
        """Everything up to the peer's close_notify."""
        parts = []
        try:
            while data := self._drive(lambda: self.tls.read(65536)):
                parts.append(data)
        except ssl.SSLZeroReturnError:  # what CPython says instead of b"" when our close_notify is out
            return b"".join(parts)
        return b"".join(parts)

    def half_close(self) -> None:
        """close_notify, and go on reading."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            self.flush()
        else:
            self.flush()


def noise(octets: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(octets)

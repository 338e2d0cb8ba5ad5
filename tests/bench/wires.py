"""The load generator's sockets: non-blocking, one epoll set, clients written as generators.

A client yields when its socket would block; `Driver.run` resumes it when the socket is ready. TLS is the ssl
module on the descriptor. A fault raises LoadError, which ends the whole job: a benchmark with a fault has no
figures.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
_BUFFER = 256 * 1024

Client = Generator[tuple[int, int], None, None]


class LoadError(Exception):
    """What a proxy or the stub did wrong: closed early, refused, or sent other octets."""


@dataclass(slots=True)
class Target:
    """Where clients connect, and how. `quick` asks the kernel to acknowledge at once (TCP_QUICKACK)."""

    port: int
    tls: ssl.SSLContext | None = None
    quick: bool = True
    ticket: ssl.SSLSession | None = None
    resumed: int = 0
    handshakes: int = 0
    suite: str = ""


class Driver:
    """Runs clients on one epoll set."""

    def __init__(self, silence: float = 30.0) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, tuple[Client, int]] = {}
        self.silence = silence
        self.buffer = bytearray(_BUFFER)

    def forget(self, descriptor: int) -> None:
        """Called before a descriptor is closed: its number may come back for another socket."""
        if self._waiting.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def run(self, clients: Iterable[Client], at_once: int) -> None:
        """Run every client to its end, `at_once` at a time. LoadError when nothing moves for `silence` seconds."""
        source = iter(clients)
        running = 0
        for client in source:
            running += self._step(client)
            while running >= at_once:
                running -= self._turn()
        while running:
            running -= self._turn()

    def _turn(self) -> int:
        """One wait; how many clients ended."""
        events = self._epoll.poll(self.silence)
        if not events:
            raise LoadError(f"nothing moved for {self.silence:g} s")
        ended = 0
        for descriptor, _ in events:
            entry = self._waiting.get(descriptor)
            if entry is None or self._step(entry[0]):
                continue
            ended += 1
            if self._waiting.get(descriptor, entry)[0] is entry[0]:
                self.forget(descriptor)
        return ended

    def _step(self, client: Client) -> bool:
        """Resume a client; False when it has ended."""
        wanted = next(client, None)
        if wanted is None:
            return False
        descriptor, mask = wanted
        before = self._waiting.get(descriptor)
        if before is None:
            self._epoll.register(descriptor, mask)
        elif before[1] != mask:
            self._epoll.modify(descriptor, mask)
        if before is None or before[0] is not client or before[1] != mask:
            self._waiting[descriptor] = (client, mask)
        return True

    def close(self) -> None:
        self._epoll.close()


@dataclass(slots=True)
class Wire:
    """One connection of a client. Methods that may wait are generators."""

    driver: Driver
    target: Target
    sock: socket.socket
    rest: bytes = b""
    octets: int = 0
    _descriptor: int = field(default=-1)

    @classmethod
    def connect(cls, driver: Driver, target: Target) -> Generator[tuple[int, int], None, Wire]:
        """TCP, then TLS when the target has it (with the target's session when it holds one)."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = sock.fileno()
        wire = cls(driver, target, sock, _descriptor=descriptor)
        status = sock.connect_ex(("127.0.0.1", target.port))
        if status == errno.EINPROGRESS:
            yield descriptor, WRITE
            status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            raise LoadError(f"connect to port {target.port}: {os.strerror(status)}")
        if target.tls is not None:
            yield from wire._handshake(target.tls)
        return wire

    def _handshake(self, context: ssl.SSLContext) -> Client:
        target = self.target
        self.driver.forget(self._descriptor)
        tls = context.wrap_socket(
            self.sock, do_handshake_on_connect=False, server_hostname="bench.invalid", session=target.ticket
        )
        self.sock = tls
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                yield self._descriptor, READ
            except ssl.SSLWantWriteError:
                yield self._descriptor, WRITE
            except (ssl.SSLError, OSError) as error:
                raise LoadError(f"TLS handshake: {error}") from error
        if target.quick:  # or the tickets that follow are acknowledged late, and Nagle holds the greeting back
            tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        target.handshakes += 1
        target.resumed += bool(tls.session_reused)
        if not target.suite:
            cipher = tls.cipher()
            target.suite = f"{tls.version()} {cipher[0] if cipher else '?'}"

    def read(self) -> Generator[tuple[int, int], None, int]:
        """Octets now in the driver's buffer; 0 at the end of the stream."""
        while True:
            try:
                count = self.sock.recv_into(self.driver.buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                yield self._descriptor, READ
                continue
            except ssl.SSLWantWriteError:
                yield self._descriptor, WRITE
                continue
            except ssl.SSLZeroReturnError:
                return 0
            except OSError as error:
                raise LoadError(f"read: {error}") from error
            if self.target.quick:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self.octets += count
            return count

    def send(self, data: bytes) -> Client:
        """Write all of `data`."""
        while data:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield self._descriptor, WRITE
                continue
            except ssl.SSLWantReadError:
                yield self._descriptor, READ
                continue
            except OSError as error:
                raise LoadError(f"write: {error}") from error
            data = data[sent:]

    def line(self) -> Generator[tuple[int, int], None, bytes]:
        """The next line, with its LF; LoadError unless it begins with ``+OK``."""
        rest = self.rest
        while (end := rest.find(b"\n")) < 0:
            count = yield from self.read()
            if not count:
                raise LoadError(f"closed instead of a reply (had {rest[:80]!r})")
            rest += self.driver.buffer[:count]
        self.rest = rest[end + 1 :]
        if not rest.startswith(b"+OK"):
            raise LoadError(f"refused: {rest[: min(end, 200)]!r}")
        return rest[: end + 1]

    def exactly(self, expected: bytes) -> Client:
        """Read `expected`, octet for octet; LoadError at the first chunk that differs."""
        start = self.rest[: len(expected)]
        if not expected.startswith(start):
            raise LoadError(f"octets differ within the first {len(start)} of {len(expected)}")
        self.rest = self.rest[len(start) :]
        at, total = len(start), len(expected)
        buffer = memoryview(self.driver.buffer)
        while at < total:
            count = yield from self.read()
            if not count:
                raise LoadError(f"closed after {at} of {total} octets")
            mine = min(count, total - at)
            if not expected.startswith(buffer[:mine], at):
                raise LoadError(f"octets differ between {at} and {at + mine} of {total}")
            at += mine
            if mine < count:
                self.rest = bytes(buffer[mine:count])

    def lines(self, number: int) -> Client:
        """Read `number` lines, all of which must begin with ``+OK``."""
        data = self.rest
        missing = number - data.count(b"\n")
        while missing > 0:
            count = yield from self.read()
            if not count:
                raise LoadError("closed instead of replies")
            chunk = bytes(memoryview(self.driver.buffer)[:count])
            missing -= chunk.count(b"\n")
            data += chunk
        if missing < 0 or not data.endswith(b"\n"):
            raise LoadError(f"more than {number} replies")
        if data.count(b"\n+OK") != number - 1 or not data.startswith(b"+OK"):
            raise LoadError("a reply that is not +OK")
        self.rest = b""

    def quit(self) -> Client:
        """QUIT, its reply, the end of the stream; then the descriptor is closed."""
        yield from self.send(b"QUIT\r\n")
        yield from self.line()
        while (yield from self.read()):
            continue
        self.close()

    def close(self) -> None:
        self.driver.forget(self._descriptor)
        self.sock.close()

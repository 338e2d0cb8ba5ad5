"""A server that misbehaves as its script says. Honest servers in these tests are popproxy.sample.SampleServer.

Every connection plays a script in a thread of its own, with blocking calls; what the proxy sent is kept.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

PATIENCE = 20.0
"""Seconds after which whatever hangs fails its test."""
CAPABILITIES = b"+OK\r\nUSER\r\nUIDL\r\nTOP\r\nPIPELINING\r\nSASL PLAIN LOGIN\r\n.\r\n"

Script = Callable[["Peer"], None]


class Gone(Exception):
    """The proxy closed the connection, or reset it."""


class Peer:
    """The server's end of one connection. ``received`` is everything the proxy sent, inside TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = bytearray()
        self._lines = bytearray()

    def send(self, *parts: bytes) -> None:
        """Send. Raises Gone."""
        try:
            self.socket.sendall(b"".join(parts))
        except OSError as error:
            raise Gone from error

    def drip(self, data: bytes, seconds: float) -> None:
        """Send octet by octet."""
        for octet in data:
            self.send(bytes((octet,)))
            time.sleep(seconds)

    def line(self) -> bytes:
        """The proxy's next line, without CRLF. Raises Gone."""
        while b"\n" not in self._lines:
            self._lines += self._receive()
        line, _, rest = bytes(self._lines).partition(b"\n")
        self._lines[:] = rest
        return line.removesuffix(b"\r")

    def octets(self, count: int) -> bytes:
        """The proxy's next ``count`` octets. Raises Gone."""
        while len(self._lines) < count:
            self._lines += self._receive()
        octets = bytes(self._lines[:count])
        del self._lines[:count]
        return octets

    def until_gone(self) -> None:
        """Take whatever comes until the proxy closes."""
        try:
            while True:
                self._receive()
        except Gone:
            return

    def _receive(self) -> bytes:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self.received += data
        return data

    def tls(self, context: ssl.SSLContext) -> None:
        """Be a TLS server from here on. Raises Gone when the proxy does not like it."""
        try:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        except OSError as error:
            raise Gone from error

    def half_close(self) -> None:
        """Say no more, but read on."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    # Parts of an honest session, so that a script need only write what is wrong

    def greet(self) -> None:
        """The greeting."""
        self.send(b"+OK ready\r\n")

    def login(self, capabilities: bytes = CAPABILITIES) -> None:
        """Greeting to a successful PASS or AUTH PLAIN."""
        self.greet()
        while True:
            line = self.line()
            if line == b"CAPA":
                self.send(capabilities)
            elif line.startswith(b"USER "):
                self.send(b"+OK\r\n")
            elif line.startswith((b"PASS ", b"AUTH PLAIN ")):
                self.send(b"+OK welcome\r\n")
                return
            else:
                self.send(b"-ERR not here\r\n")


class Upstream:
    """``with Upstream(script, ...) as upstream``: connection n plays script n, the last one plays for all others.

    ``quits`` is how many QUIT the clients of the test send: the proxy must not have sent more (promise 1).
    """

    def __init__(self, *scripts: Script, host: str = "127.0.0.1", quits: int = 0) -> None:
        self._scripts: Sequence[Script] = scripts
        self._quits = quits
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64
        )
        self._threads: list[threading.Thread] = []
        self._open = True
        self.peers: list[Peer] = []
        self.faults: list[BaseException] = []
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """For the config, without TLS."""
        return f"pop3+clear://127.0.0.1:{self.port}"

    @property
    def received(self) -> bytes:
        """Everything the proxy sent, on all connections."""
        return b"".join(bytes(peer.received) for peer in self.peers)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        if error is None:
            assert not self.faults, self.faults
            assert not any(thread.is_alive() for thread in self._threads), "a script hangs"
            sent = sum(bytes(peer.received).upper().split(b"\r\n").count(b"QUIT") for peer in self.peers)
            assert sent <= self._quits, "the proxy sent a QUIT that no client sent"

    def _accept(self) -> None:
        while self._open:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(sock)
            script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
            self.peers.append(peer)
            thread = threading.Thread(target=self._play, args=(script, peer), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, script: Script, peer: Peer) -> None:
        try:
            script(peer)
        except Gone:
            pass
        except BaseException as error:
            self.faults.append(error)
        finally:
            peer.socket.close()


def stall(peer: Peer) -> None:
    """Accepts and says nothing."""
    peer.until_gone()


def garbage(peer: Peer) -> None:
    """Greets as no POP3 server does."""
    peer.send(b"220 smtp.example.org ESMTP\r\n")
    peer.until_gone()


def slam(peer: Peer) -> None:
    """Closes at once."""
    peer.socket.close()


def slam_with_reset(peer: Peer) -> None:
    """Resets at once."""
    peer.reset()


def answering(*replies: bytes, then: Script | None = None) -> Script:
    """Logs in, answers one line after the other with ``replies``, then plays ``then``, or takes what comes."""

    def script(peer: Peer) -> None:
        peer.login()
        for reply in replies:
            peer.line()
            peer.send(reply)
        (then or Peer.until_gone)(peer)

    return script

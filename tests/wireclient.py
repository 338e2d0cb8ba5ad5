"""A POP3 client that changes no octet: it sends what it is given and returns what came, CRLF, dots and all.

poplib splits and unstuffs what it reads, so it can not show that two servers said the same. This one blocks, keeps
one buffer, and knows only where a reply ends (RFC 1939 section 3): at CRLF, or at CRLF.CRLF after a `+OK`.
"""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

END = b"\r\n.\r\n"
READ = 1 << 16


class WireClient:
    """One connection; `greeting` is the first line. Every time-out is `timeout` seconds, raised as TimeoutError.

    `address` is (host, port) or the path of a Unix socket. With `implicit` TLS begins before the greeting.
    `name` is the server name for SNI and for the certificate check (default: the host, else localhost), `source`
    the address to come from, `header` what is sent before all else. Without `greet` the greeting is left to be read.
    """

    def __init__(
        self,
        address: tuple[str, int] | Path,
        *,
        implicit: ssl.SSLContext | None = None,
        name: str | None = None,
        timeout: float = 20.0,
        source: str | None = None,
        greet: bool = True,
        header: bytes = b"",
    ) -> None:
        self._name = name or ("localhost" if isinstance(address, Path) else address[0])
        self._buffer = bytearray()
        if isinstance(address, Path):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        else:
            self.socket = socket.create_connection(address, timeout, (source, 0) if source else None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if header:
                self.send(header)
            if implicit is not None:
                self._handshake(implicit)
            self.greeting = self.read_line() if greet else b""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection, without QUIT."""
        self.socket.close()

    def send(self, octets: bytes) -> None:
        """Send exactly these octets."""
        self.socket.sendall(octets)

    def read_line(self) -> bytes:
        """The next line with its CRLF. EOFError if the peer closed before one was complete."""
        return self._read_until(b"\r\n", 0)

    def read_reply(self, multi: bool) -> bytes:
        """One whole reply as it came. `multi`: read on to CRLF.CRLF, unless the status line is not `+OK`."""
        line = self.read_line()
        if not multi or not line.startswith(b"+OK"):
            return line
        self._buffer[:0] = line
        return self._read_until(END, len(line) - 2)

    def read_eof(self) -> bytes:
        """Everything the peer still sends until it closes."""
        while chunk := self._receive():
            self._buffer += chunk
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def single(self, command: bytes) -> bytes:
        """Send one command line, return its one-line reply."""
        self.send(command + b"\r\n")
        return self.read_reply(multi=False)

    def multi(self, command: bytes) -> bytes:
        """Send one command line, return its multi-line reply (one line if it is not `+OK`)."""
        self.send(command + b"\r\n")
        return self.read_reply(multi=True)

    def run(self, commands: Sequence[tuple[bytes, bool]], window: int = 1) -> list[bytes]:
        """Send (command, is multi-line) pairs, at most `window` unanswered at a time; their replies in order."""
        replies: list[bytes] = []
        sent = 0
        while len(replies) < len(commands):
            if sent < min(len(commands), len(replies) + window):
                batch = commands[sent : len(replies) + window]
                self.send(b"".join(command + b"\r\n" for command, _ in batch))
                sent += len(batch)
            replies.append(self.read_reply(commands[len(replies)][1]))
        return replies

    def stls(self, context: ssl.SSLContext) -> bytes:
        """STLS (RFC 2595) and the handshake; the reply. AssertionError if it is refused or octets follow it."""
        reply = self.single(b"STLS")
        assert reply.startswith(b"+OK"), f"STLS refused: {reply!r}"
        assert not self._buffer, f"octets before the handshake: {bytes(self._buffer)!r}"
        self._handshake(context)
        return reply

    def user_pass(self, user: bytes, password: bytes) -> bytes:
        """USER and PASS; the reply to PASS, or to USER if that one is refused."""
        reply = self.single(b"USER " + user)
        return self.single(b"PASS " + password) if reply.startswith(b"+OK") else reply

    def auth_plain(self, user: bytes, password: bytes, *, initial: bool = True) -> bytes:
        """AUTH PLAIN (RFC 4616) in one line, or in two; the final reply, or the refusal of the first line."""
        response = base64.b64encode(b"\0" + user + b"\0" + password)
        if initial:
            return self.single(b"AUTH PLAIN " + response)
        return self._answer(b"AUTH PLAIN", [response])

    def auth_login(self, user: bytes, password: bytes) -> bytes:
        """AUTH LOGIN (two challenges); the final reply, or the first one that is no challenge."""
        return self._answer(b"AUTH LOGIN", [base64.b64encode(user), base64.b64encode(password)])

    def _answer(self, command: bytes, responses: Iterable[bytes]) -> bytes:
        reply = self.single(command)
        for response in responses:
            if not reply.startswith(b"+ "):
                break
            reply = self.single(response)
        return reply

    def _handshake(self, context: ssl.SSLContext) -> None:
        self.socket = context.wrap_socket(self.socket, server_hostname=self._name)

    def _read_until(self, end: bytes, start: int) -> bytes:
        """Take the buffer through the first `end` found from offset `start` on, receiving until there is one."""
        while (at := self._buffer.find(end, start)) < 0:
            start = max(start, len(self._buffer) - len(end) + 1)
            chunk = self._receive()
            if not chunk:
                raise EOFError(f"closed after {bytes(self._buffer[:200])!r} ({len(self._buffer)} octets)")
            self._buffer += chunk
        taken = bytes(self._buffer[: at + len(end)])
        del self._buffer[: at + len(end)]
        return taken

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(READ)
        except ssl.SSLEOFError:
            return b""

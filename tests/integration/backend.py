"""An auth_http back end, written from nginx's documentation of ngx_mail_auth_http_module: it knows users, their
passwords and their servers, and answers in headers only. nginx and popproxy both ask it, without a difference.

It reads the octets of requests itself, because what is compared is what goes over the wire.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

Reply = Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """One request. ``headers`` in their order, values as they came."""

    line: bytes
    headers: tuple[tuple[str, bytes], ...]

    def get(self, name: str) -> bytes:
        """The value of a header as it came; empty without one."""
        return next((value for known, value in self.headers if known == name), b"")

    def text(self, name: str) -> bytes:
        """The value of an Auth-User, Auth-Pass or Auth-SSL-Cert, decoded."""
        return unquote_to_bytes(self.get(name))


@dataclass
class User:
    """Who may log in, and where to."""

    password: bytes
    server: str = "127.0.0.1"
    port: int = 110
    extra: Mapping[str, str] = field(default_factory=dict)


class Backend:
    """See the head of this file. ``asked`` keeps every request."""

    def __init__(self) -> None:
        self.users: dict[bytes, User] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self._kept: set[socket.socket] = set()
        self.answer: Callable[[Asked], Reply] = self.judge
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.connections += 1
                outer._kept.add(self.connection)
                while outer._serve(self):
                    pass
                outer._kept.discard(self.connection)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What a client of the contract is configured with."""
        return f"http://127.0.0.1:{self.port}/auth?from=mail"

    def close(self) -> None:
        """The end."""
        self._server.shutdown()
        for connection in list(self._kept):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(10)

    def judge(self, asked: Asked) -> Reply:
        """The documented answers: OK with server and port, an error with Auth-Wait for a few attempts."""
        user = self.users.get(asked.text("Auth-User"))
        if user is None or not self._proven(user, asked):
            wait = {"Auth-Wait": "1"} if int(asked.get("Auth-Login-Attempt")) < 10 else {}
            return {"Auth-Status": "Invalid login or password", **wait}
        return {"Auth-Status": "OK", "Auth-Server": user.server, "Auth-Port": str(user.port), **user.extra}

    def _proven(self, user: User, asked: Asked) -> bool:
        secret, salt = asked.text("Auth-Pass"), asked.get("Auth-Salt")
        match asked.get("Auth-Method"):
            case b"plain":
                return hmac.compare_digest(secret, user.password)
            case b"apop":
                return hmac.compare_digest(secret, hashlib.md5(salt + user.password).hexdigest().encode())
            case b"cram-md5":
                return hmac.compare_digest(secret, hmac.new(user.password, salt, "md5").hexdigest().encode())
            case b"external":
                return asked.get("Auth-SSL-Verify") == b"SUCCESS"
            case _:
                return False

    def _serve(self, handler: socketserver.StreamRequestHandler) -> bool:
        line = handler.rfile.readline().strip()
        if not line:
            return False
        headers: list[tuple[str, bytes]] = []
        while (header := handler.rfile.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = header.rstrip(b"\r\n").partition(b":")
            headers.append((name.decode(), value.removeprefix(b" ")))
        asked = Asked(line, tuple(headers))
        self.asked.append(asked)
        lines = [f"{name}: {value}" for name, value in self.answer(asked).items()]
        reply = "\r\n".join(["HTTP/1.1 200 OK", *lines, "Content-Length: 0", "", ""])
        handler.wfile.write(reply.encode("latin-1"))
        return line.endswith(b"HTTP/1.1")


@contextmanager
def backend() -> Iterator[Backend]:
    """A back end that runs."""
    made = Backend()
    try:
        yield made
    finally:
        made.close()

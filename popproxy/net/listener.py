"""Listening sockets: bound all or none, accepted from without a task per connection.

A plain listener is accepted by the loop itself, which is fastest. With implicit TLS or PROXY headers the socket is
accepted here and handed to the Front.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from pathlib import Path

from popproxy.config.plan import Bind
from popproxy.net.front import Front
from popproxy.net.pump import Pump

BACKLOG = 1024
_TURN = 64
_PAUSE_SECONDS = 1.0
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class BindError(Exception):
    """An address cannot be listened on. The text says which, why, and what to do."""


def bind(where: Bind) -> socket.socket:
    """A listening socket. Raises BindError."""
    try:
        return _unix(where) if where.family == "unix" else _inet(where)
    except OSError as error:
        advice = {
            errno.EACCES: "; ports below 1024 need root or CAP_NET_BIND_SERVICE: take another port or grant it",
            errno.EADDRINUSE: "; another program listens there: stop it or take another port",
            errno.EADDRNOTAVAIL: "; this machine has no such address: write one it has, or [::]",
        }.get(error.errno or 0, "")
        raise BindError(f"cannot listen on {where}: {error.strerror}{advice}") from error


def _inet(where: Bind) -> socket.socket:
    six = ":" in where.host
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where.v6only))
        sock.setblocking(False)
        sock.bind((where.host, where.port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _unix(where: Bind) -> socket.socket:
    path = Path(where.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _alive(path):
            path.unlink()
        sock.bind(where.path)
        path.chmod(where.mode)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _alive(path: Path) -> bool:
    """Whether somebody listens on the socket that lies there; a dead one may be replaced."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


class Listener:
    """One listening socket in use. It owns the socket."""

    def __init__(self, front: Front, sock: socket.socket, where: Bind) -> None:
        self.front = front
        self.where = where
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._accepting = False

    @property
    def address(self) -> str:
        """What it listens on, with the real port."""
        if self.where.family == "unix":
            return str(self.where)
        host, port = self._sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def open(self) -> None:
        """Accept from now on."""
        front = self.front
        if front.listener.tls == "implicit" or front.listener.proxy_protocol:
            self._watch()
        elif self.where.family == "unix":
            self._server = await front.loop.create_unix_server(lambda: Pump(front), sock=self._sock)
        else:
            self._server = await front.loop.create_server(lambda: Pump(front), sock=self._sock, backlog=BACKLOG)

    def _watch(self) -> None:
        self._accepting = True
        self.front.loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_TURN):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                # The clients wait in the backlog; trying again at once would only burn the processor.
                self.front.loop.remove_reader(self._sock.fileno())
                self.front.loop.call_later(_PAUSE_SECONDS, self._again)
                return
            sock.setblocking(False)
            self.front.accepted(sock)

    def _again(self) -> None:
        if self._accepting:
            self._watch()

    def close(self) -> None:
        """Accept no more."""
        if self._accepting:
            self._accepting = False
            self.front.loop.remove_reader(self._sock.fileno())
        if self._server is not None:
            self._server.close()
        self._sock.close()
        if self.where.family == "unix":
            Path(self.where.path).unlink(missing_ok=True)


"""Listening sockets: bound all or none, accepted from without a task per connection.

A plain listener is accepted by uvloop itself, which is fastest. With implicit TLS or PROXY headers, and on asyncio
(whose own accept writes a log line per free place in the backlog when descriptors run out), the socket is accepted
here and handed to the Door.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from popproxy.config.plan import Bind
from popproxy.net.front import Front
from popproxy.net.pump import Pump

BACKLOG = 1024
_TURN = 64
_PAUSE_SECONDS = 1.0


class BindError(Exception):
    """An address cannot be listened on. The text says which, why, and what to do."""


_ADVICE = {
    errno.EADDRINUSE: "another program listens there: stop it or take another address",
    errno.EADDRNOTAVAIL: "this machine has no such address: write one it has, or [::]",
    errno.EAFNOSUPPORT: "this machine has no IPv6: write an IPv4 address",
}
_ADVICE_INET = {errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE: take another port or grant it"}
_ADVICE_UNIX = {
    errno.EACCES: "let the proxy's user write to this directory, or take another path",
    errno.EEXIST: "there is a file that is no socket: remove it or take another path",
    errno.ENOENT: "there is no such directory: make it or take another path",
}


def bind(where: Bind) -> socket.socket:
    """A listening, non-blocking socket. Raises BindError."""
    with _advised(where):
        return _unix(where) if where.family == "unix" else _listen(_inet(where))


def bind_shared(where: Bind, number: int) -> list[socket.socket]:
    """So many listening sockets on one address, among which the kernel deals out the clients (SO_REUSEPORT). Raises
    BindError, also when another program has that address and would share it."""
    with _advised(where), contextlib.ExitStack() as undo:
        # Bound without SO_REUSEPORT it is refused where anybody listens; it does not listen, so ours may join it.
        with _inet(where) as alone:
            real = replace(where, port=alone.getsockname()[1])
            sockets = []
            for _ in range(number):
                sock = _inet(real, shared=True)
                undo.callback(sock.close)
                sockets.append(_listen(sock))
        undo.pop_all()
        return sockets


def bind_beside(where: Bind) -> socket.socket:
    """A socket for an address that overlaps those of sockets which are shared, too (SO_REUSEPORT). It does not listen
    yet, so that it takes no client from them. Raises BindError."""
    with _advised(where):
        return _inet(where, shared=True)


def unbound(where: Bind, error: OSError) -> str:
    """Why ``where`` cannot be listened on, and what to do."""
    special = _ADVICE_UNIX if where.family == "unix" else _ADVICE_INET
    number = error.errno or 0
    advice = special.get(number) or _ADVICE.get(number)
    reason = os.strerror(number) if number else str(error)
    return f"cannot listen on {where}: {reason}{f'; {advice}' if advice else ''}"


@contextlib.contextmanager
def _advised(where: Bind) -> Iterator[None]:
    """What the system says becomes a BindError."""
    try:
        yield
    except OSError as error:
        raise BindError(unbound(where, error)) from error


def _inet(where: Bind, shared: bool = False) -> socket.socket:
    six = ":" in where.host
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where.v6only))
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((where.host, where.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _listen(sock: socket.socket) -> socket.socket:
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _unix(where: Bind) -> socket.socket:
    path = Path(where.path)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux a socket's file is made with the mode of the unbound socket: at no time is it wider.
        os.fchmod(sock.fileno(), where.mode)
        sock.setblocking(False)
        sock.bind(where.path)
        path.chmod(where.mode)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on any more. Raises OSError when the path belongs to somebody."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Non-blocking: with a full backlog a connect would wait for ever.
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            # Its backlog is full, so it is somebody's.
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


class Listener:
    """One listening socket in use. It owns the socket; the file of a Unix socket is whoever's who bound it."""

    def __init__(self, front: Front, sock: socket.socket, where: Bind) -> None:
        self.front = front
        self.where = where
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._accepting = False
        self._pause: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """What it listens on, with the real port."""
        if self.where.family == "unix":
            return str(self.where)
        host, port = self.bound
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def bound(self) -> tuple[str, int]:
        """IP address and real port of a listener that is not a Unix socket."""
        host, port = self._sock.getsockname()[:2]
        return str(host), int(port)

    async def open(self) -> None:
        """Accept from now on."""
        front = self.front
        if (
            front.listener.tls == "implicit"
            or front.listener.proxy_protocol
            or isinstance(front.loop, asyncio.SelectorEventLoop)
        ):
            # The loop's own servers do that themselves.
            self._sock.listen(BACKLOG)
            self._watch()
        elif self.where.family == "unix":
            self._server = await front.loop.create_unix_server(lambda: Pump(front), sock=self._sock, backlog=BACKLOG)
        else:
            self._server = await front.loop.create_server(lambda: Pump(front), sock=self._sock, backlog=BACKLOG)

    def _watch(self) -> None:
        self._pause = None
        self._accepting = True
        self.front.loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        if self._accepted(_TURN) is False:
            # At once would only burn the processor.
            self._ignore()
            self._pause = self.front.loop.call_later(_PAUSE_SECONDS, self._watch)

    def _accepted(self, most: int) -> bool | None:
        """Accept at most so many. True: nobody waits any more; None: perhaps somebody does; False: it cannot be done
        for want of descriptors or memory, and the clients wait in the backlog."""
        for _ in range(most):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return True
            except ConnectionError:
                # It was there and is gone (accept(2)).
                continue
            except OSError as error:
                self.front.accept_failed(error)
                return False
            sock.setblocking(False)
            self.front.door.accepted(sock)
        return None

    def _ignore(self) -> None:
        if self._accepting:
            self._accepting = False
            self.front.loop.remove_reader(self._sock.fileno())

    def finish(self) -> None:
        """Nobody will listen here any more: accept who waits in the backlog, then close. May be repeated."""
        if self._sock.fileno() < 0:
            return
        try:
            self._stop(keep=True)
        except OSError as error:
            self.front.accept_failed(error)
            self._pause = self.front.loop.call_later(_PAUSE_SECONDS, self.finish)
            return
        self._rest()

    def _rest(self) -> None:
        self._pause = None
        # No more can have waited when it began; those who come without end do not hold it up.
        if self._accepted(2 * BACKLOG) is False:
            self._pause = self.front.loop.call_later(_PAUSE_SECONDS, self._rest)
        else:
            self._sock.close()

    def close(self) -> None:
        """Accept no more. May be repeated."""
        self._stop(keep=False)
        self._sock.close()

    def _stop(self, keep: bool) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._ignore()
        if self._server is not None:
            if keep:
                # Closing the server closes its socket; the queue is the same behind a duplicate.
                self._sock = self._sock.dup()
            self._server.close()
            self._server = None

"""Addresses bound, for clients and for administrators: one socket or one for each worker, and files of Unix sockets.

What the system refuses is told with advice. Nobody else's socket is taken over, nobody else's file removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from popproxy.config.urls import Bind

BACKLOG = 1024


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


def bind_shared(where: Bind, number: int) -> tuple[socket.socket, list[socket.socket]]:
    """So many listening sockets on one address, among which the kernel deals out the clients (SO_REUSEPORT), and one
    before them that never listens: who has it knows that the others there are his own. Raises BindError, also when
    another program has that address and would share it."""
    with _advised(where), contextlib.ExitStack() as undo:
        # Bound without SO_REUSEPORT it is refused where anybody listens; it does not listen, so ours may join it.
        alone = undo.enter_context(_inet(where))
        real = replace(where, port=alone.getsockname()[1])
        sockets = []
        for _ in range(number):
            sock = undo.enter_context(_inet(real, shared=True))
            sockets.append(_listen(sock))
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        undo.pop_all()
        return alone, sockets


def bind_beside(where: Bind) -> socket.socket:
    """A socket for an address that overlaps those of sockets which are shared, too (SO_REUSEPORT). It does not listen
    yet, so that it takes no client from them. Raises BindError."""
    with _advised(where):
        return _inet(where, shared=True)


@contextlib.contextmanager
def _advised(where: Bind) -> Iterator[None]:
    """What the system says becomes a BindError."""
    try:
        yield
    except OSError as error:
        special = _ADVICE_UNIX if where.family == "unix" else _ADVICE_INET
        number = error.errno or 0
        advice = special.get(number) or _ADVICE.get(number)
        reason = os.strerror(number) if number else str(error)
        raise BindError(f"cannot listen on {where}: {reason}{f'; {advice}' if advice else ''}") from error


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


class File:
    """The file of a Unix socket that was just bound at ``where``. It is ours until somebody puts another one there."""

    def __init__(self, where: Bind) -> None:
        self._path = Path(where.path)
        self._inode = self._path.lstat().st_ino

    def permit(self, mode: int) -> None:
        """Let it have ``mode``, unless it is another's."""
        if self._ours():
            self._path.chmod(mode)

    def remove(self) -> None:
        """Remove it, unless it is another's. May be repeated."""
        if self._ours():
            self._path.unlink()

    def _ours(self) -> bool:
        try:
            return self._path.lstat().st_ino == self._inode
        except FileNotFoundError:
            return False

"""The sockets of the admin listener."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from popproxy.config.urls import Bind

BACKLOG = 64


class Held:
    """A Unix socket's file, which goes with the listener unless somebody has put another one in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = _inode(path)

    def remove(self) -> None:
        """The listener is closed."""
        if self._inode and _inode(self._path) == self._inode:
            self._path.unlink()


def listen(bind: Bind) -> tuple[socket.socket, Held | None]:
    """A bound, listening, non-blocking socket. Raises OSError."""
    return _listen_unix(bind) if bind.family == "unix" else (_listen_inet(bind), None)


def _listen_unix(bind: Bind) -> tuple[socket.socket, Held]:
    path = Path(bind.path)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the mode of an unbound socket is the one its file is made with: at no time is it wider.
        os.fchmod(listener.fileno(), bind.mode)
        listener.bind(bind.path)
        path.chmod(bind.mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener, Held(path)


def _listen_inet(bind: Bind) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bind.v6only)
        listener.bind((bind.host, bind.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove a socket that a dead process left behind. Raises OSError when the path belongs to something else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket; remove it or choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0

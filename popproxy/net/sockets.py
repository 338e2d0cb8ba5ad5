"""The listening sockets of one process: bound once, kept for as long as any config in force names them.

Law: what is kept is never closed and bound again, so nobody who waits in its backlog is lost; whoever accepts has a
duplicate, which is his to close. The file of a Unix socket goes when its socket does.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from popproxy.config.plan import Bind
from popproxy.net.listener import bind

Give = Callable[[Bind], socket.socket]
"""Gives a bound, listening, non-blocking socket, which the caller owns from then on. Raises BindError."""

Place = tuple[str, str, int, bool, str]
Key = tuple[Place, int]


class Sockets:
    """See the head of this file. ``given`` are listening sockets that somebody else bound (socket activation), each
    for a Bind of the config; they are this object's from now on, their files stay."""

    def __init__(self, given: Mapping[Bind, socket.socket] | None = None) -> None:
        self._held: dict[Key, socket.socket] = {}
        self._files: dict[Key, tuple[Path, int]] = {}
        for where, sock in (given or {}).items():
            sock.setblocking(False)
            self._held[place(where), 1] = sock

    def giver(self) -> Give:
        """A Give for one config. A Bind with port 0 that stands there twice is two sockets; the same Bind of the next
        config finds the same socket again, with the port that it got."""
        seen: Counter[Place] = Counter()

        def give(where: Bind) -> socket.socket:
            seen[place(where)] += 1
            key = place(where), seen[place(where)]
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = bind(where)
                if where.family == "unix":
                    path = Path(where.path)
                    self._files[key] = path, path.lstat().st_ino
            return held.dup()

        return give

    def keep(self, wanted: Iterable[Bind]) -> None:
        """Close what no Bind of ``wanted`` names, and remove the files of those sockets that were bound here; files of
        the others get the mode that ``wanted`` says. Who waits in the backlog of a socket that is closed is lost unless
        somebody who has a duplicate accepts him."""
        seen: Counter[Place] = Counter()
        keys = set()
        for where in wanted:
            seen[place(where)] += 1
            key = place(where), seen[place(where)]
            keys.add(key)
            path, inode = self._files.get(key, (None, 0))
            if path is not None and _inode(path) == inode:
                path.chmod(where.mode)
        for key in self._held.keys() - keys:
            self._held.pop(key).close()
            path, inode = self._files.pop(key, (None, 0))
            if path is not None and _inode(path) == inode:
                path.unlink()

    def close(self) -> None:
        """Close all of them. May be repeated."""
        self.keep(())


def place(where: Bind) -> Place:
    """What makes it another socket: the mode of a Unix socket does not."""
    return where.family, where.host, where.port, where.v6only, where.path


def _inode(path: Path) -> int:
    """Which file it is, so that only our own is removed; 0 when there is none."""
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0

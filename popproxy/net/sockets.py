"""The listening sockets of one process: bound once, kept for as long as any config in force names them.

Law: what is kept is never closed and bound again, so nobody who waits in its backlog is lost; whoever accepts has a
duplicate, which is his to close. The file of a Unix socket goes when its socket does. What somebody else bound is kept
to the end: he holds it, too, and it could not be bound again.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from popproxy.config.plan import Bind
from popproxy.net.binding import BindError, File, bind, bind_beside

Give = Callable[[Bind], socket.socket]
"""Gives a bound, listening, non-blocking socket, which the caller owns from then on. Raises BindError."""

Place = tuple[str, str, int, bool, str]
Key = tuple[Place, int]


class Sockets:
    """See the head of this file. ``given`` are listening sockets that somebody else bound (socket activation), each
    for a Bind of the config; they are this object's from now on, their files stay."""

    def __init__(self, given: Mapping[Bind, socket.socket] | None = None) -> None:
        self._held: dict[Key, socket.socket] = {}
        self._files: dict[Key, File] = {}
        self._shared: list[tuple[socket.socket, bool]] = []
        """Those that are shared for now, and whether they were before."""
        for where, sock in (given or {}).items():
            sock.setblocking(False)
            self._held[place(where), 1] = sock
        self._given = frozenset(self._held)

    def giver(self) -> Give:
        """A Give for one config. A Bind with port 0 that stands there twice is two sockets; the same Bind of the next
        config finds the same socket again, with the port that it got."""
        seen: Counter[Place] = Counter()

        def give(where: Bind) -> socket.socket:
            seen[place(where)] += 1
            key = place(where), seen[place(where)]
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = self._bound(where)
                if where.family == "unix":
                    self._files[key] = File(where)
            return held.dup()

        return give

    def _bound(self, where: Bind) -> socket.socket:
        """A new socket, also where an address of ours overlaps: ``0.0.0.0`` for ``127.0.0.1``, one that will go."""
        try:
            return bind(where)
        except BindError as error:
            rivals = [sock for sock in self._held.values() if where.port and _port(sock) == where.port]
            if not rivals or not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
        # Until keep(): another program must find the address in use. (One of the same user that asks for SO_REUSEPORT
        # itself need not, from then on: the kernel remembers.)
        self._shared += [(rival, _share(rival, True)) for rival in rivals]
        sock = bind_beside(where)
        self._shared.append((sock, False))
        return sock

    def keep(self, wanted: Iterable[Bind]) -> None:
        """Those that ``wanted`` names are in use, and their files get the mode it says. Of the others close what was
        bound here, and remove the files. Who waits in the backlog of a socket that is closed is lost unless somebody
        who has a duplicate accepts him."""
        seen: Counter[Place] = Counter()
        keys = set()
        for where in wanted:
            seen[place(where)] += 1
            key = place(where), seen[place(where)]
            keys.add(key)
            if key in self._files:
                self._files[key].permit(where.mode)
        for sock, before in reversed(self._shared):
            _share(sock, before)
        self._shared.clear()
        for key in self._held.keys() - keys - self._given:
            self._held.pop(key).close()
            if key in self._files:
                self._files.pop(key).remove()

    def close(self) -> None:
        """Close all of them. May be repeated."""
        self._given = frozenset()
        self.keep(())


def place(where: Bind) -> Place:
    """What makes it another socket: the mode of a Unix socket does not."""
    return where.family, where.host, where.port, where.v6only, where.path


def _port(sock: socket.socket) -> int:
    """0 for a Unix socket."""
    return 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])


def _share(sock: socket.socket, on: bool) -> bool:
    """Whether others may listen on its address, too; how it was before."""
    before = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, on)
    return before


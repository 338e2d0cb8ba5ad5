"""The listening sockets of all slots, held by the supervisor for as long as a config in force names them.

Each slot has a socket of its own for every address (SO_REUSEPORT: the kernel deals the clients out), so who waits in
its backlog while its worker is dead is served by the next one. A Unix socket, and one that systemd gave, is one for
all. Law: a supervisor never joins another program on its port, though SO_REUSEPORT would let it; and as long as a
worker may have a copy of a socket, its address can be had again. For that each address has a stake: a socket that never
listens.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from popproxy.config.plan import Bind
from popproxy.net.binding import BindError, File, bind, bind_beside, bind_shared
from popproxy.net.sockets import Key, Place, place


class Addresses:
    """See the head of this file. ``given`` are sockets that somebody else bound; they are this object's from now on,
    they stay open to the end, and their files behind it."""

    def __init__(self, slots: int, given: Mapping[Bind, socket.socket] | None = None) -> None:
        self._slots = slots
        self._held: dict[Key, list[socket.socket]] = {}
        self._stakes: dict[Key, socket.socket] = {}
        self._gone: list[socket.socket] = []
        """Stakes of addresses that no config in force names any more."""
        self._files: dict[Key, File] = {}
        for where, sock in (given or {}).items():
            sock.setblocking(False)
            self._held[place(where), 1] = [sock] * slots
        self._given = frozenset(self._held)

    def take(self, binds: Sequence[Bind]) -> None:
        """Have a socket of every slot for each of ``binds``. Raises BindError; then what is there stays as it was."""
        fresh: list[Key] = []
        try:
            for where, key in zip(binds, keys(binds), strict=True):
                if key not in self._held:
                    self._held[key] = self._bound(where, key)
                    fresh.append(key)
        except BaseException:
            for key in fresh:
                self._close(key)
            raise

    def of(self, slot: int, binds: Sequence[Bind]) -> list[socket.socket]:
        """The sockets of one slot, in the order of ``binds``, which take() has seen. They stay this object's."""
        return [self._held[key][slot] for key in keys(binds)]

    def keep(self, binds: Sequence[Bind]) -> None:
        """Close what was bound here and none of ``binds`` names; files of the others get the mode that it says."""
        named = keys(binds)
        for where, key in zip(binds, named, strict=True):
            if key in self._files:
                self._files[key].permit(where.mode)
        for key in self._held.keys() - set(named) - self._given:
            self._close(key)

    def settle(self) -> None:
        """Nobody has a copy of a socket that keep() has closed."""
        for stake in self._gone:
            stake.close()
        self._gone.clear()

    def close(self) -> None:
        """Close all. May be repeated."""
        self._given = frozenset()
        self.keep(())
        self.settle()

    def _bound(self, where: Bind, key: Key) -> list[socket.socket]:
        if where.family == "inet":
            self._stakes[key], sockets = self._inet(where)
            return sockets
        sock = bind(where)
        self._files[key] = File(where)
        return [sock] * self._slots

    def _inet(self, where: Bind) -> tuple[socket.socket, list[socket.socket]]:
        """New sockets, also where an address of ours overlaps: ``0.0.0.0`` for ``127.0.0.1``, one that will go."""
        try:
            return bind_shared(where, self._slots)
        except BindError as error:
            ours = where.port and any(_port(sock) == where.port for sock in [*self._stakes.values(), *self._gone])
            if not ours or not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
        with contextlib.ExitStack() as undo:
            # They listen when their workers do: until then clients go where they went before.
            stake, *sockets = [undo.enter_context(bind_beside(where)) for _ in range(1 + self._slots)]
            undo.pop_all()
        return stake, sockets

    def _close(self, key: Key) -> None:
        for sock in self._held.pop(key):
            sock.close()
        if key in self._stakes:
            self._gone.append(self._stakes.pop(key))
        if key in self._files:
            self._files.pop(key).remove()


def keys(binds: Iterable[Bind]) -> list[Key]:
    """Which socket each of ``binds`` is: of those that are equal (port 0), the first, the second and so on."""
    seen: Counter[Place] = Counter()
    found: list[Key] = []
    for where in binds:
        seen[place(where)] += 1
        found.append((place(where), seen[place(where)]))
    return found


def _port(sock: socket.socket) -> int:
    """0 for a Unix socket."""
    return 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])


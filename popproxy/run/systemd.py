"""systemd's side of a service: notifications (sd_notify(3)) and the sockets it opened (sd_listen_fds(3)).

Without systemd none of the variables is set, and nothing here does anything.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence

from popproxy.config.plan import Bind, ListenerPlan
from popproxy.net.binding import BindError
from popproxy.run.fleet import Status

STATUS_SECONDS = 15.0
"""Between two lines for ``systemctl status``."""
_FIRST = 3
"""Descriptor of the first socket."""


class Notify:
    """The way to systemd, or to nobody when ``$NOTIFY_SOCKET`` is not set. What cannot be sent is let go: a manager
    that does not listen must not stop the service."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._status = ""
        self.watchdog = _watchdog()
        """Seconds within which systemd wants to hear ``alive``; 0 when it does not."""

    @property
    def listens(self) -> bool:
        """Whether somebody is there."""
        return self._socket is not None

    def ready(self) -> None:
        """Everything is open, after a start or a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; ready() ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """A line for ``systemctl status``, sent when it is another one than the last."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def close(self) -> None:
        """Send no more. May be repeated."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode("utf-8"), self._address)
        except OSError:
            self._status = ""


class Reports:
    """Tells systemd how the workers fare, from the event loop: one that hangs tells nothing. ``alive`` says whether a
    worker has been heard of; without one the watchdog is not fed, either. Every method belongs to the loop's thread."""

    def __init__(self, status: Callable[[], Status], alive: Callable[[], bool]) -> None:
        self._notify = Notify()
        self._status = status
        self._alive = alive
        self._timer: asyncio.TimerHandle | None = None
        self._told = 0.0

    def ready(self) -> None:
        """Everything is open."""
        self._notify.ready()
        if self._notify.listens and self._timer is None:
            self._tick()

    def reloading(self, busy: bool) -> None:
        """A reload begins, or has ended, well or not."""
        if busy:
            self._notify.reloading()
        else:
            self._notify.ready()
        self._tell()

    def stopping(self) -> None:
        """The end begins."""
        self._notify.stopping()
        self._tell()

    def close(self) -> None:
        """Tell no more. May be repeated."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._notify.close()

    def _tick(self) -> None:
        loop, watchdog = asyncio.get_running_loop(), self._notify.watchdog
        if watchdog and self._alive():
            self._notify.alive()
        if loop.time() - self._told >= STATUS_SECONDS or not self._told:
            self._told = loop.time()
            self._tell()
        self._timer = loop.call_later(min(watchdog / 2 or STATUS_SECONDS, STATUS_SECONDS), self._tick)

    def _tell(self) -> None:
        status = self._status()
        workers = status.workers
        sessions = sum(int(worker["sessions"]) for worker in workers)
        up = sum(bool(worker["up"]) for worker in workers)
        several = f", {up} of {len(workers)} workers" if len(workers) > 1 else ""
        self._notify.status(f"{status.state}: {sessions} session{'' if sessions == 1 else 's'}{several}")


def _watchdog() -> float:
    """Seconds of ``$WATCHDOG_USEC`` when it is meant for this process."""
    interval, process = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not interval.isdecimal() or (process and process != str(os.getpid())):
        return 0.0
    return int(interval) / 1e6


def activated(listeners: Sequence[ListenerPlan], first: int = _FIRST) -> dict[Bind, socket.socket]:
    """The sockets that systemd opened, by the bind that each is for: one with a listener's name
    (``FileDescriptorName=``) and a bind's address, else the next bind of that listener; one without, by its address
    alone. Raises BindError for one that fits nothing. Takes them once: children do not see them."""
    count, process = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or process != str(os.getpid()):
        return {}
    sockets = []
    for descriptor in range(first, first + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    found: dict[Bind, socket.socket] = {}
    try:
        for number, sock in enumerate(sockets):
            name = names[number] if number < len(names) else ""
            found[_match(sock, name, listeners, found)] = sock
    except BindError:
        for sock in sockets:
            sock.close()
        raise
    return found


def _match(
    sock: socket.socket, name: str, listeners: Sequence[ListenerPlan], taken: dict[Bind, socket.socket]
) -> Bind:
    told = f"the socket {name!r} on {_address(sock)}, which systemd opened,"
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise BindError(f"{told} is not one that listens for streams: write ListenStream= and Accept=no in its unit")
    named = [listener for listener in listeners if listener.name == name]
    free = [where for listener in named or listeners for where in listener.bind if where not in taken]
    for where in free:
        if _same(where, sock):
            return where
    of_its_kind = [where for where in free if (where.family == "unix") == (sock.family == socket.AF_UNIX)]
    if named and of_its_kind:
        return of_its_kind[0]
    if named:
        raise BindError(f"{told} is one more than listener {name!r} has binds of its kind: add one, or leave it out")
    known = ", ".join(listener.name for listener in listeners)
    raise BindError(f"{told} is for no listener: write one of {known} as FileDescriptorName=, or its address as bind")


def _same(where: Bind, sock: socket.socket) -> bool:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return where.family == "unix" and where.path == name
    return where.family == "inet" and (where.host, where.port) == (name[0], name[1])


def _address(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

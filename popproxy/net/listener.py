"""Listening sockets in use: accepted from without a task per connection.

A plain listener is accepted by uvloop itself, which is fastest. With implicit TLS or PROXY headers, and on asyncio
(whose own accept writes a log line per free place in the backlog when descriptors run out), the socket is accepted
here and handed to the Door.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from popproxy.config.plan import Bind
from popproxy.net.binding import BACKLOG
from popproxy.net.front import Front
from popproxy.net.pump import Pump

_TURN = 64
_PAUSE_SECONDS = 1.0


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
            made = front.loop.create_unix_server(partial(Pump, front), sock=self._sock, backlog=BACKLOG)
            self._server = await made
        else:
            self._server = await front.loop.create_server(partial(Pump, front), sock=self._sock, backlog=BACKLOG)

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

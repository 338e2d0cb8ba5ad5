"""The end of a client's connection when its session is over: what is due is sent, then it is closed.

Behind an error the client is listened to for a moment, its octets dropped: closing on unread octets would be a
reset, and a reset takes the error away before it is read. A slow client gets all it is owed, because its deletions
may be done already; one that takes nothing at all is cut.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ

from popproxy.net.descriptor import drop_unread
from popproxy.net.tlstransport import TlsTransport

STALL_SECONDS = 30.0
"""How long the client may take nothing at all of what is still to be sent."""
_ACKED = slice(120, 128)
"""tcpi_bytes_acked in struct tcp_info (Linux 4.1 and later)."""
LINGER_SECONDS = 2.0
LINGER_OCTETS = 1 << 20
"""How long, and how much of it, a client is listened to behind an error."""


class Farewell(asyncio.Protocol):
    """Takes ``client`` over; ``gone`` is called once, when the connection is gone."""

    __slots__ = ("_client", "_closing", "_dropped", "_gone", "_loop", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, client: asyncio.Transport, gone: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._client = client
        self._gone = gone
        self._closing = False
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        client.set_protocol(self)

    def linger(self) -> None:
        """Send what is due and say that nothing follows; close when the client does, or shortly after."""
        try:
            self._client.write_eof()
        except OSError:
            # asyncio's shutdown() of a connection that was reset: nobody is left to read anything.
            self._client.abort()
            return
        self._client.resume_reading()
        self._later(LINGER_SECONDS, self.close)

    def close(self) -> None:
        """Send what is due, then close."""
        client = self._client
        if client.is_closing():
            return
        if not client.get_write_buffer_size():
            self._shut()
        elif not self._closing:
            self._closing = True
            client.set_write_buffer_limits(0)
            self._look(None)

    def resume_writing(self) -> None:
        """All is sent. Not from within the transport's own call: asyncio's would end twice."""
        self._loop.call_soon(self._sent)

    def _sent(self) -> None:
        if self._closing and not self._client.is_closing():
            self._shut()

    def _shut(self) -> None:
        client = self._client
        if not (client.is_reading() or isinstance(client, TlsTransport)):
            drop_unread(client.get_extra_info("socket").fileno())
        client.close()

    def _look(self, before: int | None) -> None:
        if self._client.is_closing():
            return
        now = taken(self._client)
        if now == before:
            self._client.abort()
        else:
            self._later(STALL_SECONDS, self._look, now)

    def _later(self, seconds: float, call: Callable[..., None], *details: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call, *details)

    def data_received(self, data: bytes) -> None:
        """Dropped."""
        self._dropped += len(data)
        if self._dropped > LINGER_OCTETS:
            self._client.abort()

    def eof_received(self) -> bool:
        """The client is done: close, as soon as all is sent."""
        self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gone()


def taken(client: asyncio.Transport) -> int:
    """A number that rises while the client takes octets.

    Over TCP what it has acknowledged: the write buffer does not tell, because TLS counts a slice of it until all of
    that is sent. On a Unix socket what neither the buffer nor the kernel holds any more.
    """
    sock = client.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.stop)
        return int.from_bytes(info[_ACKED], sys.byteorder)
    queue = ioctl(sock.fileno(), TIOCOUTQ, bytes(4))
    return -client.get_write_buffer_size() - int.from_bytes(queue, sys.byteorder, signed=True)

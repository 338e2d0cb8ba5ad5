"""The connection upstream of one pump, from the moment it is dialed to its end.

Octets that come, and an end that comes, before the session knows of the connection wait here. The server's end of
stream is the end: who says nothing more cannot answer, whether or not it still reads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from popproxy.core.failures import Failure, Kind
from popproxy.metrics.buffers import Buffer
from popproxy.net.dialer import Connected, Dialer
from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.net.upgrade import Upgrade

if TYPE_CHECKING:
    from popproxy.net.pump import Pump

WRITE_HIGH = 65536
"""Octets a transport may hold unsent before the other side's reading stops."""
_CLOSE_SECONDS = 10.0
_CLOSED = Failure(Kind.LOST, "the server closed the connection")


class UpstreamSide(asyncio.Protocol):
    """For the pump: ``transport`` is what it writes to, None while there is none; ``reading`` whether it is read from,
    ``blocked`` whether its write buffer is full."""

    __slots__ = (
        "_dialer", "_early", "_end", "_held", "_pump", "_server", "_upgrade", "blocked", "reading",
        "transport",
    )  # fmt: skip

    def __init__(self, pump: Pump) -> None:
        self._pump: Pump | None = pump
        self.transport: asyncio.Transport | None = None
        self._dialer: Dialer | None = None
        self._server: Connected[UpstreamSide] | None = None
        self._upgrade: Upgrade | None = None
        self._early: list[bytes] | None = []
        self._end: Failure | None = None
        self.reading = True
        self.blocked = False
        self._held: set[Buffer] | None = None

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there, or TLS."""
        # uvloop's transports are no subclass of asyncio.Transport: a cast, never isinstance.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        """Octets of the server."""
        if self._early is not None:
            self._early.append(data)
        elif self._pump is not None:
            self._pump.upstream_data(data)

    def eof_received(self) -> bool:
        """The server will say no more."""
        self._ended(_CLOSED)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._let_go()
        transport, self.transport = self.transport, None
        if self._dialer is not None and transport is not None:
            self._dialer.closing.discard(transport)
        if exc is None:
            self._ended(_CLOSED)
        else:
            self._ended(Failure(Kind.RESET, str(exc) or type(exc).__name__))

    def pause_writing(self) -> None:
        """The server takes less than the client sends."""
        if self._pump is not None:
            self.blocked = True
            meter = self._pump.front.meter
            meter.pause("client")
            if self.transport is not None:
                self._held = meter.buffers.upstream
                self._held.add(self.transport)
            self._pump.watch()

    def resume_writing(self) -> None:
        """It has taken it."""
        self._let_go()
        self.blocked = False
        if self._pump is not None:
            self._pump.watch()

    def _let_go(self) -> None:
        if self._held is not None and self.transport is not None:
            self._held.discard(self.transport)
            self._held = None

    # The pump

    def open(self, dialer: Dialer, server: Connected[UpstreamSide]) -> None:
        """It is the pump's connection now, and counts."""
        self._dialer = dialer
        self._server = server
        dialer.meter.active(1)

    def attach(self) -> None:
        """The session knows of the connection: give it what came early, and read on."""
        early, self._early = self._early, None
        if self._pump is None:
            return
        if isinstance(self.transport, TlsTransport):
            # It starts paused, as no transport of the loop does.
            self.transport.resume_reading()
        if early:
            self._pump.upstream_data(b"".join(early))
        if self._end is not None:
            self._ended(self._end)
        elif self._pump is not None:
            self._pump.watch()

    def read(self, wanted: bool) -> None:
        """Read on, or stop reading."""
        if self._early is None and self.transport is not None:
            self.reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def secure(self, id: int, seconds: float) -> None:
        """STLS was answered: TLS from here on. The session's effect ``id`` is done when it is on, or has failed."""
        plain, dialer, server, pump = self.transport, self._dialer, self._server, self._pump
        if plain is None or dialer is None or server is None or pump is None or plain.is_closing():
            # Its end is on the way.
            return

        def ready(transport: TlsTransport | None, failure: TlsFailure | None) -> None:
            self._upgrade = None
            if failure is not None or transport is None:
                pump.upstream_unsecured(self, id, failure)
                return
            transport.set_protocol(self)
            self.connection_made(transport)
            transport.resume_reading()
            pump.done(id, None)
            pump.watch()

        loop = pump.front.loop
        self._let_go()
        self.transport = None
        self.reading = True
        self._upgrade = Upgrade(
            loop, plain, seconds, lambda sock, then: dialer.secure(loop, sock, server.server, then), ready
        )

    def close(self) -> None:
        """Close without a word of our own; what the client sent and is still in the buffer goes out first."""
        if self._server is not None and self._dialer is not None:
            self._dialer.meter.active(-1)
            self._server.lease.close()
            self._server = None
        pump, self._pump = self._pump, None
        if self._upgrade is not None:
            self._upgrade.abort()
        transport = self.transport
        if transport is not None and self._dialer is not None:
            self._dialer.closing.add(transport)
            transport.close()
            if pump is not None and transport.get_write_buffer_size():
                pump.front.loop.call_later(_CLOSE_SECONDS, transport.abort)

    def _ended(self, failure: Failure) -> None:
        if self._early is not None:
            self._end = self._end or failure
        elif self._pump is not None:
            self._pump.upstream_lost(self, failure)

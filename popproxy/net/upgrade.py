"""STLS: one leg on its way from a plain transport of the loop to a TlsTransport (RFC 2595 section 4).

Law: what is due in the clear has left before the descriptor changes hands, nothing is read meanwhile, and whatever
happens is told exactly once, or not at all behind ``abort``. A peer that takes nothing does not hold the leg for ever.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from popproxy.net.descriptor import detach
from popproxy.net.tlstransport import TlsFailure, TlsTransport

Ready = Callable[[TlsTransport | None, TlsFailure | None], None]
"""Gets the transport, reading paused, or why there is none: then the connection is closed."""
Begin = Callable[[socket.socket, Callable[[TlsTransport, TlsFailure | None], None]], TlsTransport]
"""Starts the handshake on a descriptor."""


class Upgrade(asyncio.Protocol):
    """Takes ``plain`` over, waits at most ``seconds`` until its buffer is sent, then shakes hands.

    ``ready`` is never called from within the constructor.
    """

    __slots__ = ("_begin", "_loop", "_plain", "_ready", "_timer", "_tls")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, plain: asyncio.Transport, seconds: float, begin: Begin, ready: Ready
    ) -> None:
        self._loop = loop
        self._plain: asyncio.Transport | None = plain
        self._begin = begin
        self._ready = ready
        self._tls: TlsTransport | None = None
        plain.pause_reading()
        plain.set_protocol(self)
        self._timer: asyncio.Handle
        if plain.get_write_buffer_size():
            plain.set_write_buffer_limits(0)
            self._timer = loop.call_later(seconds, self._late)
        else:
            self._timer = loop.call_soon(self._start)

    def resume_writing(self) -> None:
        """Sent. Not from within the transport's own call: it is about to be closed."""
        self._timer.cancel()
        self._timer = self._loop.call_soon(self._start)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone before there was a handshake."""
        if self._plain is not None:
            self._timer.cancel()
            self._plain = None
            self._ready(None, TlsFailure("eof" if exc is None else "reset", "the connection was lost behind STLS"))

    def _late(self) -> None:
        self._fail(TlsFailure("timeout", "the peer does not take what it is sent"))

    def _fail(self, failure: TlsFailure) -> None:
        self._leave_plain()
        self._ready(None, failure)

    def _leave_plain(self) -> None:
        plain, self._plain = self._plain, None
        if plain is not None:
            plain.set_protocol(asyncio.Protocol())
            plain.abort()

    def _start(self) -> None:
        plain = self._plain
        if plain is None or plain.is_closing():
            # connection_lost tells it, or has told it.
            return
        try:
            sock = detach(plain)
        except OSError as error:
            self._fail(TlsFailure("_other", f"no descriptor for TLS: {error.strerror}"))
            return
        self._plain = None
        self._tls = self._begin(sock, self._ready)

    def abort(self) -> None:
        """Close the connection; ``ready`` is not called any more."""
        self._timer.cancel()
        self._leave_plain()
        if self._tls is not None:
            self._tls.abort()

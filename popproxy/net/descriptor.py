"""What asyncio has no word for, done to a connected descriptor.

Law: the connection itself is never touched: no octet is read, no FIN or RST is sent, unless the function says so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress

__all__ = ["close_notify", "detach", "drop_unread", "was_reset"]

_RECORD_MAX = 16384 + 256 + 5  # octets of the largest record, RFC 8446 section 5.2


def detach(transport: asyncio.Transport, parking: asyncio.Protocol | None = None) -> socket.socket:
    """Takes the connection away from a plain transport of asyncio or uvloop (STLS): a non-blocking socket.

    The caller has paused reading and nothing is left to write, else RuntimeError, and nothing has changed.
    The transport is aborted, which closes only its own descriptor: no FIN, no RST, no octet read. Its
    protocol from now on is ``parking`` (a new asyncio.Protocol if None), which gets connection_lost.
    OSError when no descriptor is to be had.
    """
    if transport.is_closing():
        raise RuntimeError("detach: the transport is closing")
    if transport.get_extra_info("sslcontext") is not None:
        raise RuntimeError("detach: the transport is not a plain one")
    if transport.is_reading():
        raise RuntimeError("detach: pause reading first")
    unsent = transport.get_write_buffer_size()
    if unsent:
        raise RuntimeError(f"detach: {unsent} octets are not sent yet")
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    transport.set_protocol(parking or asyncio.Protocol())
    transport.abort()
    return sock


def close_notify(tls: ssl.SSLSocket) -> bytes:
    """Our close_notify as a record to send; the connection is not touched.

    CPython's unwrap() calls SSL_shutdown twice: the first writes close_notify, the second reads, and takes
    data of a peer that goes on sending for a fatal error. So for that moment the descriptor is a socket pair
    with nothing to read. Epoll keeps its registration: it belongs to the open file, which stays open.
    """
    fd = tls.fileno()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        kept = os.dup(fd)
        try:
            os.dup2(theirs.fileno(), fd, inheritable=False)
            try:
                with suppress(ssl.SSLWantReadError):  # the peer's close_notify has not come
                    tls.unwrap()
            finally:
                os.dup2(kept, fd, inheritable=False)
        finally:
            os.close(kept)
        return ours.recv(_RECORD_MAX)


def drop_unread(fd: int) -> None:
    """Throws away at most 256 KiB of the receive queue: closing on unread octets is a RST, and a RST can reach
    the peer before it has read our last ones."""
    with suppress(OSError):  # the queue is empty, or the peer is gone
        for _ in range(4):
            if not os.read(fd, 65536):
                return


def was_reset(sock: socket.socket) -> bool:
    """Whether the connection ended by a RST, not a FIN. To be asked after an SSLEOFError: CPython raises it for
    both, because SSL_read_ex returns 0 for both. A reset TCP connection has no peer any more."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False

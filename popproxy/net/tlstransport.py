"""TLS on a descriptor: an asyncio transport over a non-blocking SSLSocket.

Law: nothing is held between events but the unsent tail. OpenSSL reads and writes the descriptor itself and
gives its record buffers back when they are empty (CPython sets SSL_MODE_RELEASE_BUFFERS), so a session that
has just carried a gigabyte is as small as one that has carried nothing. No task, no coroutine.
Theory: one SSL_read is one record of at most 16 KiB, so nothing is left inside OpenSSL that readiness could
miss; an SSL_write that was refused is repeated with the very same octets (SSL_write(3)), so the tail is cut
at fixed places. Half-close is close_notify without FIN (RFC 8446 section 6.1; OpenSSL does the same for 1.2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from popproxy.net.descriptor import close_notify, detach, drop_unread, was_reset
from popproxy.net.tlshandshake import FailureReason, Handshake, TlsFailure, TlsInfo

__all__ = ["FailureReason", "TlsFailure", "TlsInfo", "TlsTransport", "detach"]

_RECORD = 16384  # octets of plain text in the largest record, RFC 8446 section 5.1
_SLICE = 65536  # octets given to one SSL_write
_READ_TURN = 262144  # octets read, joined and handed on before the loop gets its turn
_WRITE_TURN = 1 << 20  # octets written before the loop gets its turn
_HIGH = 65536

_NOBODY = asyncio.Protocol()


class TlsTransport(asyncio.Transport):
    """TLS on ``sock``: connected, non-blocking, owned by the transport from here on.

    The handshake starts at once. ``ready(transport, None)`` is called exactly once when it is done, or
    ``ready(transport, failure)`` exactly once when it failed, the descriptor closed; never from within the
    constructor, and not at all after ``abort()``. A server refuses a client that offers ALPN without
    ``check_alpn`` (fatal alert 120), and takes one that offers none.

    After ``ready`` the owner calls ``set_protocol`` (connection_made is not called) and ``resume_reading``:
    the transport starts paused, and what arrived before is not lost. Then it is an asyncio.Transport:
    data_received gets the records of one readiness event joined (at most about 256 KiB); eof_received is
    called on close_notify, and on an end of the TCP stream without it (truncation), when ``ragged_eof`` is
    True and writing is over whatever eof_received returns; connection_lost is called exactly once.
    ``close()`` sends what is buffered and close_notify, within ``close_timeout`` seconds, else
    connection_lost gets a TimeoutError. ``handshake_timeout`` and ``close_timeout`` are seconds.
    """

    __slots__ = (
        "_again",
        "_close_timeout",
        "_closing",
        "_eof_seen",
        "_eof_sent",
        "_eof_told",
        "_eof_wanted",
        "_fd",
        "_fresh",
        "_handshake",
        "_high",
        "_info",
        "_loop",
        "_lost",
        "_low",
        "_notify",
        "_offset",
        "_paused",
        "_peername",
        "_protocol",
        "_queue",
        "_read_blocked",
        "_read_on",
        "_reading",
        "_ready",
        "_shut_blocked",
        "_size",
        "_sockname",
        "_timer",
        "_tls",
        "_write_blocked",
        "_write_on",
        "ragged_eof",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        handshake_timeout: float,
        ready: Callable[[TlsTransport, TlsFailure | None], None],
        check_alpn: bytes | None = None,
        close_timeout: float = 10.0,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._fd = sock.fileno()
        self._ready = ready
        self._close_timeout = close_timeout
        self._protocol: asyncio.Protocol = _NOBODY
        self._tls: ssl.SSLSocket | None = None
        self._info: TlsInfo | None = None
        self._queue: deque[memoryview] | None = None  # unsent; the head is being sent from _offset on
        self._offset = self._size = 0
        self._notify = b""  # our close_notify record, when the kernel has not taken it yet
        self._high, self._low = _HIGH, _HIGH // 4
        self._reading = self._read_on = self._write_on = False
        self._read_blocked = False  # SSL_read waits to write
        self._write_blocked = False  # SSL_write waits to read
        self._shut_blocked = False  # SSL_shutdown waits to write
        self._paused = self._closing = self._lost = False
        self._fresh = True  # nothing was read yet behind the handshake
        self._eof_seen = self._eof_told = self._eof_wanted = self._eof_sent = False
        self.ragged_eof = False
        self._again: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._peername, self._sockname = _names(sock)
        if isinstance(self._sockname, tuple):  # TCP; the name of a Unix socket is a path
            with suppress(OSError):  # a connection already reset fails in the handshake, with its reason
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handshake: Handshake | None = Handshake(
            loop,
            sock,
            context,
            self._shaken,
            server_side=server_side,
            server_hostname=server_hostname,
            timeout=handshake_timeout,
            check_alpn=check_alpn,
            session=session,
        )

    def _shaken(self, tls: ssl.SSLSocket | None, info: TlsInfo | None, failure: TlsFailure | None) -> None:
        handshake, self._handshake = self._handshake, None
        self._tls, self._info = tls, info
        if tls is None:
            self._closing = self._lost = True
        elif handshake is not None and handshake.reader_left:
            self._read_on = True
            self._loop.add_reader(self._fd, self._on_readable)
        self._ready(self, failure)
        self._watch()

    @property
    def tls(self) -> TlsInfo:
        """What was agreed; RuntimeError before ``ready``, or when the handshake failed."""
        if self._info is None:
            raise RuntimeError("there is no TLS yet")
        return self._info

    # Reading.

    def pause_reading(self) -> None:
        self._reading = False
        self._watch()

    def resume_reading(self) -> None:
        if self._closing or self._reading or self._tls is None:
            return
        self._reading = True
        # A RST that came with the last octets of the handshake was told to it, and libuv tells it once: so look.
        if (self._fresh or self._eof_seen or self._tls.pending()) and self._again is None:
            self._fresh = False
            self._again = self._loop.call_soon(self._read_on_again)
        self._watch()

    def is_reading(self) -> bool:
        return self._reading and not self._eof_seen

    def _on_readable(self) -> None:
        if self._write_blocked:
            self._write_blocked = False
            self._flush()
        if self._again is None:
            self._read()
        self._watch()

    def _read_on_again(self) -> None:
        self._again = None
        self._read()
        self._watch()

    def _read(self) -> None:
        """Hands on what has arrived, then the end if it has come; up to one turn's worth."""
        tls = self._tls
        if tls is None or not self._reading or self._lost:
            return
        if not self._eof_seen:
            error: OSError | None = None
            chunks: list[bytes] = []
            total = 0
            read = tls.read
            try:
                while total < _READ_TURN:
                    data = read(_RECORD)
                    if not data:
                        self._eof_seen = True
                        break
                    chunks.append(data)
                    total += len(data)
                else:
                    # Not left to readiness: libuv reports an error (RST) once and then forgets the descriptor.
                    self._again = self._loop.call_soon(self._read_on_again)
            except ssl.SSLWantReadError:
                error = None
            except ssl.SSLWantWriteError:
                self._read_blocked = True
            except ssl.SSLZeroReturnError:  # instead of b"" when our close_notify is out
                self._eof_seen = True
            except ssl.SSLEOFError:
                if was_reset(tls):
                    error = _reset()
                else:
                    self._eof_seen = self.ragged_eof = True
            except OSError as exc:
                error = exc
            if chunks:
                self._call(self._protocol.data_received, chunks[0] if len(chunks) == 1 else b"".join(chunks))
            if error is not None:
                self._force_close(error)
        if self._eof_seen and self._reading and not self._eof_told:
            self._tell_eof()

    def _tell_eof(self) -> None:
        self._eof_told = True
        keep = self._call(self._protocol.eof_received)
        if self.ragged_eof:
            unsent = self._size
            gone = ConnectionResetError(f"the peer is gone, {unsent} octets unsent")
            self._force_close(gone if unsent else None)
        elif not keep:
            self.close()

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends ``data``; what the kernel does not take is kept (by reference when it is bytes)."""
        if self._eof_wanted:
            raise RuntimeError("write() after write_eof()")
        if self._handshake is not None:
            raise RuntimeError("write() before the handshake is done")
        if self._closing or not data:
            return
        if not isinstance(data, bytes):
            data = bytes(data)
        if self._queue is not None:
            self._queue.append(memoryview(data))
            self._size += len(data)
        elif len(data) <= _SLICE and self._send(data):
            return
        elif not self._lost:
            self._queue = deque((memoryview(data),))
            self._size = len(data)
            if len(data) > _SLICE:
                self._flush()
            self._watch()
        if self._size > self._high and not self._paused:
            self._paused = True
            self._call(self._protocol.pause_writing)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Sends the pieces as one."""
        self.write(b"".join(list_of_data))

    def _send(self, data: bytes | memoryview) -> bool:
        """One SSL_write: whether it was taken, all of it; if not, it must be repeated with the same octets."""
        assert self._tls is not None
        try:
            self._tls.write(data)
        except ssl.SSLWantWriteError:
            return False
        except ssl.SSLWantReadError:
            self._write_blocked = True
            return False
        except ssl.SSLEOFError:
            self._force_close(_reset())
            return False
        except OSError as exc:
            self._force_close(exc)
            return False
        return True

    def _flush(self) -> None:
        """Sends from the queue as far as it goes; then whatever was waiting for it to be empty."""
        queue = self._queue
        if queue is not None:
            turn = 0
            while queue and turn < _WRITE_TURN:
                head = queue[0]
                piece = head[self._offset : self._offset + _SLICE]
                if not self._send(piece):
                    break
                turn += len(piece)
                self._offset += len(piece)
                self._size -= len(piece)
                if self._offset == len(head):
                    queue.popleft()
                    self._offset = 0
            if not queue:
                self._queue = None
        if self._lost:
            return
        if self._paused and self._size <= self._low:
            self._paused = False
            self._call(self._protocol.resume_writing)
        if self._queue is None:
            if self._eof_wanted and not self._eof_sent:
                self._send_eof()
            if self._closing:
                self._finish()

    def _on_writable(self) -> None:
        if self._read_blocked:
            self._read_blocked = False
            self._read()
        if self._notify and not self._lost:
            self._send_notify()
        if not self._lost and not self._write_blocked:
            self._flush()
        self._watch()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Sends what is buffered, then close_notify; reading goes on."""
        if self._eof_wanted or self._closing or self._tls is None:
            return
        self._eof_wanted = True
        self._flush()
        self._watch()

    def _send_eof(self) -> None:
        assert self._tls is not None
        self._eof_sent = True
        try:
            self._notify = close_notify(self._tls)
        except OSError as exc:
            self._force_close(exc)
        else:
            self._send_notify()

    def _send_notify(self) -> None:
        try:
            self._notify = self._notify[os.write(self._fd, self._notify) :]
        except BlockingIOError:
            return  # the writer stays registered while there is a record left
        except OSError as exc:
            self._force_close(exc)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Octets not yet handed to OpenSSL for good (a slice of 64 KiB counts until all of it is sent)."""
        return self._size

    # The end.

    def close(self) -> None:
        if self._closing:
            return
        if self._tls is None:
            self.abort()
            return
        self._closing = True
        self._reading = False
        self._flush()
        if not self._lost:
            self._timer = self._loop.call_later(self._close_timeout, self._expire)
            self._watch()

    def _finish(self) -> None:
        """Everything is sent: close_notify, unless it went before, and the end."""
        if self._notify or self._lost:
            return
        assert self._tls is not None
        self._shut_blocked = False
        unread = self._eof_sent
        if not self._eof_sent:
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                unread = False  # sent, and the receive queue is empty
            except ssl.SSLWantWriteError:
                self._shut_blocked = True
                return
            except OSError:
                unread = True  # the peer still sends, or is gone: nothing more to tell it
        if unread:
            drop_unread(self._fd)
        self._force_close(None)

    def _expire(self) -> None:
        unsent = self._size
        seconds = self._close_timeout
        self._force_close(TimeoutError(f"the peer did not read for {seconds:g} s, {unsent} octets unsent"))

    def abort(self) -> None:
        """Closes the descriptor now, without close_notify; what is buffered is lost."""
        if self._handshake is not None:
            self._handshake.abort()
            self._handshake = None
            self._closing = self._lost = True
        else:
            self._force_close(None)

    def _force_close(self, exc: Exception | None) -> None:
        if self._lost or self._tls is None:
            return
        self._closing = self._lost = True
        self._reading = False
        self._watch()
        for handle in (self._again, self._timer):
            if handle is not None:
                handle.cancel()
        self._again = self._timer = self._queue = None
        self._size = 0
        self._notify = b""
        self._tls.close()
        self._loop.call_soon(self._tell_lost, exc)

    def _tell_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _NOBODY
        protocol.connection_lost(exc)

    def is_closing(self) -> bool:
        return self._closing

    # The owner.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who gets the callbacks from now on: an asyncio.Protocol."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError(f"an asyncio.Protocol is needed, not {type(protocol).__name__}")
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """peername, sockname, socket, ssl_object (both the SSLSocket), sslcontext, cipher, compression."""
        if name == "peername":
            return self._peername if self._peername is not None else default
        if name == "sockname":
            return self._sockname if self._sockname is not None else default
        tls = self._tls
        if tls is None:
            return default
        if name in ("socket", "ssl_object"):
            return tls
        if name == "sslcontext":
            return tls.context
        if name == "cipher":
            return tls.cipher()
        if name == "compression":
            return tls.compression()
        return default

    def _call(self, callback: Callable[..., Any], *args: object) -> Any:
        """A callback of the protocol; one that raises ends the connection, as in asyncio."""
        try:
            return callback(*args)
        except Exception as exc:
            context = {
                "message": f"{getattr(callback, '__name__', 'callback')}() of the protocol failed",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
            self._loop.call_exception_handler(context)
            self._force_close(exc)
            return None

    def _watch(self) -> None:
        """Makes the loop's interest in the descriptor what the state asks for."""
        if self._lost:
            read = write = False
        else:
            read = self._write_blocked or (self._reading and not self._eof_seen and not self._read_blocked)
            sending = self._queue is not None and not self._write_blocked
            write = sending or self._read_blocked or self._shut_blocked or bool(self._notify)
        if read != self._read_on:
            self._read_on = read
            if read:
                self._loop.add_reader(self._fd, self._on_readable)
            else:
                self._loop.remove_reader(self._fd)
        if write != self._write_on:
            self._write_on = write
            if write:
                self._loop.add_writer(self._fd, self._on_writable)
            else:
                self._loop.remove_writer(self._fd)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def _names(sock: socket.socket) -> tuple[Any, Any]:
    try:
        return sock.getpeername(), sock.getsockname()
    except OSError:  # reset already: the handshake will say so
        return None, None

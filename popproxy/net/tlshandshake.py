"""The TLS handshake of one connected socket, and what it leaves behind.

Law: a handshake ends exactly once, in an open SSLSocket or in a closed descriptor and a TlsFailure.
A server looks at the ClientHello before OpenSSL does (recv with MSG_PEEK): a client that offers ALPN
without our protocol is refused with no_application_protocol (RFC 7301 section 3.2; Python's ssl would
go on without ALPN, which leaves the ALPACA cross-protocol attack open), and a connection that has said
nothing yet costs no OpenSSL state.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

from popproxy.wire.clienthello import (
    DECODE_ERROR,
    NO_APPLICATION_PROTOCOL,
    Hello,
    HelloError,
    NeedMore,
    alert,
    read_hello,
)

__all__ = ["FailureReason", "Handshake", "TlsFailure", "TlsInfo"]

FailureReason = Literal[
    "protocol",
    "no_shared_cipher",
    "cert_rejected",
    "unverified",
    "timeout",
    "eof",
    "alpn",
    "plaintext",
    "reset",
    "_other",
]

_RECORD_TYPES = range(20, 25)  # change_cipher_spec, alert, handshake, application_data, heartbeat
_FIRST_LOOK = 4096  # octets peeked at first; holds every usual ClientHello, post-quantum shares included
_STALLED_LOOK = 0.02  # seconds before looking again where SO_RCVLOWAT does not hold back readiness
_LEFTOVER = 65536  # octets thrown away before a refusal closes, else the close is a RST and eats the alert
_WORD = 4  # "USER", "GET ", "SSH-": octets of what a client says in clear
_SHOWN = 64  # octets of a peer's words quoted in a detail
_HANG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR

_REASONS: dict[str, FailureReason] = {
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "NO_CIPHERS_AVAILABLE": "no_shared_cipher",
    "NO_APPLICATION_PROTOCOL": "alpn",
    "HTTP_REQUEST": "plaintext",
    "HTTPS_PROXY_REQUEST": "plaintext",
    "UNEXPECTED_EOF_WHILE_READING": "eof",
}


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """Why there is no TLS.

    ``reason`` is a metric label. ``unverified``: we refused the peer's certificate; ``cert_rejected``: the
    peer refused ours; ``alpn``: no common protocol; ``plaintext``: the peer did not speak TLS; ``eof`` and
    ``reset``: it went away. ``detail`` is private text for the log; octets of the peer are escaped in it.
    """

    reason: FailureReason
    detail: str


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What was agreed. ``server_name`` is the SNI name: asked for by the client (server side), or the one we
    asked for (client side); ``peer_cert_subject`` and ``peer_cert`` (DER) are set only for a certificate that was
    verified."""

    version: str
    cipher: str
    resumed: bool
    alpn: str | None
    server_name: str | None
    handshake_seconds: float
    peer_cert_subject: str | None
    peer_cert: bytes | None = field(default=None, repr=False)


class Handshake:
    """Drives one handshake on ``sock`` (connected, non-blocking; owned from here on).

    ``done(tls, info, failure)`` is called once, never from within the constructor: with an SSLSocket and its
    TlsInfo, the loop's reader on the descriptor possibly still registered, which the owner replaces or
    removes; or with None, None and the failure, the descriptor closed. After ``abort`` it is not called.
    """

    __slots__ = (
        "_alpn",
        "_answer_due",
        "_context",
        "_done",
        "_fd",
        "_hostname",
        "_loop",
        "_name",
        "_needed",
        "_read_on",
        "_seen",
        "_server_side",
        "_session",
        "_sock",
        "_started",
        "_starting",
        "_timer",
        "_tls",
        "_write_on",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        context: ssl.SSLContext,
        done: Callable[[ssl.SSLSocket | None, TlsInfo | None, TlsFailure | None], None],
        *,
        server_side: bool,
        server_hostname: str | None,
        timeout: float,
        check_alpn: bytes | None,
        session: ssl.SSLSession | None,
    ) -> None:
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._context = context
        self._done = done
        self._server_side = server_side
        self._hostname = server_hostname
        self._name = server_hostname
        self._alpn = check_alpn
        self._session = session
        self._tls: ssl.SSLSocket | None = None
        self._needed = 1
        self._seen = 0
        self._answer_due = not server_side
        self._read_on = self._write_on = False
        self._started = loop.time()
        self._timer: asyncio.Handle = loop.call_later(timeout, self._expire)
        self._starting = True
        if server_side:
            self._look()
        else:
            self._wrap()
        self._starting = False

    @property
    def reader_left(self) -> bool:
        """Whether the loop still holds a reader on the descriptor (once done)."""
        return self._read_on

    def abort(self) -> None:
        """Closes the descriptor; ``done`` is not called any more."""
        self._timer.cancel()
        self._close()

    def _look(self) -> None:
        """Peeks at the ClientHello; goes on when all of it is there."""
        assert self._sock is not None
        try:
            data = self._sock.recv(max(self._needed, _FIRST_LOOK), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._watch(read=True)
            return
        except OSError as exc:
            self._fail(_failure_of(exc))
            return
        if not data:
            self._fail(TlsFailure("eof", "the peer closed before a ClientHello"))
            return
        try:
            found = read_hello(data)
        except HelloError as exc:
            self._refuse_hello(exc, data)
            return
        if isinstance(found, NeedMore):
            self._await_hello(found.total, len(data))
        else:
            self._accept_hello(found)

    def _await_hello(self, needed: int, seen: int) -> None:
        """Sleeps until ``needed`` octets are in the receive queue, or the peer is gone.

        Peeking leaves the queue readable, so a level-triggered loop would spin: SO_RCVLOWAT holds readiness
        back. It does not after a FIN or RST, nor on Unix sockets.
        """
        assert self._sock is not None
        if _hung_up(self._fd):
            self._fail(TlsFailure("eof", f"the peer closed after {seen} octets of a ClientHello"))
        elif needed == self._needed and seen == self._seen:
            self._watch()
            self._loop.call_later(_STALLED_LOOK, self._look_again)
        else:
            if needed != self._needed:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
            self._needed, self._seen = needed, seen
            self._watch(read=True)

    def _look_again(self) -> None:
        if self._sock is not None:
            self._look()

    def _refuse_hello(self, exc: HelloError, data: bytes) -> None:
        """No TLS client, or one whose hello cannot be judged: never left to OpenSSL, which might take it."""
        if exc.reason in ("plaintext", "not_tls"):
            # The first word tells who it is; a client that goes on in clear has its password behind it (promise 6).
            self._fail(TlsFailure("plaintext", f"the peer began with {_shown(data[:_WORD])}"))
        else:
            self._fail(TlsFailure("protocol", f"ClientHello {exc.reason}: {exc}"), alert(DECODE_ERROR))

    def _accept_hello(self, hello: Hello) -> None:
        assert self._sock is not None
        if self._needed > 1:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._name = hello.server_name
        if self._alpn is not None and hello.alpn is not None and self._alpn not in hello.alpn:
            offered = ", ".join(_shown(name) for name in hello.alpn[:8])
            self._fail(TlsFailure("alpn", f"the peer offers only {offered}"), alert(NO_APPLICATION_PROTOCOL))
            return
        self._wrap()

    def _wrap(self) -> None:
        """Gives the descriptor to OpenSSL and shakes hands as far as it goes at once."""
        assert self._sock is not None
        try:
            # Asked here because CPython before 3.13 leaks the descriptor when wrap_socket finds out.
            self._sock.getpeername()
            (self._hostname or "").encode("idna")
            tls = self._context.wrap_socket(
                self._sock,
                server_side=self._server_side,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
                server_hostname=self._hostname,
                session=self._session,
            )
        except OSError as exc:
            self._fail(_failure_of(exc))
            return
        except ValueError as exc:  # a server_hostname that is no host name, or none where one is checked
            self._fail(TlsFailure("_other", f"{type(exc).__name__}: {exc}"))
            return
        self._sock = self._tls = tls
        self._shake()

    def _shake(self) -> None:
        tls = self._tls
        assert tls is not None
        try:
            if self._answer_due and self._read_on:
                first = socket.socket.recv(tls, _SHOWN, socket.MSG_PEEK)
                self._answer_due = False
                if first and first[0] not in _RECORD_TYPES:
                    self._fail(TlsFailure("plaintext", f"the peer answered in clear: {_shown(first)}"))
                    return
            tls.do_handshake()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._watch(read=True)
        except ssl.SSLWantWriteError:
            self._watch(write=True)
        except OSError as exc:
            self._fail(_failure_of(exc))
        else:
            self._succeed(tls)

    def _succeed(self, tls: ssl.SSLSocket) -> None:
        self._timer.cancel()
        if self._write_on:
            self._watch()
        self._sock = self._tls = None
        cipher = tls.cipher()
        info = TlsInfo(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            resumed=bool(tls.session_reused),
            alpn=tls.selected_alpn_protocol(),
            server_name=self._name,
            handshake_seconds=self._loop.time() - self._started,
            peer_cert_subject=_subject(tls),
            peer_cert=tls.getpeercert(binary_form=True) if tls.context.verify_mode else None,
        )
        self._end(tls, info, None)

    def _expire(self) -> None:
        seconds = self._loop.time() - self._started
        self._fail(TlsFailure("timeout", f"no TLS after {seconds:.1f} s"))

    def _fail(self, failure: TlsFailure, last_words: bytes = b"") -> None:
        assert self._sock is not None
        self._timer.cancel()
        # Best effort: a peer that is gone cannot be told, and unread octets would make close a RST.
        with contextlib.suppress(OSError):
            if last_words:
                socket.socket.send(self._sock, last_words)
            socket.socket.recv(self._sock, _LEFTOVER)
        self._close()
        self._end(None, None, failure)

    def _end(self, tls: ssl.SSLSocket | None, info: TlsInfo | None, failure: TlsFailure | None) -> None:
        if self._starting:
            self._timer = self._loop.call_soon(self._done, tls, info, failure)
        else:
            self._done(tls, info, failure)

    def _close(self) -> None:
        self._watch()
        if self._sock is not None:
            self._sock.close()
        self._sock = self._tls = None

    def _watch(self, *, read: bool = False, write: bool = False) -> None:
        """Makes the loop's interest in the descriptor exactly this."""
        if read != self._read_on:
            self._read_on = read
            if read:
                self._loop.add_reader(self._fd, self._go_on)
            else:
                self._loop.remove_reader(self._fd)
        if write != self._write_on:
            self._write_on = write
            if write:
                self._loop.add_writer(self._fd, self._go_on)
            else:
                self._loop.remove_writer(self._fd)

    def _go_on(self) -> None:
        if self._tls is None:
            self._look()
        else:
            self._shake()


def _failure_of(exc: OSError) -> TlsFailure:
    """Sorts an exception of a socket or of OpenSSL; neither carries octets of the peer."""
    detail = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return TlsFailure("unverified", exc.verify_message or detail)
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TlsFailure("eof", "the peer closed during the handshake")
    if isinstance(exc, ssl.SSLError):
        # CPython's own table of reasons lacks some (alert 120 in 3.11): then only OpenSSL's text names it.
        name = (getattr(exc, "reason", None) or str(exc)).upper().replace(" ", "_")
        if "ALERT" in name and ("CERTIFICATE" in name or "UNKNOWN_CA" in name):
            return TlsFailure("cert_rejected", detail)
        for part, reason in _REASONS.items():
            if part in name:
                return TlsFailure(reason, detail)
        return TlsFailure("protocol", detail)
    if isinstance(exc, ConnectionError) or exc.errno == errno.ENOTCONN:
        return TlsFailure("reset", detail)
    return TlsFailure("_other", detail)


def _hung_up(fd: int) -> bool:
    """Whether the peer has closed its side: no octet will follow those already in the queue."""
    poll = select.poll()
    poll.register(fd, _HANG_UP)
    return bool(poll.poll(0))


def _shown(octets: bytes) -> str:
    """A peer's octets as printable ASCII, cut short."""
    return ascii(octets[:_SHOWN])[1:]


def _subject(tls: ssl.SSLSocket) -> str | None:
    """The subject of the verified peer certificate, "commonName=example.org, ..."; control octets escaped."""
    certificate = tls.getpeercert()
    if not certificate:
        return None
    subject = cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("subject", ()))
    parts = [f"{name}={value}" for rdn in subject for name, value in rdn]
    return ascii(", ".join(parts))[1:-1]

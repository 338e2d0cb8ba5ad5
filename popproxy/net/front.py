"""What all sessions of one listener share, and the way a connection takes from accept to its first octet.

accept > PROXY header, when the listener wants one > TLS, when it is implicit > Pump. Until the Pump exists there is
no session: what ends before is a refusal or a failed handshake, counted and logged as such.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from popproxy.api.views import SessionView, TlsView
from popproxy.config.plan import ListenerPlan
from popproxy.core.effects import Level, Note
from popproxy.core.login import Knowledge
from popproxy.core.plan import SessionPlan
from popproxy.metrics.meters import ListenerMeter
from popproxy.net.dialer import Dialer
from popproxy.net.pump import Pump
from popproxy.net.spool import FileSpool
from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.wire.proxyline import ProxyDecoder, ProxyError, ProxyHeader

_BUSY = b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
_ALPN = b"pop3"


class EventLog(Protocol):
    """Where log lines go; run/logs.py has one."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What the worker lends to every front."""

    loop: asyncio.AbstractEventLoop
    log: EventLog
    knowledge: Knowledge
    dialers: Mapping[str, Dialer]
    spawn: Callable[[Awaitable[Any]], asyncio.Task[Any]]
    next_id: Callable[[], str]
    ended: Callable[[], None]


class Front:
    """One listener's constants, its open sessions and its door."""

    def __init__(
        self, listener: ListenerPlan, shared: Shared, meter: ListenerMeter, context: ssl.SSLContext | None
    ) -> None:
        self.listener = listener
        self.plan: SessionPlan = listener.session
        self.meter = meter
        self.loop = shared.loop
        self.knowledge = shared.knowledge
        self.dialers = shared.dialers
        self.spawn = shared.spawn
        self.spool = FileSpool
        self.pumps: set[Pump] = set()
        self.waiting = 0
        self.draining = False
        self._log = shared.log
        self._next_id = shared.next_id
        self._ended = shared.ended
        self._context = context

    # From accept to the pump

    def accepted(self, sock: socket.socket) -> None:
        """A client of a listener with implicit TLS or PROXY headers."""
        view = self.view()
        try:
            _addresses(view, sock.getpeername(), sock.getsockname(), sock.family)
        except OSError:
            # Gone already: nobody to answer.
            sock.close()
            return
        if len(self.pumps) + self.waiting >= self.listener.limit:
            self._refused(view, "limit", "too many connections")
            sock.close()
        elif self.listener.proxy_protocol:
            self._proxied(sock, view)
        else:
            self.encrypted(sock, view)

    def _proxied(self, sock: socket.socket, view: SessionView) -> None:
        if not _trusted(view.client, self.listener):
            self._refused(view, "proxy_header", "not from a network that may send PROXY headers")
            sock.close()
            return
        self.waiting += 1
        ProxyIntake(self, sock, view)

    def introduced(self, sock: socket.socket, view: SessionView, outcome: ProxyHeader | ProxyError) -> None:
        """The PROXY header has come, or none that can be believed."""
        self.waiting -= 1
        if isinstance(outcome, ProxyError):
            self.meter.proxy_error(outcome.reason)
            self._refused(view, "proxy_header", str(outcome))
            sock.close()
            return
        _introduce(view, outcome)
        if self.listener.tls == "implicit":
            self.encrypted(sock, view)
        else:
            self.spawn(self.loop.connect_accepted_socket(lambda: Pump(self, view), sock))

    def encrypted(self, sock: socket.socket, view: SessionView) -> None:
        """TLS from the first octet."""
        self.waiting += 1

        def ready(transport: TlsTransport, failure: TlsFailure | None) -> None:
            self.waiting -= 1
            if failure is not None:
                self.tls_failed(view, "implicit", failure)
                return
            view.tls = self.tls_view("implicit", transport)
            pump = Pump(self, view)
            transport.set_protocol(pump)
            pump.connection_made(transport)
            transport.resume_reading()

        self.secure(sock, ready)

    def secure(
        self, sock: socket.socket, ready: Callable[[TlsTransport, TlsFailure | None], None]
    ) -> TlsTransport:
        """TLS as server on a connected socket."""
        if self._context is None:
            raise RuntimeError(f"listener {self.listener.name} has no certificate")
        return TlsTransport(
            self.loop,
            sock,
            self._context,
            server_side=True,
            handshake_timeout=self.plan.timeouts.handshake,
            ready=ready,
            check_alpn=_ALPN,
        )

    # What a pump asks

    def view(self) -> SessionView:
        """A view for a new connection."""
        return SessionView(self._next_id(), self.listener.name)

    def fill(self, view: SessionView, transport: asyncio.Transport) -> None:
        """The addresses of ``transport``, unless a PROXY header said better."""
        if not view.client:
            peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            _addresses(view, peer, own, socket.AF_INET if isinstance(peer, tuple) else socket.AF_UNIX)

    def admit(self, pump: Pump) -> bytes | None:
        """Take the connection, or give the line with which it is refused."""
        self.meter.connection()
        if self.draining or len(self.pumps) >= self.listener.limit:
            self._refused(pump.view, "draining" if self.draining else "limit", "")
            return _BUSY
        self.pumps.add(pump)
        self.meter.active(1)
        return None

    def finished(self, pump: Pump) -> None:
        """Both connections of ``pump`` are gone."""
        self.pumps.discard(pump)
        self.meter.active(-1)
        session, view = pump.session, pump.view
        summary = session.summary()
        self.meter.session_end(summary.phase, summary.reason, summary.seconds)
        tls = view.tls
        self._log.event(
            "info",
            "session",
            session=view.id,
            listener=view.listener,
            client=view.client,
            client_port=view.client_port,
            tls="" if tls is None else tls.version,
            cipher="" if tls is None else tls.cipher,
            user=view.user,
            login=view.login,
            mechanism=view.mechanism,
            upstream=view.upstream,
            server=view.server,
            commands=summary.commands,
            retrieved=summary.retrieved,
            deleted=summary.deleted,
            octets_in=summary.octets_received,
            octets_out=summary.octets_sent,
            seconds=round(summary.seconds, 3),
            state=summary.phase,
            reason=summary.reason,
            detail=session.detail,
        )
        self._ended()

    def note(self, view: SessionView, note: Note) -> None:
        """A log line of a session."""
        self._log.event(
            note.level,
            note.event,
            session=view.id,
            listener=view.listener,
            client=view.client,
            client_port=view.client_port,
            user=view.user,
            upstream=view.upstream,
            server=view.server,
            **note.fields,
        )

    def tls_view(self, mode: Any, transport: TlsTransport) -> TlsView:
        """TLS on the client's leg is on: count it."""
        info = transport.tls
        self.meter.tls_ok(mode, info.version, info.cipher, info.resumed, info.handshake_seconds)
        return TlsView(info.version, info.cipher, info.resumed, info.server_name, info.peer_cert_subject)

    def tls_failed(self, view: SessionView, mode: Any, failure: TlsFailure) -> None:
        """It is not: count it and say why."""
        self.meter.tls_failed(mode, failure.reason)
        self._log.event(
            "info",
            "tls_failed",
            session=view.id,
            listener=view.listener,
            client=view.client,
            client_port=view.client_port,
            mode=mode,
            reason=failure.reason,
            detail=failure.detail,
        )

    def _refused(self, view: SessionView, reason: str, detail: str) -> None:
        self.meter.rejected(reason)
        self._log.event(
            "info",
            "refused",
            listener=view.listener,
            client=view.client,
            client_port=view.client_port,
            reason=reason,
            detail=detail,
        )


class ProxyIntake:
    """Reads the PROXY header of one connection and not an octet more: TLS may follow it on the descriptor."""

    def __init__(self, front: Front, sock: socket.socket, view: SessionView) -> None:
        self._front = front
        self._sock = sock
        self._view = view
        self._decoder = ProxyDecoder()
        self._timer = front.loop.call_later(front.plan.timeouts.handshake, self._late)
        front.loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        header: ProxyHeader | None = None
        try:
            while header is None:
                data = self._sock.recv(self._decoder.want)
                if not data:
                    raise ProxyError("signature", "closed before a PROXY header came")
                header = self._decoder.feed(data)
        except BlockingIOError:
            return
        except ProxyError as error:
            self._done(error)
        except OSError as error:
            self._done(ProxyError("signature", f"lost before a PROXY header came: {error.strerror}"))
        else:
            self._done(header)

    def _late(self) -> None:
        self._done(ProxyError("length", "no whole PROXY header in time"))

    def _done(self, outcome: ProxyHeader | ProxyError) -> None:
        self._timer.cancel()
        self._front.loop.remove_reader(self._sock.fileno())
        self._front.introduced(self._sock, self._view, outcome)


def _trusted(client: str, listener: ListenerPlan) -> bool:
    if client == "unix":
        return True
    address = ip_address(client)
    return any(address in network for network in listener.proxy_protocol)


def _addresses(view: SessionView, peer: Any, own: Any, family: int) -> None:
    if family == socket.AF_UNIX:
        view.client = "unix"
        view.local = str(own or "")
        return
    view.client, view.client_port = _plain(peer[0]), peer[1]
    view.local, view.local_port = _plain(own[0]), own[1]


def _plain(host: str) -> str:
    """An IPv4 address that came over an IPv6 socket as the IPv4 address it is; no zone."""
    return host[7:] if host.startswith("::ffff:") else host.partition("%")[0]


def _introduce(view: SessionView, header: ProxyHeader) -> None:
    """The addresses and the TLS that a trusted PROXY header vouches for."""
    if header.local:
        return
    if isinstance(header.source, tuple):
        view.client, view.client_port = header.source
    if isinstance(header.destination, tuple):
        view.local, view.local_port = header.destination
    tls = header.tls
    if tls is not None and tls.client_ssl:
        certificate = tls.cn if tls.verified else None
        view.tls = TlsView(tls.version or "", tls.cipher or "", False, header.authority, certificate, True)

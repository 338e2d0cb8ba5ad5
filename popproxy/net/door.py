"""The way of a connection that the loop does not accept by itself: PROXY header, when the listener wants one, then
TLS, when it is implicit, then a Pump.

Until the Pump exists there is no session: what ends before is a refusal or a failed handshake, counted and logged
as such. Whoever waits here can be sent away at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal, Protocol

from popproxy.api.views import SessionView, TlsView
from popproxy.config.plan import ListenerPlan
from popproxy.net.pump import Pump
from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.wire.proxyline import ProxyDecoder, ProxyError, ProxyHeader

if TYPE_CHECKING:
    from popproxy.net.front import Front

BUSY = b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
OVERLOADED = b"-ERR [SYS/TEMP] Overloaded, try again later\r\n"
Reason = Literal["limit", "overload", "draining"]
FULL: Mapping[Reason, bytes] = {"limit": BUSY, "overload": OVERLOADED, "draining": BUSY}
"""What is said to a client for whom there is no room, by why."""


class Waiting(Protocol):
    """Somebody at the door."""

    def abort(self) -> None:
        """Close the connection; nobody is told."""
        ...


class Door:
    """One listener's door. ``waiting`` are those that have not come through."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.waiting: set[Waiting] = set()

    def accepted(self, sock: socket.socket) -> None:
        """A client is there. The socket is non-blocking and belongs to the door from here on."""
        front = self._front
        view = front.view()
        full: tuple[Reason, str] | None = front.enter()
        if full is None and front.draining:
            front.leave()
            full = "draining", "shutting down"
        try:
            addresses(view, sock.family, sock.getpeername(), sock.getsockname())
        except OSError:
            # Gone already: nobody to answer.
            self._close(sock, full is None)
            return
        if full is not None:
            front.refused(view, *full)
            if front.listener.tls != "implicit":
                with contextlib.suppress(OSError):  # best effort: there is no room for one who does not listen
                    sock.send(FULL[full[0]])
            sock.close()
        elif not front.listener.proxy_protocol:
            self._inside(sock, view)
        elif trusted(view.client, front.listener):
            self.waiting.add(ProxyIntake(self, front.loop, front.plan.timeouts.handshake, sock, view))
        else:
            front.refused(view, "proxy_header", "not from a network that may send PROXY headers")
            self._close(sock, True)

    def introduced(
        self, intake: ProxyIntake, sock: socket.socket, view: SessionView, header: ProxyHeader | None, fault: str = "",
        detail: str = ""
    ) -> None:
        """The PROXY header has come, or none that can be believed: ``fault`` is the metric's word for it."""
        self.waiting.discard(intake)
        front = self._front
        if header is None:
            front.meter.proxy_error(fault)
            front.refused(view, "proxy_header", detail)
            self._close(sock, True)
            return
        introduce(view, header)
        self._inside(sock, view)

    def _inside(self, sock: socket.socket, view: SessionView) -> None:
        front = self._front
        if front.listener.tls == "implicit":
            self._encrypted(sock, view)
        else:
            self._plain(sock, view)

    def _plain(self, sock: socket.socket, view: SessionView) -> None:
        """The loop's own transport: it is made by a coroutine."""
        front = self._front
        pump = Pump(front, view)

        async def carry() -> None:
            try:
                await front.loop.connect_accepted_socket(lambda: pump, sock)
            except OSError as error:
                front.refused(view, "_other", f"lost before the greeting: {error.strerror}")
                sock.close()
            finally:
                if not pump.begun:
                    front.leave()

        front.spawn(carry())

    def _encrypted(self, sock: socket.socket, view: SessionView) -> None:
        """TLS from the first octet."""
        front = self._front

        def ready(transport: TlsTransport, failure: TlsFailure | None) -> None:
            self.waiting.discard(transport)
            if failure is not None:
                front.tls_failed(view, "implicit", failure)
                front.meter.rejected("tls")
                front.leave()
                return
            view.tls = front.tls_view("implicit", transport)
            pump = Pump(front, view)
            transport.set_protocol(pump)
            transport.resume_reading()
            pump.connection_made(transport)

        self.waiting.add(front.secure(sock, ready))

    def _close(self, sock: socket.socket, room: bool) -> None:
        sock.close()
        if room:
            self._front.leave()

    def close(self) -> None:
        """Send away whoever waits."""
        waiting, self.waiting = self.waiting, set()
        for one in waiting:
            one.abort()
            self._front.meter.rejected("draining")
            self._front.leave()


class ProxyIntake:
    """Reads the PROXY header of one connection and not an octet more: TLS may follow it on the descriptor."""

    def __init__(
        self, door: Door, loop: asyncio.AbstractEventLoop, seconds: float, sock: socket.socket, view: SessionView
    ) -> None:
        self._door = door
        self._loop = loop
        self._sock = sock
        self._view = view
        self._decoder = ProxyDecoder()
        self._timer = loop.call_later(seconds, self._late)
        loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        header: ProxyHeader | None = None
        try:
            while header is None:
                data = self._sock.recv(self._decoder.want)
                if not data:
                    self._done(None, "eof", "closed before a PROXY header came")
                    return
                header = self._decoder.feed(data)
        except BlockingIOError:
            return
        except ProxyError as error:
            self._done(None, error.reason, str(error))
        except OSError as error:
            self._done(None, "eof", f"lost before a PROXY header came: {error.strerror}")
        else:
            self._done(header)

    def _late(self) -> None:
        self._done(None, "timeout", "no whole PROXY header in time")

    def _done(self, header: ProxyHeader | None, fault: str = "", detail: str = "") -> None:
        self._leave()
        self._door.introduced(self, self._sock, self._view, header, fault, detail)

    def _leave(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())

    def abort(self) -> None:
        """See Waiting."""
        self._leave()
        self._sock.close()


def trusted(client: str, listener: ListenerPlan) -> bool:
    """Whether ``client`` may send PROXY headers. Who may open a Unix socket is decided by its permissions."""
    if client == "unix":
        return True
    address = ip_address(client)
    return any(address in network for network in listener.proxy_protocol)


def addresses(view: SessionView, family: int, peer: object, own: object) -> None:
    """The two ends of a connection, as getpeername() and getsockname() have them."""
    if family == socket.AF_UNIX:
        view.client = "unix"
        view.local = str(own or "")
        return
    if isinstance(peer, tuple):
        host, view.client_port = peer[:2]
        view.client = _plain(host) if ":" in host else host
    if isinstance(own, tuple):
        host, view.local_port = own[:2]
        view.local = _plain(host) if ":" in host else host


def _plain(host: str) -> str:
    """An IPv4 address that came over an IPv6 socket as the IPv4 address it is; no zone."""
    return host[7:] if host.startswith("::ffff:") else host.partition("%")[0]


def introduce(view: SessionView, header: ProxyHeader) -> None:
    """The addresses and the TLS that a trusted PROXY header vouches for."""
    if header.local:
        return
    if isinstance(header.source, tuple):
        view.client, view.client_port = header.source
        view.proxied = True
    if isinstance(header.destination, tuple):
        view.local, view.local_port = header.destination
    view.ttl = header.ttl
    tls = header.tls
    if tls is not None and tls.client_ssl:
        certificate = tls.cn if tls.verified else None
        view.tls = TlsView(tls.version or "", tls.cipher or "", False, header.authority, certificate, True)

"""Connecting to an upstream: the server its group chooses, each address in order, then the next server; or the one
server that a plugin named, under the same rules.

Names are resolved off the loop, literal addresses not at all. A plain connection is the loop's own transport, one
with TLS from the start is a TlsTransport; whatever goes wrong comes back as a Failure, never as an exception.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from time import monotonic
from typing import Generic, TypeVar

from popproxy.api.verdicts import ServerAddress
from popproxy.config.plan import Server, UpstreamPlan
from popproxy.config.urls import server_url
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Timeouts
from popproxy.core.target import Target
from popproxy.metrics.meters import UpstreamMeter
from popproxy.net.group import Group, Lease, Wish
from popproxy.net.own import OwnAddresses
from popproxy.net.tasks import Limit
from popproxy.net.tls import CertificateFiles, client_context
from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.wire.values import value

P = TypeVar("P", bound=asyncio.Protocol)


@value
class Connected(Generic[P]):
    """A connection: whose it is, the server, and whether TLS is on."""

    protocol: P
    server: Server
    secure: bool
    name: str
    """Host and port, for the log."""
    lease: Lease
    before: Failure | None = None
    """What was wrong with the servers that were tried before, of the kind of the last one; None when none was."""


class Dialer:
    """Connects to the servers of one upstream. ``context`` is the TLS of the next connection; one that is None when it
    is needed is made then, which takes milliseconds, and raises TlsConfigError when certificates cannot be used."""

    def __init__(
        self,
        plan: UpstreamPlan,
        times: Timeouts,
        meter: UpstreamMeter,
        group: Group,
        own: OwnAddresses,
        closing: set[asyncio.Transport] | None = None,
    ) -> None:
        self.plan = plan
        self.meter = meter
        self.group = group
        self.closing: set[asyncio.Transport] = set() if closing is None else closing
        """Connections nobody uses any more that are not closed yet; all dialers of a worker may share the set."""
        self.times = times
        self._own = own
        self._limit = Limit(times.connect)
        self._literals = {server.host: _literal(server.host) for server in plan.servers}
        self.context: ssl.SSLContext | None = None

    def make_context(self) -> ssl.SSLContext:
        """A context from the files of the plan. May be called in a thread. Raises TlsConfigError."""
        plan = self.plan
        own = plan.client_certificate
        files = None
        if own is not None:
            secret = own.password.get_secret_value().encode() if own.password is not None else None
            files = CertificateFiles(own.cert, own.key, secret)
        return client_context(ca_file=plan.ca_file, verify=plan.verify, client_certificate=files)

    async def connect(
        self, protocol: Callable[[], P], target: Target, avoid: tuple[str, ...] = (), header: bytes = b""
    ) -> Connected[P] | Failure:
        """A connection to the server that the group chooses, or to the one ``target`` names; when that fails, to the
        next one. ``protocol`` makes one for every attempt; names in ``avoid`` are not tried; ``header`` is sent first.

        A TlsTransport begins with reading paused, the loop's own do not. The Lease of what is connected is the
        caller's: it must be told the outcome and closed. For a task or an Errand, as reach() is.
        """
        only = None if target.server is None else self.group.other(self._aimed(target.server))
        wish = Wish(target.key or "", avoid, only)
        faults: list[str] = []
        last: Failure | None = None
        while True:
            lease = self.group.admitted(wish) or await self.group.admit(wish)
            if isinstance(lease, Failure):
                return lease if last is None else Failure(last.kind, "; ".join(faults))
            if last is not None:
                self.meter.retry(last.kind.value)
            member = lease.member
            server = member.server
            literal = self._literals.get(server.host)
            try:
                if literal:
                    outcome = await self._address(server, literal, protocol, header)
                else:
                    outcome = await self.reach(server, protocol, header)
            except BaseException:
                lease.close()
                raise
            if not isinstance(outcome, Failure):
                side, secure = outcome
                self.meter.dial("ok")
                before = None if last is None else Failure(last.kind, "; ".join(faults))
                return Connected(side, server, secure, member.name, lease, before)
            self.meter.dial(outcome.kind.value)
            lease.bad(outcome)
            lease.close()
            faults.append(f"{member.name}: {outcome.detail}")
            last = outcome
            if only is not None:
                return Failure(last.kind, "; ".join(faults))
            wish = Wish(wish.key, (*wish.avoid, member.name))

    def _aimed(self, address: ServerAddress) -> Server:
        """What a plugin left open is that of the upstream's first server."""
        first = self.plan.servers[0]
        host = _literal(address.host) or address.host.lower()
        port, tls = address.port or first.port, address.tls or first.tls
        return Server(host, port, tls, server_url(host, port, tls))

    def secure(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        server: Server,
        ready: Callable[[TlsTransport, TlsFailure | None], None],
    ) -> TlsTransport:
        """TLS as client on a connected socket, the certificate checked against the server's name."""
        if self.context is None:
            # The upstream's own servers have no TLS, but a plugin may name one that has.
            self.context = self.make_context()
        return TlsTransport(
            loop,
            sock,
            self.context,
            server_side=False,
            server_hostname=self.plan.server_name or server.host,
            handshake_timeout=self.times.upstream_handshake,
            ready=ready,
        )

    async def reach(
        self, server: Server, protocol: Callable[[], P], header: bytes = b""
    ) -> tuple[P, bool] | Failure:
        """A connection to this server, and whether TLS is on. Counts no result and asks nobody for a place."""
        literal = self._literals.get(server.host)
        if literal is None:
            literal = _literal(server.host)
        if literal:
            return await self._address(server, literal, protocol, header)
        started = monotonic()
        try:
            addresses = await self._limit.of(_addresses(server))
        except TimeoutError:
            # The resolver's thread goes on by itself; nobody waits for it any more.
            return Failure(Kind.DNS, f"cannot resolve the name: no answer within {self.times.connect:g} s")
        except OSError as error:
            return Failure(Kind.DNS, f"cannot resolve the name: {error.strerror or error}")
        self.meter.phase("dns", monotonic() - started)
        failure = Failure(Kind.DNS, "the name has no address")
        for address in addresses:
            outcome = await self._address(server, address, protocol, header)
            if not isinstance(outcome, Failure):
                return outcome
            failure = outcome
        return failure

    async def _address(
        self, server: Server, address: str, protocol: Callable[[], P], header: bytes
    ) -> tuple[P, bool] | Failure:
        if self._own.holds(address, server.port):
            return Failure(Kind.LOOP, f"{address}: a listener of this proxy, which would connect to itself")
        loop = asyncio.get_running_loop()
        started = monotonic()
        try:
            if server.tls != "implicit":
                transport, side = await self._limit.of(loop.create_connection(protocol, address, server.port))
                if header:
                    transport.write(header)
                self.meter.phase("tcp", monotonic() - started)
                return side, False
            sock = await self._limit.of(_connected(loop, address, server.port, header))
        except TimeoutError:
            return Failure(Kind.CONNECT_TIMEOUT, f"{address}: no answer within {self.times.connect:g} s")
        except ConnectionRefusedError:
            return Failure(Kind.REFUSED, f"{address}: connection refused")
        except OSError as error:
            return Failure(Kind.UNREACHABLE, f"{address}: {error.strerror or error}")
        self.meter.phase("tcp", monotonic() - started)
        return await self._handshake(loop, sock, server, protocol)

    async def _handshake(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        server: Server,
        protocol: Callable[[], P],
    ) -> tuple[P, bool] | Failure:
        shaken: asyncio.Future[TlsFailure | None] = loop.create_future()

        def ready(_: TlsTransport, failure: TlsFailure | None) -> None:
            if not shaken.done():
                shaken.set_result(failure)

        started = monotonic()
        transport = self.secure(loop, sock, server, ready)
        try:
            failure = await shaken
        except asyncio.CancelledError:
            transport.abort()
            raise
        if failure is not None:
            return tls_failure(failure)
        self.meter.phase("tls", monotonic() - started)
        side = protocol()
        transport.set_protocol(side)
        side.connection_made(transport)
        return side, True


def tls_failure(failure: TlsFailure) -> Failure:
    """An upstream's TLS trouble as a Failure."""
    return Failure(Kind.TLS, f"TLS {failure.reason}: {failure.detail}")


def _literal(host: str) -> str:
    """The address that ``host`` is, or nothing for a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        return ""


async def _addresses(server: Server) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def _connected(loop: asyncio.AbstractEventLoop, address: str, port: int, header: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, (address, port))
        if header:
            await loop.sock_sendall(sock, header)
    except BaseException:
        sock.close()
        raise
    return sock

"""Probes: each server of a group is connected to every so often, so that one that is dead is known before a login is.

A probe takes the greeting, under TLS where logins would be, and closes: it logs in as nobody and says no QUIT (promise
1). It takes no place from a login and counts no dial.
"""

from __future__ import annotations

import asyncio
from typing import cast

from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Timeouts
from popproxy.net.dialer import Dialer, tls_failure
from popproxy.net.group import Member
from popproxy.net.introduce import own_header
from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.net.upgrade import Upgrade
from popproxy.wire.replies import parse_status

UNTRIED_SECONDS = 30.0
"""How often a server that is out of rotation and that no login tries is probed where ``health.probe`` does not say:
nobody else would find out that it is back."""
_LONGEST = 8192


class _Caller(asyncio.Protocol):
    """Takes one line at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._octets = b""
        self._line: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if isinstance(transport, TlsTransport):
            transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._octets += data
        if b"\n" in self._octets or len(self._octets) > _LONGEST:
            self._told(self._octets)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        kind = Kind.LOST if exc is None else Kind.RESET
        self._told(Failure(kind, "the server closed the connection" if exc is None else str(exc)))

    def _told(self, outcome: bytes | Failure) -> None:
        if not self._line.done():
            self._line.set_result(outcome)

    async def reply(self, what: str, kind: Kind) -> Failure | None:
        """None for ``+OK``."""
        outcome = await self._line
        if isinstance(outcome, Failure):
            return outcome
        status = parse_status(outcome.partition(b"\n")[0].removesuffix(b"\r"))
        if status is None or not status.ok:
            return Failure(kind, f"{what} with {outcome[:80]!r}")
        self._octets = b""
        self._line = asyncio.get_running_loop().create_future()
        return None


class Prober:
    """Probes the servers of one dialer until it is cancelled."""

    def __init__(self, dialer: Dialer, times: Timeouts) -> None:
        self._dialer = dialer
        self._times = times
        version = dialer.plan.send_proxy
        self._header = b"" if version is None else own_header(version)

    async def run(self, member: Member, place: int) -> None:
        """Probe ``member`` again and again. ``place`` spreads the probes of a group over the interval."""
        interval = self._dialer.plan.health.probe
        await asyncio.sleep(interval * (place + 1) / len(self._dialer.group.members))
        while True:
            await self.once(member)
            await asyncio.sleep(interval)

    async def untried(self) -> None:
        """Probe servers that are out of rotation and that no login tries, again and again."""
        group = self._dialer.group
        while True:
            await asyncio.sleep(UNTRIED_SECONDS)
            for member in group.members:
                if group.untried(member):
                    await self.once(member)

    async def once(self, member: Member) -> Failure | None:
        """One probe that counts: in the metrics, and for or against the server."""
        failure = await self.probe(member)
        self._dialer.meter.checked(member.name, "ok" if failure is None else failure.kind.value)
        self._dialer.group.probed(member, failure)
        return failure

    async def probe(self, member: Member) -> Failure | None:
        """One probe; None when the server is well."""
        reached = await self._dialer.reach(member.server, _Caller, self._header)
        if isinstance(reached, Failure):
            return reached
        caller, secure = reached
        try:
            failure = await self._reply(caller, "greeted", Kind.GREETING)
            if failure is not None or secure or member.server.tls == "off":
                return failure
            return await self._stls(caller, member)
        finally:
            if caller.transport is not None:
                caller.transport.abort()

    async def _reply(self, caller: _Caller, what: str, kind: Kind) -> Failure | None:
        try:
            async with asyncio.timeout(self._times.greeting):
                return await caller.reply(what, kind)
        except TimeoutError:
            return Failure(Kind.GREETING_TIMEOUT, f"no answer within {self._times.greeting:g} s")

    async def _stls(self, caller: _Caller, member: Member) -> Failure | None:
        plain = caller.transport
        if plain is None:
            return Failure(Kind.LOST, "the server closed the connection")
        plain.write(b"STLS\r\n")
        failure = await self._reply(caller, "answered STLS", Kind.NO_STLS)
        plain = caller.transport
        if failure is not None or plain is None:
            return failure or Failure(Kind.LOST, "the server closed the connection")
        loop = asyncio.get_running_loop()
        shaken: asyncio.Future[TlsFailure | None] = loop.create_future()

        def ready(transport: TlsTransport | None, fault: TlsFailure | None) -> None:
            if transport is not None:
                transport.abort()
            if not shaken.done():
                shaken.set_result(fault)

        caller.transport = None
        upgrade = Upgrade(
            loop,
            plain,
            self._times.upstream_handshake,
            lambda sock, then: self._dialer.secure(loop, sock, member.server, then),
            ready,
        )
        try:
            fault = await shaken
        finally:
            upgrade.abort()
        return None if fault is None else tls_failure(fault)

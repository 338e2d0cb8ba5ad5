"""The pump: moves octets between two transports and one session, and carries out the session's effects.

It decides nothing about POP3. After every event it sends what the session put out, obeys ``want_client`` and
``want_upstream``, and watches one lazy timer. Back-pressure is wired straight across: a full write buffer on one
side stops the reading of the other at once.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, cast

from popproxy.api.views import SessionView
from popproxy.core.effects import (
    Await,
    CloseClient,
    CloseUpstream,
    Dial,
    Dialed,
    Effect,
    Note,
    Returned,
    SecureClient,
    SecureUpstream,
)
from popproxy.core.failures import Failure, Kind
from popproxy.core.phases import Phase
from popproxy.core.session import Session
from popproxy.net.dialer import Connected, tls_failure
from popproxy.net.tlstransport import TlsFailure, TlsTransport, detach

if TYPE_CHECKING:
    from popproxy.net.front import Front

WRITE_HIGH = 65536
"""Octets a transport may hold unsent before the other side's reading stops."""
_CLOSE_SECONDS = 10.0
_LINGER_SECONDS = 2.0
_LINGER_OCTETS = 1 << 20
_FLUSH_OCTETS = 1 << 18
_SILENT = frozenset({"quit", "client_eof", "client_reset", "idle_timeout", "shutdown", "client_stalled"})


class UpstreamSide(asyncio.Protocol):
    """The connection upstream of one pump. Octets that come before the pump is told of it wait here."""

    __slots__ = ("attached", "early", "pump", "transport")

    def __init__(self, pump: Pump) -> None:
        self.pump: Pump | None = pump
        self.transport: asyncio.Transport | None = None
        self.attached = False
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport: a cast, never isinstance.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        pump = self.pump
        if pump is None:
            return
        if not self.attached:
            self.early.append(data)
            return
        pump.upstream_octets[0] += len(data)
        pump.session.upstream_data(data)
        pump.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        pump, self.pump = self.pump, None
        if pump is not None:
            pump.upstream_lost(self, exc)

    def pause_writing(self) -> None:
        if self.pump is not None:
            self.pump.upstream_blocked = True
            self.pump.front.meter.pause("client")
            self.pump.watch()

    def resume_writing(self) -> None:
        if self.pump is not None:
            self.pump.upstream_blocked = False
            self.pump.watch()


class Pump(asyncio.Protocol):
    """One client connection with all that belongs to it."""

    __slots__ = (
        "_client",
        "_client_reading",
        "_connected",
        "_dialing",
        "_flushed",
        "_lingering",
        "_phase",
        "_side",
        "_timer",
        "_timer_at",
        "_upstream",
        "_upstream_reading",
        "client_blocked",
        "front",
        "session",
        "upstream_blocked",
        "upstream_octets",
        "view",
    )

    session: Session

    def __init__(self, front: Front, view: SessionView | None = None) -> None:
        self.front = front
        self.view = view if view is not None else front.view()
        self._client: asyncio.Transport | None = None
        self._side: UpstreamSide | None = None
        self._connected: Connected | None = None
        self._upstream = ""
        self._dialing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._client_reading = True
        self._upstream_reading = True
        self._lingering = -1
        self._phase = Phase.GREETING
        self._flushed = [0, 0, 0, 0]
        self.client_blocked = False
        self.upstream_blocked = False
        self.upstream_octets = [0, 0]

    # The client's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted by the loop, or TLS is done: the session begins."""
        transport = cast(asyncio.Transport, transport)
        self._client = transport
        transport.set_write_buffer_limits(WRITE_HIGH)
        front = self.front
        front.fill(self.view, transport)
        refusal = front.admit(self)
        if refusal is not None:
            transport.write(refusal)
            self._client = None
            transport.set_protocol(asyncio.Protocol())
            transport.close()
            return
        self.session = Session(front.plan, self.view, front.meter, front.knowledge, monotonic, front.spool)
        front.meter.session_state("", self._phase.value)
        self.session.start()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self._lingering >= 0:
            self._lingering += len(data)
            if self._lingering > _LINGER_OCTETS and self._client is not None:
                self._client.abort()
            return
        self.session.client_data(data)
        self.flush()

    def eof_received(self) -> bool:
        if self._lingering >= 0:
            return False
        self.session.client_eof()
        self.flush()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._client = None
        self.session.client_gone("client_reset" if exc is not None else "client_eof")
        self.flush()
        self._finish()

    def pause_writing(self) -> None:
        self.client_blocked = True
        self.front.meter.pause("upstream")
        self.session.client_blocked(True)
        self.watch()

    def resume_writing(self) -> None:
        self.client_blocked = False
        self.session.client_blocked(False)
        self.flush()

    # Out of the session

    def flush(self) -> None:
        """Send what the session put out, carry out its effects, obey its wishes."""
        s = self.session
        while True:
            if s.to_client:
                self._send_client(s.to_client)
            if s.to_upstream:
                self._send_upstream(s.to_upstream)
            if s.effects:
                effects, s.effects = s.effects, []
                for effect in effects:
                    self._perform(effect)
            if not s.pulling or self.client_blocked or self._client is None:
                break
            s.drained()
        if s.phase is not self._phase:
            self.front.meter.session_state(self._phase.value, s.phase.value)
            self._phase = s.phase
        self.watch()
        if s.deadline < self._timer_at:
            self._arm(s.deadline)

    def _send_client(self, out: list[bytes]) -> None:
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        if self._client is not None:
            self.session.octets_out += len(data)
            self._client.write(data)
            if self.session.octets_out - self._flushed[1] > _FLUSH_OCTETS:
                self._count_octets()

    def _send_upstream(self, out: list[bytes]) -> None:
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        side = self._side
        if side is not None and side.transport is not None:
            self.upstream_octets[1] += len(data)
            side.transport.write(data)

    def watch(self) -> None:
        """Read from each side exactly when its octets are welcome and the other side takes more."""
        s = self.session
        wanted = s.want_client and not self.upstream_blocked
        if wanted is not self._client_reading and self._client is not None and self._lingering < 0:
            self._client_reading = wanted
            if wanted:
                self._client.resume_reading()
            else:
                self._client.pause_reading()
        wanted = s.want_upstream and not self.client_blocked
        if wanted is not self._upstream_reading:
            side = self._side
            if side is not None and side.attached and side.transport is not None:
                self._upstream_reading = wanted
                if wanted:
                    side.transport.resume_reading()
                else:
                    side.transport.pause_reading()

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.front.loop.call_later(max(0.0, deadline - monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = inf
        self.session.tick()
        self._count_octets()
        self.flush()

    # Effects

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Note):
            self.front.note(self.view, effect)
        elif isinstance(effect, Dial):
            self._dialing = self.front.spawn(self._dial(effect))
        elif isinstance(effect, CloseUpstream):
            self._close_upstream()
        elif isinstance(effect, CloseClient):
            self._close_client()
        elif isinstance(effect, Await):
            self.front.spawn(self._await(effect))
        elif isinstance(effect, SecureClient):
            self._secure_client(effect)
        elif isinstance(effect, SecureUpstream):
            self._secure_upstream(effect)

    async def _dial(self, effect: Dial) -> None:
        side = UpstreamSide(self)
        outcome = await self.front.dialers[effect.upstream].connect(lambda: side)
        self._dialing = None
        if isinstance(outcome, Failure):
            self.session.done(effect.id, outcome)
            self.flush()
            return
        self._side = side
        self._connected = outcome
        self._upstream = effect.upstream
        self.front.dialers[effect.upstream].meter.active(1)
        self.session.done(effect.id, Dialed(outcome.name, outcome.secure))
        self.flush()
        self._attach(side)

    def _attach(self, side: UpstreamSide) -> None:
        """The session knows of the connection: give it what came early, and read on."""
        side.attached = True
        self._upstream_reading = True
        if isinstance(side.transport, TlsTransport):
            # It starts paused, as no transport of the loop does.
            side.transport.resume_reading()
        early, side.early = b"".join(side.early), []
        if early and self._side is side:
            side.data_received(early)
        else:
            self.watch()

    async def _await(self, effect: Await) -> None:
        """Await a hook, but never longer than its deadline, even when it will not be cancelled."""
        task = self.front.spawn(effect.awaitable)
        done, _ = await asyncio.wait({task}, timeout=effect.entry.subscriber.deadline)
        if not done:
            task.cancel()
            outcome = Returned(error=TimeoutError())
        elif task.cancelled():
            outcome = Returned(error=RuntimeError("the hook was cancelled"))
        else:
            error = task.exception()
            outcome = Returned(error=error) if error is not None else Returned(task.result())
        self.session.done(effect.id, outcome)
        self.flush()

    def _secure_client(self, effect: SecureClient, tries: int = 0) -> None:
        """TLS on the client's leg, when the reply to STLS has left the buffer."""
        client = self._client
        if client is None or self.session.phase is Phase.CLOSED:
            return
        client.pause_reading()
        if client.get_write_buffer_size():
            seconds = 0.0 if tries == 0 else 0.02
            self.front.loop.call_later(seconds, self._secure_client, effect, tries + 1)
            return

        def ready(transport: TlsTransport, failure: TlsFailure | None) -> None:
            if failure is not None:
                self.front.tls_failed(self.view, "stls", failure)
                self._client = None
                self.session.done(effect.id, Failure(Kind.TLS, failure.detail))
                self.flush()
                self._finish()
                return
            transport.set_protocol(self)
            transport.set_write_buffer_limits(WRITE_HIGH)
            transport.resume_reading()
            self._client_reading = True
            self.session.done(effect.id, self.front.tls_view("stls", transport))
            self.flush()

        self._client = self.front.secure(detach(client), ready)

    def _secure_upstream(self, effect: SecureUpstream) -> None:
        side, connected = self._side, self._connected
        if side is None or side.transport is None or connected is None:
            return
        plain = side.transport
        plain.pause_reading()

        def ready(transport: TlsTransport, failure: TlsFailure | None) -> None:
            if self._side is not side:
                transport.abort()
                return
            if failure is not None:
                side.pump = None
                self._drop_side()
                self.session.done(effect.id, tls_failure(failure))
                self.flush()
                return
            transport.set_protocol(side)
            side.connection_made(transport)
            self._upstream_reading = True
            transport.resume_reading()
            self.session.done(effect.id, None)
            self.flush()

        dialer = self.front.dialers[self._upstream]
        side.transport = dialer.secure(self.front.loop, detach(plain), connected.server, ready)

    # The end

    def upstream_lost(self, side: UpstreamSide, exc: Exception | None) -> None:
        """The connection upstream ended."""
        if side is not self._side:
            return
        self._drop_side()
        kind = Kind.RESET if exc is not None else Kind.LOST
        self.session.upstream_gone(Failure(kind, str(exc) if exc is not None else "the server closed the connection"))
        self.flush()

    def _drop_side(self) -> None:
        self._side = None
        self.upstream_blocked = False
        if self._connected is not None:
            self.front.dialers[self._upstream].meter.active(-1)
            self._connected = None

    def _close_upstream(self) -> None:
        """Close without a word of our own; what the client sent and is still in the buffer goes out first."""
        if self._dialing is not None:
            self._dialing.cancel()
            self._dialing = None
        side = self._side
        if side is None:
            return
        side.pump = None
        self._drop_side()
        transport = side.transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                self.front.loop.call_later(_CLOSE_SECONDS, transport.abort)

    def _close_client(self) -> None:
        """Send what is due, then close. Behind an error the client's octets are read on for a moment: closing on
        unread octets would be a reset, and the error would be lost."""
        client = self._client
        if client is None:
            return
        if self.session.reason in _SILENT or not client.can_write_eof():
            self._close_when_sent()
            return
        self._lingering = 0
        if not self._client_reading:
            self._client_reading = True
            client.resume_reading()
        client.write_eof()
        self.front.loop.call_later(_LINGER_SECONDS, self._close_when_sent)

    def _close_when_sent(self) -> None:
        client = self._client
        if client is not None:
            client.close()
            self.front.loop.call_later(_CLOSE_SECONDS, client.abort)

    def stop(self) -> None:
        """The worker shuts down."""
        self.session.stop()
        self.flush()

    def abort(self) -> None:
        """The worker's deadline passed: no more waiting, on either side."""
        self.session.end("shutdown", "the deadline for open sessions passed")
        self.flush()
        if self._client is not None:
            self._client.abort()

    def _count_octets(self) -> None:
        s = self.session
        now = [s.octets_in, s.octets_out, *self.upstream_octets]
        self.front.meter.bytes_(*(new - old for new, old in zip(now, self._flushed, strict=True)))
        self._flushed = now

    def _finish(self) -> None:
        """Both connections are gone, or going: totals are final."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count_octets()
        self.front.finished(self)


"""The pump: moves octets between two transports and one session, and carries out the session's effects.

It decides nothing about POP3. After every event it sends what the session put out, obeys ``want_client`` and
``want_upstream``, and watches one lazy timer. Back-pressure is wired straight across: a full write buffer on one
side stops the reading of the other at once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from popproxy.api.views import SessionView
from popproxy.core.effects import (
    Await,
    CloseClient,
    CloseUpstream,
    Derive,
    Dial,
    Dialed,
    Effect,
    Greeted,
    Judge,
    LoginTook,
    Note,
    Outcome,
    Paced,
    Ready,
    SecureClient,
    SecureUpstream,
)
from popproxy.core.failures import Failure, Kind
from popproxy.core.phases import CLOSED, Phase
from popproxy.core.session import Session
from popproxy.net.dialer import Connected, tls_failure
from popproxy.net.farewell import Farewell, taken
from popproxy.net.group import Lease
from popproxy.net.hooktasks import HookTasks
from popproxy.net.introduce import proxy_header
from popproxy.net.pacing import Pacer
from popproxy.net.tasks import Errand
from popproxy.net.tlstransport import TlsFailure, TlsTransport
from popproxy.net.upgrade import Upgrade
from popproxy.net.upstreamside import WRITE_HIGH, UpstreamSide

if TYPE_CHECKING:
    from popproxy.net.front import Front

_COUNT_OCTETS = 1 << 18
"""Octets for the client between two times that octets are counted, beside those of the timer."""
_TICK = 0.001
_GLANCE = 0.25
_GLANCES = 64
"""A blocked client is glanced at so often in its idle time, or every so many seconds of a short one."""
_SILENT = frozenset({"quit", "client_eof", "client_reset", "idle_timeout", "login_timeout", "shutdown", "kicked"})
"""Ends at which the client either knows or is told nothing."""


class Pump(asyncio.Protocol):
    """One client connection with all that belongs to it. ``view`` is given when the Door has let it in."""

    __slots__ = (
        "_alone",
        "_client",
        "_client_reading",
        "_count_at",
        "_counted",
        "_dialing",
        "_hooks",
        "_invited",
        "_lease",
        "_pacer",
        "_phase",
        "_side",
        "_taken",
        "_timer",
        "_timer_at",
        "_upgrade",
        "begun",
        "client_blocked",
        "front",
        "session",
        "upstream_in",
        "upstream_out",
        "view",
    )

    session: Session

    def __init__(self, front: Front, view: SessionView | None = None) -> None:
        self.front = front
        self.view = view if view is not None else front.view()
        self._invited = view is not None
        self.begun = False
        self._client: asyncio.Transport | None = None
        self._upgrade: Upgrade | None = None
        self._side: UpstreamSide | None = None
        self._lease: Lease | None = None
        self._dialing: Errand[Connected[UpstreamSide] | Failure] | None = None
        self._hooks: HookTasks | None = None
        self._pacer: Pacer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._client_reading = True
        self._phase = Phase.GREETING
        self._counted = (0, 0, 0, 0)
        self._count_at = _COUNT_OCTETS
        self._alone = False
        self._taken = 0
        self.client_blocked = False
        self.upstream_in = 0
        self.upstream_out = 0

    # The client's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted by the loop, or TLS is done: the session begins."""
        client = cast(asyncio.Transport, transport)
        front = self.front
        self.begun = True
        refusal = front.admit(self, client, self._invited)
        if refusal is not None:
            client.set_protocol(asyncio.Protocol())
            client.write(refusal)
            client.close()
            return
        self._client = client
        client.set_write_buffer_limits(WRITE_HIGH)
        self.session = Session(front.plan, self.view, front.counts(self.view), front.knowledge, monotonic, front.spool)
        front.meter.session_state("", self._phase.word)
        if front.taps.open:
            front.taps.arrived(self)
        self._tell(self.session.start)

    def data_received(self, data: bytes) -> None:
        """Octets of the client."""
        try:
            self.session.client_data(data)
            self._flush()
        except Exception as error:
            self._broken(error)

    def eof_received(self) -> bool:
        """The client will send no more; that it still reads is assumed until it proves otherwise."""
        self._tell(self.session.client_eof)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client's connection is gone."""
        self._forget_client()
        # Until the end, which comes now unless its QUIT is under way, or there was one already.
        self._alone = True
        self._tell(self.session.client_gone, "client_reset" if exc is not None else "client_eof")
        if self._alone and self.session.phase is CLOSED:
            self._alone = False
            self._finish()

    def pause_writing(self) -> None:
        """The client takes less than comes for it."""
        if self._pacer is not None:
            self._pacer.full = True
        self.client_blocked = True
        self.front.meter.pause("upstream")
        if self._client is not None:
            self.front.meter.buffers.client.add(self._client)
        self.session.client_blocked(True)
        self.watch()
        self._glance()

    def resume_writing(self) -> None:
        """The client has taken it."""
        if self._client is not None:
            self.front.meter.buffers.client.discard(self._client)
        if self._pacer is None or self._client is None or self._pacer.resumed(self._client):
            self.eased(False)

    @property
    def client(self) -> asyncio.Transport | None:
        """The client's transport while it is there."""
        return self._client

    def eased(self, blocked: bool) -> None:
        """The client has taken something; ``blocked``: not all, or it must not have more yet."""
        self.client_blocked = blocked
        self._tell(self.session.client_blocked, blocked)

    # What the upstream side tells

    def upstream_data(self, data: bytes) -> None:
        """Octets from upstream."""
        self.upstream_in += len(data)
        try:
            self.session.upstream_data(data)
            self._flush()
        except Exception as error:
            self._broken(error)

    def upstream_lost(self, side: UpstreamSide, failure: Failure) -> None:
        """The connection upstream ended."""
        if side is self._side:
            self._side = None
            self._tell(self.session.upstream_gone, failure)
            # Its lease is told the outcome before it is closed.
            side.close()

    def upstream_unsecured(self, side: UpstreamSide, id: int, failure: TlsFailure | None) -> None:
        """TLS behind STLS failed; the connection is closed."""
        if side is self._side:
            self._side = None
            self.done(id, tls_failure(failure) if failure is not None else Failure(Kind.TLS, "no TLS"))
            side.close()

    def done(self, id: int, outcome: Outcome) -> None:
        """The outcome of an effect."""
        self._tell(self.session.done, id, outcome)

    # Into the session and out of it

    def _tell(self, event: Callable[..., None], *details: Any) -> None:
        """Tell the session of an event and do what it then asks for. A fault of our own ends the session."""
        try:
            event(*details)
            self._flush()
        except Exception as error:
            self._broken(error)

    def _flush(self) -> None:
        """Send what the session put out, carry out its effects, obey its wishes."""
        s = self.session
        if s.to_client:
            self._send_client(s.to_client)
        if s.to_upstream:
            self._send_upstream(s.to_upstream)
        if s.effects or s.pulling or s.phase is not self._phase:
            self._carry_out()
        side = self._side
        if s.want_client is not self._client_reading or (side is not None and s.want_upstream is not side.reading):
            self.watch()
        if s.deadline < self._timer_at:
            self._timer_at = s.deadline
            self._later(s.deadline - monotonic(), self._tick)

    def _carry_out(self) -> None:
        """The session's effects; then what it has for the client, for as long as the client takes it."""
        s = self.session
        while True:
            if s.effects:
                effects, s.effects = s.effects, []
                for effect in effects:
                    self._perform(effect)
            client = self._client
            if not s.pulling or self.client_blocked or client is None or client.is_closing():
                break
            s.drained()
            if s.to_client:
                self._send_client(s.to_client)
            if s.to_upstream:
                self._send_upstream(s.to_upstream)
        if s.phase is not self._phase:
            self._enter(s.phase)

    def _send_client(self, out: list[bytes]) -> None:
        if len(out) > 1:
            out[:] = (b"".join(out),)
        data = out.pop()
        client = self._client
        if client is not None:
            s = self.session
            s.octets_out += len(data)
            if self._pacer is None:
                client.write(data)
            else:
                self._pacer.write(client, data)
                self.watch()
            if s.octets_out > self._count_at:
                self._count_octets()

    def _send_upstream(self, out: list[bytes]) -> None:
        if len(out) > 1:
            out[:] = (b"".join(out),)
        data = out.pop()
        side = self._side
        if side is not None:
            self.upstream_out += len(data)
            if side.transport is not None:
                side.transport.write(data)

    def watch(self) -> None:
        """Read from each side exactly when its octets are welcome and the other side takes more. Called when the
        session wishes otherwise than it is, and whenever a side takes less or more."""
        s, side, client = self.session, self._side, self._client
        wanted = s.want_client and not (side is not None and side.blocked)
        if wanted is not self._client_reading and client is not None:
            self._client_reading = wanted
            if wanted:
                client.resume_reading()
            else:
                client.pause_reading()
        if side is not None:
            wanted = s.want_upstream and not self.client_blocked
            if wanted is not side.reading:
                side.read(wanted)

    def _later(self, seconds: float, call: Callable[..., None], *details: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.front.loop.call_later(max(_TICK, seconds), call, *details)

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = inf
        self._count_octets()
        if self._pacer is not None and self._pacer.resting:
            # The end of the rest sets the clock anew.
            return
        client = self._client
        if self.client_blocked and client is not None and not client.is_closing():
            before, self._taken = self._taken, taken(client)
            if self._taken != before:
                # Its idle time begins anew.
                self._tell(self.session.client_blocked, True)
            self._glance()
        self._tell(self.session.tick)

    def _glance(self) -> None:
        """See soon whether the client takes anything. That there is room again the kernel tells only when megabytes are
        gone, for which a slow client may need longer than its idle time."""
        idle = self.front.plan.timeouts.idle
        seconds = min(idle / 2, max(_GLANCE, idle / _GLANCES))
        at = monotonic() + seconds
        if at < self._timer_at:
            self._timer_at = at
            self._later(seconds, self._tick)

    def _enter(self, phase: Phase) -> None:
        self.front.meter.session_state(self._phase.word, phase.word)
        self._phase = phase
        if phase is CLOSED and self._hooks is not None:
            self._hooks.cancel()

    def _count_octets(self) -> None:
        s = self.session
        a, b, c, d = self._counted
        e, f, g, h = self._counted = (s.octets_in, s.octets_out, self.upstream_in, self.upstream_out)
        self._count_at = f + _COUNT_OCTETS
        self.front.meter.bytes_(e - a, f - b, g - c, h - d)

    def _broken(self, error: Exception) -> None:
        """A fault of our own: what the session would do next is not known, so both connections are cut."""
        self.front.fault(self.view, error)
        s = self.session
        try:
            s.end("internal_error", type(error).__name__)
        except Exception as again:
            self.front.fault(self.view, again)
        for effect in s.effects:
            if isinstance(effect, Await) and inspect.iscoroutine(effect.awaitable):
                effect.awaitable.close()
        for out in (s.to_client, s.to_upstream, s.effects):
            out.clear()
        self._close_upstream()
        self._cut()

    # Effects

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Note):
            self.front.note(self.view, effect)
        elif isinstance(effect, Dial):
            self._dialing = self.front.errand(self._dial(effect), partial(self._dialed, effect))
        elif isinstance(effect, CloseUpstream):
            self._close_upstream()
        elif isinstance(effect, Judge):
            self._judge(effect)
        elif isinstance(effect, LoginTook):
            self.front.dialers[effect.upstream].meter.login("ok" if effect.ok else "fail", effect.seconds)
        elif isinstance(effect, Greeted):
            self.front.dialers[effect.upstream].meter.phase("greeting", effect.seconds)
        elif isinstance(effect, CloseClient):
            self.close_client()
        elif isinstance(effect, Ready):
            if self._lease is not None:
                self._lease.ready()
        elif isinstance(effect, Await):
            if self._hooks is None:
                # Made when it is needed: with no async hook nobody pays for it.
                self._hooks = HookTasks(self.front.loop, self.front.spawn, self.done)
            self._hooks.begin(effect)
        elif isinstance(effect, Paced):
            self._pacer = Pacer(self, effect.paces)
        elif isinstance(effect, Derive):
            self.front.spawn(self._derive(effect))
        elif isinstance(effect, SecureClient):
            self._secure_client(effect)
        elif isinstance(effect, SecureUpstream) and self._side is not None:
            self._side.secure(effect.id, self.front.plan.timeouts.upstream_handshake)

    async def _dial(self, effect: Dial) -> Connected[UpstreamSide] | Failure:
        dialer = self.front.dialers[effect.target.upstream]
        if effect.why is not None:
            dialer.meter.retry(effect.why.kind.value)
        version = dialer.plan.send_proxy
        header = b"" if version is None else proxy_header(version, self.view, self.session.ttl)
        try:
            return await dialer.connect(partial(UpstreamSide, self), effect.target, effect.avoid, header)
        except Exception as error:
            self.front.fault(self.view, error)
            return Failure(Kind.INTERNAL, type(error).__name__)

    def _dialed(self, effect: Dial, outcome: Connected[UpstreamSide] | Failure) -> None:
        self._dialing = None
        if isinstance(outcome, Failure):
            self.done(effect.id, outcome)
            return
        side = self._side = outcome.protocol
        side.open(self.front.dialers[effect.target.upstream], outcome)
        self._lease = outcome.lease
        before = outcome.before
        if before is not None:
            fields = {"kind": before.kind.value, "detail": before.detail}
            self.front.note(self.view, Note("warning", "upstream_retry", fields))
        self.done(effect.id, Dialed(outcome.name, outcome.secure))
        side.attach()

    def _judge(self, effect: Judge) -> None:
        if self._lease is not None:
            if effect.failure is None:
                self._lease.good()
            else:
                self._lease.bad(effect.failure, effect.who)

    async def _derive(self, effect: Derive) -> None:
        self.done(effect.id, await asyncio.to_thread(effect.derivation.compute))

    def _secure_client(self, effect: SecureClient) -> None:
        """TLS on the client's leg, when the reply to STLS has left the buffer."""
        client = self._client
        if client is None or client.is_closing():
            # Its end is on the way.
            return

        def ready(transport: TlsTransport | None, failure: TlsFailure | None) -> None:
            self._upgrade = None
            if failure is not None or transport is None:
                detail = failure.detail if failure is not None else "no TLS"
                if failure is not None:
                    self.front.tls_failed(self.view, "stls", failure)
                self.done(effect.id, Failure(Kind.TLS, detail))
                self._finish()
                return
            self._client = transport
            transport.set_protocol(self)
            transport.set_write_buffer_limits(WRITE_HIGH)
            transport.resume_reading()
            self._client_reading = True
            if self.client_blocked:
                self.client_blocked = False
                self.session.client_blocked(False)
            self.done(effect.id, self.front.tls_view("stls", transport))

        self._forget_client()
        seconds = self.front.plan.timeouts.handshake
        self._upgrade = Upgrade(self.front.loop, client, seconds, self.front.secure, ready)

    # The end

    def _close_upstream(self) -> None:
        if self._dialing is not None:
            self._dialing.cancel()
            self._dialing = None
        side, self._side = self._side, None
        if side is not None:
            side.close()

    def close_client(self) -> None:
        """Send what is due, then close; see Farewell for those who have not taken it yet, or must read an error."""
        client, reason = self._client, self.session.reason
        if client is None or client.is_closing() or reason == "client_stalled":
            self._cut()
        elif self._pacer is not None and not self._pacer.ended(client):
            # It comes back here when the rest is out.
            return
        elif reason in _SILENT or not client.can_write_eof():
            if self._client_reading and not client.get_write_buffer_size():
                client.close()
            else:
                Farewell(self.front.loop, client, self._finish).close()
        else:
            Farewell(self.front.loop, client, self._finish).linger()

    def _cut(self) -> None:
        """Close the client's connection now, whatever is unsent."""
        if self._upgrade is not None:
            self._upgrade.abort()
            self._upgrade = None
            self._finish()
        elif self._client is not None:
            self._client.abort()
        elif self._alone:
            self._alone = False
            self._finish()

    def stop(self, reason: str = "shutdown", detail: str = "") -> None:
        """The worker shuts down, or somebody ends the session, see Session.stop: whoever waits only for its pace, gets
        the rest at once."""
        if self._pacer is not None:
            self._pacer.release(self._client)
            self.eased(self._pacer.full)
            if self._phase is CLOSED:
                self.close_client()
        self._tell(self.session.stop, reason, detail)

    def abort(self, reason: str = "shutdown", detail: str = "the deadline for open sessions passed") -> None:
        """The worker's deadline passed, or somebody ends it now: no more waiting."""
        self._tell(self.session.end, reason, detail)
        self._cut()

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            self.front.meter.buffers.client.discard(client)

    def _finish(self) -> None:
        """Both connections are gone, or going: totals are final."""
        self._forget_client()
        if self._pacer is not None:
            self._pacer.release(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._phase is not CLOSED:
            self._enter(CLOSED)
        self._count_octets()
        self.front.finished(self)

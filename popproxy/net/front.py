"""What all sessions of one listener share: its constants, its counters, its log lines."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Literal, Protocol

from popproxy.api.plugin import overrides
from popproxy.api.views import SessionView, TlsView
from popproxy.config.plan import ListenerPlan
from popproxy.core.chain import Subscriber
from popproxy.core.effects import Level, Note
from popproxy.core.hooks import told
from popproxy.core.login import Knowledge
from popproxy.core.meter import SessionMeter
from popproxy.core.observed import ObservedMeter, observed
from popproxy.core.plan import SessionPlan
from popproxy.metrics.meters import ListenerMeter, TlsMode
from popproxy.net.clientcert import described
from popproxy.net.desk.tap import Taps
from popproxy.net.dialer import Dialer
from popproxy.net.door import BUSY, FULL, Door, addresses
from popproxy.net.overload import Overload
from popproxy.net.pump import Pump
from popproxy.net.spool import Spools
from popproxy.net.tasks import Tasks
from popproxy.net.tlstransport import TlsFailure, TlsTransport

_ALPN = b"pop3"


class EventLog(Protocol):
    """Where log lines go; run/logs.py has one."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


class Seats:
    """The connections of all listeners of one name, whichever config they began under."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all fronts of one config share."""

    loop: asyncio.AbstractEventLoop
    log: EventLog
    knowledge: Knowledge
    dialers: Mapping[str, Dialer]
    tasks: Tasks
    next_id: Callable[[], str]
    spools: Spools
    ended: Callable[[], None]
    overload: Overload
    taps: Taps
    exemplars: bool = False


class Front:
    """One listener as one config has it. ``open`` counts its connections, ``pumps`` are those that have a session,
    ``seats`` counts together with the fronts of earlier configs. ``context`` is the TLS of the next handshake."""

    def __init__(
        self,
        listener: ListenerPlan,
        shared: Shared,
        meter: ListenerMeter,
        context: ssl.SSLContext | None,
        seats: Seats | None = None,
    ) -> None:
        self.listener = listener
        self.plan: SessionPlan = listener.session
        self.meter = meter
        self.loop = shared.loop
        self.taps = shared.taps
        self.knowledge = shared.knowledge
        self.dialers = shared.dialers
        self.spawn = shared.tasks.spawn
        self.errand = shared.tasks.errand
        self.spool = shared.spools.make
        self.door = Door(self)
        self.pumps: set[Pump] = set()
        self.open = 0
        self.seats = seats or Seats()
        self.draining = False
        self.retired = False
        self._log = shared.log
        self._next_id = shared.next_id
        self._ended = shared.ended
        self._overload = shared.overload
        self._exemplars = shared.exemplars
        self._observing = tuple(s for s in self.plan.chain.subscribers if overrides(type(s.plugin), "observe"))
        self.context = context

    # Counting

    def counts(self, view: SessionView) -> SessionMeter:
        """What the session of ``view`` counts with."""
        meter = self.meter.traced(view) if self._exemplars else self.meter
        return observed(self._observing, view, meter, partial(self._failed, view)) if self._observing else meter

    def _failed(self, view: SessionView, subscriber: Subscriber, error: BaseException) -> None:
        """A plugin's observer is of no use for this session."""
        self.meter.plugin_error(subscriber.name, "observe", "fail_open")
        fields = {"plugin": subscriber.name, "hook": "observe", "action": "fail_open", "error": type(error).__name__}
        self.note(view, Note("error", "plugin_error", {**fields, "detail": told(error)}))

    # Connections

    def view(self) -> SessionView:
        """A view for a new connection."""
        return SessionView(self._next_id(), self.listener.name, began=time.time())

    def enter(self) -> tuple[Literal["limit", "overload"], str] | None:
        """A client was accepted: count it. When there is no room, why: then it does not stay."""
        self.meter.connection()
        if self.seats.taken >= self.listener.limit:
            return "limit", f"{self.listener.limit} connections are open"
        why = self._overload.refuses(self.loop.time())
        if why:
            return "overload", why
        self.open += 1
        self.seats.taken += 1
        self._overload.open += 1
        self.meter.active(1)
        return None

    def leave(self) -> None:
        """A client that had room is gone."""
        self.open -= 1
        self.seats.taken -= 1
        self._overload.open -= 1
        self.meter.active(-1)
        if self.retired and not self.open:
            self._ended()

    def admit(self, pump: Pump, transport: asyncio.Transport, invited: bool) -> bytes | None:
        """Take the connection, or give what is said to a client that is refused.

        ``invited``: it came through the door, which has counted it.
        """
        view = pump.view
        if not invited:
            peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            family = socket.AF_INET if isinstance(own, tuple) else socket.AF_UNIX
            addresses(view, family, peer, own)
            full = self.enter()
            if full is not None:
                self.refused(view, *full)
                return FULL[full[0]]
        if self.draining or not view.client:
            # Without an address it is gone already.
            self.leave()
            if view.client:
                self.refused(view, "draining", "shutting down")
            return BUSY
        self.pumps.add(pump)
        return None

    def finished(self, pump: Pump) -> None:
        """Both connections of ``pump`` are gone: the one line that tells everything."""
        self.pumps.discard(pump)
        self.leave()
        session, view = pump.session, pump.view
        try:
            self._told(pump)
        except Exception as error:
            self.fault(view, error)
        for effect in session.effects:
            if isinstance(effect, Note):
                self.note(view, effect)
        self._ended()

    def _told(self, pump: Pump) -> None:
        session, view = pump.session, pump.view
        summary = session.summary()
        self.meter.session_end(summary.phase, summary.reason, summary.seconds)
        if isinstance(session.meter, ObservedMeter):
            session.meter.ended(summary)
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

    # Log lines

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

    def fault(self, view: SessionView, error: Exception) -> None:
        """A fault of ours in a session: its type and place, never its text."""
        frames = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in extract_tb(error.__traceback__)]
        self._log.event(
            "error",
            "internal_error",
            session=view.id,
            listener=view.listener,
            client=view.client,
            client_port=view.client_port,
            error=type(error).__name__,
            where=" < ".join(frames[:-6:-1]),
        )

    def refused(self, view: SessionView, reason: str, detail: str) -> None:
        """A connection ends before its greeting."""
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

    def accept_failed(self, error: OSError) -> None:
        """The system could not accept a client. It is tried again, and whoever waits in the backlog goes on waiting."""
        self.meter.accept_failed()
        self._log.event("error", "accept_failed", listener=self.listener.name, detail=error.strerror or str(error))

    # TLS on the clients' leg

    def secure(
        self, sock: socket.socket, ready: Callable[[TlsTransport, TlsFailure | None], None]
    ) -> TlsTransport:
        """TLS as server on a connected socket."""
        if self.context is None:
            raise RuntimeError(f"listener {self.listener.name} has no certificate")
        return TlsTransport(
            self.loop,
            sock,
            self.context,
            server_side=True,
            handshake_timeout=self.plan.timeouts.handshake,
            ready=ready,
            check_alpn=_ALPN,
        )

    def tls_view(self, mode: TlsMode, transport: TlsTransport) -> TlsView:
        """TLS is on: count it."""
        info = transport.tls
        self.meter.tls_ok(mode, info.version, info.cipher, info.resumed, info.handshake_seconds)
        view = TlsView(info.version, info.cipher, info.resumed, info.server_name, info.peer_cert_subject)
        if self.listener.tls_context.verify_client == "off":
            return view
        if info.peer_cert is None:
            return replace(view, verify="NONE")
        try:
            shown = described(info.peer_cert)
        except ValueError:
            # Good for OpenSSL, and still nothing that a plugin could know somebody by.
            return replace(view, verify="FAILED:the certificate cannot be read")
        return replace(view, verify="SUCCESS", **asdict(shown))

    def tls_failed(self, view: SessionView, mode: TlsMode, failure: TlsFailure) -> None:
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

"""A pump that somebody looks on at: the same pump in another class, whose steps are also told to an ear.

A pump becomes one, and an ordinary one again, while it runs; nothing on the way of a session asks whether it is tapped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

from popproxy.api.views import TlsView
from popproxy.core.effects import (
    Await,
    CloseClient,
    CloseUpstream,
    Dial,
    Dialed,
    Effect,
    LoginTook,
    Note,
    Paced,
    Returned,
    SecureClient,
    SecureUpstream,
)
from popproxy.core.failures import Failure
from popproxy.core.phases import Phase
from popproxy.core.transcriber import NOTE, Transcriber
from popproxy.net.pump import Pump

UNDECIDED = (Phase.GREETING, Phase.AUTHORIZATION, Phase.LOGGING_IN)
"""Phases in which it may turn out whose a session is."""
_EARLY, _EARLY_OCTETS = 200, 8192
"""Lines, and octets of them, that are kept of a session while it is not known whose it is: there may be very many, of
clients that say much."""


class Listening(Protocol):
    """Somebody who looks on."""

    def wants(self, pump: Pump) -> bool:
        """Whether this is one of the sessions meant, as far as it is known by now."""
        ...

    def take(self, session: str, mark: str, text: str) -> None:
        """A line of a session's transcript."""
        ...

    def ended(self, session: str) -> None:
        """A session that it has lines of is over."""
        ...


class Ear(Transcriber):
    """What is heard of one session, for everybody who listens. ``waiting`` are those who may turn out to be meant:
    what was heard until then is theirs, too."""

    def __init__(self, pump: Pump) -> None:
        self.listeners: list[Listening] = []
        self.waiting: list[Listening] = []
        self._pump = pump
        self._early: deque[tuple[str, str]] = deque()
        self._size = 0
        self._forgotten = 0
        self._hooks: dict[int, tuple[str, str]] = {}
        self._deaf = False
        super().__init__(pump.session, self._hear)

    def hear(self, step: Callable[..., None], *details: Any) -> None:
        """Take a step of the transcript. A fault of ours in it ends the looking on, never the session."""
        if self._deaf:
            return
        try:
            step(*details)
        except Exception as error:
            self._deaf = True
            self._pump.front.fault(self._pump.view, error)
            for listener in self.listeners:
                listener.take(self._pump.view.id, NOTE, "the transcript ends here by a fault of popproxy: see its log")
                listener.ended(self._pump.view.id)
            self.listeners.clear()
            self.waiting.clear()
            untap(self._pump)

    def line(self, line: bytes, exchange: bool) -> None:
        """See Transcriber; the session tells it."""
        self.hear(super().line, line, exchange)

    def rest(self, data: bytes) -> None:
        """See Transcriber; the session tells it."""
        self.hear(super().rest, data)

    def _hear(self, mark: str, text: str) -> None:
        session = self._pump.view.id
        for listener in self.listeners:
            listener.take(session, mark, text)
        if self.waiting or not self.listeners:
            self._early.append((mark, text))
            self._size += len(text)
            while len(self._early) > _EARLY or self._size > _EARLY_OCTETS:
                self._forgotten += 1
                self._size -= len(self._early.popleft()[1])

    def join(self, listener: Listening) -> None:
        """``listener`` is meant: from here on it hears all."""
        view = self._pump.view
        words = [f"session of {view.client}:{view.client_port} on {view.listener}"]
        if view.tls is not None:
            words.append(view.tls.version)
        if self._pump.session.phase not in UNDECIDED:
            # Before, what stands there may be a password that was typed in the wrong place.
            words.append(f"user {_ascii(view.user or '')} at {view.server}")
        listener.take(view.id, NOTE, ", ".join(words))
        self.listeners.append(listener)
        if self._forgotten:
            listener.take(view.id, NOTE, f"{self._forgotten} lines before this are forgotten")
        for mark, text in self._early:
            listener.take(view.id, mark, text)

    def look(self) -> None:
        """More is known now: who waits may be meant, or never will be."""
        for listener in list(self.waiting):
            if listener.wants(self._pump):
                self.waiting.remove(listener)
                self.join(listener)
        if self._pump.session.phase not in UNDECIDED:
            self.waiting.clear()
        if not self.waiting:
            self._early.clear()
            self._size = 0
            if not self.listeners:
                untap(self._pump)

    def leave(self, listener: Listening) -> None:
        """``listener`` hears no more. Nothing happens when it has not heard this one, or no more."""
        for those in (self.listeners, self.waiting):
            if listener in those:
                those.remove(listener)
                # Only then: the pump may have another ear by now.
                self.look()

    # What the pump does

    def event(self, event: Callable[..., None], details: tuple[Any, ...]) -> None:
        """The session is about to be told of an event."""
        session = self._pump.session
        if event == session.done:
            self._outcome(*details)
        elif event == session.client_eof:
            self.note("client_eof", {})
        elif event == session.upstream_gone:
            self.note("upstream_gone", {"detail": details[0].detail})

    def _outcome(self, id: int, outcome: object) -> None:
        if isinstance(outcome, Dialed):
            self.upstream_new()
            self.note("connected", {"server": outcome.server, "tls": outcome.secure})
        elif isinstance(outcome, TlsView):
            self.note("client_tls", {"tls": outcome.version, "cipher": outcome.cipher, "resumed": outcome.resumed})
        elif isinstance(outcome, Failure):
            self.note("failed", {"kind": outcome.kind.value, "detail": outcome.detail})
        elif isinstance(outcome, Returned):
            plugin, hook = self._hooks.pop(id, ("", ""))
            value = outcome.value if outcome.error is None else outcome.error
            verdict = "nothing" if value is None else type(value).__name__
            self.note("plugin", {"plugin": plugin, "hook": hook, "verdict": verdict})

    def effect(self, effect: Effect) -> None:
        """The session asks for something."""
        if isinstance(effect, Note):
            self.note(effect.event, effect.fields)
        elif isinstance(effect, Dial):
            self.note("dialing", {"upstream": effect.target.upstream})
        elif isinstance(effect, LoginTook):
            self.note("upstream_login", {"upstream": effect.upstream, "ok": effect.ok, "seconds": effect.seconds})
        elif isinstance(effect, Await):
            self._hooks[effect.id] = effect.entry.subscriber.name, effect.entry.hook
        elif isinstance(effect, SecureClient | SecureUpstream):
            self.note("tls_handshake", {"leg": "client" if isinstance(effect, SecureClient) else "upstream"})
        elif isinstance(effect, Paced):
            self.note("paced", {"paces": len(effect.paces)})
        elif isinstance(effect, CloseUpstream | CloseClient):
            self.note("closing", {"leg": "client" if isinstance(effect, CloseClient) else "upstream"})

    def over(self) -> None:
        """Both connections are gone."""
        session, view = self._pump.session, self._pump.view
        told: Mapping[str, object] = {
            "reason": session.reason,
            "state": session.state_at_end,
            "seconds": session.clock() - session.started,
            "octets_in": session.octets_in,
            "octets_out": session.octets_out,
            "detail": session.detail,
        }
        self.look()
        self.note("session", told)
        for listener in self.listeners:
            listener.ended(view.id)


class TappedPump(Pump):
    """See the head of this file. ``session.ear`` is the Ear.

    It may stop being one in the middle of a call, so it names the class whose work it does: super() would not find it.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """See Pump."""
        ear = ear_of(self)
        ear.hear(ear.client_data, data)
        Pump.data_received(self, data)
        ear.hear(ear.look)

    def upstream_data(self, data: bytes) -> None:
        """See Pump."""
        ear = ear_of(self)
        ear.hear(ear.upstream_data, data)
        Pump.upstream_data(self, data)
        ear.hear(ear.look)

    def _tell(self, event: Callable[..., None], *details: Any) -> None:
        ear = ear_of(self)
        ear.hear(ear.event, event, details)
        Pump._tell(self, event, *details)
        ear.hear(ear.look)

    def _send_client(self, out: list[bytes]) -> None:
        ear = ear_of(self)
        for data in out:
            ear.hear(ear.client_told, data)
        Pump._send_client(self, out)

    def _send_upstream(self, out: list[bytes]) -> None:
        ear = ear_of(self)
        for data in out:
            ear.hear(ear.upstream_told, data)
        Pump._send_upstream(self, out)

    def _perform(self, effect: Effect) -> None:
        ear = ear_of(self)
        ear.hear(ear.effect, effect)
        Pump._perform(self, effect)

    def _finish(self) -> None:
        ear = ear_of(self)
        ear.hear(ear.over)
        Pump._finish(self)


def ear_of(pump: Pump) -> Ear:
    """The ear at a tapped pump."""
    return cast(Ear, pump.session.ear)


def tap(pump: Pump) -> Ear:
    """Make ``pump`` a tapped one, unless it is; its ear."""
    if pump.session.ear is None:
        pump.session.ear = Ear(pump)
        _become(pump, TappedPump)
    return ear_of(pump)


def untap(pump: Pump) -> None:
    """Nobody listens any more."""
    _become(pump, Pump)
    pump.session.ear = None


def _become(pump: Pump, kind: type[Pump]) -> None:
    pump.__class__ = kind
    client = pump.client
    if client is not None and client.get_protocol() is pump:
        # uvloop keeps the method that it gives octets to.
        client.set_protocol(pump)


def taps_of(pumps: Iterable[Pump]) -> list[Ear]:
    """The ears at those that are tapped."""
    return [ear_of(pump) for pump in pumps if isinstance(pump, TappedPump)]


def _ascii(name: str) -> str:
    return name.encode("ascii", "backslashreplace").decode("ascii")

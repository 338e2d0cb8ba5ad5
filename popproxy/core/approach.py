"""The leg upstream of a session that is not logged in: dialed, prepared, lost, and tried again at another server.

Only one leg exists at a time. Another server of the group is tried when core/failures.py allows it: the client waits
for its answer, and the server that failed was told no secret of the client's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from popproxy.api.views import SessionView
from popproxy.core.chain import Chain
from popproxy.core.effects import READY, Derive, Dial, Dialed, Effect, Greeted, Judge, Level, SecureUpstream
from popproxy.core.failures import Failure, Kind
from popproxy.core.introduction import Origin, introduction, loop
from popproxy.core.leg import Leg, Relayed, Result
from popproxy.core.login import CAPA, Knowledge, prepare, relay
from popproxy.core.meter import SessionMeter
from popproxy.core.phases import Phase
from popproxy.core.plan import SessionPlan
from popproxy.core.target import Target
from popproxy.wire.commands import Command
from popproxy.wire.errors import Code
from popproxy.wire.sasl import Derivation

Then = Callable[[Failure | None], None]
"""Goes on: None when the leg is ready."""


class Host(Protocol):
    """The session, as far as a login needs it."""

    plan: SessionPlan
    view: SessionView
    meter: SessionMeter
    knowledge: Knowledge
    clock: Callable[[], float]
    to_client: list[bytes]
    to_upstream: list[bytes]
    effects: list[Effect]
    deadline: float
    upstream_open: bool
    user: str | None
    deaf: bool
    secure: bool
    ttl: int | None
    forward: tuple[tuple[str, str], ...]
    origin: Origin | None

    def ask(self, answer: Callable[[Any], None]) -> int:
        """See Session."""
        ...

    def enter(self, phase: Phase) -> None:
        """See Session."""
        ...

    def meet(self, user: str | None) -> Chain:
        """See Session."""
        ...

    def transact(self, pipelining: bool, rest: bytes) -> None:
        """See Session."""
        ...

    def note(self, level: Level, event: str, **fields: object) -> None:
        """See Session."""
        ...

    def count(self, verb: int, outcome: int, times: int = 1) -> None:
        """See Session."""
        ...

    def end(self, reason: str, detail: str = "") -> None:
        """See Session."""
        ...

    def close_upstream(self) -> None:
        """See Session."""
        ...


class Desk(Protocol):
    """Who sent the client here, and has suspended it until it hears how that ends."""

    def turned_away(self, reply: bytes, code: Code | None, document: bytes) -> None:
        """The login failed; this is the answer. ``document``: what a refused token is told before (RFC 7628)."""
        ...

    def rest(self) -> bytes:
        """What the client sent behind its login."""
        ...


class Approach:
    """See the head of this file. ``replay`` are commands the client was told ``+OK`` for: whatever leg is used must
    have accepted them."""

    __slots__ = ("_avoid", "_began", "_desk", "_kind", "_leg", "_server", "replay", "s")

    def __init__(self, session: Host, desk: Desk) -> None:
        self.s = session
        self._desk = desk
        self._leg: Leg | None = None
        self._kind = Kind.LOGIN_TIMEOUT
        self._server = ""
        self._avoid: tuple[str, ...] = ()
        self._began = 0.0
        self.replay: list[Command] = []

    @property
    def talks(self) -> bool:
        """Whether an answer of the upstream is awaited."""
        return self._leg is not None and self._leg.busy

    def data(self, data: bytes) -> None:
        """Octets from upstream."""
        leg = self._leg
        if leg is not None and leg.data(data) and leg is self._leg:
            self.lost(Failure(Kind.UNASKED, "octets that nobody asked for"))

    def lost(self, failure: Failure) -> None:
        """The upstream is lost: whoever waits for it hears of it; an idle leg is only forgotten."""
        leg, self._leg = self._leg, None
        if leg is not None:
            if leg.busy:
                self._judge(leg, failure)
            self.s.close_upstream()
            leg.fail(failure)

    def expired(self) -> None:
        """The upstream did not answer in time."""
        self.lost(Failure(self._kind, "no answer in time"))

    def prepared(self, target: Target, then: Then) -> None:
        """Have a leg to ``target``: greeted, under TLS as its URL asks, its capabilities known."""
        if self._leg is not None:
            if self._leads(self._leg.target, target):
                # A login has forgotten the server that the one before it was at.
                self.s.view.server = self._server
                then(None)
                return
            self.drop()
        self._avoid = ()
        self._began = self.s.clock()
        self._dial(target, then)

    def _leads(self, there: Target, target: Target) -> bool:
        """Whether a leg to ``there`` serves for ``target``: with sticky balancing the key decides the server."""
        policy = self.s.plan.upstreams[target.upstream]
        return there.place == target.place and (there.key == target.key or not policy.sticky)

    def drop(self) -> None:
        """Close the leg, if there is one, without a word to whoever might wait for it."""
        if self._leg is not None:
            self._leg = None
            self.s.close_upstream()

    def forget(self) -> None:
        """Nothing was said upstream on the client's behalf: STLS puts the session back to its beginning."""
        self.replay = []
        self.drop()

    def _dial(self, target: Target, then: Then, ask: bool = True, why: Failure | None = None) -> None:
        s = self.s

        def dialed(outcome: Dialed | Failure) -> None:
            if isinstance(outcome, Failure):
                # The fault that made it try again says more than that there is no other server.
                self._log(outcome)
                then(why or outcome)
                return
            s.upstream_open = True
            since = s.clock()
            s.view.server = self._server = outcome.server
            leg = Leg(target, s.plan.limits, s.to_upstream.append, self._secure, self._wait, self._derive)
            policy = s.plan.upstreams[target.upstream]

            def opened(result: Result) -> None:
                if ask and isinstance(result, Failure) and _capa_hung_up(leg, result) and not self._others(leg):
                    # RFC 2449 is younger than some servers: they hang up on CAPA. Once more, without it.
                    self._leg = None
                    self._dial(target, then, False)
                else:
                    if not isinstance(result, Failure):
                        s.effects.append(READY)
                    self._replay(leg, result, 0, then)

            self._leg = leg
            ready = prepare(
                policy,
                outcome.secure,
                s.knowledge,
                s.clock(),
                s.plan.timeouts,
                ask,
                target,
                lambda: introduction(s, policy),
                lambda: s.effects.append(Greeted(target.upstream, s.clock() - since)),
            )
            leg.run(ready, opened)

        circle = loop(s)
        if circle is not None:
            self._log(circle)
            then(circle)
            return
        s.deadline = inf
        s.effects.append(Dial(s.ask(dialed), target, self._avoid, why))

    def _replay(self, leg: Leg, result: Result, place: int, then: Then) -> None:
        if isinstance(result, Relayed) and not result.ok:
            result = Failure(Kind.PROTOCOL, f"refused {self.replay[place - 1].name}, which was accepted before")
        if isinstance(result, Failure) or self._leg is None:
            failure = result if isinstance(result, Failure) else Failure(Kind.LOST, "lost")
            if not self._elsewhere(leg, failure, then):
                self._log(failure)
                then(failure)
        elif place < len(self.replay):
            leg.used = True
            dialogue = relay(self.replay[place], self.s.plan.timeouts)
            self._leg.run(dialogue, lambda more: self._replay(leg, more, place + 1, then))
        else:
            then(None)

    def _others(self, leg: Leg) -> bool:
        """Whether there is a server that was not tried, and time for it: a client does not wait for ever."""
        s, target, tried = self.s, leg.target, len(self._avoid) + 1
        if target.server is not None or tried >= s.plan.upstreams[target.upstream].servers:
            return False
        return tried == 1 or s.clock() - self._began < s.plan.timeouts.login

    def _elsewhere(self, leg: Leg, failure: Failure, then: Then) -> bool:
        """The leg failed: drop it and try another server, if that may be. Then ``then`` hears of that one."""
        self._judge(leg, failure)
        self.drop()
        rule = failure.rule
        if not (rule.retry or (rule.early and not leg.confided)) or not self._others(leg):
            return False
        self.s.note("warning", "upstream_retry", kind=failure.kind.value, detail=failure.detail)
        self._avoid = (*self._avoid, self._server)
        self._dial(leg.target, then, why=failure)
        return True

    def _judge(self, leg: Leg, failure: Failure | None) -> None:
        """Tell what the leg has shown of its server, once.

        Once a client's own words have reached the server only a missing answer and [SYS/TEMP] speak against it: what
        else goes wrong then may be of the client's making.
        """
        if leg.judged or (failure is not None and not self._speaks(leg, failure)):
            return
        leg.judged = True
        who = leg.target.key
        if not leg.used:
            # It may be this client's address that the server does not like.
            who = self.s.view.client if self.s.plan.upstreams[leg.target.upstream].tells else None
        self.s.effects.append(Judge(failure, who))

    def _speaks(self, leg: Leg, failure: Failure) -> bool:
        if leg.used:
            return failure.kind in (Kind.LOGIN_TIMEOUT, Kind.TEMPORARY)
        return failure.rule.health and not _capa_hung_up(leg, failure)

    def _secure(self) -> None:
        leg = self._leg

        def secured(outcome: Failure | None) -> None:
            # The leg may be lost meanwhile, and another one in its place.
            if leg is not None and leg is self._leg:
                if outcome is not None:
                    self.lost(outcome)
                else:
                    leg.secured()

        self.s.deadline = inf
        self.s.effects.append(SecureUpstream(self.s.ask(secured)))

    def _derive(self, derivation: Derivation) -> None:
        leg = self._leg

        def derived(outcome: bytes) -> None:
            if leg is not None and leg is self._leg:
                leg.derived(outcome)

        self.s.effects.append(Derive(self.s.ask(derived), derivation))

    def _wait(self, seconds: float, kind: Kind) -> None:
        self._kind = kind
        self.s.deadline = self.s.clock() + seconds

    def _log(self, failure: Failure) -> None:
        self.s.note(failure.rule.level, "upstream_failed", kind=failure.kind.value, detail=failure.detail)


def _capa_hung_up(leg: Leg, failure: Failure) -> bool:
    return failure.kind in (Kind.LOST, Kind.RESET) and leg.said is not None and leg.said.data == CAPA

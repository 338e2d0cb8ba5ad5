"""The session: a pure machine between one client and one upstream (RFC 1939 section 3).

The contract with the pump: call ``start`` once, then ``client_data``, ``client_eof``, ``client_gone``,
``upstream_data``, ``upstream_gone``, ``client_blocked``, ``done`` and ``tick`` as things happen; after each call drain
``to_client``, ``to_upstream`` and ``effects`` (in this order), obey ``want_client`` and ``want_upstream`` (whether
octets are welcome now), call ``tick`` when ``deadline`` has passed and, while ``pulling``, ``drained`` whenever the
client's write buffer has room. Nothing a peer sends makes it raise; what comes out does not depend on how the input
was cut. It never puts QUIT on the wire that the client did not send, and never invents an end of message.

Two stages share the work: Authorization until the login, Transaction after it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast

from popproxy.api.views import SessionSummary, SessionView
from popproxy.core import hooks
from popproxy.core.authorization import Authorization
from popproxy.core.awaited import Awaited
from popproxy.core.chain import Chain
from popproxy.core.effects import CloseClient, CloseUpstream, Effect, Level, Note, Outcome
from popproxy.core.failures import Failure
from popproxy.core.introduction import Origin, trusted
from popproxy.core.login import Knowledge
from popproxy.core.meter import DENIED, OK, OUTCOMES, SessionMeter
from popproxy.core.phases import CLOSED, Phase
from popproxy.core.plan import SessionPlan
from popproxy.core.spool import Spool
from popproxy.core.transaction import Transaction
from popproxy.wire.commands import VERB_NAMES, VERBS
from popproxy.wire.errors import Code, Refusal

if TYPE_CHECKING:
    from popproxy.core.transcriber import Transcriber


_WIDTH = len(OUTCOMES)
_RETR = VERBS[b"RETR"].index
_MESSAGES = frozenset({_RETR, VERBS[b"TOP"].index, VERBS[b"DELE"].index})


class Stage(Protocol):
    """One half of a session's life."""

    def client(self, data: bytes) -> None:
        """Octets from the client."""
        ...

    def upstream(self, data: bytes) -> None:
        """Octets from upstream."""
        ...

    def upstream_gone(self, failure: Failure) -> None:
        """The connection upstream is gone."""
        ...

    def expired(self) -> None:
        """The deadline passed."""
        ...

    def owes(self) -> bool:
        """Whether the client still has something to come."""
        ...

    def drained(self) -> None:
        """The client's write buffer has room: go on."""
        ...

    def stalled(self) -> None:
        """The client's write buffer has become full, or has room again."""
        ...

    def awaits(self, now: float) -> Awaited:
        """Who is to move."""
        ...

    def quitting(self) -> bool:
        """Whether the client said QUIT and is owed no message by then."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


class Session:
    """One client connection. ``clock`` gives seconds that never go back; ``spool`` makes places for messages. ``ear``
    is there while somebody looks on."""

    __slots__ = (
        "_asked",
        "_next_id",
        "_stage",
        "bad_commands",
        "blocked",
        "clock",
        "deadline",
        "deaf",
        "detail",
        "ear",
        "effects",
        "forward",
        "half_closed",
        "kept",
        "knowledge",
        "leaving",
        "met",
        "meter",
        "octets_in",
        "octets_out",
        "origin",
        "phase",
        "plan",
        "pulling",
        "reason",
        "retrieved",
        "secure",
        "spool",
        "started",
        "state_at_end",
        "tally",
        "to_client",
        "to_upstream",
        "trusted",
        "ttl",
        "upstream_open",
        "user",
        "view",
        "want_client",
        "want_upstream",
    )

    def __init__(
        self,
        plan: SessionPlan,
        view: SessionView,
        meter: SessionMeter,
        knowledge: Knowledge,
        clock: Callable[[], float],
        spool: Callable[[int], Spool],
    ) -> None:
        self.plan = plan
        self.view = view
        self.meter = meter
        self.knowledge = knowledge
        self.clock = clock
        self.spool = spool
        self.to_client: list[bytes] = []
        self.to_upstream: list[bytes] = []
        self.effects: list[Effect] = []
        self.want_client = True
        self.want_upstream = True
        self.pulling = False
        self.started = clock()
        self.deadline = self.started + plan.timeouts.pre_auth
        self.phase = Phase.GREETING
        self.state_at_end = ""
        self.reason = ""
        self.detail = ""
        self.tally: dict[int, int] = {}
        self.octets_in = 0
        self.octets_out = 0
        self.retrieved = 0
        self.kept = 0
        self.bad_commands = 0
        self.upstream_open = False
        # A plugin may write into the view, so nothing is decided by it (promise 7).
        self.secure = view.tls is not None
        self.trusted = trusted(plan, view.client)
        self.ttl = view.ttl
        self.forward: tuple[tuple[str, str], ...] = ()
        self.origin: Origin | None = None
        self.user: str | None = None
        self.met: set[str] = set()
        self.blocked = False
        self.half_closed = False
        self.leaving = False
        self.deaf = False
        self.ear: Transcriber | None = None
        self._next_id = 0
        self._asked: dict[int, Callable[[Any], None]] = {}
        self._stage: Stage = Authorization(self)

    @property
    def stage(self) -> Stage:
        """The half of its life that it is in."""
        return self._stage

    # What the pump calls

    def start(self) -> None:
        """The client is connected; PROXY header and implicit TLS are known. Greets, unless a plugin refuses."""
        cast(Authorization, self._stage).start()

    def client_data(self, data: bytes) -> None:
        """Octets from the client, after TLS."""
        if self.phase is not CLOSED:
            self.octets_in += len(data)
            self._stage.client(data)
            if self.leaving:
                self._settle()

    def client_eof(self) -> None:
        """The client will send no more. What it is owed is still sent."""
        self.half_closed = True
        self.leave("client_eof", deaf=False)
        self._settle()

    def client_gone(self, reason: str = "client_reset") -> None:
        """The client's connection is gone, and the session over, unless QUIT is on its way: what was asked for by that
        is still done, if no message is owed to the client. Who has not got a message must not lose it."""
        if self.blocked or self.phase is CLOSED or not self._stage.quitting():
            self.end(reason)
        else:
            self.leave(reason)

    def upstream_data(self, data: bytes) -> None:
        """Octets from upstream, after TLS."""
        if self.upstream_open and self.phase is not CLOSED:
            self._stage.upstream(data)
            if self.leaving:
                self._settle()

    def upstream_gone(self, failure: Failure) -> None:
        """The connection upstream ended or broke."""
        if self.upstream_open and self.phase is not CLOSED:
            self.upstream_open = False
            self._stage.upstream_gone(failure)
            self._settle()

    def done(self, id: int, outcome: Outcome) -> None:
        """The outcome of an effect. Outcomes that come after the end are dropped."""
        answer = self._asked.pop(id, None)
        if answer is not None and self.phase is not CLOSED:
            answer(outcome)
            self._settle()

    def tick(self) -> None:
        """Look at the clock."""
        if self.clock() >= self.deadline and self.phase is not CLOSED:
            self._stage.expired()
            self._settle()

    def drained(self) -> None:
        """The client's write buffer has room: go on with what waited for that."""
        if self.phase is not CLOSED:
            self.pulling = False
            self._stage.drained()
            self._settle()

    def client_blocked(self, blocked: bool) -> None:
        """The client takes less than comes for it, or takes it again: its idle time counts, not the upstream's.

        Who takes nothing is not heard either: its further commands wait."""
        self.blocked = blocked
        if self.phase is not CLOSED:
            self._stage.stalled()
            self._settle()

    def stop(self, reason: str = "shutdown", detail: str = "") -> None:
        """Somebody ends it, at first the worker that shuts down: an idle session ends without a word, a streaming one
        behind its reply. QUIT is not said upstream."""
        self.leave(reason, detail)
        if isinstance(self._stage, Authorization):
            self._stage.stopped()
        self._settle()

    def awaits(self) -> Awaited:
        """Who is to move now. For those who look at the session from outside."""
        return self._stage.awaits(self.clock())

    def commands(self) -> dict[str, dict[str, int]]:
        """Answered commands so far: by verb, how often each outcome came."""
        counts: dict[str, dict[str, int]] = {}
        for index, count in sorted(self.tally.items()):
            verb, outcome = divmod(index, len(OUTCOMES))
            counts.setdefault(VERB_NAMES[verb], {})[OUTCOMES[outcome]] = count
        return counts

    def summary(self) -> SessionSummary:
        """Final totals; on_close hooks are called. Call it once, when both connections are gone.

        It may leave a Note in ``effects`` for each hook that failed."""
        counts: dict[str, int] = {}
        deleted = 0
        for index, count in self.tally.items():
            verb, outcome = divmod(index, len(OUTCOMES))
            name = VERB_NAMES[verb]
            counts[name] = counts.get(name, 0) + count
            if name == "DELE" and outcome == 0:
                deleted = count
        summary = SessionSummary(
            self.reason,
            self.state_at_end,
            self.clock() - self.started,
            counts,
            self.retrieved,
            deleted - self.kept,
            self.octets_in,
            self.octets_out,
        )
        chain = self.plan.chain
        self.meet(self.user)
        for entry in chain["on_close"]:
            if chain.conditional and entry.subscriber.name not in self.met:
                continue
            try:
                entry.call(self.view, summary)
            except hooks.CONTAINED as error:
                hooks.report(self, entry, error)
        return summary

    # What the stages call

    def meet(self, user: str | None) -> Chain:
        """The chain for ``user`` of this session, about to be called: its plugins hear of the end, too, whatever their
        ``when`` says of the name or address that the client has by then."""
        chain = self.plan.chain
        if chain.conditional:
            chain = chain.select(self.view, user)
            self.met.update(subscriber.name for subscriber in chain.subscribers)
        return chain

    def seen(self) -> SessionView:
        """The view for a hook that is about to be called."""
        self.view.sent = self.octets_out + sum(map(len, self.to_client))
        return self.view

    def ask(self, answer: Callable[[Any], None]) -> int:
        """An id for an effect; ``answer`` gets its outcome."""
        self._next_id += 1
        self._asked[self._next_id] = answer
        return self._next_id

    def enter(self, phase: Phase) -> None:
        """Go to ``phase``."""
        if phase not in self.phase.leads:
            raise RuntimeError(f"no way from {self.phase.word} to {phase.word}")
        self.phase = phase
        self.view.phase = phase.word

    def transact(self, pipelining: bool, rest: bytes) -> None:
        """The login succeeded: hand over to the next stage. ``rest`` is what the client sent behind it."""
        self.enter(Phase.TRANSACTION)
        stage = Transaction(self, pipelining)
        self._stage = stage
        if self.ear is not None:
            self.ear.rest(rest)
        stage.begin(rest)

    def note(self, level: Level, event: str, **fields: object) -> None:
        """A log line."""
        self.effects.append(Note(level, event, fields))

    def count(self, verb: int, outcome: int, times: int = 1, seconds: float | None = None) -> None:
        """``times`` commands of this verb were answered; ``seconds``: by the upstream, so long after they were read."""
        index = verb * _WIDTH + outcome
        meter, tally = self.meter, self.tally
        meter.commands[index] += times
        tally[index] = tally.get(index, 0) + times
        if seconds is not None:
            meter.latency(verb, seconds, times, outcome)
            if verb in _MESSAGES:
                for _ in range(times):
                    meter.message(verb, outcome == OK)
                if verb == _RETR and outcome == OK:
                    self.retrieved += times
                    self.view.messages = self.retrieved

    def bad_command(self, verb: int, outcome: int, kind: str, text: str) -> bytes:
        """Count a refused line and give its reply; too many end the session behind it."""
        self.count(verb, outcome)
        if kind:
            self.meter.violation("client", kind)
            self.bad_commands += 1
            if self.bad_commands >= self.plan.limits.bad_commands:
                self.leave("protocol_error", "too many bad commands")
        code = Code.SYS_PERM if outcome == DENIED else None
        return Refusal(text, code).line()

    def close_upstream(self) -> None:
        """Close the connection upstream, or stop dialing."""
        self.upstream_open = False
        self.effects.append(CloseUpstream())

    def leave(self, reason: str, detail: str = "", *, deaf: bool = True) -> None:
        """End the session as soon as the client is owed nothing more. The first reason counts.

        ``deaf``: what the client has sent and is not yet on its way counts no more."""
        self.deaf = self.deaf or deaf
        if not (self.leaving or self.phase is CLOSED):
            self.leaving = True
            self.reason = reason
            self.detail = detail

    def quit(self) -> None:
        """The client's QUIT was answered: that it sent nothing more behind it, or was gone, is no other end."""
        if self.reason in ("client_eof", "client_reset"):
            self.reason = ""
        self.end("quit")

    def end(self, reason: str, detail: str = "") -> None:
        """End the session; what stands in ``to_client`` is still sent. The first reason counts."""
        if self.phase is CLOSED:
            return
        self.reason = self.reason or reason
        self.detail = self.detail or detail
        self.state_at_end = self.phase.word
        self.deaf = True
        self.enter(CLOSED)
        self._stage.close()
        self.pulling = False
        self.want_client = self.want_upstream = True
        self.deadline = inf
        self._asked.clear()
        self.effects.append(CloseUpstream())
        self.effects.append(CloseClient())
        self.upstream_open = False

    def _settle(self) -> None:
        if self.leaving and self.phase is not CLOSED and not self._stage.owes():
            self.end(self.reason)

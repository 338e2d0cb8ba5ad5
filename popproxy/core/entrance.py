"""From complete credentials to a logged-in upstream, and what must be asked of an upstream before that.

Only one leg exists at a time. It may be opened early (CAPA that nobody knows yet, UTF8, LANG) and is then used for
the login if the route leads there; otherwise it is closed, and what the client was promised on it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from popproxy.api.credentials import Credentials
from popproxy.api.verdicts import Refuse
from popproxy.api.views import LoginResult, SessionView
from popproxy.core import hooks
from popproxy.core.chain import Chain, Entry
from popproxy.core.effects import Dial, Dialed, Effect, Level, SecureUpstream
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Leg, LoggedIn, LoginRefused, Relayed, Result
from popproxy.core.lies import Lie
from popproxy.core.login import CAPA, Knowledge, log_in, prepare, relay
from popproxy.core.meter import DENIED, ERR, OK, SessionMeter
from popproxy.core.phases import Phase
from popproxy.core.plan import SessionPlan
from popproxy.core.target import Target
from popproxy.wire.commands import Command, Verb
from popproxy.wire.errors import Code, Refusal
from popproxy.wire.replies import err, ok

REFUSED: dict[Code, tuple[str, str]] = {
    Code.AUTH: ("Authentication failed", "bad_credentials"),
    Code.SYS_TEMP: ("Mail server not available, try again later", "tempfail"),
    Code.SYS_PERM: ("Login is not possible", "policy"),
    Code.IN_USE: ("Maildrop is in use", "in_use"),
    Code.LOGIN_DELAY: ("Minimum time between logins not over yet", "policy"),
    Code.UTF8: ("UTF8 is needed for this maildrop", "policy"),
}
"""What a client reads for each code, and how the attempt is counted. The upstream's words go to the log."""


_AT_ONCE = Refuse()


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

    def ask(self, answer: Callable[[Any], None]) -> int:
        """See Session."""
        ...

    def enter(self, phase: Phase) -> None:
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
    """Who sent the client here."""

    def suspend(self) -> None:
        """Let the client wait."""
        ...

    def turned_away(self) -> None:
        """The login failed and was answered."""
        ...

    def rest(self) -> bytes:
        """What the client sent behind its login."""
        ...


class Entrance:
    """The leg upstream of a session that is not logged in."""

    __slots__ = ("_at", "_desk", "_kind", "_late", "_leg", "_mechanism", "replay", "s")

    def __init__(self, session: Host, desk: Desk) -> None:
        self.s = session
        self._desk = desk
        self._leg: Leg | None = None
        self._kind = Kind.LOGIN_TIMEOUT
        self._late: Callable[[], None] | None = None
        self._mechanism = ""
        self._at = 0.0
        self.replay: list[Command] = []
        """Commands the client was told ``+OK`` for: whatever leg is used must have accepted them."""

    def data(self, data: bytes) -> None:
        """Octets from upstream."""
        leg = self._leg
        if leg is not None:
            leg.data(data)
            if leg is self._leg and leg.unasked:
                self.lost(Failure(Kind.UNASKED, "octets that nobody asked for"))

    def lost(self, failure: Failure) -> None:
        """The upstream is lost: whoever waits for it hears of it; an idle leg is only forgotten."""
        leg, self._leg = self._leg, None
        if leg is not None:
            self.s.close_upstream()
            leg.fail(failure)

    def expired(self) -> None:
        """The upstream did not answer in time, or a refusal has waited long enough."""
        late, self._late = self._late, None
        if late is not None:
            late()
        else:
            self.lost(Failure(self._kind, "no answer in time"))

    def relay(self, command: Command, then: Callable[[Relayed | Failure], None]) -> None:
        """Ask the default upstream; its reply goes to ``then``."""
        s = self.s

        def relayed(result: Result) -> None:
            if isinstance(result, Relayed):
                if result.ok and not command.multiline:
                    self.replay = [c for c in self.replay if c.verb is not command.verb] + [command]
                then(result)
            else:
                failure = result if isinstance(result, Failure) else Failure(Kind.INTERNAL, "no reply")
                self._log(failure)
                then(failure)

        def prepared(failure: Failure | None) -> None:
            if self._leg is None:
                then(failure or Failure(Kind.LOST, "lost"))
            else:
                self._leg.run(relay(command, s.plan.timeouts), relayed)

        self.prepared(Target(s.plan.default_upstream), prepared)

    def prepared(self, target: Target, then: Callable[[Failure | None], None]) -> None:
        """Have a leg to ``target``: greeted, under TLS as its URL asks, its capabilities known."""
        there = self._leg.target if self._leg is not None else None
        if there is not None and there.place == target.place:
            then(None)
            return
        self.drop()
        self._dial(target, True, then)

    def drop(self) -> None:
        """Close the leg, if there is one, without a word to whoever might wait for it."""
        if self._leg is not None:
            self._leg = None
            self.s.close_upstream()

    def forget(self) -> None:
        """Nothing was said upstream on the client's behalf: STLS puts the session back to its beginning."""
        self.replay = []
        self.drop()

    def _dial(self, target: Target, ask: bool, then: Callable[[Failure | None], None]) -> None:
        s = self.s

        def dialed(outcome: Dialed | Failure) -> None:
            if isinstance(outcome, Failure):
                self._log(outcome)
                then(outcome)
                return
            s.upstream_open = True
            s.view.server = outcome.server
            leg = Leg(target, s.plan.limits, s.to_upstream.append, self._secure, self._wait)
            policy = s.plan.upstreams[target.upstream]

            def opened(result: Result) -> None:
                hung_up = isinstance(result, Failure) and result.kind in (Kind.LOST, Kind.RESET)
                if ask and hung_up and leg.said is not None and leg.said.data == CAPA:
                    # RFC 2449 is younger than some servers: they hang up on CAPA. Once more, without it.
                    self._leg = None
                    self._dial(target, False, then)
                else:
                    self._replay(result, 0, then)

            self._leg = leg
            ready = prepare(policy, outcome.secure, s.knowledge, s.clock(), s.plan.timeouts, ask, target)
            leg.run(ready, opened)

        self._desk.suspend()
        s.effects.append(Dial(s.ask(dialed), target))

    def _replay(self, result: Result, place: int, then: Callable[[Failure | None], None]) -> None:
        if isinstance(result, Relayed) and not result.ok:
            result = Failure(Kind.PROTOCOL, f"refused {self.replay[place - 1].name}, which was accepted before")
        if isinstance(result, Failure) or self._leg is None:
            failure = result if isinstance(result, Failure) else Failure(Kind.LOST, "lost")
            self.drop()
            self._log(failure)
            then(failure)
        elif place < len(self.replay):
            dialogue = relay(self.replay[place], self.s.plan.timeouts)
            self._leg.run(dialogue, lambda more: self._replay(more, place + 1, then))
        else:
            then(None)

    def _secure(self) -> None:
        leg = self._leg

        def secured(outcome: Failure | None) -> None:
            # The leg may be lost meanwhile, and another one in its place.
            if leg is not None and leg is self._leg:
                if outcome is not None:
                    self.lost(outcome)
                else:
                    leg.secured()

        self._desk.suspend()
        self.s.effects.append(SecureUpstream(self.s.ask(secured)))

    def _wait(self, seconds: float, kind: Kind) -> None:
        self._kind = kind
        self.s.deadline = self.s.clock() + seconds

    def _log(self, failure: Failure) -> None:
        self.s.note(failure.rule.level, "upstream_failed", kind=failure.kind.value, detail=failure.detail)

    def login(self, credentials: Credentials, mechanism: str, verb: Verb) -> None:
        """Credentials are complete: on_login, then upstream. The desk is suspended until it is decided."""
        s = self.s
        s.enter(Phase.LOGGING_IN)
        self._at = s.clock()
        self._mechanism = s.view.mechanism = mechanism
        s.view.upstream = s.view.server = None
        chain = s.plan.chain.select(s.view, s.user)
        target, current = Target(s.plan.default_upstream), credentials
        refused: list[Refuse] = []

        def use(entry: Entry, verdict: Any) -> bool:
            nonlocal target, current
            if isinstance(verdict, Refuse):
                refused.append(verdict)
                return True
            current = verdict.credentials or current
            try:
                target = target.routed(verdict, s.plan.upstreams)
            except Lie as lie:
                hooks.report(s, entry, lie)
                # Neither fail mode may send the credentials to a server the plugin did not mean.
                refused.append(hooks.BROKEN)
                return True
            if verdict.upstream is not None:
                # A later plugin reads it from the view.
                s.view.upstream = target.upstream
            return False

        def then() -> None:
            if refused:
                reason = refused[0].reason or "refused by a plugin"
                self._decided(chain, verb, Refusal(refused[0].text, refused[0].code, reason), refused[0])
            else:
                self._at_upstream(chain, verb, target.keyed(current.user), current)

        hooks.call(s, chain["on_login"], lambda: (s.view, current), use, then)

    def _at_upstream(self, chain: Chain, verb: Verb, target: Target, credentials: Credentials) -> None:
        s = self.s
        s.view.upstream = target.upstream

        def finished(result: Result) -> None:
            if isinstance(result, LoggedIn):
                s.view.login = shown(credentials.user)
                self._decided(chain, verb, result)
            elif isinstance(result, LoginRefused):
                text = REFUSED[result.code][0]
                self._decided(chain, verb, Refusal(text, result.code, f"upstream: {result.reason}"))
            else:
                failure = result if isinstance(result, Failure) else Failure(Kind.INTERNAL, "no reply")
                self._log(failure)
                self._decided(chain, verb, failure.refusal())

        def prepared(failure: Failure | None) -> None:
            if self._leg is None:
                self._decided(chain, verb, (failure or Failure(Kind.LOST, "lost")).refusal())
                return
            policy = s.plan.upstreams[target.upstream]
            # RPOP stands in for PASS (RFC 1081); every other verb logs in with what its credentials are.
            password_verb = b"RPOP" if verb.name == b"RPOP" else b"PASS"
            known = s.knowledge.get(target.place)
            self._leg.run(log_in(policy, credentials, known, s.plan.timeouts, password_verb), finished)

        self.prepared(target, prepared)

    def _decided(
        self, chain: Chain, verb: Verb, outcome: Refusal | LoggedIn, how: Refuse = _AT_ONCE
    ) -> None:
        """on_login_result, then the reply. Promise 4: a login that failed leaves no leg behind."""
        s = self.s
        if isinstance(outcome, Refusal):
            code = None if outcome.code is None else outcome.code.value.decode("ascii")
            result = LoginResult(False, code, outcome.text, outcome.reason, s.view.upstream or "")
            reply = outcome.line()
            self.drop()
        else:
            text = outcome.line[4:-2].decode("utf-8", "backslashreplace")
            result = LoginResult(True, None, text, "", s.view.upstream or "")
            # The upstream's own line: it may say how many messages wait.
            reply = outcome.line

        broken: list[Refuse] = []

        def use(entry: Entry, verdict: Any) -> bool:
            nonlocal reply
            if isinstance(verdict, Refuse):
                broken.append(verdict)
            elif verdict.ok != result.ok:
                raise Lie("Answer: other words are possible, another outcome is not")
            else:
                reply = ok(verdict.text) if verdict.ok else err(verdict.text, verdict.code and verdict.code.value)
            return False

        def then() -> None:
            if isinstance(outcome, Refusal):
                self._turned_away(verb, reply, outcome, how)
            elif broken:
                refusal = Refusal(broken[0].text, broken[0].code, broken[0].reason)
                self._turned_away(verb, refusal.line(), refusal)
            elif self._leg is None:
                lost = Failure(Kind.LOST, "lost at the end of the login").refusal()
                self._turned_away(verb, lost.line(), lost)
            else:
                self._entered(verb, reply, self._leg)

        self._desk.suspend()
        hooks.call(s, chain["on_login_result"], lambda: (s.view, result), use, then)

    def _entered(self, verb: Verb, reply: bytes, leg: Leg) -> None:
        s = self.s
        if leg.unasked:
            failure = Failure(Kind.UNASKED, "octets behind the reply to the login")
            self._log(failure)
            self._turned_away(verb, failure.refusal().line(), failure.refusal())
            return
        self._leg = None
        s.meter.auth(self._mechanism, "ok", s.clock() - self._at)
        s.count(verb.index, OK)
        s.to_client.append(reply)
        known = s.knowledge.get(leg.target.place)
        s.transact(known is not None and b"PIPELINING" in known, self._desk.rest())

    def _turned_away(self, verb: Verb, reply: bytes, refusal: Refusal, how: Refuse = _AT_ONCE) -> None:
        s = self.s
        result = REFUSED[refusal.code][1] if refusal.code is not None else "policy"
        s.meter.auth(self._mechanism, result, s.clock() - self._at)
        s.count(verb.index, DENIED if result == "policy" else ERR)
        code = None if refusal.code is None else refusal.code.value.decode("ascii")
        s.note("info", "login_failed", code=code, reason=refusal.reason, mechanism=self._mechanism)
        self.drop()

        def say() -> None:
            s.to_client.append(reply)
            s.enter(Phase.AUTHORIZATION)
            if how.close:
                s.end("policy", refusal.reason)
            else:
                self._desk.turned_away()

        if how.delay:
            # The session's own deadline: whoever waits costs no task, and one who goes away leaves nothing behind.
            self._late = say
            s.deadline = s.clock() + min(how.delay, s.plan.timeouts.pre_auth)
        else:
            say()


def shown(name: str) -> str:
    """A user name for views and logs: octets that are no UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

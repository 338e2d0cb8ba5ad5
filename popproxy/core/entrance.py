"""From complete credentials to a logged-in upstream, and what must be asked of an upstream before that.

The leg (core/approach.py) may be opened early (CAPA that nobody knows yet, UTF8, LANG) and is then used for the login
if the route leads there; otherwise it is closed, and what the client was promised on it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from popproxy.api.credentials import Credentials
from popproxy.api.verdicts import Answer, Hold, Refuse
from popproxy.api.views import LoginResult
from popproxy.core import hooks
from popproxy.core.approach import Approach, Desk, Host
from popproxy.core.authenticate import log_in
from popproxy.core.chain import Chain, Entry
from popproxy.core.effects import LoginTook
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Leg, LoggedIn, LoginRefused, Relayed, Result
from popproxy.core.lies import Lie
from popproxy.core.login import relay
from popproxy.core.meter import DENIED, ERR, OK
from popproxy.core.phases import Phase
from popproxy.core.target import Target
from popproxy.wire.capabilities import Capabilities
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

_STOPPED = Refusal(REFUSED[Code.SYS_TEMP][0], Code.SYS_TEMP, "held when the session was to end")

AT_ONCE = Refuse()
"""How a refusal is said that no plugin made: neither late nor for good."""
_NOT_HELD = Hold(0.0)


class Entrance(Approach):
    """The way in of a session that is not logged in."""

    __slots__ = ("_at", "_document", "_held", "_known", "_late", "_mechanism")

    def __init__(self, session: Host, desk: Desk) -> None:
        super().__init__(session, desk)
        self._late: Callable[[], None] | None = None
        self._held: Callable[[Refusal], None] | None = None
        self._mechanism = ""
        self._at = 0.0
        self._document = b""
        self._known: Capabilities | None = None

    def expired(self) -> None:
        """The upstream did not answer in time, or a login or a refusal has waited long enough."""
        late, self._late = self._late, None
        self._held = None
        if late is not None:
            late()
        else:
            super().expired()

    def stopped(self) -> None:
        """The worker shuts down: who is held waits no longer."""
        held, self._held = self._held, None
        if held is not None:
            self._late = None
            held(_STOPPED)

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
                self._leg.used = True
                self._leg.run(relay(command, s.plan.timeouts), relayed)

        self.prepared(s.plan.target, prepared)

    def login(self, credentials: Credentials, mechanism: str, verb: Verb) -> None:
        """Credentials are complete: on_login, then upstream. The desk is suspended until it is decided."""
        chain = self._begin(mechanism)
        if chain.hooks["on_login"]:
            self._ask(chain, verb, credentials)
        else:
            self._at_upstream(chain, verb, self.s.plan.target.keyed(credentials.user), credentials)

    def _ask(self, chain: Chain, verb: Verb, credentials: Credentials) -> None:
        """on_login, then upstream."""
        s = self.s
        target, current = s.plan.target, credentials
        refused: list[Refuse] = []
        hold = _NOT_HELD

        def use(entry: Entry, verdict: Any) -> bool:
            nonlocal target, current, hold
            if isinstance(verdict, Refuse):
                refused.append(verdict)
                return True
            if isinstance(verdict, Hold):
                hold = max(hold, verdict, key=lambda one: one.seconds)
                return False
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
            if verdict.groups is not None:
                s.view.groups = frozenset(verdict.groups)
            return False

        def go_on() -> None:
            self._at_upstream(chain, verb, target.keyed(current.user), current)

        def then() -> None:
            if refused:
                self._decided(chain, verb, as_refusal(refused[0]), refused[0])
            elif hold.seconds:
                self._hold(hold, go_on, lambda why: self._decided(chain, verb, why))
            else:
                go_on()

        hooks.call(s, chain.hooks["on_login"], lambda: (s.view, current), use, then)

    def refuse(self, refusal: Refusal, mechanism: str, verb: Verb, how: Refuse = AT_ONCE) -> None:
        """The client's side of a mechanism failed, or on_verifier refused: a login that never reaches on_login."""
        self._decided(self._begin(mechanism), verb, refusal, how)

    def _hold(self, hold: Hold, then: Callable[[], None], ended: Callable[[Refusal], None]) -> None:
        """Let the login wait; ``ended`` hears of a shutdown that comes first, or came already."""
        s = self.s
        if s.deaf:
            ended(_STOPPED)
            return
        # A leg that was opened early would keep a place for somebody who only waits.
        self.drop()
        seconds = min(hold.seconds, s.plan.timeouts.pre_auth)
        s.note("info", "login_held", seconds=seconds, reason=hold.reason, mechanism=self._mechanism)
        since = s.clock()

        def over() -> None:
            # The attempt takes as long as the work for it takes.
            self._at += s.clock() - since
            then()

        def stopped(why: Refusal) -> None:
            self._at += s.clock() - since
            ended(why)

        self._held = stopped
        self._wait_for(seconds, over)

    def _wait_for(self, seconds: float, then: Callable[[], None]) -> None:
        """The session's own deadline: whoever waits costs no task, and one who goes away leaves nothing behind."""
        self._late = then
        self.s.deadline = self.s.clock() + min(seconds, self.s.plan.timeouts.pre_auth)

    def _begin(self, mechanism: str) -> Chain:
        s = self.s
        s.enter(Phase.LOGGING_IN)
        self._at = s.clock()
        self._document = b""
        self._mechanism = s.view.mechanism = mechanism
        s.view.upstream = s.view.server = None
        return s.meet(s.user)

    # Callbacks are methods with what they need bound: functions that know each other would keep the password until the
    # garbage collector comes by.

    def _at_upstream(self, chain: Chain, verb: Verb, target: Target, credentials: Credentials) -> None:
        self.s.view.upstream = target.upstream
        self.prepared(target, partial(self._ready, chain, verb, credentials))

    def _ready(self, chain: Chain, verb: Verb, credentials: Credentials, failure: Failure | None) -> None:
        """A leg is there, or there will be none."""
        s, leg = self.s, self._leg
        if leg is None:
            self._decided(chain, verb, (failure or Failure(Kind.LOST, "lost")).refusal())
            return
        policy = s.plan.upstreams[leg.target.upstream]
        # RPOP stands in for PASS (RFC 1081); every other verb logs in with what its credentials are.
        password_verb = b"RPOP" if verb.name == b"RPOP" else b"PASS"
        known = self._known = s.knowledge.get(leg.target.place)
        leg.used = True
        dialogue = log_in(policy, credentials, known, s.plan.timeouts, password_verb, s.plan.nonce)
        leg.run(dialogue, partial(self._finished, chain, verb, credentials, leg, s.clock()))

    def _finished(
        self, chain: Chain, verb: Verb, credentials: Credentials, leg: Leg, began: float, result: Result
    ) -> None:
        """The upstream has answered, or is lost."""
        s = self.s
        if not (isinstance(result, Failure) and result.kind is Kind.CREDENTIALS):
            s.effects.append(LoginTook(leg.target.upstream, isinstance(result, LoggedIn), s.clock() - began))
        if isinstance(result, LoggedIn):
            self._judge(leg, None)
            s.view.login = shown(credentials.user)
            self._decided(chain, verb, result)
        elif isinstance(result, LoginRefused):
            away = result.code is Code.SYS_TEMP
            self._judge(leg, Failure(Kind.TEMPORARY, result.reason) if away else None)
            text = REFUSED[result.code][0]
            self._document = result.document
            self._decided(chain, verb, Refusal(text, result.code, f"upstream: {result.reason}"))
        else:
            failure = result if isinstance(result, Failure) else Failure(Kind.INTERNAL, "no reply")
            if not self._elsewhere(leg, failure, partial(self._ready, chain, verb, credentials)):
                self._log(failure)
                self._decided(chain, verb, failure.refusal())

    def _decided(self, chain: Chain, verb: Verb, outcome: Refusal | LoggedIn, how: Refuse = AT_ONCE) -> None:
        """on_login_result, then the reply. Promise 4: a login that failed leaves no leg behind."""
        refused: Refusal | None = None
        if isinstance(outcome, LoggedIn):
            # The upstream's own line: it may say how many messages wait.
            reply = outcome.line
        else:
            refused, reply = outcome, outcome.line()
            self.drop()
        if chain.hooks["on_login_result"]:
            self._tell(chain, verb, reply, refused, how, self._result(outcome))
        else:
            self._ended(verb, reply, refused, how)

    def _tell(
        self, chain: Chain, verb: Verb, reply: bytes, refused: Refusal | None, how: Refuse, result: LoginResult
    ) -> None:
        """on_login_result, then what the plugins made of it."""
        s = self.s

        def use(entry: Entry, verdict: Any) -> bool:
            nonlocal refused, result, reply, how
            if isinstance(verdict, Answer):
                if verdict.ok != result.ok:
                    raise Lie("Answer: other words are possible, another outcome is not")
                reply = ok(verdict.text) if verdict.ok else err(verdict.text, verdict.code and verdict.code.value)
                return False
            if refused is None:
                # The others hear how it ends now; nobody reads what the upstream says from here on.
                refused, how = as_refusal(verdict), verdict
                s.view.login = None
                self.drop()
            elif verdict is hooks.BROKEN:
                return False
            elif refused.code is None and verdict.text.startswith("["):
                raise Lie("Refuse: a text that begins with [ is read as a code, and this login failed without one")
            else:
                refused = replace(refused, text=verdict.text)
                how = replace(how, delay=max(how.delay, verdict.delay), close=how.close or verdict.close)
            result, reply = self._result(refused), refused.line()
            return False

        s.deadline = inf
        entries = chain.hooks["on_login_result"]
        hooks.call(s, entries, lambda: (s.view, result), use, lambda: self._ended(verb, reply, refused, how))

    def _result(self, outcome: Refusal | LoggedIn) -> LoginResult:
        """What on_login_result is told."""
        upstream = self.s.view.upstream or ""
        if isinstance(outcome, LoggedIn):
            return LoginResult(True, None, outcome.line[4:-2].decode("utf-8", "backslashreplace"), "", upstream)
        code = None if outcome.code is None else outcome.code.value.decode("ascii")
        return LoginResult(False, code, outcome.text, outcome.reason, upstream)

    def _ended(self, verb: Verb, reply: bytes, refused: Refusal | None, how: Refuse) -> None:
        if refused is not None:
            self._turned_away(verb, reply, refused, how)
        elif self._leg is None:
            lost = Failure(Kind.LOST, "lost at the end of the login").refusal()
            self._turned_away(verb, lost.line(), lost)
        else:
            self._entered(verb, reply, self._leg)

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
        s.transact(self._known is not None and b"PIPELINING" in self._known, self._desk.rest())

    def _turned_away(self, verb: Verb, reply: bytes, refusal: Refusal, how: Refuse = AT_ONCE) -> None:
        s = self.s
        result = REFUSED[refusal.code][1] if refusal.code is not None else "policy"
        if how.limited:
            result = "rate_limited"
        s.meter.auth(self._mechanism, result, s.clock() - self._at)
        s.count(verb.index, DENIED if result in ("policy", "rate_limited") else ERR)
        code = None if refusal.code is None else refusal.code.value.decode("ascii")
        s.note("info", "login_failed", code=code, reason=refusal.reason, mechanism=self._mechanism)
        s.view.login = None
        self.drop()

        def say() -> None:
            s.enter(Phase.AUTHORIZATION)
            if how.close:
                s.to_client.append(reply)
                s.end("policy", refusal.reason)
            else:
                self._desk.turned_away(reply, refusal.code, self._document)

        if how.delay:
            self._wait_for(how.delay, say)
        else:
            say()


def as_refusal(verdict: Refuse) -> Refusal:
    """The reply that ``verdict`` asks for."""
    return Refusal(verdict.text, verdict.code, verdict.reason or "refused by a plugin")


def shown(name: str) -> str:
    """A user name for views and logs: octets that are no UTF-8 as escapes."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

"""From complete credentials to a logged-in upstream, and what must be asked of an upstream before that.

The leg (core/approach.py) may be opened early (CAPA that nobody knows yet, UTF8, LANG) and is then used for the login
if the route leads there; otherwise it is closed, and what the client was promised on it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from popproxy.api.credentials import Credentials
from popproxy.api.verdicts import Refuse
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


class Entrance(Approach):
    """The way in of a session that is not logged in."""

    __slots__ = ("_at", "_document", "_late", "_mechanism")

    def __init__(self, session: Host, desk: Desk) -> None:
        super().__init__(session, desk)
        self._late: Callable[[], None] | None = None
        self._mechanism = ""
        self._at = 0.0
        self._document = b""

    def expired(self) -> None:
        """The upstream did not answer in time, or a refusal has waited long enough."""
        late, self._late = self._late, None
        if late is not None:
            late()
        else:
            super().expired()

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

        self.prepared(Target(s.plan.default_upstream), prepared)

    def login(self, credentials: Credentials, mechanism: str, verb: Verb) -> None:
        """Credentials are complete: on_login, then upstream. The desk is suspended until it is decided."""
        s = self.s
        chain = self._begin(mechanism)
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

    def refuse(self, refusal: Refusal, mechanism: str, verb: Verb) -> None:
        """The client's side of a mechanism failed: a login that is refused before anybody was asked."""
        self._decided(self._begin(mechanism), verb, refusal)

    def _begin(self, mechanism: str) -> Chain:
        s = self.s
        s.enter(Phase.LOGGING_IN)
        self._at = s.clock()
        self._document = b""
        self._mechanism = s.view.mechanism = mechanism
        s.view.upstream = s.view.server = None
        return s.plan.chain.select(s.view, s.user)

    def _at_upstream(self, chain: Chain, verb: Verb, target: Target, credentials: Credentials) -> None:
        s = self.s
        s.view.upstream = target.upstream

        def finished(leg: Leg, began: float, result: Result) -> None:
            if not (isinstance(result, Failure) and result.kind is Kind.CREDENTIALS):
                s.effects.append(LoginTook(target.upstream, isinstance(result, LoggedIn), s.clock() - began))
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
                if not self._elsewhere(leg, failure, prepared):
                    self._log(failure)
                    self._decided(chain, verb, failure.refusal())

        def prepared(failure: Failure | None) -> None:
            leg = self._leg
            if leg is None:
                self._decided(chain, verb, (failure or Failure(Kind.LOST, "lost")).refusal())
                return
            policy = s.plan.upstreams[target.upstream]
            # RPOP stands in for PASS (RFC 1081); every other verb logs in with what its credentials are.
            password_verb = b"RPOP" if verb.name == b"RPOP" else b"PASS"
            known = s.knowledge.get(target.place)
            leg.used = True
            dialogue = log_in(policy, credentials, known, s.plan.timeouts, password_verb, s.plan.nonce())
            began = s.clock()
            leg.run(dialogue, lambda result: finished(leg, began, result))

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
            s.enter(Phase.AUTHORIZATION)
            if how.close:
                s.to_client.append(reply)
                s.end("policy", refusal.reason)
            else:
                self._desk.turned_away(reply, refusal.code, self._document)

        if how.delay:
            # The session's own deadline: whoever waits costs no task, and one who goes away leaves nothing behind.
            self._late = say
            s.deadline = s.clock() + min(how.delay, s.plan.timeouts.pre_auth)
        else:
            say()


def shown(name: str) -> str:
    """A user name for views and logs: octets that are no UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

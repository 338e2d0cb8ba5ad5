"""The AUTHORIZATION stage (RFC 1939 section 4): from the greeting to a logged-in upstream.

Credentials never travel as commands: they are taken from USER and PASS or from a SASL exchange, shown to on_login,
and used by the login dialogue upstream. The client hears ``+OK`` only when the upstream let the user in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from popproxy.api.credentials import Credentials, Password
from popproxy.api.verdicts import Refuse
from popproxy.api.views import TlsView
from popproxy.core import hooks
from popproxy.core.announce import announce, show
from popproxy.core.awaited import Awaited
from popproxy.core.chain import Chain, Entry
from popproxy.core.effects import SecureClient
from popproxy.core.entrance import AT_ONCE, Entrance, shown
from popproxy.core.exchange import Exchange
from popproxy.core.failures import Failure
from popproxy.core.introduction import believe, forget
from popproxy.core.leg import Relayed
from popproxy.core.mechanisms import USER
from popproxy.core.meter import DENIED, ERR, MALFORMED, OK
from popproxy.core.offer import offered, taken
from popproxy.core.phases import Phase
from popproxy.core.reading import Reading
from popproxy.wire import xclient
from popproxy.wire.commands import OTHER, VERBS, BadCommand, Command, Verb, Where, content, split
from popproxy.wire.errors import Code, Refusal
from popproxy.wire.replies import DONE, err, ok

if TYPE_CHECKING:
    from popproxy.core.session import Session


class Authorization(Reading):
    """See the head of this file."""

    __slots__ = ("_chain", "_entrance", "_exchange", "_handshaking", "_user", "attempts", "upstream")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.attempts = 0
        self._chain: Chain = session.meet(None)
        self._entrance = Entrance(session, self)
        self.upstream = self._entrance.data
        """Octets from upstream while the proxy speaks to it."""
        self._exchange = Exchange(session, self)
        self._handshaking = False
        self._user: bytes | None = None

    # Stage

    def start(self) -> None:
        """on_connect, then the greeting."""
        self._connected(self._greeting)

    def _connected(self, welcome: Callable[[], bytes]) -> None:
        """on_connect for the client as it is known now, then ``welcome``."""
        s = self.s
        entries = self._chain.hooks["on_connect"]
        if not entries:
            self._welcome(welcome, None)
            return
        refused: list[Refuse | None] = [None]

        def use(entry: Entry, verdict: Any) -> bool:
            refused[0] = verdict
            return True

        self.suspend()
        hooks.call(s, entries, lambda: (s.view,), use, lambda: self._welcome(welcome, refused[0]))

    def _welcome(self, welcome: Callable[[], bytes], refused: Refuse | None) -> None:
        s = self.s
        if s.phase is Phase.GREETING:
            s.enter(Phase.AUTHORIZATION)
        if refused is not None:
            self.say(err(refused.text, None if refused.code is None else refused.code.value))
            s.end("policy", refused.reason or "refused on_connect")
        else:
            self.say(welcome())
            self.resume()

    def _greeting(self) -> bytes:
        s = self.s
        if not (s.trusted or s.plan.chain.subscribers):
            return s.plan.hello
        # The token is Dovecot's, and stands right behind +OK.
        token = "[XCLIENT] " if s.trusted else ""
        # Where credentials will never be welcome no timestamp is needed.
        apop = "" if self._clear and s.plan.tls != "starttls" else self._exchange.greeting()
        return ok(token + s.plan.greeting + apop)

    def client(self, data: bytes) -> None:
        """Octets from the client."""
        if self.s.deaf:
            return
        self._buffer.feed(data)
        if self._handshaking and self._buffer.data:
            # Promise 3: octets behind STLS are an injection, or a client that cannot be served.
            self.s.meter.violation("client", "after_stls")
            self.s.end("protocol_error", "octets behind STLS before the TLS handshake")
            return
        self._lines()

    def upstream_gone(self, failure: Failure) -> None:
        """The upstream is lost: whoever waits for it hears of it; an idle leg is only forgotten."""
        self._entrance.lost(failure)

    def expired(self) -> None:
        """Whoever had to do something by now did not."""
        if self.busy:
            self._entrance.expired()
        else:
            self.s.end("login_timeout", "no login in time")

    def owes(self) -> bool:
        """Whether a reply or an outcome is due."""
        s = self.s
        return self.busy or (not s.deaf and (s.pulling or s.blocked) and bool(self._buffer.data))

    def drained(self) -> None:
        """The client has room: its further commands."""
        self._lines()

    def stalled(self) -> None:
        """Whoever does not read is not heard; the login deadline goes on."""
        self._lines()

    def awaits(self, now: float) -> Awaited:
        """See Stage. Nobody notes when a client that is not logged in said something last."""
        return Awaited("upstream" if self._entrance.talks else "proxy" if self.busy else "client")

    def quitting(self) -> bool:
        """QUIT before the login is answered at once."""
        return False

    def close(self) -> None:
        """Nothing is held here."""

    def stopped(self) -> None:
        """The worker shuts down."""
        self._entrance.stopped()

    # Lines

    def _long(self) -> bool:
        """See Reading."""
        return self._exchange.server is not None or self._buffer.starts_with(b"AUTH ")

    def _line(self, line: bytes) -> None:
        """See Reading."""
        s = self.s
        limits = s.plan.limits
        server = self._exchange.server
        if s.ear is not None:
            s.ear.line(line, server is not None)
        if len(line) > limits.line or len(line) > limits.auth_line:
            limit = limits.auth_line if server is not None or line[:5].upper() == b"AUTH " else limits.line
            if len(line) > limit:
                self._overlong(limit)
                return
        if server is not None:
            self._exchange.line(server, line)
            return
        try:
            verb, argument = split(content(line, s.plan.bare_lf), s.plan.verbs)
        except BadCommand as bad:
            index = bad.verb.index if bad.verb is not None else OTHER
            self.say(s.bad_command(index, MALFORMED, bad.kind, str(bad)))
            return
        handler = _HANDLERS.get(verb.name)
        if verb.fenced and verb.name not in s.plan.opened:
            self._refuse(verb, DENIED, "", f"{verb.name.decode('ascii', 'replace')} is not served here")
        elif verb.name in _CREDENTIALS and not (s.secure or s.plan.auth_before_tls):
            self._tls_first(verb)
        elif handler is not None:
            handler(self, verb, argument)
        elif Where.AUTHORIZATION in verb.where:
            self._early_command(verb, argument)
        else:
            self._refuse(verb, MALFORMED, "phase", "Log in first")

    def _refuse(self, verb: Verb, outcome: int, kind: str, text: str) -> None:
        self.say(self.s.bad_command(verb.index, outcome, kind, text))

    # Commands

    @property
    def _clear(self) -> bool:
        """Whether credentials are refused on this leg."""
        return not self.s.secure and not self.s.plan.auth_before_tls

    def _tls_first(self, verb: Verb) -> None:
        text = "Send STLS first" if self.s.plan.tls == "starttls" else "No login on a connection without TLS"
        self._refuse(verb, DENIED, "", text)
        self.s.meter.auth("USER" if verb.name in (b"USER", b"PASS") else "_other", "tls_required", 0.0)

    def named(self, user: str | None) -> None:
        """The name the client gave."""
        self.s.user = self.s.view.user = user
        self.s.view.groups = frozenset()

    def _user_command(self, verb: Verb, name: bytes) -> None:
        s = self.s
        if USER not in taken(s.plan, s.knowledge) and self._certain and USER not in offered(s):
            self._refuse(verb, DENIED, "", "No login by password here; use AUTH with a token")
            return
        self._user = name
        self.named(name.decode("utf-8", "backslashreplace"))
        s.count(verb.index, OK)
        self.say(DONE)

    def _pass_command(self, verb: Verb, secret: bytes) -> None:
        if self._user is None:
            self._refuse(verb, MALFORMED, "phase", "Send USER first")
            return
        name, self._user = self._user.decode("utf-8", "surrogateescape"), None
        # An exchange may have begun meanwhile, in another name.
        self.named(shown(name))
        self._login(Password(name, secret), "USER", verb)

    def _apop_command(self, verb: Verb, argument: bytes) -> None:
        self._exchange.apop(Command(verb, argument))

    def _auth_command(self, verb: Verb, argument: bytes) -> None:
        self._exchange.command(Command(verb, argument))

    # What the exchange says

    def log_in(self, credentials: Credentials, mechanism: str, command: bytes) -> None:
        """See exchange.Desk."""
        self.named(shown(credentials.user))
        self._login(credentials, mechanism, VERBS[command])

    def refuse(self, refusal: Refusal, mechanism: str, how: Refuse = AT_ONCE) -> None:
        """See exchange.Desk."""
        self.suspend()
        self._entrance.refuse(refusal, mechanism, VERBS[b"AUTH"], how)

    @property
    def _certain(self) -> bool:
        """Whether it is known what the default upstream takes: the operator says so, or it said so lately."""
        s = self.s
        upstream = s.plan.default_upstream
        return s.plan.upstreams[upstream].mechanism != "auto" or s.knowledge.fresh(upstream, s.clock())

    def learned(self, then: Callable[[Failure | None], None]) -> None:
        """See exchange.Desk."""
        s = self.s

        def prepared(failure: Failure | None) -> None:
            self.busy = False
            then(failure)
            # A login may have begun; it has its own end.
            if not self.busy and s.phase is Phase.AUTHORIZATION:
                self.resume()

        if self._certain:
            then(None)
        else:
            self.suspend()
            self._entrance.prepared(s.plan.target, prepared)

    def _login(self, credentials: Credentials, mechanism: str, verb: Verb) -> None:
        self.suspend()
        self._entrance.login(credentials, mechanism, verb)

    @property
    def _stls_offered(self) -> bool:
        """Whether STLS would be accepted. RFC 6856 section 2.1: not behind UTF8."""
        said_utf8 = any(command.name == "UTF8" for command in self._entrance.replay)
        return self.s.plan.tls == "starttls" and not self.s.secure and not said_utf8

    def _stls_command(self, verb: Verb, _: bytes) -> None:
        s = self.s
        if not self._stls_offered:
            if s.secure:
                self._refuse(verb, DENIED, "", "TLS is on already")
            elif s.plan.tls != "starttls":
                self._refuse(verb, DENIED, "", "STLS is not offered")
            else:
                self._refuse(verb, MALFORMED, "phase", "No STLS behind UTF8")
            return
        s.count(verb.index, OK)
        self.say(ok("Begin TLS"))
        # RFC 2595 section 4: forget what was learned before TLS.
        self._user = None
        self.named(None)
        self._entrance.forget()
        forget(s)
        self.suspend()
        self._handshaking = True
        s.effects.append(SecureClient(s.ask(self._secured)))
        if self._buffer.data:
            self.client(b"")

    def _secured(self, outcome: TlsView | Failure) -> None:
        s = self.s
        self._handshaking = False
        if isinstance(outcome, Failure):
            s.end("tls", outcome.detail)
            return
        s.secure = True
        s.view.tls = outcome
        self._chain = s.meet(None)
        self.resume()

    def _capa_command(self, verb: Verb, _: bytes) -> None:
        s = self.s
        upstream = s.plan.default_upstream
        self.suspend()
        if s.knowledge.fresh(upstream, s.clock()):
            self._show_capabilities()
        else:
            self._entrance.prepared(s.plan.target, lambda failure: self._show_capabilities())

    def _show_capabilities(self) -> None:
        s = self.s
        theirs = s.knowledge.get(s.plan.default_upstream)
        logins = frozenset[str]() if self._clear else offered(s)
        shows = announce(s.plan, theirs, logins=logins, stls=self._stls_offered)

        def then(reply: bytes) -> None:
            self.say(reply)
            self.resume()

        self.suspend()
        show(s, self._chain["on_capabilities"], shows, then)

    def _quit_command(self, verb: Verb, _: bytes) -> None:
        self.s.count(verb.index, OK)
        self.say(ok("Bye"))
        self.s.quit()

    def _xclient_command(self, verb: Verb, argument: bytes) -> None:
        s = self.s
        if not s.trusted:
            # Dovecot's answer to a source it does not trust: accepted, without effect.
            s.count(verb.index, OK)
            self.say(ok("Not from a trusted address, ignored"))
            return
        try:
            said = xclient.parse(argument)
        except xclient.XclientError as error:
            self._refuse(verb, MALFORMED, "arguments", f"Invalid XCLIENT: {error}")
            return
        s.count(verb.index, OK)
        believe(s, said)
        # A leg that was opened early was told of somebody else.
        self._entrance.drop()
        self._chain = s.meet(None)
        if said.addr is None:
            self.say(ok("Updated"))
        else:
            # Who decides by addresses has seen only the proxy's until now.
            self._connected(lambda: ok("Updated"))

    def _early_command(self, verb: Verb, argument: bytes) -> None:
        """UTF8, LANG (RFC 6856) and XOIP before the login: asked of the upstream itself, never faked."""
        s = self.s

        def relayed(result: Relayed | Failure) -> None:
            good = isinstance(result, Relayed) and result.ok
            s.count(verb.index, OK if good else ERR)
            self.say(result.octets if isinstance(result, Relayed) else result.refusal().line())
            self.resume()

        self.suspend()
        self._entrance.relay(Command(verb, argument), relayed)

    # What the entrance says

    def turned_away(self, reply: bytes, code: Code | None, document: bytes) -> None:
        """A login failed: the answer, for a token behind the error document; then the next attempt."""
        self._user = None
        self.attempts += 1
        self.s.view.attempt = self.attempts + 1
        self._deadline = self.s.clock() + self.s.plan.timeouts.pre_auth
        challenge = self._exchange.refused(document)
        # Who sends no more cannot answer a challenge, but may read the refusal.
        if challenge is None or code is not Code.AUTH or self.s.leaving:
            self.denied(reply)
            return
        self._exchange.owe(reply)
        self.say(challenge)
        self.resume()

    def denied(self, reply: bytes) -> None:
        """The answer to a failed login, behind which too many of them end the session."""
        self.say(reply)
        if self.attempts >= self.s.plan.limits.auth_attempts:
            self.s.end("policy", "too many failed logins")
        else:
            self.resume()

    def given_up(self, reply: bytes) -> None:
        """A client cancelled. It counts as a failed login: plugins may have been asked, and could be asked for ever."""
        self.attempts += 1
        self.denied(reply)

    def rest(self) -> bytes:
        """What the client sent behind its login. The end of this stage: it lets go of who holds it, so that nothing of
        the login is left when the next one begins."""
        del self._entrance, self._exchange, self.upstream
        return self._buffer.take()


_CREDENTIALS = frozenset({b"USER", b"PASS", b"RPOP", b"APOP", b"AUTH"})
_HANDLERS: dict[bytes, Callable[[Authorization, Verb, bytes], None]] = {
    b"USER": Authorization._user_command,
    b"PASS": Authorization._pass_command,
    b"RPOP": Authorization._pass_command,
    b"APOP": Authorization._apop_command,
    b"AUTH": Authorization._auth_command,
    b"STLS": Authorization._stls_command,
    b"CAPA": Authorization._capa_command,
    b"QUIT": Authorization._quit_command,
    b"XCLIENT": Authorization._xclient_command,
    b"UTF8": Authorization._early_command,
    b"LANG": Authorization._early_command,
    b"XOIP": Authorization._early_command,
}

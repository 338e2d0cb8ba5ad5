"""The AUTHORIZATION stage (RFC 1939 section 4): from the greeting to a logged-in upstream.

Credentials never travel as commands: they are taken from USER and PASS or from a SASL exchange, shown to on_login,
and used by the login dialogue upstream. The client hears ``+OK`` only when the upstream let the user in.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from popproxy.api.credentials import Credentials, Password
from popproxy.api.verdicts import Refuse
from popproxy.api.views import TlsView
from popproxy.core import hooks
from popproxy.core.announce import MECHANISMS, announce
from popproxy.core.chain import Chain, Entry
from popproxy.core.effects import SecureClient
from popproxy.core.entrance import Entrance
from popproxy.core.failures import Failure
from popproxy.core.login import Relayed
from popproxy.core.meter import DENIED, ERR, MALFORMED, OK
from popproxy.core.phases import Phase
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import OTHER, VERBS, BadCommand, Command, Verb, Where, content, parse
from popproxy.wire.lines import LineBuffer
from popproxy.wire.replies import err, ok, one_line
from popproxy.wire.sasl import (
    CANCEL,
    SERVER_MECHANISMS,
    Challenge,
    Identity,
    SaslError,
    ServerMechanism,
    Step,
    decode_initial,
    decode_response,
    encode_challenge,
)

if TYPE_CHECKING:
    from popproxy.core.session import Session

_AUTH = VERBS[b"AUTH"].index

class Authorization:
    """See the head of this file. ``busy`` while an outcome is awaited: client lines wait in the buffer."""

    __slots__ = (
        "_buffer",
        "_chain",
        "_deadline",
        "_entrance",
        "_handshaking",
        "_mechanism",
        "_sasl",
        "_user",
        "attempts",
        "busy",
        "s",
    )

    def __init__(self, session: Session) -> None:
        self.s = session
        self.busy = False
        self.attempts = 0
        self._buffer = LineBuffer(session.plan.limits.line)
        self._chain: Chain = session.plan.chain.select(session.view, None)
        self._deadline = session.deadline
        self._entrance = Entrance(session, self)
        self._handshaking = False
        self._sasl: ServerMechanism | None = None
        self._mechanism = ""
        self._user: bytes | None = None

    # Stage

    def start(self) -> None:
        """on_connect, then the greeting."""
        s = self.s
        refused: list[Refuse] = []

        def use(entry: Entry, verdict: Any) -> bool:
            refused.append(verdict)
            return True

        def then() -> None:
            s.enter(Phase.AUTHORIZATION)
            if refused:
                s.to_client.append(_line(refused[0]))
                s.end("policy", refused[0].reason or "refused on_connect")
            else:
                s.to_client.append(ok(s.plan.greeting))
                self.resume()

        self.suspend()
        hooks.call(s, self._chain["on_connect"], lambda: (s.view,), use, then)

    def client(self, data: bytes) -> None:
        """Octets from the client."""
        self._buffer.feed(data)
        if not self.busy:
            self._lines()
        elif self._handshaking:
            # Promise 3: octets behind STLS are an injection, or a client that cannot be served.
            self.s.meter.violation("client", "after_stls")
            self.s.end("protocol_error", "octets behind STLS before the TLS handshake")
        elif len(self._buffer) > self.s.plan.limits.auth_line:
            self.s.want_client = False

    def upstream(self, data: bytes) -> None:
        """Octets from upstream while the proxy speaks to it."""
        self._entrance.data(data)

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
        return self.busy

    def drained(self) -> None:
        """Nothing waits for the client here."""

    def stalled(self, blocked: bool) -> None:
        """Replies are small here; the login deadline goes on."""

    def close(self) -> None:
        """Nothing is held here."""

    # Lines

    def suspend(self) -> None:
        """Let the client's lines wait for an outcome."""
        self.busy = True
        self.s.deadline = inf

    def resume(self) -> None:
        """Back to the client's lines."""
        self.busy = False
        self.s.want_client = True
        self.s.deadline = self._deadline
        self._lines()

    def _lines(self) -> None:
        s = self.s
        while not self.busy and s.phase is Phase.AUTHORIZATION:
            line = self._buffer.next()
            if line is None:
                self._check_length()
                return
            limits = s.plan.limits
            long = self._sasl is not None or line[:5].upper() == b"AUTH "
            if len(line) > (limits.auth_line if long else limits.line):
                self._overlong(limits.auth_line if long else limits.line)
            elif self._sasl is not None:
                self._sasl_line(self._sasl, line)
            else:
                self._command_line(line)

    def _check_length(self) -> None:
        s = self.s
        long = self._sasl is not None or self._buffer.starts_with(b"AUTH ")
        self._buffer.limit = s.plan.limits.auth_line if long else s.plan.limits.line
        if self._buffer.overlong:
            self._overlong(self._buffer.limit)

    def _overlong(self, limit: int) -> None:
        """A line is too long, whether its end has come or not."""
        s = self.s
        s.meter.violation("client", "overlong")
        s.to_client.append(err(f"Line longer than {limit} octets"))
        s.end("protocol_error", "overlong line")

    def _command_line(self, line: bytes) -> None:
        s = self.s
        try:
            command = parse(content(line, s.plan.bare_lf), s.plan.verbs)
        except BadCommand as bad:
            verb = bad.verb.index if bad.verb is not None else OTHER
            s.to_client.append(s.bad_command(verb, MALFORMED, bad.kind, str(bad)))
            return
        handler = _HANDLERS.get(command.verb.name)
        if handler is not None and (not command.verb.fenced or command.verb.name in s.plan.opened):
            handler(self, command)
        elif command.verb.fenced and command.verb.name not in s.plan.opened:
            s.to_client.append(s.bad_command(command.verb.index, DENIED, "", f"{command.name} is not served here"))
        elif Where.TRANSACTION in command.verb.where:
            s.to_client.append(s.bad_command(command.verb.index, MALFORMED, "phase", "Log in first"))
        else:
            s.to_client.append(s.bad_command(command.verb.index, DENIED, "", f"{command.name} is not served here"))

    @property
    def _clear(self) -> bool:
        """Whether credentials are refused on this leg."""
        return self.s.view.tls is None and not self.s.plan.auth_before_tls

    def _tls_first(self, command: Command) -> bool:
        if not self._clear:
            return False
        s = self.s
        text = "Send STLS first" if s.plan.tls == "starttls" else "No login on a connection without TLS"
        s.to_client.append(s.bad_command(command.verb.index, DENIED, "", text))
        s.meter.auth("USER" if command.name in ("USER", "PASS") else "_other", "tls_required", 0.0)
        return True

    def _user_command(self, command: Command) -> None:
        if self._tls_first(command):
            return
        self._user = command.argument
        self.s.view.user = command.argument.decode("utf-8", "backslashreplace")
        self.s.count(command.verb.index, OK)
        self.s.to_client.append(ok())

    def _pass_command(self, command: Command) -> None:
        s = self.s
        if self._tls_first(command):
            return
        if self._user is None:
            s.to_client.append(s.bad_command(command.verb.index, MALFORMED, "phase", "Send USER first"))
            return
        self._mechanism = "USER"
        name, self._user = self._user.decode("utf-8", "surrogateescape"), None
        self._login(Password(name, command.argument), command.verb)

    def _apop_command(self, command: Command) -> None:
        # The greeting holds no timestamp, so there is nothing an APOP digest could answer (RFC 1939 section 7).
        if not self._tls_first(command):
            text = "APOP is not offered; use USER and PASS, or AUTH"
            self.s.to_client.append(self.s.bad_command(command.verb.index, DENIED, "", text))

    def _auth_command(self, command: Command) -> None:
        s = self.s
        if self._tls_first(command):
            return
        words = command.arguments
        if not words:
            # From before RFC 5034: a bare AUTH lists the mechanisms.
            s.count(_AUTH, OK)
            s.to_client.append(b"+OK\r\n" + b"".join(name + b"\r\n" for name in MECHANISMS) + b".\r\n")
            return
        name = words[0].upper()
        if name not in MECHANISMS:
            s.to_client.append(s.bad_command(_AUTH, ERR, "", "Unknown authentication mechanism"))
            return
        self._mechanism = name.decode("ascii")
        mechanism = SERVER_MECHANISMS[name]()
        self._sasl = mechanism
        self._sasl_step(lambda: mechanism.start(decode_initial(words[1]) if len(words) > 1 else None))

    def _sasl_line(self, mechanism: ServerMechanism, line: bytes) -> None:
        try:
            text = content(line, self.s.plan.bare_lf)
        except BadCommand as bad:
            self._sasl_failed(bad.kind, str(bad))
            return
        if text == CANCEL:
            self._sasl = None
            self.s.meter.auth(self._mechanism, "aborted", 0.0)
            self.s.count(_AUTH, ERR)
            self.s.to_client.append(err("Authentication cancelled"))
            return
        self._sasl_step(lambda: mechanism.respond(decode_response(text)))

    def _sasl_step(self, step: Callable[[], Step]) -> None:
        try:
            outcome = step()
        except SaslError as error:
            self._sasl_failed("sasl", str(error))
            return
        if isinstance(outcome, Challenge):
            self.s.to_client.append(encode_challenge(outcome.data))
            return
        self._sasl = None
        identity: Identity = outcome.identity
        self.s.view.user = identity.authcid
        self._login(Password(identity.authcid, identity.secret, identity.authzid), VERBS[b"AUTH"])

    def _sasl_failed(self, kind: str, text: str) -> None:
        self._sasl = None
        self.s.meter.auth(self._mechanism, "malformed", 0.0)
        self.s.to_client.append(self.s.bad_command(_AUTH, MALFORMED, kind, f"Bad AUTH exchange: {text}"))

    def _stls_command(self, command: Command) -> None:
        s = self.s
        if s.plan.tls != "starttls" or s.view.tls is not None:
            text = "TLS is on already" if s.view.tls is not None else "STLS is not offered"
            s.to_client.append(s.bad_command(command.verb.index, DENIED, "", text))
            return
        if self._entrance.replay:
            # RFC 6856 section 2.1: no STLS behind UTF8.
            s.to_client.append(s.bad_command(command.verb.index, MALFORMED, "phase", "No STLS behind UTF8 or LANG"))
            return
        s.count(command.verb.index, OK)
        s.to_client.append(ok("Begin TLS"))
        # RFC 2595 section 4: forget what was learned before TLS.
        self._user = None
        s.view.user = None
        self.suspend()
        self._handshaking = True
        s.effects.append(SecureClient(s.ask(self._secured)))
        if len(self._buffer):
            self.client(b"")

    def _secured(self, outcome: TlsView | Failure) -> None:
        self._handshaking = False
        if isinstance(outcome, Failure):
            self.s.end("tls", outcome.detail)
            return
        self.s.view.tls = outcome
        self._chain = self.s.plan.chain.select(self.s.view, None)
        self.resume()

    def _capa_command(self, command: Command) -> None:
        s = self.s
        upstream = s.plan.default_upstream
        if s.knowledge.fresh(upstream, s.clock()):
            self._show_capabilities()
        else:
            self.suspend()
            self._entrance.prepared(upstream, lambda failure: self._show_capabilities())

    def _show_capabilities(self) -> None:
        s = self.s
        shown = [
            announce(
                s.plan,
                s.knowledge.get(s.plan.default_upstream),
                logins=not self._clear,
                stls=s.plan.tls == "starttls" and s.view.tls is None and not self._entrance.replay,
            )
        ]

        def use(entry: Entry, verdict: Any) -> bool:
            if isinstance(verdict, Capabilities):
                shown[0] = verdict
            return False

        def then() -> None:
            s.count(VERBS[b"CAPA"].index, OK)
            s.to_client.append(shown[0].reply())
            self.resume()

        self.suspend()
        hooks.call(s, self._chain["on_capabilities"], lambda: (s.view, shown[0]), use, then)

    def _quit_command(self, command: Command) -> None:
        self.s.count(command.verb.index, OK)
        self.s.to_client.append(ok("Bye"))
        self.s.end("quit")

    def _login(self, credentials: Credentials, verb: Verb) -> None:
        self.suspend()
        self._entrance.login(credentials, self._mechanism, verb)

    def _xclient_command(self, command: Command) -> None:
        # Dovecot's answer to a source it does not trust: accepted, without effect.
        self.s.count(command.verb.index, OK)
        self.s.to_client.append(ok("Not from a trusted address, ignored"))

    def _early_command(self, command: Command) -> None:
        """UTF8, LANG (RFC 6856) and XOIP before the login: asked of the upstream itself, never faked."""
        s = self.s

        def relayed(result: Relayed | Failure) -> None:
            if isinstance(result, Relayed):
                s.count(command.verb.index, OK if result.ok else ERR)
                s.to_client.append(result.octets)
            else:
                s.count(command.verb.index, ERR)
                s.to_client.append(result.refusal().line())
            self.resume()

        self.suspend()
        self._entrance.relay(command, relayed)

    def turned_away(self) -> None:
        """A login failed and was answered: the next attempt, unless there were too many."""
        s = self.s
        s.view.user = None
        self._user = None
        self.attempts += 1
        if self.attempts >= s.plan.limits.auth_attempts:
            s.end("policy", "too many failed logins")
            return
        self._deadline = s.clock() + s.plan.timeouts.pre_auth
        self.resume()

    def rest(self) -> bytes:
        """What the client sent behind its login."""
        return self._buffer.take()


def _line(refuse: Refuse) -> bytes:
    text = one_line(refuse.text)
    return err(text, None if refuse.code is None else refuse.code.value)


_HANDLERS: dict[bytes, Callable[[Authorization, Command], None]] = {
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

"""The client's side of AUTH (RFC 5034) and of APOP: from the command to credentials, or to the reply that ends it.

The proxy itself is the SASL server; what comes out are credentials, which never travel as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from popproxy.api.credentials import Bearer, Credentials, Digest, Password, Verified
from popproxy.api.verdicts import Refuse, Rename
from popproxy.core import hooks
from popproxy.core.chain import Entry
from popproxy.core.entrance import AT_ONCE, as_refusal
from popproxy.core.failures import Failure
from popproxy.core.hooks import Lie
from popproxy.core.meter import DENIED, ERR, MALFORMED, OK
from popproxy.core.offer import APOP, SASL, offered
from popproxy.wire.commands import VERBS, BadCommand, Command, content
from popproxy.wire.errors import Code, Refusal
from popproxy.wire.replies import err
from popproxy.wire.sasl import (
    CANCEL,
    SERVER_MECHANISMS,
    Challenge,
    Complete,
    SaslError,
    Secret,
    ServerMechanism,
    Step,
    Verifier,
    Wanted,
    answer,
    decode_initial,
    decode_response,
    encode_challenge,
    fake,
    timestamp,
)

if TYPE_CHECKING:
    from popproxy.core.session import Session

_AUTH = VERBS[b"AUTH"].index
_BY_PLUGINS = frozenset({"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"})
"""Mechanisms that no upstream makes possible, so none need be asked."""


class Desk(Protocol):
    """Where the client stands."""

    def say(self, reply: bytes) -> None:
        """Send a line to the client."""
        ...

    def named(self, user: str | None) -> None:
        """The name the client gave."""
        ...

    def suspend(self) -> None:
        """Let the client wait."""
        ...

    def resume(self) -> None:
        """Go on with the client's lines."""
        ...

    def learned(self, then: Callable[[Failure | None], None]) -> None:
        """Go on when it is known what the default upstream can do, or cannot be known."""
        ...

    def log_in(self, credentials: Credentials, mechanism: str, command: bytes) -> None:
        """Credentials are complete."""
        ...

    def refuse(self, refusal: Refusal, mechanism: str, how: Refuse = AT_ONCE) -> None:
        """There will be no credentials: the login of AUTH is refused, late or for good if ``how`` says so."""
        ...

    def denied(self, reply: bytes) -> None:
        """The last word about a login that was refused."""
        ...

    def given_up(self, reply: bytes) -> None:
        """The answer to a client that cancelled."""
        ...


class Exchange:
    """At most one exchange at a time: while ``server`` is not None the client's next line belongs to it."""

    __slots__ = ("_decoy", "_desk", "_ended", "_name", "_owed", "_timestamp", "s", "server")

    def __init__(self, session: Session, desk: Desk) -> None:
        self.s = session
        self._desk = desk
        self.server: ServerMechanism | None = None
        self._ended: ServerMechanism | None = None
        self._owed: bytes | None = None
        self._name = ""
        self._timestamp = b""
        self._decoy = False

    def greeting(self) -> str:
        """What APOP adds to the greeting (RFC 1939 section 7); empty where no plugin makes it possible."""
        if APOP not in offered(self.s):
            return ""
        self._timestamp = timestamp(self.s.plan.nonce())
        return " " + self._timestamp.decode("ascii")

    # Commands

    def command(self, command: Command) -> None:
        """AUTH came."""
        words = command.arguments
        name = words[0].upper().decode("ascii", "replace") if words else ""
        if name and name not in SASL:
            self._desk.say(self.s.bad_command(_AUTH, ERR, "", "Unknown authentication mechanism"))
            return

        def known(failure: Failure | None) -> None:
            if not name:
                self._list()
            elif name in offered(self.s):
                self._begin(name, words[1] if len(words) > 1 else None)
            elif failure is not None:
                self.s.count(_AUTH, ERR)
                self._desk.say(failure.refusal().line())
            else:
                self._desk.say(self.s.bad_command(_AUTH, DENIED, "", f"{name} is not offered here"))

        if name in offered(self.s) or name in _BY_PLUGINS:
            known(None)
        else:
            self._desk.learned(known)

    def _list(self) -> None:
        # From before RFC 5034: a bare AUTH lists the mechanisms.
        self.s.count(_AUTH, OK)
        now = offered(self.s)
        lines = b"".join(name.encode() + b"\r\n" for name in SASL if name in now)
        self._desk.say(b"+OK\r\n" + lines + b".\r\n")

    def _begin(self, name: str, initial: bytes | None) -> None:
        self._name = name
        server = self.server = SERVER_MECHANISMS[name.encode()](self.s.plan.nonce())
        self._step(lambda: server.start(None if initial is None else decode_initial(initial)))

    def apop(self, command: Command) -> None:
        """APOP came."""
        index = command.verb.index
        if not self._timestamp or APOP not in offered(self.s):
            text = "APOP is not offered; use USER and PASS, or AUTH"
            self._desk.say(self.s.bad_command(index, DENIED, "", text))
            return
        try:
            who = answer(command.argument)
        except SaslError as error:
            self.s.meter.auth(APOP, "malformed", 0.0)
            self._desk.say(self.s.bad_command(index, MALFORMED, "sasl", f"Bad APOP: {error}"))
            return
        self._desk.log_in(Digest(who.authcid, "APOP", self._timestamp, who.secret), APOP, b"APOP")

    # Lines

    def line(self, server: ServerMechanism, line: bytes) -> None:
        """A line of the client within an exchange."""
        if self._owed is not None:
            # RFC 7628 section 3.2.3: the answer to the error document says nothing.
            owed, self._owed, self.server = self._owed, None, None
            self._desk.denied(owed)
            return
        try:
            text = content(line, self.s.plan.bare_lf)
        except BadCommand as bad:
            self._failed(bad.kind, str(bad))
            return
        if text == CANCEL:
            self.server = None
            self.s.meter.auth(self._name, "aborted", 0.0)
            self.s.count(_AUTH, ERR)
            self._desk.given_up(err("Authentication cancelled"))
        else:
            self._step(lambda: server.respond(decode_response(text)))

    def refused(self, document: bytes) -> bytes | None:
        """What must be said and answered before the ``-ERR`` to bad credentials; None when there is nothing."""
        server, self._ended = self._ended, None
        data = server.refused() if server is not None else None
        return None if data is None else encode_challenge(document or data)

    def owe(self, reply: bytes) -> None:
        """A challenge of refused() is said: ``reply`` is the answer to whatever the client says to it."""
        self._owed = reply
        self.server = SERVER_MECHANISMS[self._name.encode()](b"")

    def _step(self, advance: Callable[[], Step]) -> None:
        try:
            outcome = advance()
        except SaslError as error:
            if error.reason == "proof":
                self.server = None
                reason = "no plugin has a verifier of this user" if self._decoy else str(error)
                self._desk.refuse(Refusal("Authentication failed", Code.AUTH, reason), self._name)
            else:
                self._failed("sasl", str(error))
            return
        if isinstance(outcome, Challenge):
            self._desk.say(encode_challenge(outcome.data))
        elif isinstance(outcome, Wanted):
            self._verifier(outcome.user)
        else:
            self._ended, self.server = self.server, None
            self._desk.log_in(_credentials(outcome), self._name, b"AUTH")

    def _failed(self, kind: str, text: str) -> None:
        self.server = None
        self.s.meter.auth(self._name, "malformed", 0.0)
        self._desk.say(self.s.bad_command(_AUTH, MALFORMED, kind, f"Bad AUTH exchange: {text}"))

    # SCRAM

    def _verifier(self, user: str) -> None:
        """on_verifier, then on with what was found, or with a verifier that nothing fits."""
        s, server = self.s, self.server
        assert server is not None, "a mechanism wants something, and there is none"
        name = user
        found: list[Verifier] = []
        refused: list[Refuse] = []

        def use(entry: Entry, verdict: Any) -> bool:
            nonlocal name
            if isinstance(verdict, Rename):
                name = verdict.user
                return False
            if isinstance(verdict, Refuse):
                refused.append(verdict)
                return True
            if len(verdict.stored_key) != (32 if self._name == "SCRAM-SHA-256" else 20):
                raise Lie(f"Verifier: its keys are not those of {self._name}")
            found.append(verdict)
            return True

        def then() -> None:
            if refused:
                self.server = None
                self._desk.refuse(as_refusal(refused[0]), self._name, refused[0])
                return
            shapes = s.knowledge.shapes
            self._decoy = not found
            if found:
                shapes[self._name] = len(found[0].salt), found[0].iterations
                verifier = found[0]
            else:
                verifier = fake(s.plan.decoy, self._name, name, *shapes.get(self._name, ()))
            self._step(lambda: server.supply(verifier))
            self._desk.resume()

        self._desk.named(user)
        self._desk.suspend()
        chain = s.meet(s.user)
        hooks.call(s, chain["on_verifier"], lambda: (s.view, name, self._name), use, then)


def _credentials(outcome: Complete) -> Credentials:
    who = outcome.identity
    if who.kind is Secret.PASSWORD:
        return Password(who.authcid, who.secret, who.authzid)
    if who.kind is Secret.TOKEN:
        return Bearer(who.authcid, who.secret, who.authzid)
    if who.kind is Secret.DIGEST:
        return Digest(who.authcid, "CRAM-MD5", outcome.challenge, who.secret)
    return Verified(who.authcid, who.authzid)

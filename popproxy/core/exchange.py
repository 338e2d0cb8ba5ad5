"""The client's side of AUTH (RFC 5034): from the command to complete credentials, or to the reply that ends it.

The proxy itself is the SASL server; what comes out are credentials, which never travel as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from popproxy.api.credentials import Password
from popproxy.core.announce import MECHANISMS
from popproxy.core.meter import ERR, MALFORMED, OK
from popproxy.wire.commands import VERBS, BadCommand, Command, content
from popproxy.wire.replies import err
from popproxy.wire.sasl import (
    CANCEL,
    SERVER_MECHANISMS,
    Challenge,
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


class Exchange:
    """At most one exchange at a time: while ``server`` is not None the client's next line belongs to it.

    ``say`` sends a line to the client, ``login`` takes what came out.
    """

    __slots__ = ("_login", "_name", "_say", "s", "server")

    def __init__(
        self, session: Session, say: Callable[[bytes], None], login: Callable[[Password, str], None]
    ) -> None:
        self.s = session
        self._say = say
        self._login = login
        self.server: ServerMechanism | None = None
        self._name = ""

    def command(self, command: Command) -> None:
        """AUTH came."""
        words = command.arguments
        if not words:
            # From before RFC 5034: a bare AUTH lists the mechanisms.
            self.s.count(_AUTH, OK)
            self._say(b"+OK\r\n" + b"".join(name + b"\r\n" for name in MECHANISMS) + b".\r\n")
            return
        name = words[0].upper()
        if name not in MECHANISMS:
            self._say(self.s.bad_command(_AUTH, ERR, "", "Unknown authentication mechanism"))
            return
        self._name = name.decode("ascii")
        server = self.server = SERVER_MECHANISMS[name]()
        self._step(lambda: server.start(decode_initial(words[1]) if len(words) > 1 else None))

    def line(self, server: ServerMechanism, line: bytes) -> None:
        """A line of the client within an exchange."""
        try:
            text = content(line, self.s.plan.bare_lf)
        except BadCommand as bad:
            self._failed(bad.kind, str(bad))
            return
        if text == CANCEL:
            self.server = None
            self.s.meter.auth(self._name, "aborted", 0.0)
            self.s.count(_AUTH, ERR)
            self._say(err("Authentication cancelled"))
        else:
            self._step(lambda: server.respond(decode_response(text)))

    def _step(self, advance: Callable[[], Step]) -> None:
        try:
            outcome = advance()
        except SaslError as error:
            self._failed("sasl", str(error))
            return
        if isinstance(outcome, Challenge):
            self._say(encode_challenge(outcome.data))
            return
        self.server = None
        identity = outcome.identity
        self._login(Password(identity.authcid, identity.secret, identity.authzid), self._name)

    def _failed(self, kind: str, text: str) -> None:
        self.server = None
        self.s.meter.auth(self._name, "malformed", 0.0)
        self._say(self.s.bad_command(_AUTH, MALFORMED, kind, f"Bad AUTH exchange: {text}"))

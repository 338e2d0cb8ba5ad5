"""PLAIN (RFC 4616) and LOGIN (draft-murchison-sasl-login-00): the password itself travels."""

from __future__ import annotations

from typing import Literal

from popproxy.wire.sasl.identity import Identity, Secret, name_of, with_password
from popproxy.wire.sasl.lines import SaslError
from popproxy.wire.sasl.mechanism import Challenge, ClientMechanism, Complete, ServerMechanism, Step


class PlainServer(ServerMechanism):
    """PLAIN, RFC 4616: ``[authzid] NUL authcid NUL passwd``."""

    name = b"PLAIN"

    def __init__(self) -> None:
        self._asked = False
        self._over = False

    def start(self, initial: bytes | None) -> Step:
        """See ServerMechanism."""
        if self._asked or self._over:
            raise SaslError("sequence", "PLAIN was started twice")
        if initial is None:
            self._asked = True
            return Challenge(b"")
        return self._finish(initial)

    def respond(self, data: bytes) -> Step:
        """See ServerMechanism."""
        if self._over or not self._asked:
            raise SaslError("sequence", "PLAIN takes one message")
        return self._finish(data)

    def _finish(self, message: bytes) -> Step:
        self._over = True
        fields = message.split(b"\x00")
        # Not split(.., 2): a third NUL would stand inside the password and must be refused, not kept or cut.
        if len(fields) != 3:
            raise SaslError("syntax", "a PLAIN message has exactly two NULs")
        authzid, authcid, password = fields
        return Complete(Identity(name_of("user name", authcid), name_of("authorization identity", authzid), password))


class LoginServer(ServerMechanism):
    """LOGIN, draft-murchison-sasl-login-00: two prompts, two answers; an initial response is the user name."""

    name = b"LOGIN"

    def __init__(self) -> None:
        self._next: Literal["start", "user", "password", "nothing"] = "start"
        self._user = ""

    def start(self, initial: bytes | None) -> Step:
        """See ServerMechanism."""
        if self._next != "start":
            raise SaslError("sequence", "LOGIN was started twice")
        self._next = "user"
        return Challenge(b"Username:") if initial is None else self.respond(initial)

    def respond(self, data: bytes) -> Step:
        """See ServerMechanism."""
        expected, self._next = self._next, "nothing"
        if expected == "user":
            self._user = name_of("user name", data)
            # The whole rule for names, before the client is made to send its password.
            Identity(self._user, kind=Secret.NONE)
            self._next = "password"
            return Challenge(b"Password:")
        if expected == "password":
            return Complete(Identity(self._user, "", data))
        raise SaslError("sequence", "LOGIN takes a user name and a password")


class PlainClient(ClientMechanism):
    """PLAIN, RFC 4616. Raises SaslError("identity") for an identity without a password."""

    name = b"PLAIN"
    messages = 1
    reads_challenges = False

    def __init__(self, identity: Identity) -> None:
        self._identity = with_password(identity)

    def initial(self) -> bytes:
        """See ClientMechanism."""
        who = self._identity
        return b"\x00".join((who.authzid.encode(), who.authcid.encode(), who.secret))

    def respond(self, challenge: bytes) -> bytes:
        """See ClientMechanism: PLAIN has no answer beyond its initial response."""
        raise SaslError("sequence", "the server asks for more than PLAIN has")


class LoginClient(ClientMechanism):
    """LOGIN, draft-murchison-sasl-login-00: the user name, then the password, whatever the prompts say.

    Raises SaslError("identity") for an identity without a password, and for one with an authorization
    identity: LOGIN cannot carry it, and dropping it would log in as somebody else.
    """

    name = b"LOGIN"
    messages = 2
    reads_challenges = False

    def __init__(self, identity: Identity) -> None:
        self._identity = with_password(identity)
        if identity.authzid:
            raise SaslError("identity", "LOGIN cannot carry an authorization identity: use PLAIN")
        self._answered = 0

    def initial(self) -> None:
        """See ClientMechanism: the server speaks first."""
        return None

    def respond(self, challenge: bytes) -> bytes:
        """See ClientMechanism."""
        self._answered += 1
        if self._answered == 1:
            return self._identity.authcid.encode()
        if self._answered == 2:
            return self._identity.secret
        raise SaslError("sequence", "the server asks for more than LOGIN has")

"""SASL over POP3 (RFC 5034): the base64 lines, and both sides of the mechanisms.

Law: what leaves this room is safe on any wire. An Identity holds no NUL, CR or LF, so no later room can cut
a name at a NUL or be made to send a second command. Nothing is trimmed, folded or guessed: what does not fit
the grammar is refused as a whole, and the text of the refusal never repeats what the peer sent.

A new mechanism is one class and one line in a registry. Data goes in and out of a mechanism decoded; only the
functions of the first part know base64 and CRLF.
"""

from __future__ import annotations

import binascii
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import ClassVar, Final, Literal

Reason = Literal["base64", "syntax", "identity", "sequence"]

CANCEL: Final = b"*"
"""The line, without CRLF, with which a client cancels the exchange (RFC 5034 section 4)."""

_ALPHABET = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_MECHANISM = re.compile(rb"[A-Z0-9_-]{1,20}")
_UNSAFE = re.compile(rb"[\x00\r\n]")


class SaslError(ValueError):
    """The exchange cannot go on. The text is fit for a log and holds nothing of the payload.

    ``reason``: ``base64`` the line is not base64; ``syntax`` the message breaks the mechanism's grammar;
    ``identity`` a name or secret that no wire can carry; ``sequence`` a step the mechanism does not have.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


# The lines


def _decode(text: bytes) -> bytes:
    if _ALPHABET.fullmatch(text) is None:
        raise SaslError("base64", "an octet outside the base64 alphabet, or padding before the end")
    if len(text) % 4:
        raise SaslError("base64", "base64 is not padded to a multiple of four")
    data = binascii.a2b_base64(text)
    # RFC 4648 section 3.5: two texts for the same octets would make two spellings of one secret.
    if binascii.b2a_base64(data, newline=False) != text:
        raise SaslError("base64", "base64 is not canonical: its unused bits are set")
    return data


def decode_initial(token: bytes) -> bytes:
    """The initial response of ``AUTH mechanism token``; ``=`` is the empty one (RFC 5034 section 4).

    ``token`` is the argument alone. Raises SaslError("base64"); an empty token is no base64 either.
    """
    if token == b"=":
        return b""
    if not token:
        raise SaslError("base64", "an empty initial response is written =")
    return _decode(token)


def decode_response(line: bytes) -> bytes:
    """One line of the client within an exchange, given without its CRLF; an empty line is an empty response.

    Compare with CANCEL first: ``*`` is not base64. Raises SaslError("base64").
    """
    return _decode(line)


def decode_challenge(line: bytes) -> bytes:
    """The data of a server's line ``+ base64``, given without its CRLF; a bare ``+`` is an empty challenge.

    Raises SaslError("base64"), also for ``+`` followed by anything but a space.
    """
    if line[:1] != b"+" or line[1:2] not in (b"", b" "):
        raise SaslError("base64", "a challenge is a plus sign, a space and base64")
    return _decode(line[2:])


def encode_challenge(data: bytes) -> bytes:
    """The server's line ``+ base64`` CRLF; ``+ `` CRLF when there is no data."""
    return b"+ " + binascii.b2a_base64(data, newline=False) + b"\r\n"


def encode_response(data: bytes) -> bytes:
    """The client's line within an exchange, CRLF included; an empty line when there is no data."""
    return binascii.b2a_base64(data, newline=False) + b"\r\n"


def command_line(name: bytes, initial: bytes | None, limit: int = 255) -> bytes | None:
    """The line that opens an exchange, CRLF included, or None when it is longer than ``limit`` octets.

    ``initial`` None opens without an initial response, ``b""`` writes ``=``. On None open without one and
    send ``initial`` after the server's empty challenge: RFC 5034 section 4 forbids a longer command.
    Raises SaslError("syntax") for a mechanism name outside RFC 4422 section 3.1.
    """
    if _MECHANISM.fullmatch(name) is None:
        raise SaslError("syntax", "a mechanism name is 1 to 20 of A-Z, 0-9, hyphen, underscore")
    line = b"AUTH " + name
    if initial is not None:
        line += b" " + (binascii.b2a_base64(initial, newline=False) or b"=")
    line += b"\r\n"
    return line if len(line) <= limit else None


# What a mechanism finds out, or is told


class Secret(Enum):
    """What the secret of an Identity is."""

    PASSWORD = "password"
    TOKEN = "token"
    NONE = "none"
    """There is none: the mechanism itself proved who it is (SCRAM)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logs in, by what, and as whom.

    ``authcid`` is the name whose secret it is; ``authzid`` the name to act as, ``""`` when the peer gave none
    (which is not the same as giving its own name twice: pass it on as it is). ``secret`` is raw octets.
    Raises SaslError("identity") when a name is not UTF-8, the user name is empty, any of the three holds
    NUL, CR or LF, or the secret is empty although ``kind`` says there is one (RFC 4616: ``1*SAFE``).
    """

    authcid: str
    authzid: str = ""
    secret: bytes = field(default=b"", repr=False)
    kind: Secret = Secret.PASSWORD

    def __post_init__(self) -> None:
        for what, name in (("user name", self.authcid), ("authorization identity", self.authzid)):
            try:
                octets = name.encode()
            except UnicodeEncodeError:
                raise SaslError("identity", f"the {what} is not UTF-8") from None
            _refuse_unsafe(what, octets)
        if not self.authcid:
            raise SaslError("identity", "the user name is empty")
        _refuse_unsafe("secret", self.secret)
        if (self.kind is Secret.NONE) != (self.secret == b""):
            raise SaslError("identity", "the secret is empty, or is there although the mechanism needs none")


def _refuse_unsafe(what: str, octets: bytes) -> None:
    if _UNSAFE.search(octets) is not None:
        raise SaslError("identity", f"the {what} holds NUL, CR or LF")


def _name(what: str, octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise SaslError("identity", f"the {what} is not UTF-8") from None


# Server side


@dataclass(frozen=True, slots=True)
class Challenge:
    """Send ``data`` (not yet base64) as a challenge and give the client's answer to respond().

    Not in the repr: a later challenge can hold a salt or a nonce.
    """

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Complete:
    """The mechanism has all it needs. Whether ``identity`` may log in is for others to decide."""

    identity: Identity


Step = Challenge | Complete


class ServerMechanism(ABC):
    """One exchange with one client: start() once, then respond() for every answer, until Complete or SaslError.

    A mechanism that needs something from outside before it can go on (SCRAM: the stored keys of a name) adds a
    kind of Step; these two methods stay.
    """

    name: ClassVar[bytes]

    @abstractmethod
    def start(self, initial: bytes | None) -> Step:
        """``initial`` is the decoded initial response, None when the client sent none. Raises SaslError."""

    @abstractmethod
    def respond(self, data: bytes) -> Step:
        """``data`` is the client's decoded answer to the last Challenge. Raises SaslError."""

    def refused(self) -> bytes | None:
        """The data of a last challenge that must be sent and answered before the ``-ERR``, or None.

        Call it when an identity that was Complete is not let in (RFC 7628 section 3.2.2: the error document);
        the client's answer to it is dropped.
        """
        return None


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
        return Complete(Identity(_name("user name", authcid), _name("authorization identity", authzid), password))


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
            self._user = _name("user name", data)
            # The whole rule for names, before the client is made to send its password.
            Identity(self._user, kind=Secret.NONE)
            self._next = "password"
            return Challenge(b"Password:")
        if expected == "password":
            return Complete(Identity(self._user, "", data))
        raise SaslError("sequence", "LOGIN takes a user name and a password")


# Client side


class ClientMechanism(ABC):
    """One exchange with one server on behalf of an Identity.

    Open with ``command_line(name, initial())``. Where the initial response cannot travel in the command, open
    without it and answer the server's first, empty challenge with ``initial()``. Every other challenge goes
    to respond().
    """

    name: ClassVar[bytes]
    reads_challenges: ClassVar[bool]
    """False: the answers do not depend on the challenges, and a server whose prompt is not even base64 (they
    exist) may be served with respond(b"")."""

    @abstractmethod
    def initial(self) -> bytes | None:
        """The first message, not yet base64; None when the server speaks first. Changes nothing."""

    @abstractmethod
    def respond(self, challenge: bytes) -> bytes:
        """The answer to a decoded challenge. Raises SaslError("sequence") for one more than there are answers,
        SaslError("syntax") for one that makes no sense."""


class PlainClient(ClientMechanism):
    """PLAIN, RFC 4616. Raises SaslError("identity") for an identity without a password."""

    name = b"PLAIN"
    reads_challenges = False

    def __init__(self, identity: Identity) -> None:
        self._identity = _with_password(identity)

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
    reads_challenges = False

    def __init__(self, identity: Identity) -> None:
        self._identity = _with_password(identity)
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


def _with_password(identity: Identity) -> Identity:
    if identity.kind is not Secret.PASSWORD:
        raise SaslError("identity", "the mechanism needs a password, and there is none")
    return identity


SERVER_MECHANISMS: Final[Mapping[bytes, Callable[[], ServerMechanism]]] = MappingProxyType(
    {PlainServer.name: PlainServer, LoginServer.name: LoginServer}
)
"""Name, upper case, to what makes the server side of one exchange."""

CLIENT_MECHANISMS: Final[Mapping[bytes, Callable[[Identity], ClientMechanism]]] = MappingProxyType(
    {PlainClient.name: PlainClient, LoginClient.name: LoginClient}
)
"""Name, upper case, to what makes the client side of one exchange for an Identity."""

"""OAUTHBEARER (RFC 7628) and XOAUTH2: a token travels, and a refusal has a document before its ``-ERR``."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from typing import Any, Final

from popproxy.wire.sasl import gs2
from popproxy.wire.sasl.identity import Identity, Secret, name_of, with_token
from popproxy.wire.sasl.lines import SaslError
from popproxy.wire.sasl.mechanism import Challenge, ClientMechanism, Complete, ServerMechanism, Step

INVALID_TOKEN: Final = b'{"status":"invalid_token"}'
"""The document of a refusal of which nothing more is known (RFC 7628 section 3.2.2)."""

_SEPARATOR = b"\x01"
_TOKEN = re.compile(rb"[!-~]+")
_PAIR = re.compile(rb"([A-Za-z]+)=([\t\n\r -~]*)")
_KEYS = ("status", "schemes", "scope", "openid-configuration")
_LONGEST = 1024


class _TokenServer(ServerMechanism):
    """One message, and one more challenge for a token that is refused."""

    def __init__(self) -> None:
        self._asked = False
        self._over = False

    def start(self, initial: bytes | None) -> Step:
        """See ServerMechanism."""
        if self._asked or self._over:
            raise SaslError("sequence", f"{self.name.decode()} was started twice")
        if initial is None:
            self._asked = True
            return Challenge(b"")
        return self._finish(initial)

    def respond(self, data: bytes) -> Step:
        """See ServerMechanism."""
        if self._over or not self._asked:
            raise SaslError("sequence", f"{self.name.decode()} takes one message")
        return self._finish(data)

    def refused(self) -> bytes:
        """See ServerMechanism."""
        return INVALID_TOKEN

    def _finish(self, message: bytes) -> Step:
        self._over = True
        return Complete(self._read(message))

    @abstractmethod
    def _read(self, message: bytes) -> Identity:
        """Who logs in, by what token. Raises SaslError."""


class OAuthBearerServer(_TokenServer):
    """OAUTHBEARER, RFC 7628 section 3.1: a GS2 header, then key=value pairs between octets 1.

    The name in the header, which may be missing, is the user name of the Identity: it is all there is to go by, for
    whose token it is only its issuer knows. Host and port are about this connection and end here.
    """

    name = b"OAUTHBEARER"

    def _read(self, message: bytes) -> Identity:
        user, _, rest = gs2.split_header(message)
        if not (rest.startswith(_SEPARATOR) and rest.endswith(_SEPARATOR * 2)):
            raise SaslError("syntax", "pairs begin with octet 1 and end with two of them")
        pairs: dict[bytes, bytes] = {}
        for part in rest[1:-2].split(_SEPARATOR):
            match = _PAIR.fullmatch(part)
            if match is None or match.group(1) in pairs:
                raise SaslError("syntax", "a pair is malformed or there twice (RFC 7628 section 3.1)")
            pairs[match.group(1)] = match.group(2)
        return Identity(user, "", _token(pairs.get(b"auth", b"")), Secret.TOKEN)


class XOAuth2Server(_TokenServer):
    """XOAUTH2, as Google defined it: ``user=NAME`` 1 ``auth=Bearer TOKEN`` 1 1."""

    name = b"XOAUTH2"

    def _read(self, message: bytes) -> Identity:
        fields = message.split(_SEPARATOR)
        if len(fields) != 4 or fields[2:] != [b"", b""]:
            raise SaslError("syntax", "an XOAUTH2 message has two fields, each behind it an octet 1, and one more")
        if not fields[0].startswith(b"user=") or not fields[1].startswith(b"auth="):
            raise SaslError("syntax", "an XOAUTH2 message has the fields user and auth")
        if fields[0] == b"user=":
            raise SaslError("identity", "the user name is empty")
        return Identity(name_of("user name", fields[0][5:]), "", _token(fields[1][5:]), Secret.TOKEN)


class _TokenClient(ClientMechanism):
    """One message; a challenge behind it is an error document, which must be answered."""

    messages = 1
    reads_challenges = True
    _answer = b""

    def __init__(self, identity: Identity) -> None:
        self._identity = with_token(identity)
        if _TOKEN.fullmatch(identity.secret) is None:
            raise SaslError("identity", "the token holds a character that no token has")

    def respond(self, challenge: bytes) -> bytes:
        """See ClientMechanism."""
        if self.failed:
            raise SaslError("sequence", f"the server asks for more than {self.name.decode()} has")
        self.failed = True
        self.document = document(challenge)
        return self._answer


class OAuthBearerClient(_TokenClient):
    """OAUTHBEARER, RFC 7628. The name in its header is the one to act as, else the one beside the token.

    Raises SaslError("identity") for an identity without a token.
    """

    name = b"OAUTHBEARER"
    _answer = _SEPARATOR

    def initial(self) -> bytes:
        """See ClientMechanism."""
        who = self._identity
        return gs2.header(who.authzid or who.authcid) + b"\x01auth=Bearer " + who.secret + b"\x01\x01"


class XOAuth2Client(_TokenClient):
    """XOAUTH2. Raises SaslError("identity") for an identity without a token or without a name, and for one with an
    authorization identity, which it cannot carry."""

    name = b"XOAUTH2"

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        if identity.authzid:
            raise SaslError("identity", "XOAUTH2 cannot carry an authorization identity: use OAUTHBEARER")
        if not identity.authcid or "\x01" in identity.authcid:
            raise SaslError("identity", "XOAUTH2 needs a user name, without octet 1")

    def initial(self) -> bytes:
        """See ClientMechanism."""
        who = self._identity
        return b"user=" + who.authcid.encode() + b"\x01auth=Bearer " + who.secret + b"\x01\x01"


def _token(value: bytes) -> bytes:
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"bearer" or _TOKEN.fullmatch(token) is None:
        raise SaslError("syntax", "the value of auth is Bearer, one space and a token")
    return token


def document(challenge: bytes) -> bytes:
    """What of a server's error document others may read: the four keys that clients know, and short texts only.

    A document that is none becomes INVALID_TOKEN: that the token was refused is all it tells.
    """
    try:
        found: Any = json.loads(challenge)
    except (ValueError, RecursionError):
        return INVALID_TOKEN
    if not isinstance(found, dict):
        return INVALID_TOKEN
    kept = {key: found[key] for key in _KEYS if isinstance(found.get(key), str) and len(found[key]) <= _LONGEST}
    if "status" not in kept:
        return INVALID_TOKEN
    return json.dumps(kept, separators=(",", ":")).encode()

"""What a client proved or claims. A closed union; repr hides every secret.

``authzid`` is the SASL authorization identity, the name to act as, empty when none was given. It is handed on or
the login is refused; it is never dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Password:
    """A user name and its password in octets, as PASS, SASL PLAIN and LOGIN bring them."""

    user: str
    password: bytes = field(repr=False)
    authzid: str = ""


@dataclass(frozen=True, slots=True)
class Bearer:
    """An OAuth token, as OAUTHBEARER (RFC 7628) and XOAUTH2 bring it.

    ``user`` is the name beside the token; it is empty when an OAUTHBEARER client gave none. Whose token it is only
    its issuer knows.
    """

    user: str
    token: bytes = field(repr=False)
    authzid: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """The proxy itself proved who it is (SCRAM); no password is at hand.

    No upstream can be told so: a plugin must turn it into another kind by ``Route(credentials=...)``, for example
    the password of a master user, or the login is refused.
    """

    user: str
    authzid: str = ""


@dataclass(frozen=True, slots=True)
class External:
    """A client certificate proved who it is. As Verified, it must be turned into another kind."""

    user: str


@dataclass(frozen=True, slots=True)
class Digest:
    """The answer to a challenge of the proxy, which only somebody who knows the password can judge.

    ``challenge`` is the whole timestamp, ``<`` and ``>`` included; ``response`` is 32 hexadecimal digits in lower
    case: of MD5(challenge + password) for APOP (RFC 1939 section 7), of HMAC-MD5(password, challenge) for CRAM-MD5
    (RFC 2195). As Verified, it must be turned into another kind.
    """

    user: str
    mechanism: Literal["APOP", "CRAM-MD5"]
    challenge: bytes
    response: bytes = field(repr=False)


Credentials = Password | Bearer | Verified | External | Digest

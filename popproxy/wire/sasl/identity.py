"""Who logs in, by what, and as whom: what a mechanism finds out, or is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from popproxy.wire.sasl.lines import SaslError

_UNSAFE = re.compile(rb"[\x00\r\n]")


class Secret(Enum):
    """What the secret of an Identity is."""

    PASSWORD = "password"
    TOKEN = "token"
    DIGEST = "digest"
    """An answer to a challenge (CRAM-MD5), in hexadecimal digits: only who knows the password can judge it."""
    NONE = "none"
    """There is none: the mechanism itself proved who it is (SCRAM)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logs in, by what, and as whom.

    ``authcid`` is the name whose secret it is; ``authzid`` the name to act as, ``""`` when the peer gave none
    (which is not the same as giving its own name twice: pass it on as it is). ``secret`` is raw octets.
    Raises SaslError("identity") when a name is not UTF-8, the user name is empty (it may be for a token, which
    says itself whose it is), any of the three holds NUL, CR or LF, or the secret is empty although ``kind`` says
    there is one (RFC 4616: ``1*SAFE``).
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
        if not self.authcid and self.kind is not Secret.TOKEN:
            raise SaslError("identity", "the user name is empty")
        _refuse_unsafe("secret", self.secret)
        if (self.kind is Secret.NONE) != (self.secret == b""):
            raise SaslError("identity", "the secret is empty, or is there although the mechanism needs none")


def _refuse_unsafe(what: str, octets: bytes) -> None:
    if _UNSAFE.search(octets) is not None:
        raise SaslError("identity", f"the {what} holds NUL, CR or LF")


def name_of(what: str, octets: bytes) -> str:
    """``octets`` as a name. Raises SaslError("identity"), which says ``what`` is wrong."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise SaslError("identity", f"the {what} is not UTF-8") from None


def with_password(identity: Identity) -> Identity:
    """``identity``. Raises SaslError("identity") when it has no password."""
    if identity.kind is not Secret.PASSWORD:
        raise SaslError("identity", "the mechanism needs a password, and there is none")
    return identity


def with_token(identity: Identity) -> Identity:
    """``identity``. Raises SaslError("identity") when it has no token."""
    if identity.kind is not Secret.TOKEN:
        raise SaslError("identity", "the mechanism needs a token, and there is none")
    return identity

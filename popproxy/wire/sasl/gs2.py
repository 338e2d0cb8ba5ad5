"""The GS2 header of SCRAM and OAUTHBEARER (RFC 5801 section 4), and names inside it (RFC 5802 section 5.1)."""

from __future__ import annotations

import re

from popproxy.wire.sasl.identity import name_of
from popproxy.wire.sasl.lines import SaslError

_ESCAPE = re.compile(rb"=(2C|3D)?")
_PLAIN = {b"2C": b",", b"3D": b"="}


def header(authzid: str) -> bytes:
    """The header of a client without channel binding, its last comma included."""
    return b"n,a=" + escaped(authzid) + b"," if authzid else b"n,,"


def split_header(message: bytes) -> tuple[str, bytes, bytes]:
    """The authorization identity, the header with its last comma, and what follows it.

    Raises SaslError("syntax"), also for channel binding, which nobody here offers: ``y``, from a client that could
    do it, is well.
    """
    flag, comma, rest = message.partition(b",")
    name, again, rest = rest.partition(b",")
    if not comma or not again:
        raise SaslError("syntax", "there is no GS2 header (RFC 5801 section 4)")
    if flag.startswith(b"p="):
        raise SaslError("syntax", "channel binding is not offered")
    if flag not in (b"n", b"y") or (name and not name.startswith(b"a=")):
        raise SaslError("syntax", "the GS2 header is malformed (RFC 5801 section 4)")
    authzid = unescaped("authorization identity", name[2:]) if name else ""
    if name and not authzid:
        raise SaslError("identity", "the authorization identity is empty")
    return authzid, flag + b"," + name + b",", rest


def escaped(name: str) -> bytes:
    """``name`` as a saslname."""
    return name.encode().replace(b"=", b"=3D").replace(b",", b"=2C")


def unescaped(what: str, octets: bytes) -> str:
    """The name in a saslname. Raises SaslError: ``syntax`` for an equals sign that begins no escape, ``identity``."""

    def plain(match: re.Match[bytes]) -> bytes:
        if match.group(1) is None:
            raise SaslError("syntax", f"an equals sign in the {what} is written =3D, a comma =2C")
        return _PLAIN[match.group(1)]

    return name_of(what, _ESCAPE.sub(plain, octets))

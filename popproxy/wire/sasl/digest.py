"""APOP (RFC 1939 section 7) and CRAM-MD5 (RFC 2195): answers to a challenge, for somebody else to judge."""

from __future__ import annotations

import re

from popproxy.wire.sasl.identity import Identity, Secret, name_of
from popproxy.wire.sasl.lines import SaslError
from popproxy.wire.sasl.mechanism import Challenge, Complete, ServerMechanism, Step

_DIGEST = re.compile(rb"[0-9A-Fa-f]{32}")


def timestamp(nonce: bytes) -> bytes:
    """A challenge in the form of a message id. ``nonce``: letters, digits, ``-`` and ``_``, never used before."""
    return b"<" + nonce + b"@pop3>"


def answer(text: bytes) -> Identity:
    """The name and the digest of ``name SP digest``; a name may hold spaces. Raises SaslError."""
    name, space, digest = text.rpartition(b" ")
    if not space or _DIGEST.fullmatch(digest) is None:
        raise SaslError("syntax", "a name, a space and 32 hexadecimal digits are needed")
    return Identity(name_of("user name", name), "", digest.lower(), Secret.DIGEST)


class CramMd5Server(ServerMechanism):
    """CRAM-MD5, RFC 2195: the server speaks first. ``nonce`` as in timestamp()."""

    name = b"CRAM-MD5"

    def __init__(self, nonce: bytes) -> None:
        self._challenge = timestamp(nonce)
        self._asked = False
        self._over = False

    def start(self, initial: bytes | None) -> Step:
        """See ServerMechanism."""
        if self._asked or self._over or initial is not None:
            self._over = True
            raise SaslError("sequence", "CRAM-MD5 begins once, without an initial response")
        self._asked = True
        return Challenge(self._challenge)

    def respond(self, data: bytes) -> Step:
        """See ServerMechanism."""
        if self._over or not self._asked:
            raise SaslError("sequence", "CRAM-MD5 takes one answer")
        self._over = True
        return Complete(answer(data), self._challenge)

"""The lines of an exchange (RFC 5034 section 4), and how an exchange fails. Only this room knows base64 and CRLF."""

from __future__ import annotations

import binascii
import re
from typing import Final, Literal

Reason = Literal["base64", "syntax", "identity", "sequence", "proof"]

CANCEL: Final = b"*"
"""The line, without CRLF, with which a client cancels the exchange (RFC 5034 section 4)."""

_ALPHABET = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_MECHANISM = re.compile(rb"[A-Z0-9_-]{1,20}")


class SaslError(ValueError):
    """The exchange cannot go on. The text is fit for a log and holds nothing of the payload.

    ``reason``: ``base64`` the line is not base64; ``syntax`` the message breaks the mechanism's grammar;
    ``identity`` a name or secret that no wire can carry; ``sequence`` a step the mechanism does not have;
    ``proof`` the peer did not prove that it knows the secret.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


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

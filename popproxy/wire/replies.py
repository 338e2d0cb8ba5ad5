"""Status lines and response codes (RFC 1939 section 3, RFC 2449 section 8).

A status line is ``+OK`` or ``-ERR``, upper case, followed by SP or by the end of the line and by nothing
else; whatever does not fit is no status line and must never be taken for one.
"""

from __future__ import annotations

import re

from popproxy.wire.values import value

_STATUS = re.compile(rb"(\+OK|-ERR)(?: ([^\r\n]*))?\Z")
_LINE = re.compile(rb"(?:(\+OK)|-ERR)(?: [^\r\n]*)?\r\n\Z")
_CODE = re.compile(rb"\[([A-Za-z0-9][A-Za-z0-9/._@:\-]*)\](?: |\Z)")
_PRINTABLE = bytes(63 if octet < 32 or octet == 127 else octet for octet in range(256))
# One or more positive single-line replies and nothing else: the fast road of pipelined commands.
ALL_OK = re.compile(rb"(?:\+OK(?: [^\r\n]*+)?+\r\n)++")


@value
class Status:
    """A parsed status line. ``code`` is upper case without brackets or None; ``text`` is what follows it."""

    ok: bool
    code: bytes | None
    text: bytes


def parse_status(line: bytes) -> Status | None:
    """The status in ``line`` (CRLF already taken off), or None if it is not a status line."""
    match = _STATUS.match(line)
    if match is None:
        return None
    text = match.group(2) or b""
    code = _CODE.match(text)
    if code is None:
        return Status(match.group(1) == b"+OK", None, text)
    return Status(match.group(1) == b"+OK", code.group(1).upper(), text[code.end() :])


def says_ok(line: bytes) -> bool | None:
    """Whether ``line``, CRLF included, is a positive status line; None if it is no status line."""
    found = _LINE.match(line)
    return None if found is None else found.lastindex == 1


def one_line(text: str | bytes) -> bytes:
    """``text`` as octets for one reply line: control characters become ``?``, at most 480 octets."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return raw[:480].translate(_PRINTABLE)


DONE = b"+OK\r\n"
"""ok() without a text."""


def ok(text: str | bytes = b"") -> bytes:
    """A positive single-line reply, CRLF included."""
    line = one_line(text)
    return b"+OK " + line + b"\r\n" if line else DONE


def err(text: str | bytes, code: bytes | None = None) -> bytes:
    """A negative reply, CRLF included; ``code`` without brackets."""
    if code is None:
        return b"-ERR " + one_line(text) + b"\r\n"
    return b"-ERR [" + code + b"] " + one_line(text) + b"\r\n"

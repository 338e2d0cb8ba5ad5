"""The padding field: one header field without meaning that makes a message grow by a number known beforehand.

A message that a plugin edits grows by as many octets as were announced in STAT and LIST, whatever the edit added or
removed: the padding makes up the difference. Every line of it shows something, because a folded line of white space
only is read as the end of the header by some clients (RFC 5322 section 3.2.2 forbids to make one).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

FIELD = "X-Popproxy-Padding"
LEAST_GROWTH = 48
"""The smallest padding in octets. All but two of them may go out before it is known how many there will be."""

_OPENING = FIELD.encode() + b": "
_LINE = 78
_FILL = b"-"
_BLANK = b" " * 76 + b"\r\n"
_PIECE = 800
_FIRST = re.compile(rb"(?:From |[ \t])[^\n]*+\n(?:[ \t][^\n]*+\n)*+")


def padding(octets: int) -> bytes:
    """A field of exactly ``octets``, in lines of at most 78 and their CRLF. ValueError for fewer than LEAST_GROWTH."""
    if octets < LEAST_GROWTH:
        raise ValueError(f"no padding of {octets} octets can be made: {LEAST_GROWTH} at least")
    whole = _LINE + 2
    last = octets % whole
    full = octets // whole
    # A folded line needs a space, something to see, and CRLF: one that would have less takes it from the one before.
    short = 4 - last if full and 0 < last < 4 else 0
    lines = [b" " + _FILL * (_LINE - 1)] * full
    if short:
        lines[-1] = lines[-1][:-short]
        last = 4
    if last:
        lines.append(b" " + _FILL * (last - 3))
    lines[0] = _OPENING + lines[0][len(_OPENING) :]
    return b"\r\n".join(lines) + b"\r\n"


def begun(sent: int) -> bytes:
    """What may go out of any padding behind its first ``sent`` octets: a sign of life, and at last nothing more."""
    if sent == 0:
        return _OPENING + _FILL
    return _FILL if sent < LEAST_GROWTH - 2 else b""


def followed_by_blanks(message: bytes, octets: int) -> Iterator[bytes]:
    """``message`` with blank lines behind it, ``octets`` in all, in pieces that stand in memory one at a time.

    A last line without CRLF gets one. ValueError when the message is larger, or when it is empty and ``octets`` is 1:
    a blank line has 2 at least.
    """
    check_size(message, octets)
    return _blanks(message, octets)


def check_size(message: bytes, octets: int) -> None:
    """Raises ValueError when followed_by_blanks cannot do it."""
    size = len(message) + (2 if message and not message.endswith(b"\r\n") else 0)
    if octets < size:
        raise ValueError(f"the message has {size} octets, more than octets={octets}")
    if not message and octets == 1:
        raise ValueError("octets=1: an empty message cannot be made one octet long")


def _blanks(message: bytes, octets: int) -> Iterator[bytes]:
    if message and not message.endswith(b"\r\n"):
        message += b"\r\n"
    left = octets - len(message)
    if left == 1:
        yield message[:-2] + b" \r\n"
        return
    yield message
    lines, rest = divmod(left, len(_BLANK))
    if rest == 1:
        # One octet is no line: two lines share what is left.
        lines, rest = lines - 1, 0
        yield _BLANK[1:] + b"\r\n"
    while lines > 0:
        yield _BLANK * min(lines, _PIECE)
        lines -= _PIECE
    if rest:
        yield _BLANK[-rest:]


def on_top(message: bytes, field: bytes) -> bytes:
    """``message`` (its beginning is enough) with ``field`` above all others, but behind an mbox ``From `` line and
    behind white space that would continue it."""
    first = _FIRST.match(message)
    place = 0 if first is None else first.end()
    return message[:place] + field + message[place:]

"""The padding field: one header field without meaning that makes a message grow by a number known beforehand.

A message that a plugin edits grows by as many octets as were announced in STAT and LIST, whatever the edit added or
removed: the padding makes up the difference. Every line of it shows something, because a folded line of white space
only is read as the end of the header by some clients (RFC 5322 section 3.2.2 forbids to make one).
"""

from __future__ import annotations

import re

FIELD = "X-Popproxy-Padding"
LEAST_GROWTH = 48
"""The smallest padding in octets. All but two of them may go out before it is known how many there will be."""

_OPENING = FIELD.encode() + b": "
_LINE = 78
_FILL = b"-"
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


def on_top(message: bytes, field: bytes) -> bytes:
    """``message`` (its beginning is enough) with ``field`` above all others, but behind an mbox ``From `` line and
    behind white space that would continue it."""
    first = _FIRST.match(message)
    place = 0 if first is None else first.end()
    return message[:place] + field + message[place:]

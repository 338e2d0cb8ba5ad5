"""Where a multi-line reply ends: strictly at CRLF ``.`` CRLF (RFC 1939 section 3).

The body is scanned, never iterated: one search per chunk, the chunk itself is handed on untouched. ``.`` LF,
``.`` CR and a dot after a bare LF end nothing: a proxy that ends where the client does not would be open to
response smuggling.
"""

from __future__ import annotations

TERMINATOR = b"\r\n.\r\n"


class BodyScanner:
    """Finds the end of one multi-line reply that arrives in chunks.

    The CRLF of the status line counts as the beginning of the terminator, so an empty body is found too. ``tail`` are
    the last octets that came before, all of the body that has passed when it is shorter than a terminator.
    """

    __slots__ = ("_tail",)

    def __init__(self, tail: bytes = b"\r\n") -> None:
        self._tail = tail

    def scan(self, chunk: bytes, start: int = 0) -> int:
        """Offset in ``chunk`` just behind the terminator, or -1 when the body goes on. Begins at ``start``."""
        tail = self._tail
        edge = (tail + chunk[start : start + 4]).find(TERMINATOR)
        if edge >= 0:
            return start + edge + 5 - len(tail)
        found = body_end(chunk, start)
        if found >= 0:
            return found
        size = len(chunk) - start
        self._tail = chunk[-4:] if size >= 4 else (tail + chunk[start:])[-4:]
        return -1


_HOPS = 4
_WINDOW = 8192


def body_end(chunk: bytes, start: int) -> int:
    """Offset just behind the first terminator in ``chunk`` from ``start`` on, or -1. A body that begins behind a status
    line is searched from that line's CRLF on.

    A single octet is found an order of magnitude faster than a pattern, and base64, which most octets of large mail
    are, has no dots: so hop from dot to dot. Where dots are dense the pattern is searched, backwards, in a window
    that doubles, because text often stands before an attachment; then the hopping goes on.
    """
    hops, window = 0, _WINDOW
    dot = chunk.find(b".", start)
    while dot >= 0:
        if chunk[dot - 2 : dot + 3] == TERMINATOR and dot - 2 >= start:
            return dot + 3
        hops += 1
        if hops < _HOPS:
            dot = chunk.find(b".", dot + 1)
            continue
        begin, end = max(start, dot - 1), dot + window
        last = chunk.rfind(TERMINATOR, begin, end + 4)
        if last >= 0:
            return chunk.find(TERMINATOR, begin, last + 5) + 5
        hops, window = 0, window * 2
        dot = chunk.find(b".", end + 2)
    return -1

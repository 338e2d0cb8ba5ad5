"""Where a multi-line reply ends: strictly at CRLF ``.`` CRLF (RFC 1939 section 3).

The body is scanned, never iterated: one search per chunk, the chunk itself is handed on untouched. ``.`` LF,
``.`` CR and a dot after a bare LF end nothing: a proxy that ends where the client does not would be open to
response smuggling.
"""

from __future__ import annotations

TERMINATOR = b"\r\n.\r\n"


class BodyScanner:
    """Finds the end of one multi-line reply that arrives in chunks.

    The CRLF of the status line counts as the beginning of the terminator, so an empty body is found too.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def scan(self, chunk: bytes, start: int = 0, crowded: bool = False) -> int:
        """Offset in ``chunk`` just behind the terminator, or -1 when the body goes on.

        The search begins at ``start``. ``crowded`` says that more replies may follow in this chunk: then a
        forward search is cheaper than the backward one, which decides fastest when the body goes on.
        """
        tail = self._tail
        edge = (tail + chunk[start : start + 4]).find(TERMINATOR)
        if edge >= 0:
            return start + edge + 5 - len(tail)
        found = _find(chunk, start, crowded)
        if found >= 0:
            return found + 5
        size = len(chunk) - start
        self._tail = chunk[-4:] if size >= 4 else (tail + chunk[start:])[-4:]
        return -1


def _find(chunk: bytes, start: int, crowded: bool) -> int:
    """Offset of the first terminator in ``chunk`` from ``start`` on, or -1.

    Base64, which most octets of large mails are, has no dots, and a single octet is found an order of magnitude
    faster than a pattern: so hop from dot to dot as long as they are few (16 and one for each KiB).
    """
    dot, hops = chunk.find(b".", start), 0
    while dot >= 0 and dot - start >= hops * 1024 - 16384:
        if dot - 2 >= start and chunk[dot - 2 : dot + 3] == TERMINATOR:
            return dot - 2
        dot, hops = chunk.find(b".", dot + 1), hops + 1
    if dot < 0:
        return -1
    start = max(start, dot - 2)
    if crowded:
        return chunk.find(TERMINATOR, start)
    found = chunk.rfind(TERMINATOR, start)
    if found >= 0 and chunk.rfind(TERMINATOR, start, found + 4) >= 0:
        return chunk.find(TERMINATOR, start)
    return found

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
        if crowded:
            found = chunk.find(TERMINATOR, start)
        else:
            found = chunk.rfind(TERMINATOR, start)
            if found >= 0 and chunk.rfind(TERMINATOR, start, found + 4) >= 0:
                found = chunk.find(TERMINATOR, start)
        if found >= 0:
            return found + 5
        size = len(chunk) - start
        self._tail = chunk[-4:] if size >= 4 else (tail + chunk[start:])[-4:]
        return -1

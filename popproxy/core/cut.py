"""TOP that a plugin has sent upstream as RETR: the client gets the header and as many lines as it asked for."""

from __future__ import annotations

import re

_EMPTY_LINE = re.compile(rb"\n\r?\n")


class Cut:
    """The outermost stage of such a message: the header, its empty line, then ``lines`` lines (RFC 1939 section 7).

    What comes behind them is dropped; the reply ends when the upstream's does (promise 2).
    """

    through = False
    growth = 0
    holds = False
    plugin = ""

    def __init__(self, lines: int) -> None:
        self._left = lines
        # As if a line had ended: an empty first line is the end of a header without fields.
        self._tail = b"\n"
        self._body = self._done = False

    def feed(self, chunk: bytes) -> bytes:
        """What of it is asked for."""
        if self._done:
            return b""
        place = 0
        if not self._body:
            data = self._tail + chunk
            found = _EMPTY_LINE.search(data)
            if found is None:
                self._tail = data[-2:]
                return chunk
            place = found.end() - len(self._tail)
            self._body = True
        while self._left:
            end = chunk.find(b"\n", place)
            if end < 0:
                return chunk
            place = end + 1
            self._left -= 1
        self._done = True
        return chunk[:place]

    def early(self) -> bytes:
        """Nothing."""
        return b""

    def finish(self) -> bytes:
        """Nothing."""
        return b""

    def absorb(self, octets: int) -> None:
        """It is no plugin's."""

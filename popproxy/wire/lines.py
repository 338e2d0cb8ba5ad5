"""A bounded buffer of lines that remembers how far it has searched.

A line ends at LF. What stands before it says whether the peer keeps RFC 1939 (CRLF): the caller decides.
"""

from __future__ import annotations


class LineBuffer:
    """Collects octets and gives lines back, LF included.

    ``limit`` is the most octets an unfinished line may hold. ``data`` is for a truth test: empty exactly when nothing
    is buffered. A chunk that is one whole line, as most are, is not copied; an unfinished line is copied once.
    """

    __slots__ = ("_at", "_searched", "data", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data: bytes | bytearray = b""
        # Where the next line begins, and from where on no LF was looked for.
        self._at = 0
        self._searched = 0

    def __len__(self) -> int:
        return len(self.data) - self._at

    def feed(self, data: bytes) -> None:
        """Append ``data``."""
        held = self.data
        if not held:
            self.data = data
            return
        if isinstance(held, bytearray):
            del held[: self._at]
        else:
            self.data = held = bytearray(held[self._at :])
        held += data
        self._searched -= self._at
        self._at = 0

    def next(self) -> bytes | None:
        """The next whole line with its LF, or None when none is complete."""
        data = self.data
        end = data.find(b"\n", self._searched) + 1
        if not end:
            self._searched = len(data)
            return None
        line = bytes(data[self._at : end])
        if end == len(data):
            self.data = b""
            end = 0
        self._at = self._searched = end
        return line

    @property
    def overlong(self) -> bool:
        """Whether the unfinished line is longer than the limit; call it after next() returned None."""
        return len(self.data) - self._at > self.limit

    def starts_with(self, prefix: bytes) -> bool:
        """Whether what is buffered begins with ``prefix``, ASCII case ignored (``prefix`` in upper case)."""
        return bytes(self.data[self._at : self._at + len(prefix)]).upper() == prefix

    def take(self) -> bytes:
        """Everything that is buffered; the buffer is empty afterwards."""
        data = bytes(self.data[self._at :])
        self.data = b""
        self._at = self._searched = 0
        return data

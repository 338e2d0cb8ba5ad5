"""A bounded buffer of lines that remembers how far it has searched.

A line ends at LF. What stands before it says whether the peer keeps RFC 1939 (CRLF): the caller decides.
"""

from __future__ import annotations


class LineBuffer:
    """Collects octets and gives lines back, LF included.

    ``limit`` is the most octets an unfinished line may hold. Nothing is copied while no LF has come.
    """

    __slots__ = ("_data", "_searched", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Append ``data``."""
        self._data += data

    def next(self) -> bytes | None:
        """The next whole line with its LF, or None when none is complete."""
        end = self._data.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._data)
            return None
        line = bytes(self._data[: end + 1])
        del self._data[: end + 1]
        self._searched = 0
        return line

    @property
    def overlong(self) -> bool:
        """Whether the unfinished line is longer than the limit; call it after next() returned None."""
        return len(self._data) > self.limit

    def starts_with(self, prefix: bytes) -> bool:
        """Whether what is buffered begins with ``prefix``, ASCII case ignored (``prefix`` in upper case)."""
        return bytes(self._data[: len(prefix)]).upper() == prefix

    def take(self) -> bytes:
        """Everything that is buffered; the buffer is empty afterwards."""
        data = bytes(self._data)
        self._data.clear()
        self._searched = 0
        return data

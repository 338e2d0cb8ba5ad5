"""A place for one message whose first octet may only go out when its last one is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Spool(Protocol):
    """Octets written once, in order, then read any number of times. net gives one that goes to disk."""

    @property
    def octets(self) -> int:
        """How much was written."""
        ...

    def write(self, data: bytes) -> None:
        """Append."""
        ...

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """From octet ``start`` on, in pieces of at most 64 KiB."""
        ...

    def close(self) -> None:
        """Give the place back."""
        ...


class MemorySpool:
    """A spool in memory, for tests and for messages that are small."""

    def __init__(self, memory: int = 0) -> None:
        self._data = bytearray()

    @property
    def octets(self) -> int:
        """See Spool."""
        return len(self._data)

    def write(self, data: bytes) -> None:
        """See Spool."""
        self._data += data

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """See Spool."""
        for place in range(start, len(self._data), 65536):
            yield bytes(self._data[place : place + 65536])

    def close(self) -> None:
        """See Spool."""
        self._data.clear()

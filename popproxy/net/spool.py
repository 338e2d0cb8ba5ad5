"""A spool that begins in memory and goes on in an unlinked file: whatever ends the process, nothing is left behind.

Writing goes to the page cache and is done inline; a spool is read in pieces of 64 KiB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

PIECE = 65536


class FileSpool:
    """core.spool.Spool with at most ``memory`` octets in memory."""

    __slots__ = ("_file", "octets")

    def __init__(self, memory: int) -> None:
        self.octets = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=memory, prefix="popproxy-")  # noqa: SIM115

    def write(self, data: bytes) -> None:
        """Append. Raises OSError when the disk is full."""
        self._file.write(data)
        self.octets += len(data)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """From octet ``start`` on."""
        place = start
        while place < self.octets:
            self._file.seek(place)
            piece = self._file.read(PIECE)
            place += len(piece)
            yield piece

    def close(self) -> None:
        """Give memory and disk back."""
        self._file.close()

    def __del__(self) -> None:
        self._file.close()

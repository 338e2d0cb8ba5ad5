"""A spool that begins in memory and goes on in an unlinked file: whatever ends the process, nothing is left behind.

Writing goes to the page cache and is done inline. The file is not buffered by us, so that a full disk is told by
the write that meets it and by nothing else.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from io import BytesIO, FileIO

PIECE = 65536


class FileSpool:
    """core.spool.Spool with at most ``memory`` octets in memory. Raises OSError when the disk is full or fails."""

    __slots__ = ("_file", "_memory", "octets")

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._file: BytesIO | FileIO = BytesIO()
        self.octets = 0

    def write(self, data: bytes) -> None:
        """Append."""
        if isinstance(self._file, BytesIO) and self.octets + len(data) > self._memory:
            self._to_disk(self._file)
        self._file.seek(self.octets)
        self._put(self._file, data)
        self.octets += len(data)

    def _to_disk(self, held: BytesIO) -> None:
        disk = tempfile.TemporaryFile(buffering=0, prefix="popproxy-")  # noqa: SIM115
        try:
            self._put(disk, held.getvalue())
        except BaseException:
            disk.close()
            raise
        self._file = disk

    @staticmethod
    def _put(file: BytesIO | FileIO, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """From octet ``start`` on, in pieces of 64 KiB."""
        place = start
        while place < self.octets:
            self._file.seek(place)
            piece = self._file.read(min(PIECE, self.octets - place))
            if not piece:
                raise OSError(errno.EIO, "the spool is shorter than what was written to it")
            place += len(piece)
            yield piece

    def close(self) -> None:
        """Give memory and disk back. May be repeated."""
        self._file.close()

    def __del__(self) -> None:
        self._file.close()

"""Spools that begin in memory and go on in an unlinked file: whatever ends the process, nothing is left behind.

Writing goes to the page cache and is done inline. The file is not buffered by us, so that a full disk is told by
the write that meets it and by nothing else. What all spools of a worker hold together is bounded, too.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from io import BytesIO, FileIO

PIECE = 65536
MEMORY, DISK = 0, 1


class Spools:
    """All spools of a worker: at most ``memory`` octets in memory and ``disk`` octets in files, together.

    ``held`` are two numbers, of octets in memory and on disk; metrics may lend the list. What finds no room in memory
    goes to disk at once; what finds none there raises OSError.
    """

    def __init__(self, memory: int, disk: int, held: list[float] | None = None) -> None:
        self.held: list[float] = [0.0, 0.0] if held is None else held
        self._most = (memory, disk)

    def make(self, memory: int) -> FileSpool:
        """A spool with at most ``memory`` octets in memory."""
        return FileSpool(memory, self)

    def room(self, where: int, octets: int) -> bool:
        """Whether so many more may be held there."""
        return self.held[where] + octets <= self._most[where]


class FileSpool:
    """core.spool.Spool. Raises OSError when the disk is full or fails, or when all spools hold too much; a write that
    fails leaves what was written before."""

    __slots__ = ("_account", "_file", "_memory", "_where", "octets")

    def __init__(self, memory: int, account: Spools | None = None) -> None:
        self._memory = memory
        self._account = account if account is not None else Spools(1 << 62, 1 << 62)
        self._file: BytesIO | FileIO = BytesIO()
        self._where = MEMORY
        self.octets = 0

    def write(self, data: bytes) -> None:
        """Append."""
        size = len(data)
        if isinstance(self._file, BytesIO) and not (
            self.octets + size <= self._memory and self._account.room(MEMORY, size)
        ):
            self._to_disk(self._file, size)
        elif self._where == DISK and not self._account.room(DISK, size):
            raise _no_room()
        self._file.seek(self.octets)
        self._put(self._file, data)
        self._account.held[self._where] += size
        self.octets += size

    def _to_disk(self, held: BytesIO, more: int) -> None:
        if not self._account.room(DISK, self.octets + more):
            raise _no_room()
        disk = tempfile.TemporaryFile(buffering=0, prefix="popproxy-")  # noqa: SIM115
        try:
            self._put(disk, held.getvalue())
        except BaseException:
            disk.close()
            raise
        self._file = disk
        self._where = DISK
        self._account.held[MEMORY] -= self.octets
        self._account.held[DISK] += self.octets

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
        if not self._file.closed:
            self._file.close()
            self._account.held[self._where] -= self.octets

    def __del__(self) -> None:
        self.close()


def _no_room() -> OSError:
    return OSError(errno.EDQUOT, "all spools together hold limits.spool_disk")

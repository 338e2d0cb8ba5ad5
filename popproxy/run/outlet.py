"""Where the writer's thread puts lines: a file, or an open descriptor.

Law: several processes may write to one pipe, socket or file, and no line of one ever stands inside a line of
another. A write begins and ends with a line, and to a pipe or socket it has at most PIPE_BUF octets, which the kernel
takes whole (pipe(7)); to a file opened for appending every write(2) is one piece.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from popproxy.run.logline import LINE

_PIECE = 1 << 16


class Outlet(Protocol):
    """Takes lines. Every method but the constructor belongs to the writer's thread. ``longest`` is the length of the
    longest line it takes, in octets."""

    longest: int

    def write(self, lines: Sequence[bytes]) -> tuple[int, str]:
        """Write ``lines``, waiting as long as it takes: how many are lost, and why."""
        ...

    def reopen(self) -> None:
        """Begin anew where somebody may have moved the old away. Raises OSError: then all goes on as it was."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Stream:
    """A file (appended to, mode 0640), or an open descriptor, which stays open. Raises OSError for a file that
    cannot be opened."""

    def __init__(self, target: Path | int) -> None:
        self._path = target if isinstance(target, Path) else None
        self.fd = target if isinstance(target, int) else _open(target)
        kind = os.fstat(self.fd).st_mode
        shared = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)
        self._most = select.PIPE_BUF if shared else _PIECE
        self.longest = select.PIPE_BUF if shared else LINE
        self._torn = False

    def write(self, lines: Sequence[bytes]) -> tuple[int, str]:
        """See Outlet."""
        done = 0
        try:
            for count, data in _pieces(lines, self._most):
                self._whole(data)
                done += count
        except OSError as error:
            return len(lines) - done, str(error)
        return 0, ""

    def _whole(self, data: bytes) -> None:
        if self._torn:
            self._put(b"\n")
        self._torn = False
        view = memoryview(data)
        while view:
            try:
                view = view[self._put(view) :]
            except BlockingIOError:
                select.select([], [self.fd], [], 1.0)
            except OSError:
                self._torn = len(view) < len(data)
                raise

    def _put(self, data: bytes | memoryview) -> int:
        return os.write(self.fd, data)

    def reopen(self) -> None:
        """See Outlet. Nothing for a descriptor."""
        if self._path is not None:
            old, self.fd = self.fd, _open(self._path)
            os.close(old)

    def close(self) -> None:
        """See Outlet."""
        if self._path is not None and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _pieces(lines: Sequence[bytes], most: int) -> Iterator[tuple[int, bytes]]:
    """``lines`` joined into pieces of at most ``most`` octets, each with how many lines it has."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > most:
            yield len(piece), b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield len(piece), b"".join(piece)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

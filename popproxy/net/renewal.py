"""Certificates, keys and authorities that are taken from their files again when those change.

Law: what is in use was read whole: all files of one context were the same before and after, and OpenSSL took them
together. Of what cannot be used nothing is taken; that is told when it is still so at the next look, because whoever
renews a pair writes one file after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from popproxy.net.tls import TlsConfigError

T = TypeVar("T")

Signature = tuple[tuple[int, ...] | None, ...]


class Renewable(Generic[T]):
    """What ``make`` makes of the files at ``paths``. Its methods are called in a thread, one at a time."""

    def __init__(self, paths: Sequence[Path], make: Callable[[], T]) -> None:
        self.paths = tuple(paths)
        self._make = make
        self._seen = self._now()
        self._broken: Signature = ()
        self._told = False

    def load(self) -> T:
        """The first time. Raises TlsConfigError or OSError."""
        while True:
            self._seen = self._now()
            made = self._make()
            if self._now() == self._seen:
                return made

    def look(self) -> tuple[T, tuple[Path, ...]] | str | None:
        """What the files make now and which of them changed; in words, and once, why they cannot be used; None when
        there is nothing new."""
        now = self._now()
        if now == self._seen:
            self._broken, self._told = (), False
            return None
        if now == self._broken and self._told:
            return None
        try:
            made = self._make()
        except (TlsConfigError, OSError) as error:
            again, self._broken = now == self._broken, now
            self._told = again
            return str(error) if again else None
        if self._now() != now:
            return None
        changed = tuple(path for path, old, new in zip(self.paths, self._seen, now, strict=True) if old != new)
        self._seen, self._broken, self._told = now, (), False
        return made, changed

    def _now(self) -> Signature:
        return tuple(map(_signature, self.paths))


def _signature(path: Path) -> tuple[int, ...] | None:
    """What tells two versions of a file apart, also behind a link; None when it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

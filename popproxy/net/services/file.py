"""A file that is parsed again when it changes on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from popproxy.api.services import Counter, FileFailed, LineError, Log, Threads, Unavailable

T = TypeVar("T")

EVERY = 2.0
"""Seconds between two looks."""

Signature = tuple[int, ...] | None


class File(Generic[T]):
    """api.WatchedFile. Looks at the file's inode, size and times; reads and parses in a thread."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        changed: Callable[[T], None] | None,
        threads: Threads,
        log: Log,
        loads: Mapping[str, Counter],
        spawn: Callable[[Awaitable[Any]], asyncio.Task[Any]],
        every: float = EVERY,
    ) -> None:
        self.version = 0
        self._path = path
        self._parse = parse
        self._changed = changed
        self._threads = threads
        self._log = log
        self._loads = loads
        self._spawn = spawn
        self._every = every
        self._value: T | None = None
        self._seen: Signature = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def value(self) -> T:
        """See api.WatchedFile."""
        if self._value is None and not self.version:
            raise RuntimeError(f"{self._path} is not loaded")
        return cast(T, self._value)

    async def load(self) -> None:
        """The first time. Raises FileFailed."""
        signature, value, error = await self._threads.run(_read, self._path, self._parse)
        if error is not None:
            self._loads["failed"].inc()
            raise FileFailed(_words(self._path, error)) from error
        self._take(signature, value)
        self._arm()

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _take(self, signature: Signature, value: T | None) -> None:
        self._value, self._seen = value, signature
        self.version += 1
        self._loads["ok"].inc()
        if self._changed is not None:
            self._changed(self.value)

    def _arm(self) -> None:
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._every, lambda: self._spawn(self.look()))

    async def look(self) -> None:
        """Take the new version, if there is one and it is whole."""
        try:
            await self._look()
        finally:
            self._arm()

    async def _look(self) -> None:
        try:
            if await self._threads.run(_signature, self._path) == self._seen:
                return
            signature, value, error = await self._threads.run(_read, self._path, self._parse)
        except Unavailable:
            # No thread is free: the next look will find one.
            return
        if error is None:
            self._take(signature, value)
            self._log.info("file_loaded", path=str(self._path), version=self.version)
        elif signature != self._seen:
            # Noted as seen, so that one broken version is told once.
            self._seen = signature
            self._loads["failed"].inc()
            self._log.error("file_broken", path=str(self._path), detail=_words(self._path, error))


def _signature(path: Path) -> Signature:
    """What tells two versions of a file apart; None when it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path, parse: Callable[[bytes], T]) -> tuple[Signature, T | None, Exception | None]:
    """Read and parse. A file that changes meanwhile is read again, so that no half of one is taken for a whole."""
    for _ in range(3):
        before = _signature(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            return before, None, error
        if before == _signature(path):
            break
    try:
        return before, parse(data), None
    except (ValueError, OSError) as error:
        return before, None, error


def _words(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    return f"{path}:{error.line}: {error}" if isinstance(error, LineError) else f"{path}: {error}"

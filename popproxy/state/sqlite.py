"""The store in a file, for all workers of one host: survives restarts, and needs nothing.

One thread has the connection, and does all that waits in one transaction. Time is the host's, as sqlite tells it: the
same for all processes. A file that is locked, full, broken, read-only or gone fails the batch, and the next one tries
again; one that was deleted is made anew, and each worker tells again what it holds.

The file has the keys that plugins use, such as user names and addresses: it is readable for its owner only.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import random
from typing import Any, TypeVar
from urllib.parse import quote

from popproxy.api.store import Outcome, Step, Stored, StoreFailed
from popproxy.state.batch import Batch, Batcher, Done, Unwatched, Watch
from popproxy.state.doing import do
from popproxy.state.holding import Holding
from popproxy.state.rows import APPLICATION, SCHEMA, VERSION, Rows, scan
from popproxy.state.strand import Strand

T = TypeVar("T")

_BUSY = 2.0
"""Seconds that a batch waits for the other workers."""
_SLOW = 3.0
"""Seconds that it may take besides, before nobody waits for it any more."""
_CLOSE = 1.0
"""Seconds that close() waits for the file besides what the last batch takes."""
_SWEEP = 16
"""Rows of each kind that are swept with a batch if they have ended, and two for each step: more than it makes."""
_NO_CHECKPOINT_ON_CLOSE = 1006
"""SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE."""
_NOW = "SELECT (julianday('now') - 2440587.5) * 86400.0"
# One statement: between two, another worker may have made the schema.
_SCHEMA_FOUND = """
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
FROM pragma_application_id, pragma_user_version
"""
_KINDS = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "refused",
    sqlite3.SQLITE_AUTH: "refused",
    sqlite3.SQLITE_CANTOPEN: "unreachable",
}


class SqliteStore:
    """See the head of this file. Opened in the worker: nothing is shared over a fork.

    ``lease``: seconds that a worker's leases outlive its last sign. ``clock`` is for tests: seconds since the epoch,
    instead of sqlite's.
    """

    def __init__(
        self,
        path: Path,
        *,
        lease: float = 30.0,
        watch: Watch | None = None,
        busy: float = _BUSY,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._base = _Base(path, lease, busy, clock)
        self._patience = busy + _SLOW
        self._holding = Holding()
        self._batcher = Batcher(self._perform, self._holding, watch or Unwatched(), lease / 3)
        self._strand = Strand("popproxy-store")
        self._path = path

    async def open(self) -> None:
        """See Backend. Raises OSError for a directory or a file that cannot be used."""
        self._strand.start()
        await self._strand.call(self._base.check)
        self._batcher.open()

    async def close(self) -> None:
        """See Backend."""
        await self._batcher.close()
        closed = self._strand.call(self._base.close)
        self._strand.stop()
        # Not for longer: a thread that hangs in the disk ends with the process.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed, _CLOSE)

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See Backend."""
        return await self._batcher.run(space, steps)

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See Backend."""
        self._batcher.post(space, steps)

    def release(self, ticket: int) -> None:
        """See Backend."""
        self._batcher.release(ticket)

    async def scan(self, space: str, prefix: str, most: int) -> list[Stored]:
        """See Backend."""
        return await self._soon(lambda: self._base.scan(space, prefix, most))

    async def _perform(self, batch: Batch) -> Sequence[Done]:
        done = await self._soon(lambda: self._base.batch(batch, None))
        if done is None:
            everything = self._holding.everything()
            done = await self._soon(lambda: self._base.batch(batch, everything))
        if done is None:
            raise StoreFailed(f"{self._path}: it does not know us again", "broken")
        return done

    async def _soon(self, function: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await self._strand.call(function)
        except TimeoutError:
            raise StoreFailed(f"{self._path}: no answer within {self._patience:g} s: see the disk", "timeout") from None


class _Base:
    """The file, in the strand's thread."""

    def __init__(self, path: Path, lease: float, busy: float, clock: Callable[[], float] | None) -> None:
        self._path = path
        self._lease = lease
        self._busy = busy
        self._clock = clock
        self._base: sqlite3.Connection | None = None
        self._files: tuple[tuple[int, int] | None, ...] = ()

    def check(self) -> None:
        """Raises OSError if the file can never be used as it is; one that only does not answer now is none of it."""
        folder = self._path.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such directory for the store; make it, owned by popproxy's user")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder}: popproxy's user may not write here; the store makes three files in it")
        if self._path.exists() and not self._path.is_file():
            raise OSError(f"{self._path}: not a file; write the name of one, it is made when it is missing")
        if self._path.exists() and not os.access(self._path, os.R_OK | os.W_OK):
            raise PermissionError(f"{self._path}: popproxy's user may not read and write it; give it to that user")
        try:
            self._connected()
        except sqlite3.Error as error:
            if _primary(error) == sqlite3.SQLITE_NOTADB:
                raise OSError(f"{self._path}: not a database of sqlite; name another file, or move it away") from error
        except _Foreign as error:
            raise OSError(str(error)) from error

    def batch(self, batch: Batch, everything: Mapping[str, int] | None) -> list[Done] | None:
        """See batch.Batch. None when the owner is unknown, and what it holds has to be told."""
        return self._contained(lambda base: self._batch(base, batch, everything))

    def scan(self, space: str, prefix: str, most: int) -> list[Stored]:
        """See Backend."""
        return self._contained(lambda base: scan(base, space, prefix, most, self._now(base)))

    def close(self) -> None:
        """End the connection."""
        if self._base is not None:
            self._base.close()
            self._base = None

    def _batch(self, base: sqlite3.Connection, batch: Batch, everything: Mapping[str, int] | None) -> list[Done] | None:
        self._begin(base)
        now = self._now(base)
        rows = Rows(base, batch.owner, self._lease)
        if not rows.beat(now, batch.trial):
            if everything is None:
                base.execute("ROLLBACK")
                return None
            rows.begin(everything, now)
        rows.settle(batch.settle)
        done = [do(rows, job.space, job.steps, now) for job in batch.jobs]
        if batch.leaving:
            rows.leave()
        rows.sweep(now, _SWEEP + 2 * sum(len(job.steps) for job in batch.jobs))
        base.execute("COMMIT")
        return done

    def _contained(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What comes of ``work``. Failed, nothing of it is done; the connection is made anew, unless others only kept
        it waiting."""
        try:
            base = self._connected()
            try:
                return work(base)
            finally:
                if base.in_transaction:
                    base.execute("ROLLBACK")
        except sqlite3.Error as error:
            code = _primary(error)
            kind = _KINDS.get(code, "broken")
            if kind != "busy":
                self._forget()
            raise StoreFailed(f"{self._path}: {_words(code, error)}", kind) from error
        except _Foreign as error:
            raise StoreFailed(str(error), "broken") from error
        except OSError as error:
            self._forget()
            raise StoreFailed(f"{self._path}: {error.strerror or error}", "unreachable") from error

    def _now(self, base: sqlite3.Connection) -> float:
        return float(base.execute(_NOW).fetchone()[0]) if self._clock is None else self._clock()

    def _begin(self, base: sqlite3.Connection) -> None:
        # sqlite's own waiting grows to a tenth of a second between two looks; a batch takes a millisecond.
        deadline = time.monotonic() + self._busy
        pause = 0.0002
        while True:
            try:
                base.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if _primary(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(pause * (0.5 + random()))
            pause = min(0.005, pause * 1.5)

    def _connected(self) -> sqlite3.Connection:
        if self._base is not None:
            if self._files == self._found():
                return self._base
            # Deleted, or put back from a backup: what we have open is not what others see.
            self._forget()
        if not self._path.exists():
            self._create()
        # mode=rw: sqlite makes no file; it would be readable for others.
        name = f"file:{quote(str(self._path.absolute()))}?mode=rw"
        base = sqlite3.connect(name, timeout=self._busy, isolation_level=None, uri=True)
        try:
            self._prepare(base)
        except BaseException:
            base.close()
            raise
        self._base, self._files = base, self._found()
        return base

    def _prepare(self, base: sqlite3.Connection) -> None:
        base.execute("PRAGMA trusted_schema = OFF")
        # Looked at before anything is written: what is not ours stays as it is.
        self._empty(base)
        mode = base.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise _Foreign(f"{self._path}: cannot be shared here (journal_mode is {mode}): use a local file system")
        base.execute("PRAGMA synchronous = NORMAL")
        base.execute("PRAGMA journal_size_limit = 4194304")
        base.execute("PRAGMA busy_timeout = 0")
        if self._empty(base):
            self._begin(base)
            if self._empty(base):
                for statement in SCHEMA:
                    base.execute(statement)
            base.execute("COMMIT")

    def _empty(self, base: sqlite3.Connection) -> bool:
        """Whether the file has no schema yet. Raises _Foreign for another one than ours."""
        application, version, tables = base.execute(_SCHEMA_FOUND).fetchone()
        if not version and not application and not tables:
            return True
        if application != APPLICATION:
            raise _Foreign(f"{self._path}: a database of another program; name another file for the store")
        if version != VERSION:
            raise _Foreign(
                f"{self._path}: its schema has version {version}, this popproxy knows {VERSION}: name another file, or"
                " move it away (counters and bans in it are lost)"
            )
        return False

    def _create(self) -> None:
        """Make the file, readable for its owner only: the directory's owner, when root does it. One worker at a time:
        the log of a file that was deleted would be taken for the new one's."""
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not self._path.exists():
                for log in self._logs():
                    log.unlink(missing_ok=True)
                made = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
                try:
                    if os.geteuid() == 0:
                        owner = os.fstat(folder)
                        os.fchown(made, owner.st_uid, owner.st_gid)
                finally:
                    os.close(made)
        finally:
            os.close(folder)

    def _logs(self) -> tuple[Path, Path]:
        return self._path.with_name(self._path.name + "-wal"), self._path.with_name(self._path.name + "-shm")

    def _found(self) -> tuple[tuple[int, int] | None, ...]:
        """Which files are there now under our names."""
        return tuple(_identity(path) for path in (self._path, *self._logs()))

    def _forget(self) -> None:
        base, self._base = self._base, None
        if base is None:
            return
        # Closing would delete the log by its name, which may be another file's by now. Before Python 3.12 there is no
        # way to say so; who loses a log so finds it missing, and comes back here.
        configure: Callable[[int, bool], None] | None = getattr(base, "setconfig", None)
        if configure is not None:
            configure(_NO_CHECKPOINT_ON_CLOSE, True)
        base.close()


class _Foreign(Exception):
    """The file is not ours."""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _primary(error: sqlite3.Error) -> int:
    # Errors of the module itself have no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _words(code: int, error: sqlite3.Error) -> str:
    if code == sqlite3.SQLITE_BUSY:
        return "other processes kept it locked for too long"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{error}; move it away, and it is made anew (counters and bans in it are lost)"
    return str(error)

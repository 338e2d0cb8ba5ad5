"""What only the file has: trouble with it, restarts, and how it stays small. The rest: test_conformance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from popproxy.api.store import Fixed, Get, Lease, Mark, Outcome, Put, Spend, StoreFailed
from popproxy.state.rows import SCHEMA
from popproxy.state.space import Space
from popproxy.state.sqlite import SqliteStore


@asynccontextmanager
async def opened(path: Path, **options: object) -> AsyncIterator[tuple[Space, SqliteStore]]:
    backend = SqliteStore(path, **options)  # type: ignore[arg-type]
    await backend.open()
    try:
        yield Space(backend, "test"), backend
    finally:
        await backend.close()


def delete(path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path.with_name(path.name + name).unlink()


async def fails(store: Space) -> StoreFailed:
    with pytest.raises(StoreFailed) as caught:
        await store.run(Lease("k", 9))
    return caught.value


async def again(store: Space, *kinds: str) -> Outcome:
    """A lease, as soon as the store is back; until then it fails as told."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await store.run(Lease("k", 9))
            except StoreFailed as error:
                assert error.kind in ("resting", "busy", *kinds), error
                await asyncio.sleep(0.02)


async def places(store: Space) -> int:
    step = Lease("k", 0, "soft")
    return (await store.run(step))[step].used


@pytest.mark.asyncio
async def test_what_it_holds_survives_a_restart_but_no_lease_does(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, _):
        await store.run(Put("v", b"x", 100), Spend("w", Fixed(9, 86400), 4), Mark("m", b"one", 100), Lease("k", 9))
    async with opened(path) as (store, _):
        value, window, marks = Get("v"), Spend("w", Fixed(9, 86400), 0), Mark("m", None, 1)
        outcome = await store.run(value, window, marks)
        assert (outcome[value], outcome[window].used, outcome[marks]) == (b"x", 4, 1)
        assert await places(store) == 0


@pytest.mark.asyncio
async def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        async with opened(tmp_path / "store.db") as (store, _):
            await store.run(Put("v", b"x", 100))
            modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
            assert modes == {"store.db": 0o600, "store.db-shm": 0o600, "store.db-wal": 0o600}
    finally:
        os.umask(mask)


@pytest.mark.asyncio
async def test_time_is_the_host_s(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as (store, _):
        # Not popproxy's: that of the kernel, as a file sees it, to the second.
        stamp = tmp_path / "stamp"
        stamp.touch()
        now = (await store.run(Get("k"))).now
        assert stamp.stat().st_mtime - 1 < now < stamp.stat().st_mtime + 60


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (lambda path: path.parent.rmdir(), "no such directory"),
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: path.write_bytes(b"root:x:0:0:root:/root:/bin/sh\n" * 99), "not a database"),
        (lambda path: _execute(path, "CREATE TABLE theirs (a)"), "a database of another program"),
        (lambda path: _execute(path, *SCHEMA, "PRAGMA user_version = 7"), "its schema has version 7"),
    ],
    ids=["no directory", "a directory", "no database", "another program's", "a newer schema"],
)
async def test_a_file_that_can_never_be_used_is_said_at_once(
    tmp_path: Path, prepare: Callable[[Path], None], text: str
) -> None:
    path = tmp_path / "sub" / "store.db"
    path.parent.mkdir()
    prepare(path)
    before = path.read_bytes() if path.is_file() else None
    store = SqliteStore(path)
    with pytest.raises(OSError, match=text) as caught:
        await store.open()
    assert str(path.parent) in str(caught.value)
    await store.close()
    assert before is None or path.read_bytes() == before, "it is left as it was"


def _execute(path: Path, *statements: str) -> None:
    base = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        base.execute(statement)
    base.close()


@pytest.mark.parametrize(
    ("modes", "text"), [((0o555, 0o666), "may not write here"), ((0o777, 0o444), "may not read and write it")]
)
def test_what_popproxy_s_user_may_not_write_is_said_at_once(modes: tuple[int, int], text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "store.db").touch()
        (folder / "store.db").chmod(modes[1])
        folder.chmod(modes[0])
        code = f"""
import asyncio, os
from pathlib import Path
from popproxy.state.sqlite import SqliteStore
if os.geteuid() == 0:
    os.setuid(65534)
async def main():
    try:
        await SqliteStore(Path({name!r}) / "store.db").open()
    except PermissionError as error:
        print(error)
asyncio.run(main())
"""
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        folder.chmod(0o755)
    assert text in said and name in said


@pytest.mark.asyncio
async def test_the_files_are_the_directory_owner_s_also_when_root_makes_them(tmp_path: Path) -> None:
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, owner, -1)
    async with opened(tmp_path / "store.db") as (store, _):
        await store.run(Lease("k", 9))
        assert {entry.stat().st_uid for entry in os.scandir(tmp_path)} == {owner}


@pytest.mark.asyncio
async def test_a_locked_file_fails_within_bounds_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path, busy=0.05) as (store, _):
        held = await store.run(Lease("k", 9))
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        error = await fails(store)
        assert error.kind == "busy" and str(path) in str(error) and "locked" in str(error)
        store.release(held)
        store.post(Put("v", b"x", 100), Mark("m", b"one", 100))
        locker.execute("ROLLBACK")
        locker.close()
        await again(store)
        assert await places(store) == 1
        value, marks = Get("v"), Mark("m", None, 1)
        outcome = await store.run(value, marks)
        assert (outcome[value], outcome[marks]) == (b"x", 1), "what was posted meanwhile is done"


@pytest.mark.asyncio
async def test_a_store_that_is_locked_at_first_begins_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path):
        pass
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    async with opened(path, busy=0.05) as (store, _):
        await fails(store)
        locker.execute("ROLLBACK")
        locker.close()
        await again(store)


@pytest.mark.asyncio
async def test_a_full_disk_fails_and_comes_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as (store, backend):
        held = await store.run(Lease("k", 9))
        base = backend._base._base
        assert base is not None

        def fill() -> None:
            base.execute(f"PRAGMA max_page_count = {base.execute('PRAGMA page_count').fetchone()[0]}")

        await backend._strand.call(fill)
        with pytest.raises(StoreFailed, match="full") as caught:
            await store.run(Put("large", bytes(100_000), 100), Lease("k", 9))
        assert caught.value.kind == "full"
        # The bound belongs to the connection, which is made anew: as if there was room again.
        await again(store)
        assert await places(store) == 2, "what failed was not taken"
        store.release(held)
        assert await places(store) == 1


@pytest.mark.asyncio
async def test_a_file_that_may_not_be_written_fails_and_comes_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as (store, backend):
        await store.run(Lease("k", 9))
        base = backend._base._base
        assert base is not None
        # Root may write whatever the mode says; sqlite refuses it by itself then, with another error of the same kind.
        await backend._strand.call(lambda: base.execute("PRAGMA query_only = ON"))
        assert (await fails(store)).kind == "read_only"
        await again(store)
        assert await places(store) == 2


@pytest.mark.asyncio
async def test_a_full_disk_is_not_taken_for_back_by_what_has_nothing_to_write(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, resource
from pathlib import Path
from popproxy.api.store import Put, StoreFailed
from popproxy.state.batch import Unwatched
from popproxy.state.space import Space
from popproxy.state.sqlite import SqliteStore
path = {str(tmp_path / "store.db")!r}
class Seen(Unwatched):
    ups = failures = 0
    def up(self):
        self.ups += 1
    def failed(self, error):
        self.failures += 1
async def until(store, right):
    async with asyncio.timeout(60):
        while not right():
            try:
                await store.run(Put("v", b"x", 100))
            except StoreFailed:
                pass
            await asyncio.sleep(0.01)
async def main():
    seen = Seen()
    backend, other = SqliteStore(Path(path), watch=seen), SqliteStore(Path(path))
    await backend.open()
    await other.open()  # as long as it is open the log stays
    store = Space(backend, "test")
    for one in (store, Space(other, "test")):
        await one.run(Put("v", b"x", 100))
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path + "-wal").st_size, resource.RLIM_INFINITY))
    await until(store, lambda: seen.failures > 5)
    print(seen.ups)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await until(store, lambda: seen.ups > 1)
    await backend.close()
    await other.close()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said == b"1\n", "up once, before the disk was full"


@pytest.mark.asyncio
@pytest.mark.parametrize("names", [("",), ("-wal",), ("", "-wal", "-shm")], ids=["file", "log", "all"])
async def test_a_file_that_was_deleted_is_made_anew_and_told_what_is_held(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, _), opened(path) as (other, _):
        await store.run(Lease("k", 9))
        await other.run(Lease("k", 9))
        delete(path, names)
        # With the log gone, who looks first fails until the other has looked, too.
        one, two = await asyncio.gather(again(store, "broken"), again(other, "broken"))
        assert one.granted and two.granted
        # Each tells what it holds with its next batch.
        await store.run(Get("x"))
        assert await places(store) == await places(other) == 4
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.asyncio
async def test_a_broken_file_fails_until_it_is_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, backend):
        await store.run(Put("v", b"x", 100), Lease("k", 9))
        base = backend._base._base
        assert base is not None

        def spoil() -> None:
            for name in ("", "-wal"):
                with Path(f"{path}{name}").open("r+b") as file:
                    file.write(b"broken" * 20_000)
            base.execute("PRAGMA shrink_memory")

        await backend._strand.call(spoil)
        error = await fails(store)
        assert error.kind == "broken" and "move it away" in str(error)
        path.rename(tmp_path / "aside")
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await places(store) == 1
                    break
                except StoreFailed:
                    await asyncio.sleep(0.05)


@pytest.mark.asyncio
async def test_tables_that_somebody_dropped_fail_with_words(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(path) as (store, _):
        await store.run(Lease("k", 9))
        _execute(path, "DROP TABLE places")
        error = await fails(store)
        assert error.kind == "broken" and "no such table: places" in str(error)


@pytest.mark.asyncio
async def test_a_hanging_disk_fails_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "store.db") as (store, backend):
        await store.run(Lease("k", 9))
        hangs = asyncio.Event()
        loop = asyncio.get_running_loop()
        backend._patience = 0.05
        backend._strand.call(lambda: asyncio.run_coroutine_threadsafe(hangs.wait(), loop).result())
        error = await fails(store)
        assert error.kind == "timeout"
        hangs.set()
        backend._patience = 30
        await again(store)
        assert await places(store) == 2


@pytest.mark.asyncio
async def test_an_owner_that_slept_for_longer_than_its_lease_is_back_with_all_it_holds(tmp_path: Path) -> None:
    time = [1_700_000_000.0]
    path, clock = tmp_path / "store.db", lambda: time[0]
    async with opened(path, lease=30, clock=clock) as (store, _), opened(path, lease=30, clock=clock) as (other, _):
        held = await store.run(Lease("k", 1))
        assert not (await other.run(Lease("k", 1))).granted
        time[0] += 29
        assert not (await other.run(Lease("k", 1))).granted, "not dead yet"
        time[0] += 2
        taken = await other.run(Lease("k", 1))
        assert taken.granted, "places of the dead count no more"
        await store.run(Get("x"))
        assert await places(other) == 2, "both sessions exist"
        store.release(held)
        other.release(taken)
        await store.run(Get("x"))
        assert await places(other) == 0


@pytest.mark.asyncio
async def test_a_clock_that_goes_back_lets_a_dead_owner_live_no_longer_than_its_lease(tmp_path: Path) -> None:
    time = [1_700_000_000.0]
    path, clock = tmp_path / "store.db", lambda: time[0]
    async with opened(path, lease=30, clock=clock) as (store, _):
        dead = SqliteStore(path, lease=30, clock=clock)
        await dead.open()
        await Space(dead, "test").run(Lease("k", 9))
        time[0] -= 86400
        assert await places(store) == 1
        time[0] += 31
        assert await places(store) == 0
        await dead.close()


@pytest.mark.asyncio
async def test_what_has_ended_is_deleted_in_pieces_and_its_pages_are_used_again(tmp_path: Path) -> None:
    time = [1_700_000_000.0]
    path = tmp_path / "store.db"
    async with opened(path, clock=lambda: time[0]) as (store, backend):
        sizes = []
        for day in range(6):
            for number in range(0, 2000, 100):
                await asyncio.gather(
                    *(
                        store.run(
                            Put(f"{day}:v{one}", bytes(100), 3600),
                            Mark(f"{day}:m{one}", b"one", 3600),
                            Spend(f"{day}:w{one}", Fixed(9, 3600)),
                        )
                        for one in range(number, number + 100)
                    )
                )
            time[0] += 86400
            base = backend._base._base
            assert base is not None
            rows = await backend._strand.call(
                lambda base=base: base.execute(  # type: ignore[misc]
                    "SELECT (SELECT count(*) FROM texts) + (SELECT count(*) FROM marks) + (SELECT count(*) FROM levels)"
                ).fetchone()[0]
            )
            sizes.append(await backend._strand.call(lambda base=base: base.execute("PRAGMA page_count").fetchone()[0]))  # type: ignore[misc]
            assert rows <= 2 * 3 * 2000
        assert sizes[-1] <= 1.2 * sizes[1]
        assert max(entry.stat().st_size for entry in os.scandir(tmp_path)) < 8_000_000


@pytest.mark.asyncio
async def test_places_of_the_dead_are_swept(tmp_path: Path) -> None:
    time = [1_700_000_000.0]
    path, clock = tmp_path / "store.db", lambda: time[0]
    async with opened(path, clock=clock) as (store, backend):
        dead = SqliteStore(path, clock=clock)
        await dead.open()
        for _ in range(12):
            await asyncio.gather(*(Space(dead, "test").run(Lease(f"{_}:{one}", 9)) for one in range(100)))
        time[0] += 31
        for _ in range(4):
            await store.run(Get("x"))
        base = backend._base._base
        assert base is not None
        left = await backend._strand.call(lambda: base.execute("SELECT count(*) FROM places").fetchone()[0])
        owners = await backend._strand.call(lambda: base.execute("SELECT count(*) FROM owners").fetchone()[0])
        assert (left, owners) == (0, 1)
        await dead.close()


@pytest.mark.asyncio
async def test_a_worker_is_forked_before_its_store_is_opened(tmp_path: Path) -> None:
    code = f"""
import asyncio, os
from pathlib import Path
from popproxy.api.store import Fixed, Spend
from popproxy.state.space import Space
from popproxy.state.sqlite import SqliteStore
async def main(backend):
    await backend.open()
    for _ in range(50):
        await Space(backend, "test").run(Spend("w", Fixed(10**6, 86400)))
    await backend.close()
backend = SqliteStore(Path({str(tmp_path / "store.db")!r}), busy=30.0)
child = os.fork()
asyncio.run(main(backend))
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
    async with opened(tmp_path / "store.db") as (store, _):
        look = Spend("w", Fixed(10**6, 86400), 0)
        assert (await store.run(look))[look].used == 100


@pytest.mark.asyncio
async def test_workers_that_start_at_the_same_moment_make_one_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever one looks at the new file, another one makes the schema right behind that look."""
    path = tmp_path / "store.db"
    connect, looks = sqlite3.connect, 0

    class Raced(sqlite3.Connection):
        def execute(self, statement: str, *given: object) -> sqlite3.Cursor:  # type: ignore[override]
            nonlocal looks
            found = super().execute(statement, *given)  # type: ignore[arg-type]
            if "user_version" in statement or "application_id" in statement or "sqlite_master" in statement:
                looks += 1
                row = found.fetchall()
                other = connect(path, isolation_level=None, timeout=0)
                with contextlib.suppress(sqlite3.OperationalError):  # it is there already, or being made
                    for line in ("BEGIN IMMEDIATE", *SCHEMA, "COMMIT"):
                        other.execute(line)
                other.close()
                found = super().execute(f"VALUES {', '.join(str(columns).replace(',)', ')') for columns in row)}")
            return found

    monkeypatch.setattr(sqlite3, "connect", lambda *given, **more: connect(*given, factory=Raced, **more))
    async with opened(path) as (store, _):
        await store.run(Lease("k", 9))
        assert looks
        assert await places(store) == 1


@pytest.mark.asyncio
async def test_workers_that_a_fork_made_of_one_hold_places_of_their_own(tmp_path: Path) -> None:
    code = f"""
import asyncio, os
from pathlib import Path
from popproxy.api.store import Get, Lease
from popproxy.state.space import Space
from popproxy.state.sqlite import SqliteStore
async def main(backend, mine, theirs):
    await backend.open()
    store = Space(backend, "test")
    held = [await store.run(Lease("k", 20)) for _ in range(6)]
    store.release(held[0])
    await store.run(Get("x"))
    os.write(theirs, b"x")
    await asyncio.get_running_loop().run_in_executor(None, os.read, mine, 1)
    look = Lease("k", 0, "soft")
    print((await store.run(look))[look].used, flush=True)
    os.write(theirs, b"x")
    await asyncio.get_running_loop().run_in_executor(None, os.read, mine, 1)
    await backend.close()
backend = SqliteStore(Path({str(tmp_path / "store.db")!r}), busy=30.0)
(one, first), (two, second) = os.pipe(), os.pipe()
child = os.fork()
asyncio.run(main(backend, *((one, second) if child else (two, first))))
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.split() == [b"10", b"10"]

"""services.file: what is on disk, whole or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import FileFailed, LineError
from popproxy.api.fakes import FakeCounter, FakeLog
from popproxy.net.services.file import File
from popproxy.net.services.threads import Pool
from tests.net.running import both_loops
from tests.net.tlspeers import run


def parse(data: bytes) -> tuple[str, ...]:
    lines = data.decode().splitlines()
    for number, line in enumerate(lines, 1):
        if ":" not in line:
            raise LineError(number, "no colon: write name:value")
    return tuple(lines)


class Scene:
    """A file that is looked at when the test says so."""

    def __init__(self, path: Path, every: float = 1000.0) -> None:
        self.log = FakeLog()
        self.loads = {"ok": FakeCounter(), "failed": FakeCounter()}
        self.pool = Pool()
        self.tasks: list[asyncio.Task[Any]] = []
        self.values: list[tuple[str, ...]] = []
        self.file = File(path, parse, self.values.append, self.pool, self.log, self.loads, self.spawn, every)

    def spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self.tasks.append(task)
        return task

    async def end(self) -> None:
        self.file.close()
        for task in self.tasks:
            await task
        self.pool.close()


@both_loops
def test_a_new_version_is_taken_and_a_broken_one_is_not(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("a:1\n")

    async def scene() -> None:
        stage = Scene(path)
        file = stage.file
        with pytest.raises(RuntimeError, match="not loaded"):
            _ = file.value
        await file.load()
        assert (file.value, file.version) == (("a:1",), 1)
        await file.look()
        assert file.version == 1
        path.write_text("a:1\nb:2\n")
        await file.look()
        assert (file.value, file.version) == (("a:1", "b:2"), 2)
        path.write_text("a:1\nb:2\nthird\n")
        for _ in range(3):
            await file.look()
        assert (file.value, file.version) == (("a:1", "b:2"), 2)
        path.unlink()
        for _ in range(3):
            await file.look()
        assert file.version == 2
        path.write_text("c:3\n")
        await file.look()
        assert (file.value, file.version) == (("c:3",), 3)
        await stage.end()
        details = [(line.level, line.event, line.fields.get("detail")) for line in stage.log.lines]
        assert details == [
            ("info", "file_loaded", None),
            ("error", "file_broken", f"{path}:3: no colon: write name:value"),
            ("error", "file_broken", f"{path}: No such file or directory"),
            ("info", "file_loaded", None),
        ]
        assert (stage.loads["ok"].value, stage.loads["failed"].value) == (3, 2)
        assert stage.values == [("a:1",), ("a:1", "b:2"), ("c:3",)]

    run(loop, scene)


@both_loops
def test_a_version_of_the_same_size_and_second_is_seen(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("a:1\n")
    os.utime(path, (1, 1))

    async def scene() -> None:
        stage = Scene(path)
        await stage.file.load()
        new = tmp_path / "new"
        new.write_text("a:2\n")
        os.utime(new, (1, 1))
        new.rename(path)
        await stage.file.look()
        assert stage.file.value == ("a:2",)
        await stage.end()

    run(loop, scene)


@both_loops
def test_it_looks_by_itself(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("a:1\n")

    async def scene() -> None:
        stage = Scene(path, every=0.01)
        await stage.file.load()
        for text in ("b:2", "broken", "c:3"):
            path.write_text(text)
            while stage.file.value != (text,) and not (text == "broken" and stage.loads["failed"].value):
                await asyncio.sleep(0.01)
        await stage.end()
        looks = len(stage.tasks)
        await asyncio.sleep(0.05)
        assert len(stage.tasks) == looks

    run(loop, scene)


@both_loops
@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (None, "No such file or directory"),
        (b"a:1\nwrong\n", ":2: no colon: write name:value"),
        (b"\xff", "can't decode byte 0xff"),
    ],
)
def test_a_file_that_cannot_be_used_at_the_start(loop: str, tmp_path: Path, content: bytes | None, detail: str) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_bytes(content)

    async def scene() -> None:
        stage = Scene(path)
        with pytest.raises(FileFailed) as caught:
            await stage.file.load()
        assert str(caught.value).startswith(f"{path}:")
        assert detail in str(caught.value)
        await stage.end()

    run(loop, scene)


@both_loops
def test_a_file_that_changes_while_it_is_read_is_read_again(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("a:1\n")
    reads = 0

    class Racing(type(path)):  # type: ignore[misc]
        def read_bytes(self) -> bytes:
            nonlocal reads
            data = super().read_bytes()
            reads += 1
            if reads == 1:
                path.write_text("a:1\nb:2\n")
            return bytes(data)

    async def scene() -> None:
        stage = Scene(Racing(path))
        await stage.file.load()
        assert stage.file.value == ("a:1", "b:2")
        await stage.end()

    run(loop, scene)
    assert reads == 2

"""The spool: what was written comes back, memory and disk are given back, a full disk is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.net.spool import PIECE, FileSpool
from tests.net.memory import bounded


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.binary(max_size=300), max_size=20),
    memory=st.integers(0, 1000),
    start=st.integers(0, 3000),
)
def test_what_was_written_comes_back(pieces: list[bytes], memory: int, start: int) -> None:
    spool = FileSpool(memory)
    whole = b""
    for piece in pieces:
        spool.write(piece)
        whole += piece
        # Reading between two writes changes nothing.
        assert b"".join(spool.chunks(start)) == whole[start:]
    assert spool.octets == len(whole)
    assert b"".join(spool.chunks()) == whole
    spool.close()


def test_pieces_are_of_64_kib_and_two_readers_do_not_disturb_each_other() -> None:
    spool = FileSpool(1)
    data = os.urandom(PIECE * 2 + 5)
    spool.write(data)
    pairs = list(zip(spool.chunks(), spool.chunks(), strict=True))
    assert [len(one) for one, _ in pairs] == [PIECE, PIECE, 5]
    assert b"".join(one for one, _ in pairs) == b"".join(other for _, other in pairs) == data
    spool.close()


def files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if "popproxy-" in target or "(deleted)" in target:
            found.append(target)
    return found


def test_the_file_exists_only_when_needed_has_no_name_and_is_closed() -> None:
    before = len(files())
    spool = FileSpool(100)
    spool.write(b"x" * 100)
    assert len(files()) == before
    spool.write(b"y")
    assert len(files()) == before + 1 and files()[-1].endswith("(deleted)")
    spool.close()
    spool.close()
    assert len(files()) == before
    dropped = FileSpool(0)
    dropped.write(b"z")
    assert len(files()) == before + 1
    del dropped
    assert len(files()) == before


def test_nothing_large_stays_in_memory() -> None:
    spool = FileSpool(1 << 20)
    piece = os.urandom(1 << 20)
    with bounded(8 << 20) as growth:
        for _ in range(64):
            spool.write(piece)
            growth.look()
        assert sum(len(chunk) for chunk in spool.chunks()) == 64 << 20
    spool.close()


class Full:
    """A disk with room for a few octets."""

    def __init__(self, path: Path, room: int) -> None:
        self.file = path.open("w+b", buffering=0)
        self.room = room

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(bytes(data[: self.room]))
        self.room -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_full_disk_is_told_and_what_was_written_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Full(tmp_path / "disk", 12)
    monkeypatch.setattr("popproxy.net.spool.tempfile.TemporaryFile", lambda **_: disk)
    spool = FileSpool(4)
    spool.write(b"12345")
    with pytest.raises(OSError, match="No space left"):
        spool.write(b"123456789")
    assert spool.octets == 5 and b"".join(spool.chunks()) == b"12345"
    disk.room = 100
    spool.write(b"6789")
    assert b"".join(spool.chunks()) == b"123456789"
    spool.close()


def test_a_disk_that_is_full_from_the_beginning_keeps_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Full(tmp_path / "disk", 2)
    monkeypatch.setattr("popproxy.net.spool.tempfile.TemporaryFile", lambda **_: disk)
    spool = FileSpool(4)
    spool.write(b"1234")
    with pytest.raises(OSError, match="No space left"):
        spool.write(b"5")
    assert disk.file.closed
    assert spool.octets == 4 and b"".join(spool.chunks()) == b"1234"
    spool.close()


def test_a_file_that_lost_octets_is_no_end_of_message() -> None:
    spool = FileSpool(0)
    spool.write(b"x" * 1000)
    os.ftruncate(spool._file.fileno(), 10)
    with pytest.raises(OSError, match="shorter than what was written"):
        list(spool.chunks())
    spool.close()

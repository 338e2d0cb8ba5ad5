"""The spool: what was written comes back, memory and disk are given back, a full disk is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.net.spool import DISK, MEMORY, PIECE, FileSpool, Spools
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


# All spools of a worker


def test_what_finds_no_room_in_memory_goes_to_disk_and_what_finds_none_there_is_told() -> None:
    spools = Spools(100, 200)
    one, two = spools.make(80), spools.make(80)
    one.write(b"a" * 70)
    assert spools.held == [70, 0]
    two.write(b"b" * 31)
    assert spools.held == [70, 31], "101 octets in memory would be too many"
    one.write(b"c" * 11)
    assert spools.held == [0, 112], "81 octets are too many for one"
    with pytest.raises(OSError, match=r"all spools together hold limits\.spool_disk"):
        two.write(b"d" * 89)
    assert two.octets == 31 and b"".join(two.chunks()) == b"b" * 31
    two.write(b"d" * 88)
    assert spools.held == [0, 200]
    three = spools.make(80)
    three.write(b"e" * 80)
    with pytest.raises(OSError, match="spool_disk"):
        three.write(b"f")
    assert b"".join(three.chunks()) == b"e" * 80
    one.close()
    one.close()
    three.write(b"f")
    assert spools.held == [0, 119 + 81]
    del two
    three.close()
    assert spools.held == [0, 0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.binary(max_size=60))), max_size=40),
    st.integers(0, 120),
    st.integers(0, 200),
)
def test_the_account_is_right_whatever_happens(steps: list[tuple[int, bytes | None]], memory: int, disk: int) -> None:
    spools = Spools(memory, disk)
    made = [spools.make(40) for _ in range(4)]
    kept = [b""] * 4
    for number, data in steps:
        if data is None:
            made[number].close()
            made[number], kept[number] = spools.make(40), b""
            continue
        try:
            made[number].write(data)
        except OSError:
            assert b"".join(made[number].chunks()) == kept[number]
        else:
            kept[number] += data
        assert b"".join(made[number].chunks()) == kept[number]
        assert spools.held[MEMORY] <= memory and spools.held[DISK] <= disk
        assert sum(spools.held) == sum(map(len, kept))
    for spool in made:
        spool.close()
    assert spools.held == [0, 0]

"""The Maildir under the sample server: order, ids, sizes, lock, deletes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.sample import letters, maildir
from popproxy.sample.maildir import InUseError, Maildir, Maildrop, first_lines, wire_chunks
from tests.letters import DIFFICULT, as_sent, write_maildir

OCTETS = st.text(alphabet=" .a\r\n", max_size=40).map(str.encode) | st.binary(max_size=40)


@contextmanager
def opened(box: Maildir) -> Iterator[Maildrop]:
    drop = box.open()
    try:
        yield drop
    finally:
        drop.close()


def make(directory: Path, *names: str, text: bytes = b"Subject: a\n\nb\n") -> Maildir:
    for folder in ("new", "cur"):
        (directory / folder).mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_bytes(text)
    return Maildir(directory)


def uids(box: Maildir) -> list[bytes]:
    with opened(box) as drop:
        return [message.uid for message in drop.messages]


def retrieved(drop: Maildrop, number: int) -> bytes:
    with drop.read(drop.messages[number - 1]) as file:
        return b"".join(wire_chunks(file))


def test_every_difficult_letter_is_sized_and_read_as_it_travels(tmp_path: Path) -> None:
    write_maildir(tmp_path)
    with opened(Maildir(tmp_path)) as drop:
        assert len(drop.messages) == len(DIFFICULT)
        for number, (name, stored) in enumerate(DIFFICULT, 1):
            assert drop.messages[number - 1].uid.endswith(name.encode())
            assert drop.messages[number - 1].octets == len(as_sent(stored)), name
            assert retrieved(drop, number) == as_sent(stored), name


def test_the_corpus_is_what_its_users_count_on() -> None:
    names = [name for name, _ in DIFFICULT]
    assert len(set(names)) == len(names) >= 70
    assert sum(1_000_000 <= len(stored) <= 6_000_000 for _, stored in DIFFICULT) >= 3
    sizes = {
        len(as_sent(stored).partition(b"\r\n\r\n")[2]) for name, stored in DIFFICULT if "body_of" in name
    }
    assert sizes == {size + more for size in (16_384, 65_536, 262_144) for more in range(-5, 6)}


@settings(deadline=None, max_examples=300)
@given(stored=OCTETS, chunk=st.integers(1, 7))
def test_wire_octets_do_not_depend_on_where_the_file_is_cut(stored: bytes, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maildir, "CHUNK", chunk)
        chunks = list(wire_chunks(io.BytesIO(stored)))
    assert b"".join(chunks) == as_sent(stored)
    assert all(chunks)


@settings(deadline=None, max_examples=300)
@given(stored=OCTETS, chunk=st.integers(1, 7), lines=st.integers(0, 6))
def test_first_lines_is_header_blank_line_and_so_many_lines(stored: bytes, chunk: int, lines: int) -> None:
    whole = as_sent(stored)
    blank = (b"\r\n" + whole).find(b"\r\n\r\n")
    body = whole[blank + 2 :] if blank >= 0 else whole
    kept = body.split(b"\r\n")[:-1][: lines if blank >= 0 else None]
    wanted = whole[: len(whole) - len(body)] + b"".join(line + b"\r\n" for line in kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maildir, "CHUNK", chunk)
        assert b"".join(first_lines(wire_chunks(io.BytesIO(stored)), lines)) == wanted


def test_order_is_by_second_of_delivery_then_by_name(tmp_path: Path) -> None:
    box = make(tmp_path, "cur/1000.b:2,S", "new/999.z", "new/1000.a", "cur/letter", "new/1000.c")
    assert uids(box) == [b"letter", b"999.z", b"1000.a", b"1000.b", b"1000.c"]


def test_uid_survives_flags_and_the_move_to_cur(tmp_path: Path) -> None:
    box = make(tmp_path, "new/1000.a", "new/1001.b")
    before = uids(box)
    (tmp_path / "new/1000.a").rename(tmp_path / "cur/1000.a:2,RS")
    assert uids(box) == before == uids(Maildir(tmp_path))


@pytest.mark.parametrize("name", ["1000." + "x" * 66, "1000.with space", "1000.näme"])
def test_a_name_that_is_no_unique_id_is_hashed(tmp_path: Path, name: str) -> None:
    (uid,) = uids(make(tmp_path, f"new/{name}"))
    assert len(uid) == 64
    assert uid != name.encode()
    assert uid.isalnum()
    assert uids(Maildir(tmp_path)) == [uid]


def test_the_longest_name_that_is_a_unique_id_is_kept(tmp_path: Path) -> None:
    name = "1000." + "~" * 65
    assert uids(make(tmp_path, f"new/{name}")) == [name.encode()]


def test_a_name_that_is_not_utf8_is_read_and_deleted(tmp_path: Path) -> None:
    box = make(tmp_path)
    path = os.fsencode(tmp_path / "new") + b"/1000.\xff"
    Path(os.fsdecode(path)).write_bytes(b"Subject: a\n\nb\n")
    with opened(box) as drop:
        assert retrieved(drop, 1) == b"Subject: a\r\n\r\nb\r\n"
        assert drop.remove(drop.messages) == []
    assert uids(box) == []


def test_what_is_no_message_is_not_listed(tmp_path: Path) -> None:
    box = make(tmp_path, "new/.hidden", "new/1000.a")
    (tmp_path / "cur/folder").mkdir()
    assert uids(box) == [b"1000.a"]


def test_a_message_met_in_both_folders_is_one(tmp_path: Path) -> None:
    assert uids(make(tmp_path, "new/1000.a", "cur/1000.a:2,")) == [b"1000.a"]


def test_a_second_session_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    box = make(tmp_path, "new/1000.a")
    with opened(box):
        with pytest.raises(InUseError, match=str(tmp_path)):
            box.open()
        with pytest.raises(InUseError):
            Maildir(tmp_path).open()
    assert uids(box) == [b"1000.a"]


def test_the_lock_is_given_back_when_opening_fails(tmp_path: Path) -> None:
    box = make(tmp_path)
    (tmp_path / "cur").rmdir()
    with pytest.raises(FileNotFoundError):
        box.open()
    (tmp_path / "cur").mkdir()
    assert uids(box) == []


def test_a_message_whose_flags_change_meanwhile_is_still_read_and_deleted(tmp_path: Path) -> None:
    with opened(make(tmp_path, "new/1000.a", "new/1001.b")) as drop:
        (tmp_path / "new/1000.a").rename(tmp_path / "cur/1000.a:2,S")
        assert retrieved(drop, 1) == b"Subject: a\r\n\r\nb\r\n"
        assert drop.remove(drop.messages[:1]) == []
    assert [path.name for path in tmp_path.glob("*/*")] == ["1001.b"]


def test_a_message_that_is_gone_is_not_read_and_counts_as_deleted(tmp_path: Path) -> None:
    with opened(make(tmp_path, "new/1000.a")) as drop:
        (tmp_path / "new/1000.a").unlink()
        with pytest.raises(FileNotFoundError, match=r"1000\.a"):
            drop.read(drop.messages[0])
        assert drop.remove(drop.messages) == []


def test_a_message_rewritten_in_place_is_not_read_with_a_false_size(tmp_path: Path) -> None:
    with opened(make(tmp_path, "new/1000.a")) as drop:
        (tmp_path / "new/1000.a").write_bytes(b"longer than it was before")
        with pytest.raises(OSError, match="was changed"):
            drop.read(drop.messages[0])


def test_a_rewritten_message_is_counted_again_by_the_next_session(tmp_path: Path) -> None:
    box = make(tmp_path, "new/1000.a")
    uids(box)
    (tmp_path / "new/1000.a").write_bytes(b"1\n2\n")
    with opened(box) as drop:
        assert drop.messages[0].octets == 6


def test_sizes_are_remembered_between_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = make(tmp_path, "new/1000.a")
    with opened(box) as drop:
        first = drop.messages
    monkeypatch.setattr(maildir, "wire_chunks", None)
    with opened(box) as drop:
        assert drop.messages == first


def test_files_that_cannot_be_deleted_are_reported(tmp_path: Path) -> None:
    with opened(make(tmp_path, "new/1000.a", "new/1001.b")) as drop:
        (tmp_path / "new/1000.a").unlink()
        (tmp_path / "new/1000.a").mkdir()
        (error,) = drop.remove(drop.messages)
        assert isinstance(error, OSError)
        assert "1000.a" in str(error)
    assert not (tmp_path / "new/1001.b").exists()


def test_the_header_decides_whether_a_message_needs_utf8(tmp_path: Path) -> None:
    write_maildir(tmp_path)
    with opened(Maildir(tmp_path)) as drop:
        eight_bit = {DIFFICULT[at][0] for at, message in enumerate(drop.messages) if not message.ascii_header}
    assert {"utf8_header", "latin_1_header", "byte_order_mark_first"} <= eight_bit
    assert not eight_bit & {"utf8_body", "latin_1_body", "every_octet", "nul_in_header", "random_octets"}


def test_the_demo_mailbox_is_the_same_every_time_and_fit_for_any_client(tmp_path: Path) -> None:
    letters.write_sample(tmp_path / "one")
    letters.write_sample(tmp_path / "two")
    letters.write_sample(tmp_path / "two")
    files = [
        [
            (path.name, path.read_bytes(), path.stat().st_mtime)
            for path in sorted(tmp_path.glob(f"{box}/new/*"))
        ]
        for box in ("one", "two")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 8
    with opened(Maildir(tmp_path / "one")) as drop:
        assert all(message.ascii_header for message in drop.messages)
        assert 1_000_000 < drop.messages[2].octets < 1_100_000
        texts = [retrieved(drop, number) for number in (5, 6, 7)]
    assert b"\r\n" + letters.GTUBE.encode() + b"\r\n" in texts[0]
    assert b"\r\n\r\n.\r\n" in texts[1]
    assert texts[2].endswith(b"\r\n\r\n")

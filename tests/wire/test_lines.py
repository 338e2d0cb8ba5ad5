"""The line buffer: whole lines out, whatever the chunks; bounded by its reader."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.lines import LineBuffer

octets = st.lists(st.sampled_from([b"a", b"\r", b"\n", b".", b"\r\n", b"\0"]), max_size=60).map(b"".join)


def drain(buffer: LineBuffer) -> list[bytes]:
    lines = []
    while (line := buffer.next()) is not None:
        lines.append(line)
    return lines


def test_pipelined_commands_in_one_read_come_out_one_by_one() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"NOOP\r\nSTAT\r\nRETR 1\r\nQU")
    assert drain(buffer) == [b"NOOP\r\n", b"STAT\r\n", b"RETR 1\r\n"]
    assert len(buffer) == 2
    buffer.feed(b"IT\r\n")
    assert drain(buffer) == [b"QUIT\r\n"]
    assert len(buffer) == 0


def test_more_may_come_before_all_lines_are_taken() -> None:
    buffer = LineBuffer(100)
    taken = []
    for piece in (b"A\r\nB\r\nC", b"C\r\nD", b"\r\n", b"E\r\nF\r\n", b"G"):
        buffer.feed(piece)
        taken.append(buffer.next())
    assert taken == [b"A\r\n", b"B\r\n", b"CC\r\n", b"D\r\n", b"E\r\n"]
    assert (len(buffer), bool(buffer.data), buffer.starts_with(b"F\r")) == (4, True, True)
    assert drain(buffer) == [b"F\r\n"]
    assert buffer.take() == b"G"
    assert not buffer.data


def test_quit_without_line_end_is_no_line() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"QUIT")
    assert buffer.next() is None
    buffer.feed(b"\r")
    assert buffer.next() is None
    assert buffer.take() == b"QUIT\r"


def test_the_line_end_is_kept_so_that_the_caller_can_judge_it() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"A\nB\r\n\n\r\r\n")
    assert drain(buffer) == [b"A\n", b"B\r\n", b"\n", b"\r\r\n"]


def test_half_a_line_before_tls_is_forgotten_with_take() -> None:
    """PROTOCOL 4.6: nothing that came in the clear may be read as the beginning of a line after the handshake."""
    buffer = LineBuffer(100)
    buffer.feed(b"STLS\r\nUSER ev")
    assert buffer.next() == b"STLS\r\n"
    assert buffer.next() is None
    assert buffer.take() == b"USER ev"
    assert len(buffer) == 0
    buffer.feed(b"il\r\n")
    assert buffer.next() == b"il\r\n"


def test_take_resets_where_the_search_goes_on() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"x" * 50)
    assert buffer.next() is None
    buffer.take()
    buffer.feed(b"\n")
    assert buffer.next() == b"\n"


def test_an_unfinished_line_beyond_the_limit_is_overlong() -> None:
    buffer = LineBuffer(5)
    buffer.feed(b"12345")
    assert buffer.next() is None
    assert not buffer.overlong
    buffer.feed(b"6")
    assert buffer.next() is None
    assert buffer.overlong
    buffer.limit = 6
    assert not buffer.overlong


def test_a_long_line_that_ends_at_once_after_others_is_not_counted_with_them() -> None:
    buffer = LineBuffer(5)
    buffer.feed(b"1234\r\n1234\r\n12")
    assert len(drain(buffer)) == 2
    assert not buffer.overlong


def test_a_token_of_4_kib_fits_when_the_limit_allows_it() -> None:
    """PROTOCOL 4.5: OAuth tokens exceed 255 and 4096 octets."""
    buffer = LineBuffer(65536)
    line = b"AUTH XOAUTH2 " + b"A" * 16384 + b"\r\n"
    for place in range(0, len(line), 100):
        assert buffer.next() is None
        assert not buffer.overlong
        buffer.feed(line[place : place + 100])
    assert buffer.next() == line


def test_starts_with_ignores_the_case_of_what_is_buffered() -> None:
    buffer = LineBuffer(100)
    assert not buffer.starts_with(b"AUTH ")
    buffer.feed(b"aUtH pl")
    assert buffer.starts_with(b"AUTH ")
    assert not buffer.starts_with(b"AUTH  ")
    assert not buffer.starts_with(b"AUTH PLAIN")


def test_nul_and_8_bit_pass() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"\0\xff\xfe\r\n")
    assert buffer.next() == b"\0\xff\xfe\r\n"


@settings(max_examples=200, deadline=None)
@given(octets, st.lists(st.integers(1, 7), max_size=60))
def test_lines_do_not_depend_on_the_chunks(data: bytes, sizes: list[int]) -> None:
    whole = LineBuffer(1000)
    whole.feed(data)
    expected = drain(whole)
    cut = LineBuffer(1000)
    found = []
    place = 0
    for size in [*sizes, len(data)]:
        cut.feed(data[place : place + size])
        place += size
        found += drain(cut)
    assert found == expected
    assert b"".join(found) + cut.take() == data
    assert all(line.index(b"\n") == len(line) - 1 for line in found)

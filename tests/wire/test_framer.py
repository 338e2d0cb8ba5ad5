"""Where a multi-line reply ends: only at CRLF . CRLF, wherever the chunks are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.framer import TERMINATOR, BodyScanner, body_end

octets = st.lists(
    st.sampled_from([b"a", b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\0", b"x" * 9]), max_size=25
).map(b"".join)


def true_end(data: bytes) -> int:
    """The law in one line: the CRLF of the status line counts."""
    place = (b"\r\n" + data).find(TERMINATOR)
    return -1 if place < 0 else place + 3


def end_in_chunks(data: bytes, sizes: list[int]) -> int:
    scanner = BodyScanner()
    place = 0
    for size in [*sizes, len(data)]:
        chunk = data[place : place + size]
        end = scanner.scan(chunk)
        if end >= 0:
            return place + end
        place += len(chunk)
    return -1


@pytest.mark.parametrize(
    "body",
    [
        b".\r\n",  # PROTOCOL 4.3: an empty list, the terminator is the first line
        b"\r\n.\r\n",
        b"1 120\r\n2 200\r\n.\r\n",
        b"..\r\n.\r\n",  # a stuffed line that is only a dot
        b".x\r\n.\r\n",  # PROTOCOL 4.3: a dot at the beginning is not the end (curl#19228)
        b"Subject: x\r\n\r\n\0\xff\r\n.\r\n",  # PROTOCOL 4.11: NUL and 8-bit
        b"x" * 70000 + b"\r\n.\r\n",  # PROTOCOL 4.11: a line of any length
        b"-ERR shutting down\r\n.\r\n",  # PROTOCOL 4.12: a status line inside a body is text
    ],
)
def test_the_end_and_the_octets_behind_it(body: bytes) -> None:
    for rest in (b"", b"+OK\r\n", b".\r\n", b"\r\n.\r\n", b"+OK\r\nmore\r\n.\r\n"):
        assert BodyScanner().scan(body + rest) == len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b".",
        b".\r",
        b".\n",  # PROTOCOL 4.3: bare LF
        b".\r.\r",
        b"a\n.\n",
        b"a\n.\r\n",  # PROTOCOL 4.3: a dot behind a bare LF: a client that is strict would read on
        b"a\r\n.\n",
        b"a\r\n.\rb\r\n",
        b"a\r.\r\n",
        b"a.\r\n",  # PROTOCOL 4.3: no CRLF before the terminator
        b"\0.\r\n",
        b"a\r\n..\r\n",
        b"a\r\n. \r\n",
        b"a\r\n.\0\r\n",
    ],
)
def test_what_ends_nothing(body: bytes) -> None:
    """PROTOCOL 4.1: a body cut short anywhere is never taken for a whole one."""
    assert BodyScanner().scan(body) == -1
    assert end_in_chunks(body, [1] * len(body)) == -1


def test_the_terminator_cut_at_every_place() -> None:
    """PROTOCOL 4.3: a terminator in two packets."""
    body = b"a\r\n.\r\n"
    for first in range(len(body)):
        scanner = BodyScanner()
        assert scanner.scan(body[:first]) == -1
        assert scanner.scan(body[first:] + b"+OK\r\n") == len(body) - first


def test_the_first_of_several_terminators_counts() -> None:
    data = b"a\r\n.\r\n+OK\r\nb\r\n.\r\n+OK\r\n.\r\n"
    assert BodyScanner().scan(data) == 6
    assert BodyScanner().scan(b"a\r\n.\r\n.\r\n") == 6


def test_start_skips_the_replies_before() -> None:
    data = b"+OK\r\n.\r\n+OK\r\nx\r\n.\r\n"
    assert BodyScanner().scan(data, 13) == len(data)
    scanner = BodyScanner()
    assert scanner.scan(b"+OK\r\nab\r\n.", 5) == -1
    assert scanner.scan(b"\r\n") == 2


def test_a_short_rest_behind_start_is_remembered() -> None:
    scanner = BodyScanner()
    assert scanner.scan(b"\r\n.\r\n+OK\r\n.", 10) == -1
    assert scanner.scan(b"\r\n") == 2


@settings(max_examples=300, deadline=None)
@given(octets, st.lists(st.integers(1, 7), max_size=30))
def test_the_end_does_not_depend_on_the_chunks(data: bytes, sizes: list[int]) -> None:
    expected = true_end(data)
    assert BodyScanner().scan(data) == expected
    assert end_in_chunks(data, sizes) == expected
    assert end_in_chunks(data, [1] * len(data)) == expected


@settings(max_examples=200, deadline=None)
@given(octets, octets, octets)
def test_a_body_behind_its_status_line_and_in_the_chunks_after(before: bytes, data: bytes, more: bytes) -> None:
    chunk = before + b"+OK\r\n" + data
    start, end = len(chunk) - len(data), true_end(data)
    assert body_end(chunk, start - 2) == (start + end if end >= 0 else -1)
    if end < 0:
        whole = true_end(data + more)
        assert BodyScanner(chunk[-4:]).scan(more) == (whole - len(data) if whole >= 0 else -1)


@settings(max_examples=200, deadline=None)
@given(octets, octets)
def test_start_is_the_same_as_a_chunk_that_begins_there(before: bytes, data: bytes) -> None:
    end = BodyScanner().scan(before + data, len(before))
    assert end == (len(before) + true_end(data) if true_end(data) >= 0 else -1)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b".", b"." * 15, b"." * 16, b"x" * 100, b"x" * 8190, b"x" * 8192, b"\r\n", b"\r\n.", TERMINATOR]
        ),
        max_size=24,
    ),
    st.integers(0, 40),
)
def test_the_search_finds_the_first_end_wherever_it_leaves_the_hopping(parts: list[bytes], skip: int) -> None:
    """Dense dots switch the search to windows of 8 KiB and more: an end on their edges is found, and the first one."""
    data = b"y" * 4 + b"." * skip + b"".join(parts)
    found = data.find(TERMINATOR)
    assert BodyScanner().scan(data) == (found + 5 if found >= 0 else -1)
    assert BodyScanner().scan(b"+OK\r\n.\r\n" + data, 8) == (found + 13 if found >= 0 else -1)

"""Where a multi-line reply ends: only at CRLF . CRLF, wherever the chunks are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.framer import TERMINATOR, BodyScanner

octets = st.lists(
    st.sampled_from([b"a", b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\0", b"x" * 9]), max_size=25
).map(b"".join)


def true_end(data: bytes) -> int:
    """The law in one line: the CRLF of the status line counts."""
    place = (b"\r\n" + data).find(TERMINATOR)
    return -1 if place < 0 else place + 3


def end_in_chunks(data: bytes, sizes: list[int], crowded: bool = False) -> int:
    scanner = BodyScanner()
    place = 0
    for size in [*sizes, len(data)]:
        chunk = data[place : place + size]
        end = scanner.scan(chunk, crowded=crowded)
        if end >= 0:
            return place + end
        place += len(chunk)
    return -1


@pytest.mark.parametrize("crowded", [False, True])
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
def test_the_end_and_the_octets_behind_it(body: bytes, crowded: bool) -> None:
    for rest in (b"", b"+OK\r\n", b".\r\n", b"\r\n.\r\n", b"+OK\r\nmore\r\n.\r\n"):
        assert BodyScanner().scan(body + rest, crowded=crowded) == len(body)


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
    for crowded in (False, True):
        assert BodyScanner().scan(body, crowded=crowded) == -1
        assert end_in_chunks(body, [1] * len(body), crowded) == -1


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
    assert BodyScanner().scan(data, crowded=True) == 6
    assert BodyScanner().scan(b"a\r\n.\r\n.\r\n") == 6


def test_start_skips_the_replies_before() -> None:
    data = b"+OK\r\n.\r\n+OK\r\nx\r\n.\r\n"
    assert BodyScanner().scan(data, 13) == len(data)
    assert BodyScanner().scan(data, 13, crowded=True) == len(data)
    scanner = BodyScanner()
    assert scanner.scan(b"+OK\r\nab\r\n.", 5) == -1
    assert scanner.scan(b"\r\n") == 2


def test_a_short_rest_behind_start_is_remembered() -> None:
    scanner = BodyScanner()
    assert scanner.scan(b"\r\n.\r\n+OK\r\n.", 10) == -1
    assert scanner.scan(b"\r\n") == 2


@settings(max_examples=300, deadline=None)
@given(octets, st.lists(st.integers(1, 7), max_size=30), st.booleans())
def test_the_end_does_not_depend_on_the_chunks(data: bytes, sizes: list[int], crowded: bool) -> None:
    expected = true_end(data)
    assert BodyScanner().scan(data, crowded=crowded) == expected
    assert end_in_chunks(data, sizes, crowded) == expected
    assert end_in_chunks(data, [1] * len(data), crowded) == expected


@settings(max_examples=200, deadline=None)
@given(octets, octets, st.booleans())
def test_start_is_the_same_as_a_chunk_that_begins_there(before: bytes, data: bytes, crowded: bool) -> None:
    end = BodyScanner().scan(before + data, len(before), crowded)
    assert end == (len(before) + true_end(data) if true_end(data) >= 0 else -1)

"""The padding field: any number of octets, lines that show something, and a beginning that fits every end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Header
from popproxy.api.padding import FIELD, LEAST_GROWTH, begun, on_top, padding

SIZES = st.one_of(st.integers(LEAST_GROWTH, 400), st.integers(LEAST_GROWTH, 100_000))


@pytest.mark.parametrize("octets", range(LEAST_GROWTH, 700))
def test_promise_9_exactly_so_many_octets_in_lines_that_show_something(octets: int) -> None:
    field = padding(octets)
    assert len(field) == octets
    lines = field.split(b"\r\n")
    assert lines.pop() == b""
    assert lines[0].startswith(b"X-Popproxy-Padding: -")
    assert all(len(line) <= 78 for line in lines)
    assert all(line[:1] == b" " and line[1:].strip(b"-") == b"" and len(line) > 1 for line in lines[1:])
    header = Header(field + b"Subject: x\r\n\r\n")
    assert header.names() == ["x-popproxy-padding", "subject"]
    assert FIELD in header


@pytest.mark.parametrize("octets", [-1, 0, 1, LEAST_GROWTH - 1])
def test_too_few(octets: int) -> None:
    with pytest.raises(ValueError, match="48 at least"):
        padding(octets)


@settings(max_examples=200, deadline=None)
@given(SIZES)
def test_a_padding_may_begin_before_its_size_is_known(octets: int) -> None:
    sent = begun(0)
    assert sent == b"X-Popproxy-Padding: -"
    while more := begun(len(sent)):
        assert len(more) == 1
        sent += more
    assert len(sent) == LEAST_GROWTH - 2
    assert padding(octets).startswith(sent)
    assert padding(octets)[len(sent) :]


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (b"", 0),
        (b"\r\nbody", 0),
        (b"Subject: x\r\n", 0),
        (b"From me Thu\r\nSubject: x\r\n", 13),
        (b"From me Thu\n\tfolded\nSubject: x\r\n", 20),
        (b" odd\r\n more\r\nSubject: x\r\n", 13),
        (b"\todd\r\nSubject: x\r\n", 6),
        (b"From an unfinished line", 0),
        (b"From: me\r\n", 0),
    ],
)
def test_where_it_goes(message: bytes, place: int) -> None:
    assert on_top(message, b"F: -\r\n") == message[:place] + b"F: -\r\n" + message[place:]

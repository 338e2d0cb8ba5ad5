"""The padding field: any number of octets, lines that show something, and a beginning that fits every end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Header, Replace
from popproxy.api.padding import FIELD, LEAST_GROWTH, begun, followed_by_blanks, on_top, padding

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


@pytest.mark.parametrize("message", [b"", b"\r\n", b"a: b\r\n\r\nbody\r\n", b"no end"])
def test_promise_9_blank_lines_make_a_message_exactly_as_large(message: bytes) -> None:
    whole = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    for octets in (*range(len(whole), len(whole) + 400), 78 * 800 + len(whole), 78 * 801 + 1 + len(whole), 500_003):
        if octets == 1:
            continue
        pieces = list(followed_by_blanks(message, octets))
        out = b"".join(pieces)
        assert len(out) == octets
        assert max(map(len, pieces)) <= max(65536, len(whole))
        assert out == b"" or out.endswith(b"\r\n")
        Replace(message, octets)
        if octets == len(whole) + 1:
            assert out == whole[:-2] + b" \r\n"
            continue
        assert out.startswith(whole)
        lines = out[len(whole) :].split(b"\r\n")
        assert all(line.strip(b" ") == b"" and len(line) <= 76 for line in lines)


@pytest.mark.parametrize(("message", "octets"), [(b"abc\r\n", 4), (b"abc", 4), (b"", 1), (b"", -1), (b"x", 0)])
def test_a_message_that_has_more(message: bytes, octets: int) -> None:
    with pytest.raises(ValueError, match=f"octets={octets}"):
        followed_by_blanks(message, octets)
    with pytest.raises(ValueError, match=f"octets={octets}"):
        Replace(message, octets)


def test_a_large_size_stands_in_memory_piece_by_piece() -> None:
    count = 0
    for piece in followed_by_blanks(b"gone\r\n", 1 << 30):
        assert len(piece) <= 65536
        count += len(piece)
    assert count == 1 << 30

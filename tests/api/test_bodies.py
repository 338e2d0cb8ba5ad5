"""Filters: the header is edited once, the body passes as the very same objects, whatever the chunks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import BodyFilter, Grow, Header, HeaderFilter
from popproxy.api.padding import padding

MESSAGE = b"Subject: x\r\nX-Spam: yes\r\n\r\nbody\r\n\r\n.dots\r\n"
EDITED = b"X-Seen: 1\r\nSubject: x\r\n\r\nbody\r\n\r\n.dots\r\n"
messages = st.lists(
    st.sampled_from([b"A: b\r\n", b"X-Spam: 1\r\n", b" f\r\n", b"\r\n", b"\n", b"x", b"\r"]), max_size=12
).map(b"".join)


def edit(header: Header) -> None:
    header.remove("X-Spam")
    header.add("X-Seen", "1")


def run(body_filter: BodyFilter, *chunks: bytes) -> bytes:
    return b"".join([*map(body_filter.feed, chunks), body_filter.finish()])


def test_a_plain_filter_changes_nothing() -> None:
    body_filter = BodyFilter()
    chunk = b"x" * 10
    assert body_filter.feed(chunk) is chunk
    assert body_filter.finish() == b""


def test_the_header_is_edited_and_the_rest_passes() -> None:
    assert run(HeaderFilter(edit), MESSAGE) == EDITED


def test_edit_may_be_overridden() -> None:
    class Mine(HeaderFilter):
        def edit(self, header: Header) -> None:
            edit(header)

    assert run(Mine(), MESSAGE) == EDITED
    assert run(HeaderFilter(), MESSAGE) == MESSAGE


def test_the_body_is_handed_on_as_the_same_objects() -> None:
    body_filter = HeaderFilter(edit)
    assert body_filter.feed(b"A: b\r\n") == b""
    assert body_filter.feed(b"\r\nstart") == b"X-Seen: 1\r\nA: b\r\n\r\nstart"
    chunk = b"\r\n\r\nX-Spam: not a header" * 1000
    assert body_filter.feed(chunk) is chunk
    assert body_filter.finish() == b""


def test_a_chunk_whose_header_stays_is_handed_on_as_it_is() -> None:
    assert HeaderFilter(lambda header: None).feed(MESSAGE) is MESSAGE


def test_edit_is_called_once() -> None:
    calls: list[Header] = []
    run(HeaderFilter(calls.append), b"A: b\r\n\r\n", b"C: d\r\n\r\n", b"")
    assert [bytes(header) for header in calls] == [b"A: b\r\n\r\n"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", b"X-Seen: 1\r\n"),
        (b"\r\n", b"X-Seen: 1\r\n\r\n"),
        (b"\r\nbody", b"X-Seen: 1\r\n\r\nbody"),
        (b"A: b\r\n", b"X-Seen: 1\r\nA: b\r\n"),
        (b"A: b", b"X-Seen: 1\r\nA: b"),
        (b"A: b\r\n\r\n", b"X-Seen: 1\r\nA: b\r\n\r\n"),
        (b"A: b\n\nX-Spam: in the body\n", b"X-Seen: 1\r\nA: b\n\nX-Spam: in the body\n"),
    ],
)
def test_short_and_odd_messages(message: bytes, expected: bytes) -> None:
    for size in (1, 2, 3, 100):
        chunks = [message[place : place + size] for place in range(0, len(message), size)]
        assert run(HeaderFilter(edit), *chunks) == expected


def test_nothing_goes_out_before_the_header_is_known() -> None:
    body_filter = HeaderFilter(edit)
    for place in range(0, len(MESSAGE) - 20):
        piece = body_filter.feed(MESSAGE[place : place + 1])
        assert bool(piece) == (place >= MESSAGE.index(b"\r\n\r\n") + 3)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_header_above_the_limit_passes_unedited(size: int) -> None:
    body_filter = HeaderFilter(edit, limit=64)
    message = b"A: b\r\n" * 12 + b"\r\nbody"
    chunks = [message[place : place + size] for place in range(0, len(message), size)]
    assert run(body_filter, *chunks) == message
    assert body_filter.overflowed


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_header_of_exactly_the_limit_is_edited(size: int) -> None:
    header = b"A: b\r\n" * 10 + b"\r\n"
    message = header + b"X-Spam: body"
    chunks = [message[place : place + size] for place in range(0, len(message), size)]
    body_filter = HeaderFilter(edit, limit=len(header))
    assert run(body_filter, *chunks) == b"X-Seen: 1\r\n" + message
    assert not body_filter.overflowed


def test_no_more_than_the_limit_and_a_chunk_is_held() -> None:
    body_filter = HeaderFilter(edit, limit=100)
    assert body_filter.feed(b"x" * 99) == b""
    assert body_filter.feed(b"y" * 50) == b"x" * 99 + b"y" * 50
    chunk = b"z" * 50
    assert body_filter.feed(chunk) is chunk


def test_the_limit_is_256_kib() -> None:
    body_filter = HeaderFilter(edit)
    assert body_filter.feed(b"x" * (256 * 1024 - 1)) == b""
    assert len(body_filter.feed(b"x")) == 256 * 1024
    assert body_filter.overflowed


def test_an_author_may_make_overflow_a_failure() -> None:
    class Strict(HeaderFilter):
        def overflow(self, top: Header) -> None:
            raise ValueError("too large")

    with pytest.raises(ValueError, match="too large"):
        Strict(limit=4).feed(b"A: b\r\n\r\n")


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("growth", [0, 64])
@pytest.mark.parametrize("drips", [0, 3])
def test_promise_9_overflow_may_put_fields_on_top(size: int, growth: int, drips: int) -> None:
    class Marks(HeaderFilter):
        def overflow(self, top: Header) -> None:
            top.add("X-A", "1")

    message = b"From a\r\n" + b"A: b\r\n" * 12 + b"\r\nbody"
    body_filter = Marks(growth=growth, limit=64)
    early = b"".join(body_filter.early() for _ in range(drips))
    chunks = [message[place : place + size] for place in range(0, len(message), size)]
    made = early + run(body_filter, *chunks)
    field = padding(growth - 8) + b"X-A: 1\r\n" if growth else b"X-A: 1\r\n"
    assert made == (field + message if early else message[:8] + field + message[8:])


def test_what_edit_raises_is_not_swallowed() -> None:
    def broken(header: Header) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        HeaderFilter(broken).feed(MESSAGE)
    with pytest.raises(RuntimeError, match="broken"):
        HeaderFilter(broken).finish()


@settings(max_examples=300, deadline=None)
@given(messages, st.lists(st.integers(0, 5), max_size=30), st.integers(1, 40))
def test_the_outcome_does_not_depend_on_the_chunks(message: bytes, sizes: list[int], limit: int) -> None:
    whole = HeaderFilter(edit, limit=limit)
    expected = run(whole, message)
    chunks = []
    rest = message
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    cut = HeaderFilter(edit, limit=limit)
    assert run(cut, *chunks, rest) == expected
    assert cut.overflowed == whole.overflowed
    if cut.overflowed:
        assert expected == message


# Growth

VALUES = st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), max_size=120)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(["X-A", "Subject"]), VALUES),
        st.tuples(st.just("replace"), st.sampled_from(["A", "X-Spam"]), VALUES),
        st.tuples(st.just("remove"), st.sampled_from(["X-Spam", "A", "*"]), st.just("")),
        st.tuples(st.just("rename"), st.just("A"), st.just("")),
    ),
    max_size=4,
)


def change(header: Header, edits: list[tuple[str, str, str]]) -> None:
    for kind, name, value in edits:
        if kind == "add":
            header.add(name, value)
        elif kind == "replace":
            header.replace(name, value)
        elif kind == "rename":
            header.rename(name, "X-Renamed")
        else:
            header.remove(name)


def test_promise_9_the_message_grows_by_what_was_said() -> None:
    out = run(HeaderFilter(edit, growth=100), MESSAGE)
    assert len(out) == len(MESSAGE) + 100
    assert out == padding(100 + len(MESSAGE) - len(EDITED)) + EDITED


@pytest.mark.parametrize("growth", [-1, 1, 47])
def test_a_growth_that_cannot_be_made(growth: int) -> None:
    with pytest.raises(ValueError, match=f"growth={growth}: write 0 for none, or at least 48"):
        HeaderFilter(edit, growth=growth)
    with pytest.raises(ValueError, match=f"Grow: {growth} octets; write 0, or at least 48"):
        Grow(growth)
    assert Grow.LEAST == 48


def test_promise_9_an_edit_that_adds_too_much_is_a_failure() -> None:
    def adds(octets: int) -> HeaderFilter:
        return HeaderFilter(lambda header: header.add("X", "y" * (octets - 5)), growth=100)

    assert len(run(adds(52), MESSAGE)) == len(MESSAGE) + 100
    with pytest.raises(ValueError, match="the edit adds 53 octets; with growth=100 it may add 52"):
        run(adds(53), MESSAGE)
    with pytest.raises(ValueError, match="adds 53"):
        run(adds(53), b"A: b\r\n")


def test_promise_9_an_edit_may_remove_what_it_likes() -> None:
    message = b"X-Spam: " + b"long " * 1000 + b"\r\nA: b\r\n\r\nbody\r\n"
    out = run(HeaderFilter(edit, growth=100), message)
    assert len(out) == len(message) + 100
    assert b"long" not in out and out.endswith(b"\r\nX-Seen: 1\r\nA: b\r\n\r\nbody\r\n")


def test_promise_9_a_header_above_the_limit_grows_unedited() -> None:
    message = b"A: b\r\n" * 12 + b"\r\nbody"
    for size in (1, 7, 64, 1000):
        body_filter = HeaderFilter(edit, growth=64, limit=64)
        chunks = [message[place : place + size] for place in range(0, len(message), size)]
        assert run(body_filter, *chunks) == padding(64) + message
        assert body_filter.overflowed


def test_nothing_is_early_without_growth() -> None:
    assert BodyFilter().early() == b""
    assert HeaderFilter(edit).early() == b""


@settings(max_examples=400, deadline=None)
@given(messages, EDITS, st.integers(1, 40), st.integers(0, 60), st.integers(4096, 5000))
def test_promise_9_any_edit_of_any_header_in_any_pieces(
    message: bytes, edits: list[tuple[str, str, str]], size: int, drips: int, growth: int
) -> None:
    body_filter = HeaderFilter(lambda header: change(header, edits), growth=growth)
    early = b"".join(body_filter.early() for _ in range(drips))
    assert len(early) <= Grow.LEAST - 2
    out = early + run(body_filter, *(message[place : place + size] for place in range(0, len(message), size)))
    assert len(out) == len(message) + growth
    whole = run(HeaderFilter(lambda header: change(header, edits)), message)
    assert out.count(b"X-Popproxy-Padding: -") == 1
    if drips:
        assert out.endswith(whole)
    at = len(message) - len(message.partition(b"\n\r\n")[2])
    assert out.endswith(message[at:]) or b"\n\r\n" not in message

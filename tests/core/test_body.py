"""Sinks: what becomes of a body that somebody looks at, and what becomes of the plugin that fails in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import BodyFilter, Fail
from popproxy.core.body import Collect, Filtered, FilterFailed, FilterStage, Overlong, Swallow
from popproxy.core.chain import Entry, Subscriber
from popproxy.core.limits import KEPT
from popproxy.wire.dots import stuff
from tests.core.rig import plugin

HEAD = b"+OK here\r\n"


class Upper(BodyFilter):
    def feed(self, chunk: bytes) -> bytes:
        return chunk.upper()


class Hold(BodyFilter):
    """Gives everything at the end."""

    def __init__(self) -> None:
        self.held = b""

    def feed(self, chunk: bytes) -> bytes:
        self.held += chunk
        return b""

    def finish(self) -> bytes:
        return self.held + b"end"


class Breaks(BodyFilter):
    """Fails at the ``at``-th call; ``out`` is what each call before it gives."""

    def __init__(self, at: int, error: BaseException | object, out: bytes = b"") -> None:
        self.left = at
        self.error = error
        self.out = out

    def feed(self, chunk: bytes) -> bytes:
        self.left -= 1
        if self.left > 0:
            return self.out
        if isinstance(self.error, BaseException):
            raise self.error
        return self.error  # type: ignore[return-value]

    def finish(self) -> bytes:
        return self.feed(b"")


class Stage:
    def __init__(self, body_filter: BodyFilter, fail: Fail = Fail.OPEN) -> None:
        self.reports: list[BaseException] = []
        entry = Entry(Subscriber("p", plugin(), fail), "open_body", print, False)
        self.stage = FilterStage(entry, body_filter, lambda entry, error: self.reports.append(error))


def through(filtered: Filtered, *chunks: bytes) -> bytes:
    return b"".join(filtered.feed(chunk) for chunk in chunks) + filtered.finish()


def test_swallow() -> None:
    sink = Swallow()
    assert (sink.feed(b"x"), sink.finish(), sink.untouched) == (b"", b"", False)


def test_collect() -> None:
    got: list[bytes] = []
    sink = Collect(5, got.append)
    assert sink.untouched
    assert sink.feed(b"abc") + sink.feed(b"de") + sink.finish() == b""
    assert got == [b"abcde"]
    with pytest.raises(Overlong, match="more than 5 octets"):
        sink.feed(b"f")


def test_no_filter_is_the_identity() -> None:
    assert through(Filtered(HEAD, []), b"..a\r\nb\r\n") == HEAD + b"..a\r\nb\r\n.\r\n"


def test_filters_in_a_row() -> None:
    filtered = Filtered(HEAD, [Stage(Upper()).stage, Stage(Hold()).stage, Stage(Upper()).stage])
    assert filtered.untouched
    assert filtered.feed(b"..a\r\n") == b""
    assert filtered.untouched
    assert filtered.finish() == HEAD + b"..A\r\nEND\r\n.\r\n"
    assert not filtered.untouched


def test_the_head_goes_out_with_the_first_octet() -> None:
    filtered = Filtered(HEAD, [Stage(Upper()).stage])
    assert filtered.feed(b"a") == HEAD + b"A"
    assert filtered.feed(b"b") == b"B"


def test_a_message_of_nothing() -> None:
    assert through(Filtered(HEAD, [Stage(Upper()).stage])) == HEAD + b".\r\n"


CONTENT = st.lists(st.sampled_from([b"", b".", b"..", b"a", b".b", b"\r", b"\n."]), max_size=8).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)


@given(CONTENT, st.integers(1, 9), st.sampled_from([Upper, Hold, BodyFilter]))
@settings(max_examples=150, deadline=None)
def test_filters_see_plain_octets_and_the_wire_gets_stuffed_ones(
    message: bytes, size: int, kind: Callable[[], BodyFilter]
) -> None:
    wire = stuff(message)[:-3]
    filtered = Filtered(HEAD, [Stage(kind()).stage])
    out = b"".join(filtered.feed(wire[place : place + size]) for place in range(0, len(wire), size)) + filtered.finish()
    wanted = {Upper: message.upper(), Hold: message + b"end", BodyFilter: message}[kind]  # type: ignore[index]
    assert out == HEAD + stuff(wanted)


ERRORS: list[Any] = [ValueError("no"), SystemExit(1), "text", None, bytearray(b"x")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_promise_7_open_goes_on_as_if_the_filter_were_not_there(error: Any, at: int) -> None:
    made = Stage(Breaks(at, error))
    assert through(Filtered(HEAD, [made.stage]), b"one\r\n", b"two\r\n") == HEAD + b"one\r\ntwo\r\n.\r\n"
    assert len(made.reports) == 1


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_promise_7_closed_fails(error: Any, at: int) -> None:
    made = Stage(Breaks(at, error), Fail.CLOSED)
    filtered = Filtered(HEAD, [made.stage])
    with pytest.raises(FilterFailed, match="p"):
        through(filtered, b"one\r\n", b"two\r\n")
    assert filtered.untouched
    assert len(made.reports) == 1


@pytest.mark.parametrize("at", [2, 3])
@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_promise_2_a_filter_that_fails_behind_its_first_octet(at: int, fail: Fail) -> None:
    filtered = Filtered(HEAD, [Stage(Breaks(at, ValueError(), b"out"), fail).stage])
    with pytest.raises(FilterFailed):
        through(filtered, b"one\r\n", b"two\r\n")
    assert not filtered.untouched


def test_a_filter_that_fails_behind_its_first_octet_while_another_holds_it() -> None:
    filtered = Filtered(HEAD, [Stage(Breaks(2, ValueError(), b"out")).stage, Stage(Hold()).stage])
    with pytest.raises(FilterFailed):
        through(filtered, b"one\r\n", b"two\r\n")
    assert filtered.untouched, "an error can still be answered"


def test_what_is_kept_for_a_filter_is_bounded() -> None:
    made = Stage(Breaks(4, ValueError()))
    chunk = b"x" * (KEPT // 2)
    for _ in range(3):
        assert made.stage.feed(chunk) == b""
    assert made.stage._kept == []
    with pytest.raises(FilterFailed):
        made.stage.feed(chunk)


def test_all_that_was_kept_comes_back() -> None:
    made = Stage(Breaks(3, ValueError()))
    chunk = b"x" * (KEPT // 2)
    assert made.stage.feed(chunk) + made.stage.feed(chunk) == b""
    with pytest.raises(FilterFailed):
        made.stage.feed(b"one octet too many")
    made = Stage(Breaks(3, ValueError()))
    made.stage.feed(chunk)
    made.stage.feed(chunk[:-1])
    assert made.stage.feed(b"y") == chunk + chunk[:-1] + b"y"
    assert made.stage.feed(b"z") == b"z"
    assert made.stage.finish() == b""


class Claims(BodyFilter):
    """Says it is done whatever it did."""

    def __init__(self, out: bytes, when: int = 1) -> None:
        self.out = out
        self.left = when

    def feed(self, chunk: bytes) -> bytes:
        self.left -= 1
        if self.left <= 0:
            self.through = True
        return self.out if self.left == 0 else chunk


@pytest.mark.parametrize(
    ("fed", "out", "steps_aside"),
    [
        (b"a\r\n", b"b\r\n", True),
        (b"a", b"b", True),
        (b"a\r", b"b\r", True),
        (b"a\r\n", b"b", False),
        (b"a", b"b\r\n", False),
        (b"a", b"b\r", False),
        (b"a\r", b"b\n", False),
        (b"a\r\n.", b"a\r\n", False),
    ],
)
def test_promise_2_a_filter_steps_aside_only_where_lines_begin_alike(fed: bytes, out: bytes, steps_aside: bool) -> None:
    filtered = Filtered(HEAD, [Stage(Claims(out)).stage])
    filtered.feed(fed)
    assert filtered.through is steps_aside


def test_line_ends_in_two_pieces_count() -> None:
    filtered = Filtered(HEAD, [Stage(Claims(b"\n", 2)).stage])
    filtered.feed(b"a\r")
    filtered.feed(b"\n")
    assert filtered.through
    assert filtered.feed(b"..b\r\n") == b"..b\r\n"
    assert filtered.finish() == b".\r\n"


def test_promise_7_a_filter_whose_word_cannot_be_had() -> None:
    class Hostile(BodyFilter):
        def __getattribute__(self, name: str) -> Any:
            if name == "through":
                raise ValueError("no word")
            return super().__getattribute__(name)

    made = Stage(Hostile())
    assert through(Filtered(HEAD, [made.stage]), b"a\r\n") == HEAD + b"a\r\n.\r\n"
    assert len(made.reports) == 1


def test_large_chunks_are_cut_small_until_the_filters_are_through() -> None:
    sizes: list[int] = []

    class Counts(BodyFilter):
        def feed(self, chunk: bytes) -> bytes:
            sizes.append(len(chunk))
            self.through = len(sizes) == 3
            return chunk

    filtered = Filtered(HEAD, [Stage(Counts()).stage])
    body = b"x" * 100_000 + b"\r\n"
    assert through(filtered, body) == HEAD + body + b".\r\n"
    assert sizes == [8192, 16384, 32768]


def test_a_filter_that_fails_in_the_second_piece_of_a_chunk() -> None:
    filtered = Filtered(HEAD, [Stage(Breaks(2, ValueError(), b"out")).stage])
    with pytest.raises(FilterFailed):
        filtered.feed(b"x" * 100_000)
    assert filtered.untouched, "nothing of it is out"

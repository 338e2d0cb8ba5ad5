"""A whole message in the spool: what plugins see of it, and what goes out in the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import BodyFilter, Code, Edit, Fail, Header, Refuse, Replace, parse
from popproxy.core.body import Filtered, FilterFailed, FilterStage
from popproxy.core.chain import Entry, Subscriber
from popproxy.core.lies import Lie
from popproxy.core.limits import Limits
from popproxy.core.message import HEADER_LIMIT, Spooled, edited
from popproxy.core.spool import MemorySpool
from popproxy.wire.dots import stuff
from tests.core.rig import plugin

HEAD = b"+OK here\r\n"
ENTRY = Entry(Subscriber("p", plugin(), Fail.OPEN), "on_message", print, False)


def spooled(message: bytes, body_filter: BodyFilter | None = None, size: int = 7, **limits: int) -> Spooled:
    stages = [FilterStage(ENTRY, body_filter, lambda entry, error: None)] if body_filter else []
    filtered = Filtered(HEAD, stages) if stages else None
    sink = Spooled(HEAD, filtered, MemorySpool(), Limits(**limits), parse(b"RETR 3"))
    wire = stuff(message)[:-3]
    for place in range(0, len(wire), size):
        assert sink.feed(wire[place : place + size]) == b""
    assert sink.finish() == b""
    return sink


def decided(sink: Spooled, *verdicts: Any) -> bytes:
    for verdict in verdicts:
        sink.use(ENTRY, verdict)
    return b"".join(sink.decided())


MESSAGE = b"Subject: a\r\nX-Spam: yes\r\n\r\n.body\r\n..\r\n"


class Upper(BodyFilter):
    def feed(self, chunk: bytes) -> bytes:
        return chunk.upper()


def test_untouched_it_goes_out_as_it_came() -> None:
    sink = spooled(MESSAGE)
    assert not sink.begun
    assert decided(sink) == HEAD + stuff(MESSAGE)
    assert sink.begun


def test_what_a_plugin_sees() -> None:
    view = spooled(MESSAGE).view
    assert (view.octets, view.number) == (len(MESSAGE), 3)
    assert view.header == b"Subject: a\r\nX-Spam: yes\r\n\r\n"
    assert b"".join(view.chunks()) == MESSAGE
    assert b"".join(view.chunks()) == MESSAGE


@pytest.mark.parametrize(
    ("message", "header"),
    [
        (b"\r\nbody\r\n", b"\r\n"),
        (b"", b""),
        (b"a: b\r\n", b"a: b\r\n"),
        (b"a: b\n\nbody\r\n\r\nmore\r\n", b"a: b\n\n"),
        (b"a: " + b"x" * 100_000 + b"\r\n\r\nbody\r\n", b"a: " + b"x" * 100_000 + b"\r\n\r\n"),
        (b"x" * (HEADER_LIMIT + 9) + b"\r\n", b"x" * HEADER_LIMIT),
    ],
)
def test_headers(message: bytes, header: bytes) -> None:
    assert spooled(message, size=50_000).view.header == header


def test_edits_add_up() -> None:
    out = decided(spooled(MESSAGE), Edit([("X-A", "1"), ("X-B", "2")], ["X-Spam"]), Edit([("X-C", "3")], ["x-a"]))
    assert out == HEAD + stuff(b"X-C: 3\r\nX-B: 2\r\nSubject: a\r\n\r\n.body\r\n..\r\n")


def test_a_header_that_ends_with_bare_line_feeds_is_edited_where_it_ends() -> None:
    out = decided(spooled(b"a: b\n\nbody\r\n\r\nmore\r\n"), Edit([("X", "y")]))
    assert out == HEAD + stuff(b"X: y\r\na: b\n\nbody\r\n\r\nmore\r\n")


def test_replace_ends_the_chain_and_gets_its_last_line_end() -> None:
    sink = spooled(MESSAGE)
    assert sink.use(ENTRY, Edit([("X", "y")])) is False
    assert sink.use(ENTRY, Replace(b".new")) is True
    assert decided(sink) == HEAD + b"..new\r\n.\r\n"


def test_promise_9_a_replacement_as_large_as_what_it_replaces() -> None:
    for octets in range(6, 300):
        out = decided(spooled(MESSAGE), Replace(b".new", octets))
        assert out.startswith(HEAD + b"..new") and out.endswith(b"\r\n.\r\n")
        assert len(out) == len(HEAD) + octets + 1 + 3


@pytest.mark.parametrize("octets", [3, "9"])
def test_promise_7_a_forged_replacement(octets: Any) -> None:
    forged = Replace(b"new\r\n")
    object.__setattr__(forged, "octets", octets)
    sink = spooled(MESSAGE)
    with pytest.raises(Lie, match="Replace"):
        sink.use(ENTRY, forged)
    assert decided(sink) == HEAD + stuff(MESSAGE)


def test_refuse() -> None:
    assert decided(spooled(MESSAGE), Refuse("virus", Code.SYS_PERM)) == b"-ERR [SYS/PERM] virus\r\n"
    assert decided(spooled(MESSAGE), Refuse("virus", None)) == b"-ERR virus\r\n"


@pytest.mark.parametrize(
    "edit", [Edit(remove=["\udc80"]), Edit(add=(("X", "ok"),), remove=["\ud800"])], ids=["pattern", "both"]
)
def test_promise_7_an_edit_that_cannot_be_made_changes_nothing(edit: Edit) -> None:
    sink = spooled(MESSAGE)
    with pytest.raises(Lie):
        sink.use(ENTRY, edit)
    assert decided(sink) == HEAD + stuff(MESSAGE)


def test_promise_7_a_forged_edit() -> None:
    forged = Edit()
    object.__setattr__(forged, "add", [("X", "a\r\nB: c")])
    with pytest.raises(Lie, match="Edit"):
        edited(b"a: b\r\n\r\n", forged)


def test_promise_7_a_header_too_large_to_edit() -> None:
    sink = spooled(b"x" * (HEADER_LIMIT + 9) + b"\r\n", size=50_000)
    with pytest.raises(Lie, match="cannot be edited"):
        sink.use(ENTRY, Edit([("X", "y")]))


def test_streaming_filters_come_behind() -> None:
    assert decided(spooled(MESSAGE, Upper()), Edit([("x", "y")])) == HEAD + stuff(b"x: y\r\n".upper() + MESSAGE.upper())
    assert decided(spooled(MESSAGE, Upper()), Replace(b"new")) == HEAD + b"NEW\r\n.\r\n"
    assert decided(spooled(b"", Upper())) == HEAD + b".\r\n"


def test_a_filter_that_steps_aside_behind_a_message_without_its_last_line_end() -> None:
    class Aside(BodyFilter):
        def feed(self, chunk: bytes) -> bytes:
            self.through = True
            return chunk

    assert decided(spooled(b"", Aside()), Replace(b"new")) == HEAD + b"new\r\n.\r\n"


@pytest.mark.parametrize("at", ["feed", "finish"])
def test_a_filter_that_fails_before_the_first_octet(at: str) -> None:
    class Fails(BodyFilter):
        def feed(self, chunk: bytes) -> bytes:
            if at == "feed":
                raise ValueError
            return b""

        def finish(self) -> bytes:
            raise ValueError

    entry = Entry(Subscriber("p", plugin(), Fail.CLOSED), "open_body", print, False)
    filtered = Filtered(HEAD, [FilterStage(entry, Fails(), lambda entry, error: None)])
    sink = Spooled(HEAD, filtered, MemorySpool(), Limits(), parse(b"RETR 1"))
    sink.feed(b"a\r\n")
    with pytest.raises(FilterFailed):
        decided(sink)
    assert not sink.begun


def test_too_large_and_passed_unseen() -> None:
    wire = stuff(MESSAGE)[:-3]
    for first in range(1, len(wire)):
        sink = Spooled(HEAD, None, MemorySpool(), Limits(message_size=0), parse(b"RETR 1"))
        sink.feed(wire[:first])
        assert sink.overflow is not None or wire[:first] == b"."
        rest = sink.continued()
        assert rest.untouched
        out = b"".join(sink.replay())
        assert rest.untouched is (out == b"")
        out += rest.feed(wire[first:]) + rest.finish()
        assert out == HEAD + stuff(MESSAGE)


def test_too_large_and_filtered() -> None:
    filtered = Filtered(HEAD, [FilterStage(ENTRY, Upper(), lambda entry, error: None)])
    sink = Spooled(HEAD, filtered, MemorySpool(), Limits(message_size=3), parse(b"RETR 1"))
    sink.feed(b"..abc\r\n")
    assert sink.overflow is not None
    rest = sink.continued()
    assert b"".join(sink.replay()) + rest.feed(b"def\r\n") + rest.finish() == HEAD + b"..ABC\r\nDEF\r\n.\r\n"


CONTENT = st.lists(st.sampled_from([b"", b".", b"a: b", b" c", b".b", b"\r", b"\n", b"\n."]), max_size=9).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)


@given(CONTENT, st.integers(1, 9), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_message_in_any_pieces(message: bytes, size: int, edits: bool) -> None:
    sink = spooled(message, size=size)
    header = sink.view.header
    assert message.startswith(header)
    if not edits:
        assert decided(sink) == HEAD + stuff(message)
        return
    wanted = Header(header)
    wanted.add("X-A", "1")
    assert decided(sink, Edit([("X-A", "1")])) == HEAD + stuff(bytes(wanted) + message[len(header) :])


def test_too_large_and_held_by_a_filter() -> None:
    class Holds(BodyFilter):
        def feed(self, chunk: bytes) -> bytes:
            return b""

    filtered = Filtered(HEAD, [FilterStage(ENTRY, Holds(), lambda entry, error: None)])
    sink = Spooled(HEAD, filtered, MemorySpool(), Limits(message_size=3), parse(b"RETR 1"))
    sink.feed(b"abcde\r\n")
    assert list(sink.replay()) == []
    assert not sink.begun
    assert sink.continued().finish() == HEAD + b".\r\n"

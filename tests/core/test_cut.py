"""TOP sent as RETR: the whole message is judged, the client gets what it asked for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Command, Edit, Header, HeaderFilter, Hide, MessageView, Refuse, Replace, Rewrite, parse
from popproxy.core.cut import Cut
from tests.core.rig import Rig, pieces, plugin

MAIL = b"a: b\r\n\r\none\r\n..two\r\nthree\r\n"
TOP = parse(b"TOP 1 2")


def whole(session: object, command: Command) -> Rewrite | None:
    return Rewrite(parse(b"RETR %d" % (command.message or 0))) if command.name == "TOP" else None


def rig_with(*plugins: Any, **given: Any) -> Rig:
    return Rig(plugin(on_command=whole), *plugins, **given).login()


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (0, b"a: b\r\n\r\n"),
        (1, b"a: b\r\n\r\none\r\n"),
        (2, b"a: b\r\n\r\none\r\n..two\r\n"),
        (3, MAIL),
        (99999999, MAIL),
    ],
)
def test_promise_2_the_client_gets_the_lines_it_asked_for(size: int, lines: int, left: bytes) -> None:
    rig = rig_with().client(b"TOP 1 %d\r\nNOOP\r\n" % lines)
    assert rig.asked() == b"RETR 1\r\nNOOP\r\n"
    for piece in pieces(b"+OK\r\n" + MAIL + b".\r\n+OK noop\r\n", size):
        rig.upstream(piece)
    assert rig.said() == b"+OK\r\n" + left + b".\r\n+OK noop\r\n"
    assert rig.meter.outcomes()["TOP", "ok"] == 1
    assert rig.view.messages == 0 and rig.meter.messages == [("TOP", True)], "nothing was retrieved"


@pytest.mark.parametrize("waiting", [False, True])
def test_on_message_sees_all_of_it_and_the_command_of_the_client(waiting: bool) -> None:
    seen: list[tuple[Command, int]] = []

    def look(session: object, command: Command, message: MessageView) -> Edit:
        seen.append((command, message.octets))
        return Edit([("X-Tag", "1")])

    async def later(session: object, command: Command, message: MessageView) -> Any:
        seen.append((command, message.octets))

    rig = rig_with(plugin(on_message=later if waiting else look, open_body=lambda s, c: None if c == TOP else 1 // 0))
    rig.client(b"TOP 1 2\r\n").upstream(b"+OK\r\n" + MAIL + b".\r\n")
    if waiting:
        rig.returned(Edit([("X-Tag", "1")]))
    else:
        assert seen == [(TOP, len(MAIL) - 1)]
    assert rig.said() == b"+OK\r\nX-Tag: 1\r\na: b\r\n\r\none\r\n..two\r\n.\r\n"


def test_promise_9_top_and_retr_show_the_same_header() -> None:
    def edit(header: Header) -> None:
        header.add("X-Tag", "1")

    rig = rig_with(plugin(growth=lambda *_: 100, open_body=lambda *_: HeaderFilter(edit, growth=100)))
    rig.client(b"RETR 1\r\nTOP 1 0\r\nTOP 1 9\r\n")
    message = b"+OK\r\n" + MAIL + b".\r\n"
    retr = rig.upstream(message).said()
    top = rig.upstream(message).said()
    huge = rig.upstream(message).said()
    assert huge == retr
    assert top == retr.partition(b"one")[0] + b".\r\n"


def test_a_replacement_is_cut_too() -> None:
    rig = rig_with(plugin(on_message=lambda *_: Replace(b"Subject: no\r\n\r\none\r\ntwo\r\n", octets=99)))
    rig.client(b"TOP 1 1\r\n").upstream(b"+OK\r\n" + MAIL + b".\r\n")
    assert rig.said() == b"+OK\r\nSubject: no\r\n\r\none\r\n.\r\n"


def test_a_refusal_is_one() -> None:
    rig = rig_with(plugin(on_message=lambda *_: Refuse("no"))).client(b"TOP 1 1\r\nNOOP\r\n")
    assert rig.upstream(b"+OK\r\n" + MAIL + b".\r\n+OK\r\n").said() == b"-ERR [SYS/PERM] no\r\n+OK\r\n"


def test_promise_2_the_upstream_is_lost_behind_the_lines_that_were_asked_for() -> None:
    rig = rig_with().client(b"TOP 1 1\r\n").upstream(b"+OK\r\n" + MAIL).lost()
    assert rig.said() == b"+OK\r\na: b\r\n\r\none\r\n"
    rig.ended("upstream_eof")


def test_a_negative_reply() -> None:
    assert rig_with().client(b"TOP 9 1\r\n").upstream(b"-ERR no such message\r\n").said() == b"-ERR no such message\r\n"


def test_with_a_maildrop_view() -> None:
    rig = rig_with(plugin(on_maildrop=lambda *_: Hide(frozenset({1})))).client(b"TOP 1 1\r\n")
    rig.upstream(b"+OK\r\n1 10\r\n2 20\r\n.\r\n").upstream(b"+OK\r\n1 a\r\n2 b\r\n.\r\n")
    assert rig.asked().endswith(b"RETR 2\r\n")
    assert rig.upstream(b"+OK\r\n" + MAIL + b".\r\n").said() == b"+OK\r\na: b\r\n\r\none\r\n.\r\n"


def test_last_is_what_the_upstream_says() -> None:
    rig = rig_with(opened=frozenset({b"LAST"})).client(b"TOP 1 0\r\nLAST\r\n")
    assert rig.asked() == b"RETR 1\r\nLAST\r\n"
    assert rig.upstream(b"+OK\r\n" + MAIL + b".\r\n+OK 1\r\n").said() == b"+OK\r\na: b\r\n\r\n.\r\n+OK 1\r\n"


def test_other_rewrites_of_top_are_not_cut() -> None:
    rig = Rig(plugin(on_command=lambda s, c: Rewrite(parse(b"TOP 1 9")) if c.name == "TOP" else None)).login()
    assert rig.client(b"TOP 1 0\r\n").upstream(b"+OK\r\n" + MAIL + b".\r\n").said() == b"+OK\r\n" + MAIL + b".\r\n"


def top(message: bytes, lines: int) -> bytes:
    """The same, simply."""
    end = re.search(rb"\n\r?\n", b"\n" + message)
    if end is None:
        return message
    header, body = message[: end.end() - 1], message[end.end() - 1 :]
    return header + b"".join(body.splitlines(keepends=True)[:lines])


WORDS = st.sampled_from([b"a: b\r\n", b"\r\n", b"\n", b"x", b"line\n", b".\r\n"])


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=12).map(b"".join), st.integers(0, 6), st.integers(1, 9))
def test_any_message_in_any_pieces(message: bytes, lines: int, size: int) -> None:
    cut = Cut(lines)
    out = b"".join(map(cut.feed, pieces(message, size))) + cut.finish()
    assert out == top(message, lines)
    assert cut.early() == b"" and not cut.through

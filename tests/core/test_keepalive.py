"""While on_message is awaited the client is kept alive, and whatever then happens, no half message looks whole."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from popproxy.api import BodyFilter, Edit, Fail, Header, HeaderFilter, Refuse, Replace
from popproxy.api.padding import padding
from popproxy.core.limits import Timeouts
from tests.core.rig import BROKEN, LOST, Rig, plugin

MAIL = b"+OK 23 octets\r\na: b\r\n\r\n..x\r\nlast line\r\n.\r\n"
HEAD = b"+OK 123 octets\r\n"
BODY = b"a: b\r\n\r\n..x\r\nlast line\r\n.\r\n"
FIRST = b"X-Popproxy-Padding: -"


async def waits(*_: object) -> Any: ...


def tag(header: Header) -> None:
    header.add("X-Tag", "1")


def scanning(fail: Fail = Fail.OPEN, edit: Any = tag, *more: Any, **given: Any) -> Rig:
    """A message waits for the verdict of the first plugin, which announced 100 octets."""
    scanner = plugin(
        fail, growth=lambda *_: 100, on_message=waits, open_body=lambda *_: HeaderFilter(edit, growth=100)
    )
    rig = Rig(scanner, *more, timeouts=Timeouts(keepalive=15, idle=40, command=20), **given).login()
    return rig.client(b"RETR 1\r\nNOOP\r\n").upstream(MAIL + b"+OK noop\r\n")


def test_the_beginning_of_the_padding_goes_out_octet_by_octet() -> None:
    rig = scanning()
    assert rig.said() == b"" and rig.s.deadline == rig.now + 15
    out = b""
    for beat in range(5):
        assert not rig.s.want_upstream
        rig.wait(14).wait(1)
        piece = rig.said()
        assert piece == (HEAD + FIRST if beat == 0 else b"-")
        out += piece
    rig.returned()
    out += rig.said()
    field = padding(100 - len(b"X-Tag: 1\r\n"))
    assert out == HEAD + field + b"X-Tag: 1\r\n" + BODY + b"+OK noop\r\n"
    assert rig.s.deadline == rig.now + 40


def test_the_idle_time_of_the_client_does_not_run_and_the_padding_never_runs_out() -> None:
    rig = scanning()
    for _ in range(100):
        rig.wait(15)
        assert not rig.closed
    assert len(rig.client_out) == len(HEAD) + 46
    rig.returned()
    assert rig.said() == HEAD + padding(90) + b"X-Tag: 1\r\n" + BODY + b"+OK noop\r\n"


def test_without_a_filter_there_is_nothing_to_say() -> None:
    rig = Rig(plugin(on_message=waits)).login().client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.s.deadline == inf
    rig.wait(1000).returned()
    assert rig.said() == MAIL
    silent = plugin(on_message=waits, open_body=lambda *_: HeaderFilter(tag))
    rig = Rig(silent).login().client(b"RETR 1\r\n").upstream(MAIL).wait(15).wait(15)
    assert rig.said() == b""
    assert rig.returned(Refuse("no")).said() == b"-ERR [SYS/PERM] no\r\n"


def test_a_filter_that_holds_keeps_those_of_others_back() -> None:
    """Or the padding of a plugin that only edits would turn the refusal of another one into a cut connection."""

    class Holds(HeaderFilter):
        holds = True

    scanner = plugin(growth=lambda *_: 100, on_message=waits, open_body=lambda *_: Holds(growth=100))
    other = plugin(growth=lambda *_: 60, open_body=lambda *_: HeaderFilter(growth=60))
    for plugins in ((scanner, other), (other, scanner)):
        rig = Rig(*plugins).login().client(b"RETR 1\r\n").upstream(MAIL).wait(15).wait(15)
        assert rig.said() == b""
        assert rig.returned(Refuse("no")).said() == b"-ERR [SYS/PERM] no\r\n"
        assert not rig.closed


def test_commands_of_the_client_do_not_put_it_off() -> None:
    rig = scanning().wait(10)
    rig.client(b"NOOP\r\n")
    assert rig.s.deadline == rig.now + 5
    assert rig.wait(5).said() == HEAD + FIRST


def test_a_client_that_takes_nothing_is_given_nothing() -> None:
    rig = scanning()
    rig.blocked(True)
    assert rig.s.deadline == rig.now + 40
    rig.blocked(False)
    assert rig.s.deadline == rig.now + 15
    rig.blocked(True).wait(40).ended("client_stalled")
    assert rig.said() == b""


# Verdicts behind it


def test_promise_2_a_refusal_behind_it_ends_the_connection() -> None:
    rig = scanning().wait(15)
    rig.returned(Refuse("virus", reason="eicar")).ended("policy")
    assert rig.said() == HEAD + FIRST
    assert rig.s.detail == "a message was refused when its beginning was out: eicar"


def test_a_refusal_before_it_is_an_answer() -> None:
    rig = scanning().wait(14).returned(Refuse("virus"))
    assert rig.said() == b"-ERR [SYS/PERM] virus\r\n+OK noop\r\n"


def test_promise_9_a_replacement_goes_on_behind_it() -> None:
    rig = scanning().wait(15).wait(15).returned(Replace(b"Subject: no\r\n\r\n.gone", octets=23))
    replaced = b"X-Tag: 1\r\nSubject: no\r\n\r\n..gone \r\n"
    assert rig.said() == HEAD + padding(90) + replaced + b".\r\n+OK noop\r\n"
    assert len(padding(90) + replaced) - 1 == 123


def test_promise_9_an_edit_goes_on_behind_it() -> None:
    rig = scanning().wait(15).returned(Edit([("X-Edit", "y")]))
    assert rig.said() == HEAD + padding(79) + b"X-Tag: 1\r\nX-Edit: y\r\n" + BODY + b"+OK noop\r\n"


@pytest.mark.parametrize("error", [TimeoutError(), ValueError("no")])
def test_promise_7_the_hook_fails_behind_it(error: Exception) -> None:
    rig = scanning().wait(15).raised(error)
    assert rig.said() == HEAD + padding(90) + b"X-Tag: 1\r\n" + BODY + b"+OK noop\r\n"
    rig = scanning(Fail.CLOSED).wait(15).raised(error)
    rig.ended("policy")
    assert rig.said() == HEAD + FIRST
    rig = scanning(Fail.CLOSED).raised(error)
    assert rig.said() == BROKEN + b"+OK noop\r\n"


def broken(header: Header) -> None:
    raise ValueError("broken")


def test_promise_9_the_filter_fails_behind_it() -> None:
    rig = scanning(Fail.OPEN, broken).wait(15).wait(15).returned()
    assert rig.said() == HEAD + padding(100) + BODY + b"+OK noop\r\n"
    rig = scanning(Fail.CLOSED, broken).wait(15).returned()
    rig.ended("policy")
    assert rig.said() == HEAD + FIRST


# Who speaks first


def test_the_outermost_filter_speaks() -> None:
    outer = plugin(growth=lambda *_: 64)
    rig = Rig(
        outer,
        plugin(growth=lambda *_: 100, on_message=waits, open_body=lambda *_: HeaderFilter(tag, growth=100)),
        timeouts=Timeouts(keepalive=15),
    ).login()
    rig.client(b"RETR 1\r\n").upstream(MAIL).wait(15).wait(15).returned()
    assert rig.said() == b"+OK 187 octets\r\n" + padding(64) + padding(90) + b"X-Tag: 1\r\n" + BODY


class Says(BodyFilter):
    """Something, as early as it can."""

    def __init__(self, *words: Any) -> None:
        self.words = list(words)

    def early(self) -> Any:
        return self.words.pop(0) if self.words else b""


class Upper(BodyFilter):
    def feed(self, chunk: bytes) -> bytes:
        return chunk.upper()


def test_what_an_inner_filter_says_passes_the_outer_ones() -> None:
    rig = Rig(
        plugin(on_message=waits, open_body=lambda *_: Upper()),
        plugin(open_body=lambda *_: Says(b"b: c\r\n", b".x: y\r\n")),
        timeouts=Timeouts(keepalive=15),
    ).login()
    rig.client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.wait(15).said() == b"+OK 23 octets\r\nB: C\r\n"
    assert rig.wait(15).said() == b"..X: Y\r\n"
    assert rig.wait(15).said() == b""
    assert rig.returned().said() == BODY.upper()


def test_an_outer_filter_that_holds_it_is_no_hurdle() -> None:
    rig = Rig(
        plugin(on_message=waits, open_body=lambda *_: HeaderFilter(tag)),
        plugin(open_body=lambda *_: Says(b"b: c\r\n")),
        timeouts=Timeouts(keepalive=15),
    ).login()
    rig.client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.wait(15).said() == b""
    assert rig.returned().said() == b"+OK 23 octets\r\nX-Tag: 1\r\nb: c\r\n" + BODY


@pytest.mark.parametrize("word", [None, "text", 5])
def test_promise_7_early_lies(word: Any) -> None:
    rig = Rig(plugin(on_message=waits, open_body=lambda *_: Says(word)), timeouts=Timeouts(keepalive=15)).login()
    rig.client(b"RETR 1\r\n").upstream(MAIL).wait(15).returned()
    assert rig.said() == MAIL
    assert rig.meter.errors == [("p1", "open_body", "fail_open")]
    closed = plugin(Fail.CLOSED, on_message=waits, open_body=lambda *_: Says(word))
    rig = Rig(closed, timeouts=Timeouts(keepalive=15)).login()
    rig.client(b"RETR 1\r\nNOOP\r\n").upstream(MAIL + b"+OK noop\r\n").wait(15).wait(15)
    assert rig.said() == b""
    assert rig.returned().said() == BROKEN + b"+OK noop\r\n"


def test_promise_2_a_filter_that_fails_behind_words_of_its_own() -> None:
    class Fails(Says):
        def feed(self, chunk: bytes) -> bytes:
            raise ValueError

    fails = plugin(on_message=waits, open_body=lambda *_: Fails(b"b: c\r\n"))
    rig = Rig(fails, timeouts=Timeouts(keepalive=15)).login()
    rig.client(b"RETR 1\r\n").upstream(MAIL).wait(15).returned()
    rig.ended("policy")
    assert rig.said() == b"+OK 23 octets\r\nb: c\r\n"


# Who leaves


def test_the_upstream_leaves_meanwhile() -> None:
    rig = scanning().wait(15).lost().wait(15).returned()
    assert rig.said() == HEAD + padding(90) + b"X-Tag: 1\r\n" + BODY + b"+OK noop\r\n"
    rig.ended("upstream_eof")
    assert LOST not in rig.all_client


@pytest.mark.parametrize("event", ["gone", "eof"])
def test_the_client_leaves_meanwhile(event: str) -> None:
    rig = scanning().wait(15)
    if event == "gone":
        rig.s.client_gone()
        rig.drain().ended("client_reset")
        assert rig.returned(Refuse("no")).said() == HEAD + FIRST
    else:
        rig.eof().wait(15).returned()
        assert rig.said() == HEAD + padding(90) + b"X-Tag: 1\r\n" + BODY + b"+OK noop\r\n"
        rig.ended("client_eof")


def test_two_hooks_wait_one_behind_the_other() -> None:
    rig = scanning(Fail.OPEN, tag, plugin(on_message=waits)).wait(15).returned()
    assert not rig.closed and rig.s.deadline == rig.now + 15
    assert rig.wait(15).said() == HEAD + FIRST + b"-"
    assert rig.returned().said().endswith(BODY + b"+OK noop\r\n")

"""Replies that somebody looks at: on_reply, open_body and CAPA, however the octets are cut."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from popproxy.api import (
    Answer,
    BodyFilter,
    Capabilities,
    Code,
    Command,
    Fail,
    Refuse,
    ReplyView,
    SessionView,
)
from popproxy.core.careful import terminator_begun
from popproxy.core.effects import Await
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits
from tests.core.rig import BROKEN, LOST, Rig, pieces, plugin

MAIL = b"+OK here\r\na: b\r\n\r\n..x\r\nlast\r\n.\r\n"


async def waits(session: SessionView, command: Command, reply: ReplyView) -> Any: ...


class Same(BodyFilter):
    """Changes nothing and never steps aside."""


class Sees(BodyFilter):
    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        self.chunks.append(chunk)
        return chunk


def replies(verdict: Any, name: str = "") -> Any:
    return lambda session, command, reply: verdict if name in ("", command.name) else None


# The terminator


@pytest.mark.parametrize(
    ("before", "chunk", "keep"),
    [
        (b"\r\n", b".", 1), (b"\r\n", b".\r", 2), (b"xx", b".", 0), (b"xx", b"\r\n.", 1), (b"xx", b"\r\n.\r", 2),
        (b"x\r", b"\n.", 1), (b"x\r", b"\n.\r", 2), (b"\r\n", b"", 0), (b"xx", b"", 0), (b"\r\n", b"..", 0),
        (b"\r\n", b".x", 0), (b"xx", b"\n.", 0), (b"xx", b"\r.", 0), (b"\r\n", b"a\r\n.", 1), (b"xx", b".\r", 0),
    ],
)  # fmt: skip
def test_what_may_be_the_beginning_of_the_terminator(before: bytes, chunk: bytes, keep: int) -> None:
    assert terminator_begun(before, chunk) == keep


def test_edge_02_edge_03_a_filtered_message_cut_everywhere() -> None:
    for first in range(len(MAIL) + 1):
        for second in (first, first + 1, first + 2, first + 3):
            sees = Sees()
            rig = Rig(plugin(open_body=lambda session, command, sees=sees: sees)).login().client(b"RETR 1\r\nNOOP\r\n")
            data = MAIL + b"+OK\r\n"
            for piece in (data[:first], data[first:second], data[second:]):
                rig.upstream(piece)
            assert rig.said() == data
            assert b"".join(sees.chunks) == b"a: b\r\n\r\n.x\r\nlast\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    "body",
    [b".\r\n", b"\r\n.\r\n", b"..\r\n.\r\n", b"x\r.\r\n\r\n.\r\n", b"\r\r\n.\r\n", b"\n.\r\n\r\n.\r\n"],
)
def test_odd_bodies_through_a_filter(body: bytes, size: int) -> None:
    rig = Rig(plugin(open_body=lambda *_: Same())).login().client(b"TOP 1 0\r\nNOOP\r\n")
    for piece in pieces(b"+OK\r\n" + body + b"+OK\r\n", size):
        rig.upstream(piece)
    assert rig.said() == b"+OK\r\n" + body + b"+OK\r\n"


# on_reply


def test_on_reply_sees_the_line_and_may_answer() -> None:
    seen: list[Any] = []

    def on_reply(session: SessionView, command: Command, reply: ReplyView) -> Any:
        seen.append((command.name, reply))
        return {"STAT": Answer(True, "0 0"), "DELE": Answer(False, "no", Code.SYS_PERM)}.get(command.name)

    rig = Rig(plugin(on_reply=on_reply)).login().client(b"STAT\r\nDELE 1\r\nNOOP\r\nRSET\r\n")
    rig.upstream(b"+OK 1 2\r\n+OK\r\n-ERR [SYS/TEMP] x\r\n+OK \xff\r\n")
    assert rig.said() == b"+OK 0 0\r\n-ERR [SYS/PERM] no\r\n-ERR [SYS/TEMP] x\r\n+OK \xff\r\n"
    assert seen == [
        ("STAT", ReplyView(True, None, b"1 2")),
        ("DELE", ReplyView(True, None, b"")),
        ("NOOP", ReplyView(False, "SYS/TEMP", b"x")),
        ("RSET", ReplyView(True, None, b"\xff")),
    ]
    assert rig.meter.outcomes()["DELE", "err"] == 1


def test_an_answer_to_a_multi_line_reply_swallows_what_follows() -> None:
    rig = Rig(plugin(on_reply=replies(Answer(True, "mine", body=b"x"), "LIST"))).login()
    for size in (1, 1000):
        rig.client(b"LIST\r\nNOOP\r\n")
        for piece in pieces(b"+OK\r\n1 2\r\n2 3\r\n.\r\n+OK noop\r\n", size):
            rig.upstream(piece)
        assert rig.said() == b"+OK mine\r\nx\r\n.\r\n+OK noop\r\n"
    rig = Rig(plugin(on_reply=replies(Answer(False, "no")))).login().client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.said() == b"-ERR no\r\n"
    rig.client(b"RETR 1\r\n").upstream(b"-ERR\r\n")
    assert rig.said() == b"-ERR no\r\n"


def test_an_answer_may_make_a_listing_of_an_error() -> None:
    rig = Rig(plugin(on_reply=replies(Answer(True, body=b"1 2\r\n")))).login().client(b"LIST\r\n").upstream(b"-ERR\r\n")
    assert rig.said() == b"+OK\r\n1 2\r\n.\r\n"


def test_an_answer_was_given_and_the_upstream_is_lost() -> None:
    rig = Rig(plugin(on_reply=replies(Answer(False, "no")))).login().client(b"RETR 1\r\n").upstream(b"+OK\r\nx").lost()
    assert rig.said() == b"-ERR no\r\n", "it was answered already"
    rig.ended("upstream_eof")


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("how", ["raise", "lie", "body", "late", "async raise", "async lie"])
@pytest.mark.parametrize("line", [b"NOOP\r\n", b"LIST\r\n"])
def test_promise_7_on_reply_fails(fail: Fail, how: str, line: bytes) -> None:
    def on_reply(session: SessionView, command: Command, reply: ReplyView) -> Any:
        if how == "raise":
            raise ValueError("no")
        return Answer(True) if how == "body" else Refuse()

    if how == "body" and line == b"NOOP\r\n":
        return
    waiting = how in ("late", "async raise", "async lie")
    rig = Rig(plugin(fail, on_reply=waits if waiting else on_reply)).login().client(line + b"NOOP\r\n")
    reply = b"+OK\r\n1 2\r\n.\r\n" if line == b"LIST\r\n" else b"+OK\r\n"
    rig.upstream(reply)
    if waiting:
        assert rig.said() == b""
        assert rig.s.deadline == inf
        if how == "async lie":
            rig.returned(5)
        else:
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else reply)
    assert rig.meter.errors == [("p1", "on_reply", f"fail_{fail.value}")]
    rig.upstream(b"+OK\r\n")
    if waiting:
        rig.returned()
    assert not rig.closed


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_promise_1_on_reply_to_quit_cannot_undo_it(fail: Fail) -> None:
    rig = Rig(plugin(fail, on_reply=replies(5))).login().client(b"QUIT\r\n").upstream(b"+OK bye\r\n")
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else b"+OK bye\r\n")
    rig.ended("quit")
    rig = Rig(plugin(on_reply=replies(Answer(True, "gone")))).login().client(b"QUIT\r\n").upstream(b"+OK bye\r\n")
    assert rig.said() == b"+OK gone\r\n"
    rig.ended("quit")


def test_the_invitation_to_upload_cannot_be_answered_otherwise() -> None:
    rig = Rig(plugin(on_reply=replies(Answer(False, "no"))), opened=frozenset({b"XTND XMIT"})).login()
    rig.client(b"XTND XMIT\r\n").upstream(b"+OK go\r\n").client(b"x\r\n.\r\n").upstream(b"+OK\r\n")
    assert rig.said() == b"+OK go\r\n+OK\r\n"
    rig.client(b"XTND XMIT\r\n").upstream(b"-ERR later\r\n")
    assert rig.said() == b"-ERR no\r\n"


def test_async_on_reply_with_pipelined_commands_behind() -> None:
    rig = Rig(plugin(on_reply=waits)).login().client(b"NOOP\r\nRETR 1\r\nSTAT\r\n")
    rig.upstream(b"+OK 1\r\n" + MAIL + b"+OK 2\r\n")
    assert not rig.s.want_upstream
    assert rig.said() == b""
    rig.returned()
    assert rig.said() == b"+OK 1\r\n"
    assert not rig.s.want_upstream
    rig.client(b"RSET\r\n")
    assert rig.asked() == b"NOOP\r\nRETR 1\r\nSTAT\r\nRSET\r\n"
    rig.returned()
    assert rig.said() == MAIL
    rig.returned()
    assert rig.said() == b"+OK 2\r\n"
    assert rig.s.want_upstream
    assert rig.s.deadline == rig.now + rig.plan.timeouts.command
    rig.upstream(b"+OK 3\r\n").returned()
    assert rig.said() == b"+OK 3\r\n"
    assert rig.s.deadline == rig.now + rig.plan.timeouts.idle


def test_async_on_reply_without_pipelining() -> None:
    rig = Rig(plugin(on_reply=waits), known=[]).login().client(b"NOOP\r\nSTAT\r\nFOO\r\n").upstream(b"+OK 1\r\n")
    assert rig.asked() == b"NOOP\r\n"
    rig.returned()
    assert rig.asked() == b"STAT\r\n"
    rig.upstream(b"+OK 2\r\n").returned()
    assert rig.said() == b"+OK 1\r\n+OK 2\r\n-ERR Unknown command\r\n"


def test_octets_that_come_while_a_hook_decides() -> None:
    rig = Rig(plugin(on_reply=waits)).login().client(b"LIST\r\n").upstream(b"+OK\r\n1")
    rig.upstream(b" 2\r\n.").upstream(b"\r\n")
    assert rig.said() == b""
    rig.returned()
    assert rig.said() == b"+OK\r\n1 2\r\n.\r\n"


def test_what_nobody_asked_for_is_seen_before_the_next_command_can_get_it() -> None:
    rig = Rig(plugin(on_reply=waits)).login().client(b"NOOP\r\n").upstream(b"+OK\r\n+OK unasked\r\n")
    rig.client(b"DELE 1\r\n").returned()
    assert rig.said() == b"+OK\r\n" + LOST
    rig.ended("upstream_error")
    rig = Rig(plugin(on_reply=waits)).login().client(b"NOOP\r\n").upstream(b"+OK\r\n").upstream(b"+OK unasked\r\n")
    rig.upstream(b"more").returned()
    assert rig.said() == b"+OK\r\n"
    rig.ended("upstream_error")
    assert rig.meter.violations == [("upstream", "unasked")]


@pytest.mark.parametrize("ended", [True, False])
def test_the_upstream_is_lost_while_a_hook_decides(ended: bool) -> None:
    rig = Rig(plugin(on_reply=waits)).login().client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(MAIL if ended else MAIL[:-3]).lost()
    assert not rig.closed
    rig.returned()
    assert rig.said() == (MAIL + LOST if ended else MAIL[:-3])
    rig.ended("upstream_eof")


def test_the_client_leaves_while_a_hook_decides() -> None:
    rig = Rig(plugin(on_reply=waits)).login().client(b"NOOP\r\n").upstream(b"+OK\r\n").eof()
    assert not rig.closed
    rig.returned().ended("client_eof")
    assert rig.said() == b"+OK\r\n"


# open_body


def test_open_body_is_for_messages_only() -> None:
    opened: list[str] = []

    def open_body(session: SessionView, command: Command) -> BodyFilter:
        opened.append(command.name)
        return Same()

    rig = Rig(plugin(open_body=open_body)).login()
    for line, reply in ((b"LIST", b"+OK\r\n.\r\n"), (b"RETR 1", b"-ERR\r\n"), (b"RETR 1", MAIL), (b"TOP 1 0", MAIL)):
        rig.client(line + b"\r\n").upstream(reply)
        assert rig.said() == reply
    assert opened == ["RETR", "TOP"]
    assert [verdict for _, _, verdict in rig.meter.calls] == ["modify", "modify"]


def test_a_plugin_may_leave_a_message_alone() -> None:
    rig = Rig(plugin(open_body=lambda *_: None)).login().client(b"RETR 1\r\n")
    chunk = b"+OK\r\nbody"
    rig.upstream(chunk)
    rig.s.upstream_data(data := b"more\r\n.\r\n")
    assert rig.s.to_client[0] is data
    assert rig.meter.calls == [("p1", "open_body", "pass")]


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("wrong", [ValueError("no"), SystemExit(1), "a lie"])
@pytest.mark.parametrize("size", [3, 1000])
def test_promise_7_open_body_fails(fail: Fail, wrong: Any, size: int) -> None:
    def open_body(session: SessionView, command: Command) -> Any:
        if isinstance(wrong, BaseException):
            raise wrong
        return wrong

    rig = Rig(plugin(open_body=lambda *_: Same()), plugin(fail, open_body=open_body)).login()
    rig.client(b"RETR 1\r\nNOOP\r\n")
    for piece in pieces(MAIL + b"+OK noop\r\n", size):
        rig.upstream(piece)
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else MAIL) + b"+OK noop\r\n"
    assert rig.meter.errors == [("p2", "open_body", f"fail_{fail.value}")]


class Fails(BodyFilter):
    """Raises at its ``at``-th call."""

    def __init__(self, at: int, out: bool) -> None:
        self.left = at
        self.out = out

    def feed(self, chunk: bytes) -> bytes:
        self.left -= 1
        if self.left == 0:
            raise ValueError("no")
        return chunk if self.out else b""

    def finish(self) -> bytes:
        return self.feed(b"")


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("out", [True, False])
def test_promise_7_a_body_filter_fails(fail: Fail, at: int, out: bool) -> None:
    rig = Rig(plugin(fail, open_body=lambda *_: Fails(at, out))).login().client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(b"+OK\r\n").upstream(b"one\r\n").upstream(b"two\r\n").upstream(b"three\r\n.\r\n")
    said = rig.said()
    if out and at > 1:
        rig.ended("policy")
        assert said == b"+OK\r\n" + b"".join([b"one\r\n", b"two\r\n", b"three\r\n"][: at - 1])
        assert not said.endswith(b".\r\n"), "promise 2"
        return
    assert said == (BROKEN if fail is Fail.CLOSED else b"+OK\r\none\r\ntwo\r\nthree\r\n.\r\n")
    rig.upstream(b"+OK noop\r\n")
    assert rig.said() == b"+OK noop\r\n"


def test_a_filter_that_fails_at_the_end_of_a_message_in_one_piece() -> None:
    rig = Rig(plugin(Fail.CLOSED, open_body=lambda *_: Fails(2, False))).login().client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(b"+OK\r\none\r\n.\r\n+OK noop\r\n")
    assert rig.said() == BROKEN + b"+OK noop\r\n"
    rig = Rig(plugin(Fail.CLOSED, open_body=lambda *_: Fails(2, True))).login().client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(b"+OK\r\none\r\n.\r\n+OK noop\r\n").ended("policy")
    assert rig.said() == b"+OK\r\none\r\n"


def test_promise_2_the_upstream_is_lost_in_a_filtered_message() -> None:
    class Holds(BodyFilter):
        def feed(self, chunk: bytes) -> bytes:
            return b""

    rig = Rig(plugin(open_body=lambda *_: Holds())).login().client(b"RETR 1\r\n").upstream(b"+OK\r\nhalf").lost()
    assert rig.said() == LOST, "nothing is out, so an error may still be told"
    rig = Rig(plugin(open_body=lambda *_: Same())).login().client(b"RETR 1\r\n").upstream(b"+OK\r\nhalf").lost()
    assert rig.said() == b"+OK\r\nhalf"


def test_filters_run_in_reverse() -> None:
    class Adds(BodyFilter):
        def __init__(self, name: bytes) -> None:
            self.name = name

        def finish(self) -> bytes:
            return self.name

    rig = Rig(plugin(open_body=lambda *_: Adds(b"1")), plugin(open_body=lambda *_: Adds(b"2"))).login()
    rig.client(b"RETR 1\r\n").upstream(b"+OK\r\nx\r\n.\r\n")
    assert rig.said() == b"+OK\r\nx\r\n21\r\n.\r\n"


# CAPA behind the login

CAPA = b"+OK\r\nTOP\r\nX-FOO\r\nSTLS\r\nPIPELINING\r\n.\r\n"
SHOWN = b"\r\n".join(
    [b"+OK Capability list follows", b"TOP", b"PIPELINING", b"RESP-CODES", b"AUTH-RESP-CODE", b"USER",
     b"SASL PLAIN LOGIN", b".", b""]
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_capa_is_the_intersection(size: int) -> None:
    rig = Rig().login().client(b"NOOP\r\nCAPA\r\nSTAT\r\nCAPA\r\n")
    for piece in pieces(b"+OK 1\r\n" + CAPA + b"+OK 2\r\n" + b"-ERR\r\n", size):
        rig.upstream(piece)
    assert rig.said() == b"+OK 1\r\n" + SHOWN + b"+OK 2\r\n" + SHOWN.replace(b"TOP\r\nPIPELINING\r\n", b"")
    assert rig.meter.outcomes()["CAPA", "ok"] == 2


def test_an_endless_capa() -> None:
    rig = Rig(limits=Limits(listing=30)).login().client(b"CAPA\r\n").upstream(b"+OK\r\n" + b"x" * 31)
    assert rig.said() == LOST
    rig.ended("upstream_error")
    assert rig.s.detail.startswith("overlong")


def test_capa_and_the_upstream_is_lost() -> None:
    rig = Rig().login().client(b"CAPA\r\n").upstream(b"+OK\r\nTOP\r\n").lost(Failure(Kind.RESET))
    assert rig.said() == LOST


async def looks(session: SessionView, capabilities: Capabilities) -> Any: ...


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("how", ["raise", "lie", "late", "async lie"])
def test_promise_7_on_capabilities_fails_behind_the_login(fail: Fail, how: str) -> None:
    def sync(session: SessionView, capabilities: Capabilities) -> Any:
        if how == "raise":
            raise ValueError("no")
        return 5

    waiting = how in ("late", "async lie")
    rig = Rig(plugin(fail, on_capabilities=looks if waiting else sync)).login().client(b"CAPA\r\nNOOP\r\n")
    rig.upstream(CAPA + b"+OK noop\r\n")
    if waiting:
        assert rig.said() == b""
        assert rig.s.deadline == inf
        assert not rig.s.want_upstream
        if how == "late":
            rig.raised(TimeoutError())
        else:
            rig.returned(5)
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else SHOWN) + b"+OK noop\r\n"
    assert rig.s.want_upstream


def test_a_plugin_may_change_the_list() -> None:
    rig = Rig(plugin(on_capabilities=looks)).login().client(b"CAPA\r\n").upstream(CAPA)
    rig.returned(Capabilities([(b"X", ())]))
    assert rig.said() == b"+OK Capability list follows\r\nX\r\n.\r\n"
    assert not rig.pending(Await)


def test_an_own_reply_behind_a_filtered_message() -> None:
    rig = Rig(plugin(open_body=lambda *_: Same())).login().client(b"RETR 1\r\nFOO\r\nCAPA\r\nFOO\r\nNOOP\r\n")
    rig.upstream(MAIL + CAPA + b"+OK noop\r\n")
    unknown = b"-ERR Unknown command\r\n"
    assert rig.said() == MAIL + unknown + SHOWN + unknown + b"+OK noop\r\n"


def test_an_async_on_reply_to_quit() -> None:
    rig = Rig(plugin(on_reply=waits)).login().client(b"QUIT\r\n").upstream(b"+OK bye\r\n").lost()
    assert rig.said() == b""
    rig.returned().ended("quit")
    assert rig.said() == b"+OK bye\r\n"

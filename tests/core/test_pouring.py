"""on_message: the message is spooled, judged and poured out, however large and whoever fails."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from popproxy.api import BodyFilter, Command, Edit, Fail, HeaderFilter, MessageView, Refuse, Replace, SessionView
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.spool import MemorySpool
from tests.core.rig import BROKEN, LOST, Rig, pieces, plugin

MAIL = b"+OK here\r\na: b\r\n\r\n..x\r\nlast\r\n.\r\n"
TAGGED = MAIL.replace(b"a: b", b"X-Tag: 1\r\na: b")


async def waits(session: SessionView, command: Command, message: MessageView) -> Any: ...


def tag(session: SessionView, command: Command, message: MessageView) -> Edit:
    return Edit([("X-Tag", "1")])


class Kept(MemorySpool):
    """A spool that tells whether it was given back, and fails when it is told to."""

    made: list[Kept] = []  # noqa: RUF012
    fails = ""

    def __init__(self, memory: int = 0) -> None:
        super().__init__(memory)
        if self.fails == "make":
            raise OSError(24, "Too many open files")
        self.closed = False
        self.writes = 0
        self.memory = memory
        Kept.made.append(self)

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes += 1
        if self.fails == "write" or self.fails == f"write {self.writes}":
            raise OSError(28, "No space left on device")
        super().write(data)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        for place, chunk in enumerate(super().chunks(start)):
            if self.fails == f"read {place}":
                raise OSError(5, "Input/output error")
            yield chunk

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture(autouse=True)
def spools() -> Iterator[list[Kept]]:
    Kept.made = []
    Kept.fails = ""
    yield Kept.made
    assert all(spool.closed for spool in Kept.made), "a spool was not given back"


def rig_with(*plugins: Any, **given: Any) -> Rig:
    return Rig(*plugins, **{"spool": Kept, **given}).login()


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("command", [b"RETR 1\r\n", b"TOP 1 0\r\n"])
def test_a_message_is_judged_and_goes_out(size: int, command: bytes, spools: list[Kept]) -> None:
    rig = rig_with(plugin(on_message=tag)).client(command + b"NOOP\r\n")
    for piece in pieces(MAIL + b"+OK noop\r\n", size):
        rig.upstream(piece)
    assert rig.said() == TAGGED + b"+OK noop\r\n"
    assert rig.s.want_upstream
    assert spools[0].memory == rig.plan.limits.message_memory
    rig.s.client_gone()


def test_nothing_goes_out_before_the_verdict() -> None:
    rig = rig_with(plugin(on_message=waits)).client(b"RETR 1\r\n").upstream(MAIL[:-1])
    assert rig.said() == b""
    rig.upstream(MAIL[-1:])
    assert rig.said() == b""
    assert rig.s.deadline == inf
    assert not rig.s.want_upstream
    rig.returned()
    assert rig.said() == MAIL
    assert rig.s.want_upstream
    assert rig.s.deadline == rig.now + rig.plan.timeouts.idle


@pytest.mark.parametrize(
    ("verdict", "reply"),
    [
        (None, MAIL),
        (Edit([("X-Tag", "1")]), TAGGED),
        (Replace(b"new\r\n.x"), b"+OK here\r\nnew\r\n..x\r\n.\r\n"),
        (Refuse("virus", None, "eicar"), b"-ERR virus\r\n"),
    ],
)
@pytest.mark.parametrize("waiting", [False, True])
def test_verdicts(verdict: Any, reply: bytes, waiting: bool) -> None:
    rig = rig_with(plugin(on_message=waits if waiting else lambda *_: verdict)).client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(MAIL + b"+OK noop\r\n")
    if waiting:
        rig.client(b"STAT\r\n").returned(verdict)
    assert rig.said() == reply + b"+OK noop\r\n"
    assert rig.asked() == b"RETR 1\r\nNOOP\r\n" + (b"STAT\r\n" if waiting else b"")


def test_two_plugins_and_a_filter() -> None:
    class Upper(BodyFilter):
        def feed(self, chunk: bytes) -> bytes:
            return chunk.upper()

    seen: list[bytes] = []

    def look(session: SessionView, command: Command, message: MessageView) -> Edit:
        seen.append(message.header)
        return Edit([("b", "2")])

    rig = rig_with(plugin(on_message=tag), plugin(on_message=look, open_body=lambda *_: Upper()))
    rig.client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.said() == b"+OK here\r\n" + b"b: 2\r\nX-Tag: 1\r\na: b\r\n\r\n..x\r\nlast\r\n".upper() + b".\r\n"
    assert seen == [b"a: b\r\n\r\n"]


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("how", ["raise", "lie", "edit", "late", "async raise", "async edit"])
def test_promise_7_on_message_fails(fail: Fail, how: str) -> None:
    wrong = Edit(remove=["\ud800"])

    def sync(session: SessionView, command: Command, message: MessageView) -> Any:
        if how == "raise":
            raise ValueError("no")
        return wrong if how == "edit" else 5

    waiting = how in ("late", "async raise", "async edit")
    rig = rig_with(plugin(fail, on_message=waits if waiting else sync)).client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(MAIL + b"+OK noop\r\n")
    if waiting:
        if how == "async edit":
            rig.returned(wrong)
        else:
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else MAIL) + b"+OK noop\r\n"
    assert rig.meter.errors == [("p1", "on_message", f"fail_{fail.value}")]


# Too large


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("limit", [0, 3, 16])
def test_too_large_passes_unseen_or_is_refused(size: int, fail: Fail, limit: int) -> None:
    def on_message(*_: object) -> None:
        pytest.fail("it was shown")

    rig = rig_with(
        plugin(fail, on_message=lambda session, command, message: on_message()), limits=Limits(message_size=limit)
    )
    rig.client(b"RETR 1\r\nNOOP\r\n")
    for piece in pieces(MAIL + b"+OK noop\r\n", size):
        rig.upstream(piece)
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else MAIL) + b"+OK noop\r\n"
    assert rig.meter.errors == [("p1", "on_message", f"fail_{fail.value}")]
    rig.s.client_gone()


def test_the_largest_message_that_is_seen() -> None:
    rig = rig_with(plugin(on_message=tag), limits=Limits(message_size=17)).client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.said() == MAIL
    rig = rig_with(plugin(on_message=tag), limits=Limits(message_size=18)).client(b"RETR 1\r\n").upstream(MAIL)
    assert rig.said() == TAGGED


def test_promise_2_a_message_too_large_and_the_upstream_is_lost() -> None:
    rig = rig_with(plugin(on_message=tag), limits=Limits(message_size=3)).client(b"RETR 1\r\n").upstream(MAIL[:-4])
    rig.lost().ended("upstream_eof")
    assert rig.said() == MAIL[:-4]


def test_a_message_is_in_the_spool_and_the_upstream_is_lost() -> None:
    rig = rig_with(plugin(on_message=tag)).client(b"RETR 1\r\n").upstream(MAIL[:-4]).lost()
    assert rig.said() == LOST
    rig = rig_with(plugin(on_message=waits)).client(b"RETR 1\r\n").upstream(MAIL).lost().returned()
    assert rig.said() == MAIL, "it had come whole"
    rig.ended("upstream_eof")


# Out, piece by piece

BIG = b"a: b\r\n\r\n" + b"x" * 300_000 + b"\r\n"


def test_a_large_message_goes_out_as_the_client_takes_it() -> None:
    times = Timeouts(idle=50, command=5)
    rig = rig_with(plugin(on_message=tag), eager=False, timeouts=times).client(b"RETR 1\r\nNOOP\r\n")
    rig.upstream(b"+OK\r\n" + BIG + b".\r\n+OK noop\r\n")
    out = b""
    count = 0
    while rig.s.pulling:
        assert not rig.s.want_upstream
        assert rig.s.deadline == rig.now + 50, "the client's time counts"
        rig.now += 40
        rig.s.drained()
        rig.drain()
        piece = rig.said()
        assert len(piece) <= 65536 + 100
        out += piece
        count += 1
    assert out == b"+OK\r\nX-Tag: 1\r\n" + BIG + b".\r\n+OK noop\r\n"
    assert count > 5
    assert rig.s.want_upstream


def test_a_client_that_takes_no_more_of_a_large_message() -> None:
    rig = rig_with(plugin(on_message=tag), eager=False).client(b"RETR 1\r\n").upstream(b"+OK\r\n" + BIG + b".\r\n")
    rig.s.drained()
    rig.drain().blocked(True).wait(rig.plan.timeouts.idle).ended("client_stalled")
    assert not rig.said().endswith(b".\r\n"), "promise 2"


def test_replies_and_losses_wait_for_a_large_message() -> None:
    rig = rig_with(plugin(on_message=tag), eager=False).client(b"RETR 1\r\nNOOP\r\nSTAT\r\n")
    rig.upstream(b"+OK\r\n" + BIG + b".\r\n+OK noop\r\n").lost()
    assert not rig.closed
    rig.eager = True
    rig.drain().ended("upstream_eof")
    assert rig.said() == b"+OK\r\nX-Tag: 1\r\n" + BIG + b".\r\n+OK noop\r\n" + LOST


def test_unasked_octets_behind_a_large_message() -> None:
    rig = rig_with(plugin(on_message=tag), eager=False).client(b"RETR 1\r\n")
    rig.upstream(b"+OK\r\n" + BIG + b".\r\n+OK unasked\r\n").client(b"DELE 1\r\n")
    rig.eager = True
    rig.drain().ended("upstream_error")
    assert rig.said().endswith(b"x\r\n.\r\n" + LOST)
    assert b"unasked" not in rig.all_client


@pytest.mark.parametrize("event", ["gone", "quit", "eof"])
def test_the_client_leaves_a_large_message(event: str) -> None:
    rig = rig_with(plugin(on_message=tag), eager=False).client(b"RETR 1\r\n").upstream(b"+OK\r\n" + BIG + b".\r\n")
    if event == "gone":
        rig.s.client_gone()
        rig.drain().ended("client_reset")
        return
    rig.client(b"QUIT\r\n")
    if event == "eof":
        rig.eof()
    rig.eager = True
    rig.drain().upstream(b"+OK bye\r\n").ended("quit")
    assert rig.said().endswith(b"x\r\n.\r\n+OK bye\r\n")


# The spool, or a filter, fails


@pytest.mark.parametrize("fails", ["make", "write"])
@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("size", [4, 1000])
def test_no_room_for_a_message_is_an_error_and_never_half_a_message(fails: str, fail: Fail, size: int) -> None:
    Kept.fails = fails
    rig = rig_with(plugin(fail, on_message=tag)).client(b"RETR 1\r\nNOOP\r\n")
    for piece in pieces(MAIL + b"+OK noop\r\n", size):
        rig.upstream(piece)
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else MAIL) + b"+OK noop\r\n"
    assert rig.meter.errors == [("p1", "on_message", f"fail_{fail.value}")]
    told = "the message cannot be spooled: " + ("Too many open files" if fails == "make" else "No space left on device")
    assert rig.notes("plugin_error")[0]["detail"] == told


@pytest.mark.parametrize("at", range(1, 12))
@pytest.mark.parametrize("size", [3, 7, 1000])
def test_promise_9_a_disk_that_is_full_in_the_middle_loses_nothing(at: int, size: int) -> None:
    grows = plugin(
        on_message=tag, growth=lambda *_: 100, open_body=lambda *_: HeaderFilter(lambda h: h.add("X", "y"), growth=100)
    )
    for fail in Fail:
        Kept.fails = f"write {at}"
        rig = rig_with(grows, fail=fail).client(b"RETR 1\r\nNOOP\r\n")
        for piece in pieces(MAIL + b"+OK noop\r\n", size):
            rig.upstream(piece)
        said = rig.said()
        failed = Kept.made[-1].writes >= at
        assert rig.meter.errors == ([("p1", "on_message", f"fail_{fail.value}")] if failed else [])
        if failed and fail is Fail.CLOSED:
            assert said == BROKEN + b"+OK noop\r\n"
        else:
            assert len(said) == len(MAIL) + 100 + len(b"+OK noop\r\n")
            assert said.endswith(MAIL[MAIL.index(b"a: b") :] + b"+OK noop\r\n")
            assert (b"X-Tag" in said) is not failed and b"X: y\r\n" in said
        rig.s.client_gone()


def test_promise_7_a_spool_that_cannot_be_read_when_an_edit_is_made() -> None:
    Kept.fails = "read 0"
    rig = rig_with(plugin(on_message=tag)).client(b"RETR 1\r\nNOOP\r\n").upstream(MAIL + b"+OK noop\r\n")
    assert rig.said() == BROKEN + b"+OK noop\r\n"
    assert "the spool cannot be read: Input/output error" in str(rig.notes("plugin_error")[0]["detail"])


def test_a_spool_that_cannot_be_read() -> None:
    Kept.fails = "read 0"
    rig = rig_with(plugin(on_message=lambda *_: None)).client(b"RETR 1\r\nNOOP\r\n").upstream(MAIL + b"+OK noop\r\n")
    assert rig.said() == BROKEN + b"+OK noop\r\n"


def test_promise_2_a_spool_that_cannot_be_read_to_its_end() -> None:
    Kept.fails = "read 2"
    rig = rig_with(plugin(on_message=lambda *_: None)).client(b"RETR 1\r\n").upstream(b"+OK\r\n" + BIG + b".\r\n")
    rig.ended("policy")
    assert rig.said() == b"+OK\r\n" + BIG[: 2 * 65536]
    assert rig.s.detail == "the spool failed in the middle of a message"


class Fails(BodyFilter):
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


@pytest.mark.parametrize("limit", [1 << 20, 3])
def test_a_filter_fails_behind_the_spool(limit: int) -> None:
    replies: list[bytes] = []
    for at in range(1, 8):
        fails = plugin(Fail.CLOSED, open_body=lambda *_, at=at: Fails(at, False))
        rig = rig_with(plugin(on_message=lambda *_: None), fails, limits=Limits(message_size=limit))
        rig.client(b"RETR 1\r\nNOOP\r\n")
        for piece in pieces(MAIL + b"+OK noop\r\n", 5):
            rig.upstream(piece)
        assert not rig.closed
        replies.append(rig.said())
    whole = b"+OK here\r\n.\r\n+OK noop\r\n"
    calls = replies.index(whole)
    assert calls >= 2
    assert replies == [BROKEN + b"+OK noop\r\n"] * calls + [whole] * (7 - calls)


def test_promise_2_a_filter_fails_in_a_large_message_behind_the_spool() -> None:
    made = plugin(on_message=lambda *_: None, open_body=lambda *_: Fails(6, True))
    rig = rig_with(made).client(b"RETR 1\r\n").upstream(b"+OK\r\n" + BIG + b".\r\n")
    rig.ended("policy")
    assert not rig.said().endswith(b".\r\n")
    assert rig.s.detail == "plugin p1 failed in the middle of a message"


def test_pouring_nothing_is_nothing() -> None:
    rig = rig_with(plugin(on_message=tag))
    before = rig.all_client
    rig.s._stage.answers.pours.pour()  # type: ignore[attr-defined]
    rig.s.drained()
    assert rig.drain().all_client == before

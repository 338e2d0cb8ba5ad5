"""The client's commands on their way upstream: the fast road and the careful one say the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Answer, Command, SessionView
from popproxy.core.effects import Await
from popproxy.core.flight import NUMBERED, WHOLE_LINES
from popproxy.core.limits import BURST, Limits, Timeouts
from popproxy.core.phases import Phase
from popproxy.core.transaction import Transaction
from popproxy.wire.commands import VERBS, Framing, Where, declared
from tests.core.rig import LOST, Rig, pieces, plugin

OPEN = frozenset(name for name, verb in VERBS.items() if verb.fenced)


async def waits(session: SessionView, command: Command) -> Any: ...


def stage(rig: Rig) -> Transaction:
    found = rig.s._stage
    assert isinstance(found, Transaction)
    return found


def test_common_lines_leave_as_the_very_same_object() -> None:
    rig = Rig().login()
    data = b"NOOP\r\nSTAT\r\nRETR 12\r\ndele 3\r\nLIST\r\nuidl 4\r\nRSET\r\n"
    rig.s.client_data(data)
    assert len(rig.s.to_upstream) == 1
    assert rig.s.to_upstream[0] is data


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_mixed_lines_go_in_order_however_they_are_cut(size: int) -> None:
    rig = Rig(opened=OPEN).login()
    sent = b"NOOP\r\nnOOp\r\nSTAT\r\nTOP 1  2\r\nFOO\r\nCAPA\r\nLAST\r\nLIST \r\nRETR 1\r\n"
    for piece in pieces(sent, size):
        rig.client(piece)
    assert rig.asked() == b"NOOP\r\nNOOP\r\nSTAT\r\nTOP 1 2\r\nCAPA\r\nLAST\r\nLIST\r\nRETR 1\r\n"


@pytest.mark.parametrize("plain", [True, False])
def test_every_verb_of_the_table(plain: bool) -> None:
    hooks = () if plain else (plugin(on_reply=lambda session, command, reply: None),)
    for verb in VERBS.values():
        rig = Rig(*hooks, opened=OPEN, limits=Limits(bad_commands=99)).login()
        for count in range(verb.least, min(verb.most, 2) + 1):
            argument = b" ".join([b"1", b"2"][:count])
            line = verb.name + (b" " + argument if count else b"") + b"\r\n"
            rig.client(line)
            if Where.TRANSACTION not in verb.where:
                assert rig.asked() == b""
                assert rig.said() == b"-ERR %b is not valid now\r\n" % verb.name
                continue
            assert rig.asked() == line
            multi = verb.framing is Framing.MULTI or (verb.framing is Framing.LISTING and not count)
            if verb.name == b"CAPA":
                rig.upstream(b"-ERR\r\n")
                assert rig.said().startswith(b"+OK Capability")
                continue
            reply = b"+OK\r\nx\r\n.\r\n" if multi else b"+OK x\r\n"
            rig.upstream(reply)
            assert rig.said() == reply
            if verb.framing is Framing.UPLOAD:
                rig.client(b"QUIT\r\n.\r\n").upstream(b"-ERR no\r\n")
                assert (rig.asked(), rig.said()) == (b"QUIT\r\n.\r\n", b"-ERR no\r\n")
            if verb.name == b"QUIT":
                rig.ended("quit")
                break
            assert not rig.closed


def test_fenced_verbs_are_closed() -> None:
    for name in OPEN:
        rig = Rig().login().client(name + b" 1\r\n")
        assert rig.said().startswith((b"-ERR [SYS/PERM] " + name, b"-ERR Wrong number"))
        assert rig.asked() == b""


@pytest.mark.parametrize("framing", [Framing.SINGLE, Framing.MULTI, Framing.LISTING, Framing.UPLOAD])
def test_declared_verbs(framing: Framing) -> None:
    rig = Rig(verbs={b"XA": declared(b"XA", framing)}).login().client(b"xa\r\n")
    assert rig.asked() == b"XA\r\n"
    rig.upstream(b"+OK\r\n")
    assert rig.s.phase is (Phase.STREAMING if framing in (Framing.MULTI, Framing.LISTING) else Phase.TRANSACTION)
    if framing is Framing.UPLOAD:
        rig.client(b"a\r\n.\r\n")
        assert rig.asked() == b"a\r\n.\r\n"
    assert rig.meter.outcomes().get(("_other", "ok")) == 1


def test_an_upstream_without_pipelining_gets_one_at_a_time() -> None:
    rig = Rig(known=[]).login().client(b"NOOP\r\nSTAT\r\nFOO\r\nLIST\r\nQUIT\r\n")
    order: list[bytes] = []
    for reply in (b"+OK\r\n", b"+OK\r\n", b"+OK\r\n.\r\n", b"+OK\r\n"):
        order.append(rig.asked())
        rig.upstream(reply)
    assert order == [b"NOOP\r\n", b"STAT\r\n", b"LIST\r\n", b"QUIT\r\n"]
    assert rig.said() == b"+OK\r\n+OK\r\n-ERR Unknown command\r\n+OK\r\n.\r\n+OK\r\n"
    rig.ended("quit")


def test_one_at_a_time_and_a_reply_too_many_in_one_chunk() -> None:
    rig = Rig(known=[]).login().client(b"NOOP\r\nDELE 1\r\n").upstream(b"+OK\r\n+OK\r\n")
    assert rig.asked() == b"NOOP\r\n", "what was not asked for is never the next command's reply"
    assert rig.said() == b"+OK\r\n" + LOST
    rig.ended("upstream_error")


@pytest.mark.parametrize("known", [[], [b"PIPELINING"]])
def test_the_queue_is_capped_and_the_client_waits(known: list[bytes]) -> None:
    rig = Rig(known=known, limits=Limits(pipeline=4)).login().client(b"NOOP\r\n" * 9)
    assert not rig.s.want_client
    assert rig.asked() == b"NOOP\r\n" * (4 if known else 1)
    found = stage(rig)
    assert len(found.flight) + len(found.backlog) == 4
    for _ in range(9):
        rig.upstream(b"+OK\r\n")
    assert rig.said() == b"+OK\r\n" * 9
    assert rig.s.want_client


def test_a_full_queue_keeps_half_a_line() -> None:
    rig = Rig(limits=Limits(pipeline=1)).login().client(b"NOOP\r\nNO")
    assert not rig.s.want_client
    rig.upstream(b"+OK\r\n").client(b"OP\r\n")
    assert rig.asked() == b"NOOP\r\n" * 2


def test_more_local_answers_than_the_queue_is_long() -> None:
    rig = Rig(plugin(on_command=lambda *_: Answer(True, "here")), limits=Limits(pipeline=4)).login()
    rig.client(b"NOOP\r\n" * 1000)
    assert rig.said() == b"+OK here\r\n" * 1000
    assert rig.s.want_client


def test_local_answers_wait_for_the_client_to_take_them() -> None:
    long = Answer(True, body=b"x" * 5000)
    rig = Rig(plugin(on_command=lambda *_: long), eager=False).login().client(b"LIST\r\n" * 100)
    assert rig.s.pulling
    assert not rig.s.want_client
    assert BURST < len(rig.said()) < BURST + 6000
    assert not rig.wait(rig.plan.timeouts.idle - 1).closed
    rig.s.drained()
    rig.drain()
    assert BURST < len(rig.said()) < BURST + 6000
    rig.wait(rig.plan.timeouts.idle).ended("client_stalled")


def test_local_answers_behind_upstream_replies_wait_too() -> None:
    def on_command(session: SessionView, command: Command) -> Answer | None:
        return None if command.name == "NOOP" else Answer(True, body=b"x" * 9000)

    rig = Rig(plugin(on_command=on_command), eager=False).login().client(b"NOOP\r\n" + b"LIST\r\n" * 9 + b"NOOP\r\n")
    rig.upstream(b"+OK 1\r\n+OK 2\r\n")
    assert not rig.s.want_upstream
    first = rig.said()
    assert BURST < len(first) < BURST + 10_000
    rig.eager = True
    rig.drain()
    assert first + rig.said() == b"+OK 1\r\n" + (b"+OK\r\n" + b"x" * 9000 + b"\r\n.\r\n") * 9 + b"+OK 2\r\n"
    assert rig.s.want_upstream


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("line", "ends"),
    [(b"RETR " + b"1" * 43 + b"\r\n", False), (b"RETR " + b"1" * 44 + b"\r\n", True), (b"x" * 51, True)],
)
def test_overlong_is_the_same_however_it_is_cut(line: bytes, ends: bool, size: int) -> None:
    rig = Rig(limits=Limits(line=50)).login().client(b"NOOP\r\n")
    for piece in pieces(line, size):
        rig.client(piece)
    rig.client(b"DELE 1\r\n").upstream(b"+OK\r\n")
    assert rig.closed is ends
    assert rig.said() == b"+OK\r\n-ERR " + (b"Line longer than 50 octets\r\n" if ends else b"Not a number\r\n")
    assert rig.asked() == b"NOOP\r\n" + (b"" if ends else b"DELE 1\r\n")


def test_bare_lf() -> None:
    rig = Rig().login().client(b"NOOP\n")
    assert rig.said() == b"-ERR End command lines with CRLF\r\n"
    rig = Rig(bare_lf=True).login().client(b"NOOP\nQUIT\n")
    assert rig.asked() == b"NOOP\r\nQUIT\r\n"


def test_promise_1_nothing_behind_quit_goes_upstream() -> None:
    rig = Rig().login().client(b"QUIT\r\nDELE 1\r\n").client(b"DELE 2\r\nQUIT\r\n")
    assert rig.asked() == b"QUIT\r\n"
    assert rig.s.want_client
    rig.upstream(b"+OK\r\n").ended("quit")


def test_update_begins_when_quit_is_all_that_is_left() -> None:
    times = Timeouts(command=5, update=60)
    rig = Rig(timeouts=times).login().client(b"RETR 1\r\nQUIT\r\n")
    assert rig.view.phase == "transaction"
    rig.upstream(b"+OK\r\nx")
    assert rig.view.phase == "streaming"
    assert rig.s.deadline == rig.now + 5
    rig.upstream(b"\r\n.\r\n")
    assert rig.view.phase == "update"
    assert rig.s.deadline == rig.now + 60
    rig = Rig(timeouts=times, known=[]).login().client(b"NOOP\r\nQUIT\r\n").upstream(b"+OK\r\n")
    assert rig.s.phase is Phase.UPDATE
    assert rig.s.deadline == rig.now + 60


def test_pipelined_commands_are_counted() -> None:
    rig = Rig().login().client(b"NOOP\r\n")
    assert rig.meter.pipelined == [0]
    rig.client(b"NOOP\r\nNOOP\r\n")
    assert rig.meter.pipelined == [2]
    rig.upstream(b"+OK\r\n" * 3).client(b"NOOP\r\n" * 5)
    assert rig.meter.pipelined == [6]
    rig = Rig(known=[]).login().client(b"NOOP\r\n" * 5)
    assert rig.meter.pipelined == [4]


# XTND XMIT


def upload(**given: Any) -> Rig:
    return Rig(opened=OPEN, **given).login().client(b"XTND XMIT\r\n")


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_an_upload_ends_at_its_terminator_only(size: int) -> None:
    rig = upload().upstream(b"+OK\r\n")
    body = b"..a\r\n.\nQUIT\r\n.\rx\r\nb\n.\r\n.\r\n"
    for piece in pieces(body + b"NOOP\r\n", size):
        rig.client(piece)
    assert rig.asked() == b"XTND XMIT\r\n" + body + b"NOOP\r\n"
    rig.upstream(b"+OK 1\r\n+OK 2\r\n")
    assert rig.said() == b"+OK\r\n+OK 1\r\n+OK 2\r\n"


@pytest.mark.parametrize("known", [[], [b"PIPELINING"]])
def test_octets_sent_ahead_are_the_message(known: list[bytes]) -> None:
    rig = upload(known=known).client(b"DELE 1\r\n.\r\nNOOP\r\n")
    assert rig.asked() == b"XTND XMIT\r\n"
    assert not rig.s.want_client
    rig.upstream(b"+OK\r\n")
    assert rig.s.want_client
    assert rig.asked() == b"DELE 1\r\n.\r\n" + (b"NOOP\r\n" if known else b"")


def test_a_part_of_the_message_sent_ahead() -> None:
    rig = upload().client(b"half a ").upstream(b"+OK\r\n")
    assert rig.s.want_client, "the rest of it must be read"
    rig.client(b"line\r\n.\r\n")
    assert rig.asked() == b"XTND XMIT\r\nhalf a line\r\n.\r\n"


def test_an_upload_that_is_refused() -> None:
    rig = upload().client(b"NOOP\r\n").upstream(b"-ERR\r\n")
    assert rig.asked() == b"XTND XMIT\r\nNOOP\r\n"


def test_octets_nobody_asked_for_behind_the_invitation() -> None:
    rig = upload().client(b"a\r\n.\r\n").upstream(b"+OK\r\n+OK\r\n")
    assert rig.said() == b"+OK\r\n" + LOST
    assert rig.asked() == b"XTND XMIT\r\n"


def test_an_upload_has_its_own_clock() -> None:
    rig = upload(timeouts=Timeouts(idle=50, command=5)).upstream(b"+OK\r\n")
    assert rig.s.deadline == rig.now + 50
    rig.now += 40
    rig.client(b"a")
    assert rig.s.deadline == rig.now + 50
    rig.client(b"\r\n.\r\n")
    assert rig.s.deadline == rig.now + 5


def test_an_upload_past_the_line_limit() -> None:
    rig = upload(limits=Limits(line=50)).upstream(b"+OK\r\n").client(b"x" * 500)
    assert not rig.closed
    assert rig.asked() == b"XTND XMIT\r\n" + b"x" * 500


# Both roads


LINES = st.sampled_from(
    [*(line + b"\n" for line in WHOLE_LINES), *(name + b" 1\r\n" for name in NUMBERED), b"RETR 01\r\n", b"NOOP \r\n",
     b"RETR\r\n", b"DELE 1 \r\n", b"LIST 99999999999\r\n", b"Stat\r\n", b"FOO\r\n", b"TOP 1 0\r\n", b"\r\n",
     b"CAPA\r\n"]
)  # fmt: skip


@given(st.lists(LINES, max_size=12), st.integers(1, 40), st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_fast_road_says_what_the_careful_one_says(lines: list[bytes], size: int, pipelining: bool) -> None:
    known = [b"PIPELINING"] if pipelining else []
    limits = Limits(bad_commands=99)
    fast = Rig(known=known, limits=limits).login()
    slow = Rig(plugin(on_command=lambda *_: None), known=known, limits=limits).login()
    for rig in (fast, slow):
        for piece in pieces(b"".join(lines), size):
            rig.client(piece)
        while stage(rig).flight:
            multi = stage(rig).flight[0][0] == 1
            rig.upstream(b"+OK\r\nx\r\n.\r\n" if multi else b"-ERR\r\n")
    canonical = [line.split() for line in fast.all_upstream.upper().split(b"\r\n")]
    assert canonical == [line.split() for line in slow.all_upstream.upper().split(b"\r\n")]
    assert fast.all_client == slow.all_client
    assert fast.meter.outcomes() == slow.meter.outcomes()


def test_a_hook_that_waits_holds_the_lines_behind_it() -> None:
    rig = Rig(plugin(on_command=waits)).login().client(b"NOOP\r\nSTAT\r\n")
    assert rig.asked() == b""
    assert rig.s.want_client, "or nobody would see that the client is gone"
    assert len(rig.pending(Await)) == 1
    rig.returned()
    assert rig.asked() == b"NOOP\r\n"
    rig.returned()
    assert rig.asked() == b"STAT\r\n"
    assert rig.s.want_client


def test_a_client_that_waits_is_read_a_little_further() -> None:
    rig = Rig(plugin(on_command=waits)).login().client(b"NOOP\r\n").client(b"STAT\r\n" * 170)
    assert rig.s.want_client and len(stage(rig).rest) <= rig.plan.limits.line
    rig.client(b"STAT\r\n")
    assert not rig.s.want_client
    rig.returned()
    assert rig.asked() == b"NOOP\r\n"
    assert rig.s.want_client, "less than a line is left"


def test_close_gives_everything_back() -> None:
    rig = Rig(known=[]).login().client(b"NOOP\r\nSTAT\r\nFOO\r\nLI")
    rig.s.client_gone()
    assert (stage(rig).rest, len(stage(rig).backlog)) == (b"", 0)
    stage(rig).moved(rig.now)
    stage(rig).clocked(rig.now)
    assert rig.drain().asked() == b"NOOP\r\n"

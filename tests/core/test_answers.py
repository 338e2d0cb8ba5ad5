"""Replies on their way to the client: framed, matched in order, and cut off honestly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits, Timeouts
from tests.core.rig import LOST, Rig, pieces


def test_a_chunk_leaves_as_the_very_same_object() -> None:
    rig = Rig().login().client(b"NOOP\r\nNOOP\r\nRETR 1\r\nSTAT\r\n")
    for chunk in (b"+OK\r\n+OK 1\r\n", b"+OK\r\nbody", b"more " * 20_000, b"\r\n.\r\n+OK 1 2\r\n"):
        rig.s.upstream_data(chunk)
        assert rig.s.to_client[-1] is chunk
        assert len(rig.s.to_client) == 1
        rig.drain()


REPLIES = b"+OK 1 2\r\n-ERR [SYS/TEMP] no\r\n+OK\r\na\r\n..b\r\n.\r\n+OK\r\n.\r\n-ERR\r\n+OK\r\n+OK\r\n-ERR\r\n"
COMMANDS = b"STAT\r\nDELE 1\r\nRETR 1\r\nLIST\r\nTOP 1 0\r\nNOOP\r\nRSET\r\nUIDL\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_replies_pass_however_they_are_cut(size: int) -> None:
    rig = Rig().login().client(COMMANDS)
    for piece in pieces(REPLIES, size):
        rig.upstream(piece)
    assert rig.said() == REPLIES
    assert rig.meter.outcomes() == {
        ("USER", "ok"): 1, ("PASS", "ok"): 1, ("STAT", "ok"): 1, ("DELE", "err"): 1, ("RETR", "ok"): 1,
        ("LIST", "ok"): 1, ("TOP", "err"): 1, ("NOOP", "ok"): 1, ("RSET", "ok"): 1, ("UIDL", "err"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_own_replies_stand_between(size: int) -> None:
    rig = Rig().login().client(b"STAT\r\nFOO\r\nBAR\r\nRETR 1\r\nBAZ\r\nNOOP\r\nNOOP\r\nFOO\r\n")
    for piece in pieces(b"+OK 1 2\r\n+OK\r\na\r\n.\r\n+OK\r\n+OK\r\n", size):
        rig.upstream(piece)
    bad = b"-ERR Unknown command\r\n"
    assert rig.said() == b"+OK 1 2\r\n" + bad * 2 + b"+OK\r\na\r\n.\r\n" + bad + b"+OK\r\n+OK\r\n" + bad


def test_the_fast_road_stops_where_it_must() -> None:
    rig = Rig().login().client(b"NOOP\r\nNOOP\r\nLIST\r\nNOOP\r\n").upstream(b"+OK\r\n+OK\r\n+OK\r\n")
    assert rig.view.phase == "streaming"
    rig.upstream(b".\r\n+OK\r\n")
    assert rig.said() == b"+OK\r\n+OK\r\n+OK\r\n.\r\n+OK\r\n"
    rig.client(b"NOOP\r\nSTAT\r\n").upstream(b"+OK\r\n-ERR\r\n").client(b"NOOP\r\nNOOP\r\n").upstream(b"+OK\r\n+O")
    assert rig.said() == b"+OK\r\n-ERR\r\n+OK\r\n"
    rig.upstream(b"K\r\n")
    assert rig.said() == b"+OK\r\n"


def test_a_reply_in_one_chunk_is_counted_like_one_in_two() -> None:
    whole, cut = Rig().login(), Rig().login()
    body = b"a\r\n..b\r\n.\r\n"
    for rig in (whole, cut):
        rig.client(b"RETR 1\r\nLIST\r\n")
    whole.upstream(b"+OK\r\n" + body + b"+OK\r\n.\r\n")
    cut.upstream(b"+OK\r\n").upstream(body + b"+OK\r\n").upstream(b".\r\n")
    assert whole.said() == cut.said()
    assert whole.meter == cut.meter
    assert whole.meter.transfers == [("RETR", 0, len(body)), ("LIST", 0, 3)]
    assert whole.view.phase == cut.view.phase == "transaction"


def test_latencies_are_those_of_the_commands() -> None:
    rig = Rig().login().client(b"NOOP\r\nNOOP\r\n")
    rig.now += 1
    rig.client(b"STAT\r\nRETR 1\r\n")
    rig.now += 2
    rig.upstream(b"+OK\r\n+OK\r\n+OK\r\n")
    assert rig.meter.latencies == [("NOOP", 3, 2), ("STAT", 2, 1)]
    rig.upstream(b"+OK\r\nxx")
    rig.now += 5
    rig.upstream(b"\r\n.\r\n")
    assert rig.meter.latencies[2:] == [("RETR", 2, 1)]
    assert rig.meter.transfers == [("RETR", 5, 7)]
    rig.client(b"RETR 1\r\nRETR 2\r\nDELE 1\r\nDELE 2\r\n").upstream(b"-ERR\r\n-ERR\r\n+OK\r\n+OK\r\n")
    assert rig.meter.messages == [("RETR", True), ("RETR", False), ("RETR", False), ("DELE", True), ("DELE", True)]


BAD = [
    b"OK\r\n", b"+ok\r\n", b"+OKAY\r\n", b"+OK\n", b"+OK \n", b"-ERRx\r\n", b"-ER\r\n", b"+ \r\n", b"+\r\n", b"\r\n",
    b"+OK a\rb\r\n", b"+OK\r\r\n", b"-ERR\t\r\n", b"* BYE\r\n", b" +OK\r\n", b"\0\r\n", b"+OK\0\r\n", b"x",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("line", BAD)
def test_what_is_no_status_line(line: bytes, size: int) -> None:
    rig = Rig().login().client(b"STAT\r\nNOOP\r\n").upstream(b"+OK 1 2\r\n")
    for piece in pieces(line, size):
        rig.upstream(piece)
    assert rig.said() == b"+OK 1 2\r\n" + LOST
    rig.ended("upstream_error")
    assert rig.meter.violations == [("upstream", "status")]
    assert rig.notes("upstream_failed")[0]["kind"] == "protocol"
    assert rig.meter.outcomes()["NOOP", "upstream_lost"] == 1


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("pipelined", [False, True])
def test_an_overlong_status_line(size: int, pipelined: bool) -> None:
    rig = Rig(limits=Limits(reply=20)).login().client(b"STAT\r\n" + b"NOOP\r\n" * pipelined)
    for piece in pieces(b"+OK 01234567890123\r\n", size):
        rig.upstream(piece)
    assert rig.said() == b"+OK 01234567890123\r\n"
    rig.client(b"STAT\r\n" * 2)
    for piece in pieces(b"+OK 012345678901234\r\n", size):
        rig.upstream(piece)
    assert rig.said() == LOST
    assert rig.meter.violations == [("upstream", "overlong")]
    assert rig.s.detail == "overlong: a status line of more than 20 octets"


@pytest.mark.parametrize("status", [b"+OK ", b"-ERR "])
def test_a_status_line_may_be_as_long_as_the_limit_and_no_longer(status: bytes) -> None:
    line = status + b"t" * (18 - len(status)) + b"\r\n"
    for limit in (20, 19):
        rig = Rig(limits=Limits(reply=limit)).login().client(b"STAT\r\n").upstream(line)
        assert rig.said() == (line if limit == 20 else LOST)
        assert rig.meter.violations == ([] if limit == 20 else [("upstream", "overlong")])


def test_a_status_line_that_never_ends() -> None:
    rig = Rig().login().client(b"STAT\r\n").upstream(b"+OK ")
    rig.upstream(b"x" * 8188)
    assert not rig.closed
    rig.upstream(b"x").ended("upstream_error")


@pytest.mark.parametrize("octets", [b"+OK\r\n", b"-ERR bye\r\n", b"x"])
def test_unasked_octets(octets: bytes) -> None:
    rig = Rig().login().upstream(octets)
    rig.ended("upstream_error")
    assert rig.said() == b""
    assert rig.meter.violations == [("upstream", "unasked")]
    rig = Rig().login().client(b"NOOP\r\n").upstream(b"+OK\r\n" + octets)
    assert rig.said() == b"+OK\r\n"
    rig.ended("upstream_error")
    assert rig.meter.violations == [("upstream", "unasked")]


def test_promise_2_no_terminator_is_made() -> None:
    body = b"+OK\r\nline\r\n..x\r\n.\r\n"
    for cut in range(5, len(body)):
        rig = Rig().login().client(b"RETR 1\r\n").upstream(body[:cut]).lost()
        assert rig.said() == body[:cut] + (b"" if cut < len(body) else LOST)
        rig.ended("upstream_eof")
    for cut in range(5):
        rig = Rig().login().client(b"RETR 1\r\n").upstream(body[:cut]).lost()
        assert rig.said() == LOST


def test_the_upstream_is_too_late() -> None:
    rig = Rig(timeouts=Timeouts(command=5)).login().client(b"RETR 1\r\nNOOP\r\n").upstream(b"+OK\r\na").wait(5)
    rig.ended("upstream_timeout")
    assert rig.said() == b"+OK\r\na"
    rig = Rig(timeouts=Timeouts(command=5)).login().client(b"STAT\r\n").wait(5)
    assert rig.said() == LOST
    assert rig.meter.outcomes()["STAT", "timeout"] == 1
    assert rig.notes("upstream_failed")[0]["kind"] == "command_timeout"


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.RESET, Kind.TLS])
def test_how_the_upstream_ended_is_told(kind: Kind) -> None:
    rig = Rig().login().lost(Failure(kind, "why"))
    assert rig.said() == b""
    assert rig.s.detail == f"{kind.value}: why"


@pytest.mark.parametrize(
    ("known", "lines"), [([b"PIPELINING"], b"STAT\r\nFOO\r\nNOOP\r\n"), ([], b"STAT\r\nFOO\r\nNOOP\r\n")]
)
def test_one_error_for_what_was_due_and_no_more(known: list[bytes], lines: bytes) -> None:
    rig = Rig(known=known).login().client(lines).lost()
    assert rig.said() == LOST


def test_lines_that_wait_are_owed_an_error_too() -> None:
    rig = Rig(limits=Limits(pipeline=1)).login().client(b"NOOP\r\nSTAT\r\n").lost()
    assert rig.said() == LOST
    rig = Rig().login().blocked(True).client(b"NOOP\r\n").lost()
    assert rig.said() == LOST


LINE = st.sampled_from([b"", b".", b"..", b"x", b".x", b"\r", b"\n.", b"+OK", b"-ERR", b".\r", b"\0", b"\xff" * 9])
BODY = st.lists(LINE, max_size=6).map(lambda lines: b"".join(line + b"\r\n" for line in lines if line != b"."))


@given(st.lists(st.one_of(BODY, st.none()), min_size=1, max_size=6), st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_bodies_in_any_pieces(bodies: list[bytes | None], cuts: list[int]) -> None:
    rig = Rig().login()
    data = b""
    for body in bodies:
        rig.client(b"NOOP\r\n" if body is None else b"RETR 1\r\n")
        data += b"+OK\r\n" if body is None else b"+OK here\r\n" + body + b".\r\n"
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        rig.upstream(data[start:end])
    assert rig.said() == data
    assert rig.view.phase == "transaction"
    assert not rig.closed


def held(rig: Rig) -> Any:
    return rig.s._stage.answers  # type: ignore[attr-defined]


def test_half_a_status_line_is_all_that_is_held() -> None:
    rig = Rig().login().client(b"STAT\r\nRETR 1\r\n").upstream(b"+OK 1 2\r\n+O")
    assert held(rig).held == b"+O"
    rig.upstream(b"K\r\n" + b"x" * 50_000)
    assert held(rig).held == b""

"""The fault matrix: the upstream dies at every octet of a whole session, the client dies at every octet of it."""

from __future__ import annotations

import pytest

from popproxy.core.effects import Dial, Dialed
from popproxy.core.failures import Failure, Kind
from tests.core.rig import AWAY, LOST, Rig
from tests.core.server import Server
from tests.core.test_causal import TRANSPARENT, Pair, direct, octets

LINES = [b"STAT", b"UIDL", b"RETR 2", b"FOO", b"DELE 2", b"LIST", b"RETR 9", b"TOP 1 0", b"QUIT"]
WHOLE = direct(LINES)
LOST_QUIT = b"-ERR [SYS/TEMP] Connection to the mail server lost; some deletions may not be done\r\n"
ERRORS = (AWAY, LOST, LOST_QUIT)


def replies() -> list[bytes]:
    """The whole session as the client reads it, reply by reply."""
    server = Server()
    server.inside = True
    own = {b"FOO": b"-ERR Unknown command\r\n"}
    login = [b"+OK POP3 ready\r\n", b"+OK\r\n", b"+OK welcome\r\n"]
    return login + [own.get(line) or server.answer(line) for line in LINES]


def check_client(read: bytes, where: str) -> None:
    """Promise 2: whole replies are the upstream's or the proxy's own errors; the last may be cut, never ended."""
    for reply in replies():
        if read.startswith(reply):
            read = read[len(reply) :]
            continue
        if read in ERRORS or reply.startswith(read):
            return
        # An error in the place of a reply, then perhaps what was pipelined behind a failed login.
        error = next((error for error in ERRORS if read.startswith(error)), None)
        assert error == AWAY, f"{where}: {read!r}"
        rest = read[len(error) :]
        assert rest.replace(b"-ERR Log in first\r\n", b"") in (
            b"", b"-ERR Unknown command\r\n", b"-ERR Unknown command\r\n+OK Bye\r\n", b"+OK Bye\r\n",
        ), f"{where}: {read!r}"  # fmt: skip
        return
    assert read == b"", where


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("pipelined", [True, False])
def test_promises_1_2_4_the_upstream_dies_at_every_octet(name: str, pipelined: bool) -> None:
    deaths = 0
    while True:
        pair = Pair(name, pipelined)
        pair.from_client = octets(LINES)
        for _ in range(deaths):
            # One octet of what the upstream reads, and one of what it says.
            pair.client()
            pair.upstream(1)
        if pair.rig.closed:
            assert pair.rig.all_client == WHOLE
            break
        logged_in = b"+OK welcome" in pair.rig.all_client
        pair.server = Server(pipelined)
        pair.to_server = pair.to_client = b""
        pair.rig.lost(Failure(Kind.RESET, f"octet {deaths}"))
        pair.settle()
        where = f"{name}, octet {deaths}"
        if pair.rig.s.upstream_open:
            # It died at CAPA, so it was asked again without: nothing is lost.
            assert pair.rig.knowledge.get("main") is None
            pair.rest()
            assert pair.rig.all_client == WHOLE, where
            deaths += 1
            continue
        check_client(pair.rig.all_client, where)
        sent = [line for line in pair.rig.all_upstream.split(b"\r\n") if line == b"QUIT"]
        assert len(sent) <= int(logged_in), where
        if logged_in:
            assert pair.rig.closed, where
        deaths += 1
    assert deaths > 250


@pytest.mark.parametrize("how", ["gone", "eof"])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_promises_1_2_4_the_client_dies_at_every_octet(name: str, how: str) -> None:
    data = octets(LINES)
    for cut in range(len(data) + 1):
        for upstream_first in (True, False):
            pair = Pair(name)
            pair.from_client = data[:cut]
            if upstream_first:
                pair.rest()
            else:
                pair.client()
            if how == "gone":
                pair.rig.s.client_gone()
                pair.rig.drain()
            else:
                pair.rig.eof()
                pair.settle()
                pair.rest()
            where = f"{name}, octet {cut}"
            assert pair.rig.closed, where
            whole_quit = cut == len(data)
            if how == "eof" or upstream_first:
                assert pair.server.committed is whole_quit, where
            assert (b"QUIT" in pair.rig.all_upstream) <= whole_quit, where
            if how == "eof" and not whole_quit:
                assert WHOLE.startswith(pair.rig.all_client), where
            check_client(pair.rig.all_client, where)


@pytest.mark.parametrize("moment", range(0, 900, 7))
def test_promise_1_a_shutdown_at_any_moment(moment: int) -> None:
    pair = Pair()
    pair.from_client = octets(LINES[:-1])
    for _ in range(moment):
        pair.client(3)
        pair.upstream(2)
    pair.rig.stop()
    pair.settle()
    pair.rest()
    assert pair.rig.closed
    assert pair.rig.s.reason in ("shutdown", "quit")
    assert not pair.server.committed
    assert WHOLE.startswith(pair.rig.all_client)


@pytest.mark.parametrize("moment", range(0, 900, 7))
def test_promise_1_the_clock_runs_out_at_any_moment(moment: int) -> None:
    pair = Pair()
    pair.from_client = octets(LINES[:-1])
    for _ in range(moment):
        pair.client(3)
        pair.upstream(2)
    for _ in range(3):
        pair.rig.wait(10_000)
        pair.settle()
    assert pair.rig.closed
    assert not pair.server.committed
    assert b"QUIT" not in pair.rig.all_upstream
    check_client(pair.rig.all_client, str(moment))


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_fault_at_every_stage(kind: Kind) -> None:
    failure = Failure(kind, "drawn")
    rig = Rig(known=None).start().client(octets(LINES)).done(failure)
    assert not rig.s.upstream_open
    for steps in range(1, 5):
        rig = Rig(known=None).start().client(b"USER joe\r\nPASS sesame\r\n").done(Dialed("x:110", False))
        for reply in (b"+OK\r\n", b"-ERR\r\n", b"+OK\r\n", b"+OK\r\n")[:steps]:
            rig.upstream(reply)
        rig.lost(failure)
        if rig.pending(Dial):
            rig.done(failure)
        assert not rig.s.upstream_open
        assert rig.closed is (steps == 4)

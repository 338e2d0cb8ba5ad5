"""spam: the protocol of spamd: what is asked, and every answer that is none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.spam.servers import Servers
from popproxy_plugins.spam.spamd import CONTENT, Answer, Spamd, request
from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned

from popproxy.api import StreamFailed
from popproxy.api.fakes import FakeStream
from popproxy.net.services.stream import Connections
from tests.net.upstream import PATIENCE, Peer, Script, Upstream, slam
from tests.plugins.test_spam_rspamd import MESSAGE, Message, session


def reply(content: bytes = b"A_B,C", length: int | None = None, spam: bytes = b"True ; 15.3 / 5.0") -> bytes:
    size = len(content) if length is None else length
    return b"SPAMD/1.1 0 EX_OK\r\nContent-length: %d\r\nSpam: %b\r\n\r\n%b" % (size, spam, content)


def answered(octets: bytes, size: int = 1 << 20) -> Scored | ScanFailed:
    """What an answer in pieces of ``size`` octets, with the end of the stream behind it, says."""
    answer = Answer()
    try:
        for place in range(0, len(octets), size):
            if answer.complete:
                break
            answer.feed(octets[place : place + size])
        return answer.verdict()
    except ScanFailed as failed:
        return failed


def wrong(octets: bytes) -> Unscanned:
    failed = answered(octets)
    assert isinstance(failed, ScanFailed)
    return failed.why


# What is asked


def test_the_request() -> None:
    assert request(120) == b"SYMBOLS SPAMC/1.5\r\nContent-length: 120\r\n\r\n"
    assert request(120, "joe@example.com").endswith(b"\r\nUser: joe@example.com\r\n\r\n")


@pytest.mark.parametrize("user", ["", "joe\r\nX: y", "joe\n", "joe doe", "jörg", "x" * 129, "joe\0", "../joe"])
def test_a_user_that_could_break_the_head_is_left_out(user: str) -> None:
    assert request(1, user) == request(1)


def test_a_conversation() -> None:
    stream = FakeStream(lambda heard: reply())

    async def connect(address: str, timeout: float) -> FakeStream:
        assert address == "127.0.0.1:783"
        return stream

    for tells in (True, False):
        stream.written = b""
        stream.closed = False
        verdict = asyncio.run(Spamd(connect, tells).scan("127.0.0.1:783", 5.0, session(), Message()))
        assert verdict == Scored(15.3, True, 5.0, ("A_B", "C"))
        assert stream.written == request(len(MESSAGE), "joe@example.com" if tells else "") + MESSAGE
        assert stream.closed


# What it answers


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_verdicts(size: int) -> None:
    assert answered(reply(), size) == Scored(15.3, True, 5.0, ("A_B", "C"))
    assert answered(reply(b"", spam=b"False ; -1.0 / 5.0"), size) == Scored(-1.0, False, 5.0)
    assert answered(reply(b"A\r\n", spam=b"Yes;5/5"), size) == Scored(5.0, True, 5.0, ("A",))
    assert answered(reply(b"none", spam=b"no ; 0 / 5"), size) == Scored(0.0, False, 5.0, ("none",))
    without = b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1.0 / 5.0\r\nX-Else: 1\r\n\r\n"
    assert answered(without, size) == Scored(1.0, False, 5.0)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (64, Unscanned.WRONG),
        (65, Unscanned.WRONG),
        (67, Unscanned.WRONG),
        (69, Unscanned.AWAY),
        (70, Unscanned.WRONG),
        (71, Unscanned.AWAY),
        (74, Unscanned.AWAY),
        (75, Unscanned.AWAY),
        (76, Unscanned.WRONG),
        (77, Unscanned.WRONG),
        (79, Unscanned.AWAY),
        (98, Unscanned.WRONG),
    ],
)
@pytest.mark.parametrize("rest", [b"\r\n", b"\r\n\r\n", b"\r\nContent-length: 0\r\n\r\n"])
def test_its_own_errors(code: int, why: Unscanned, rest: bytes) -> None:
    """spamd names the error in its first line and closes."""
    assert wrong(b"SPAMD/1.0 %d EX_SOMETHING: and why" % code + rest) is why


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK",
        b"SPAMD/1.1 0 EX_OK\r\n",
        b"SPAMD/1.1 0 EX_OK\r\n\r\n",
        b"SPAMD/1.1 0 EX_OK\r\nContent-length: 3\r\n\r\nabc",
        b"SPAMD/1.1 EX_OK\r\n\r\n",
        b"SPAMD/1.1 -1 EX_OK\r\n\r\n",
        b"SPAMD/1.1 0 \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"+OK\r\n\r\n",
        reply(b"A", 2),
        reply(b"AB", 1),
        reply(b"A" * 10, 0),
        reply(length=-1),
        reply(length=10**9),
        reply(length=CONTENT + 1),
        reply().replace(b"Content-length: 5", b"Content-length: five"),
        reply().replace(b"Content-length: 5", b"Content-length:"),
        reply(spam=b"True"),
        reply(spam=b"True ; nan / 5.0"),
        reply(spam=b"True ; inf / 5.0"),
        reply(spam=b"True ; 1e9 / 5.0"),
        reply(spam=b"True ; 999999999 / 5.0"),
        reply(spam=b"True ; 15.3"),
        reply(spam=b"Maybe ; 15.3 / 5.0"),
        reply(spam=b"True ; 15.3 / 5.0 / 1"),
        b"SPAMD/1.1 0 EX_OK\r\n" + b"X: y\r\n" * 5000,
        b"SPAMD/1.1 0 EX_OK\r\nX: " + b"x" * 100_000,
    ],
)
def test_what_is_no_verdict(octets: bytes) -> None:
    assert wrong(octets) is Unscanned.WRONG


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"SPAMD/1.1 0 EX_OK", b"\r\n", b"Content-length: ", b"0", b"5", b"Spam: ", b"True", b" ; ", b"1.0", b" / "]
        )
        | st.binary(max_size=8),
        max_size=16,
    ).map(b"".join),
    st.integers(1, 9),
)
def test_any_octets_are_a_verdict_or_wrong_whatever_the_pieces(octets: bytes, size: int) -> None:
    whole, pieces = answered(octets), answered(octets, size)
    assert isinstance(whole, Scored) or whole.why in (Unscanned.WRONG, Unscanned.AWAY)
    if isinstance(whole, Scored):
        assert pieces == whole


# A server that misbehaves, over real sockets


def asked(
    script: Script, message: bytes = MESSAGE, seconds: float = 5.0, then: Callable[[], None] = lambda: None
) -> Scored | ScanFailed:
    """What comes of a scan at a server that plays ``script``; ``then`` is called when the scan is over."""

    async def work(port: int) -> Scored | ScanFailed:
        connections = Connections()
        try:
            scanner = Spamd(connections.connect, False)
            return await scanner.scan(f"127.0.0.1:{port}", seconds, session(), Message(message))
        except ScanFailed as failed:
            return failed
        finally:
            connections.close()
            then()

    with Upstream(script) as server:
        return asyncio.run(work(server.port))


def says(octets: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.octets(len(request(len(MESSAGE)) + MESSAGE))
        peer.send(octets)

    return script


def test_a_server_that_behaves_gets_the_whole_message() -> None:
    large = MESSAGE + b"x" * 3_000_000
    whole = request(len(large)) + large
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        got.append(peer.octets(len(whole)))
        peer.drip(reply(), 0.001)
        # The answer is whole: nobody waits for the end of the stream.
        peer.until_gone()

    assert asked(script, large) == Scored(15.3, True, 5.0, ("A_B", "C"))
    assert got == [whole]


@pytest.mark.parametrize("cut", [0, 1, 10, 20, 40, 50, -1])
def test_a_server_that_closes_in_the_middle_of_its_answer(cut: int) -> None:
    failed = asked(says(reply()[:cut]))
    assert isinstance(failed, ScanFailed)
    assert failed.why in (Unscanned.WRONG, Unscanned.AWAY)


@pytest.mark.parametrize("end", [Peer.reset, slam])
def test_a_server_that_closes_while_the_message_is_sent(end: Script) -> None:
    def script(peer: Peer) -> None:
        peer.line()
        end(peer)

    failed = asked(script, MESSAGE + b"x" * 8_000_000)
    assert isinstance(failed, ScanFailed)
    assert failed.why is Unscanned.AWAY


@pytest.mark.parametrize("reads", [True, False])
def test_a_server_that_never_answers(reads: bool) -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        if reads:
            peer.until_gone()
        done.wait(PATIENCE)

    failed = asked(script, MESSAGE if reads else MESSAGE + b"x" * 8_000_000, seconds=0.2, then=done.set)
    assert isinstance(failed, ScanFailed)
    assert failed.why is Unscanned.LATE


def test_a_server_that_drips_is_ended_by_the_deadline_of_the_scan() -> None:
    async def work(port: int) -> None:
        connections = Connections()
        servers = Servers((f"127.0.0.1:{port}",), time.monotonic, lambda server, failure: None, 0.3)
        scanner = Spamd(connections.connect, False)
        await servers.scan(lambda name, seconds: scanner.scan(name, seconds, session(), Message()), 0.3)

    def script(peer: Peer) -> None:
        peer.line()
        peer.drip(b"SPAMD/1.1 0 EX_OK", 0.1)

    with Upstream(script) as server, pytest.raises(ScanFailed) as caught:
        asyncio.run(work(server.port))
    assert caught.value.why is Unscanned.LATE


def test_a_server_that_never_stops_answering() -> None:
    def script(peer: Peer) -> None:
        peer.line()
        while True:
            peer.send(b"x" * 65536)

    failed = asked(script)
    assert isinstance(failed, ScanFailed)
    assert failed.why is Unscanned.WRONG


def test_nobody_is_there() -> None:
    async def refuses(address: str, timeout: float) -> FakeStream:
        raise StreamFailed("refused", f"{address}: nobody is there")

    with pytest.raises(ScanFailed) as caught:
        asyncio.run(Spamd(refuses, False).scan("127.0.0.1:783", 5.0, session(), Message()))
    assert caught.value.why is Unscanned.AWAY

"""Pace over real sockets: never faster, nothing lost, no time-out because of it, and an end when the worker ends."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from popproxy.api import Fail, Pace, Plugin, PluginConfig, SessionView
from popproxy.core.phases import Phase
from popproxy.net.pacing import Pacer
from tests.net.running import Setup, both_loops, eventually, half_close, read_rest, reset, running
from tests.net.test_pump import both_legs, large, octets_of, options, pump
from tests.net.test_timeouts import SHORT
from tests.net.upstream import Peer, Upstream, answering

KIB = 1024


class Paced(Plugin[PluginConfig]):
    """Each session has ``paces``."""

    def __init__(self, *paces: Pace) -> None:
        super().__init__(PluginConfig())
        self.paces: Sequence[Any] = paces

    def pace(self, session: SessionView) -> Sequence[Pace]:
        return self.paces


def message(octets: int, seed: int = 0) -> bytes:
    """A reply to RETR of about this size; no two lines of it are the same."""
    lines = b"".join(b"%d %d %s\r\n" % (seed, number, b"x" * 80) for number in range(octets // 90))
    return b"+OK\r\n" + lines + b".\r\n"


def made(upstream: Upstream, loop: str, *plugins: Plugin[Any], tls: str = "off", **more: Any) -> Setup:
    return Setup([upstream.url], loop, tls, plugins=plugins, **more)


@both_legs
@both_loops
def test_a_message_takes_its_time_and_no_time_out_counts_it(loop: str, tls: str, tmp_path: Path) -> None:
    rate, reply = 128 * KIB, message(400 * KIB)
    paced = Paced(Pace(rate, 16 * KIB))
    timeouts = {"command": 1.0}
    with Upstream(answering(reply, b"+OK still here\r\n")) as upstream:
        with running(made(upstream, loop, paced, tls=tls, timeouts=timeouts), tmp_path) as proxy:
            with proxy.logged_in(**options(tls)) as client:
                began = time.monotonic()
                assert client.multi(b"RETR 1") == reply
                lasted = time.monotonic() - began
                # The last slice, a quarter of a second's, is waited for by what follows it.
                assert lasted >= (len(reply) - 16 * KIB) / rate - 0.25
                assert client.single(b"NOOP") == b"+OK still here\r\n"
            assert proxy.session()["reason"] in ("client_eof", "client_reset"), "the client left, and nobody else"
            assert proxy.sample("backpressure_pauses_total", side="upstream") == 0, "the client did nothing wrong"


@both_loops
def test_a_wait_longer_than_every_time_out(loop: str, tmp_path: Path) -> None:
    """The smallest slices at half a kibibyte a second: two seconds between two of them."""
    reply = message(3 * KIB)
    timeouts = {"command": 1.0, "idle": 1.0}
    with Upstream(answering(reply)) as upstream:
        with running(made(upstream, loop, Paced(Pace(512, 1)), timeouts=timeouts), tmp_path) as proxy:
            with proxy.logged_in() as client:
                began = time.monotonic()
                assert client.multi(b"RETR 1") == reply
                assert time.monotonic() - began >= (len(reply) - 2 * KIB) / 512


@both_loops
def test_pipelined_messages_and_quit_keep_their_order(loop: str, tmp_path: Path) -> None:
    replies = [message(30 * KIB, seed) for seed in range(8)]
    rate = 200 * KIB
    with Upstream(answering(*replies, b"+OK bye\r\n"), quits=1) as upstream:
        with running(made(upstream, loop, Paced(Pace(rate, 1), Pace(10 * rate, 1))), tmp_path) as proxy:
            with proxy.logged_in() as client:
                began = time.monotonic()
                client.send(b"".join(b"RETR %d\r\n" % number for number in range(1, 9)) + b"QUIT\r\n")
                assert read_rest(client) == b"".join(replies) + b"+OK bye\r\n"
                assert time.monotonic() - began >= sum(map(len, replies)) / rate - 0.25
            assert proxy.session()["reason"] == "quit"


@both_loops
def test_sessions_share_a_pace(loop: str, tmp_path: Path) -> None:
    rate, octets = 256 * KIB, 256 * KIB
    replies = [message(octets, seed) for seed in range(2)]
    with Upstream(answering(replies[0]), answering(replies[1])) as upstream:
        with running(made(upstream, loop, Paced(Pace(rate, 8 * KIB))), tmp_path) as proxy:
            with proxy.logged_in() as first, proxy.logged_in() as second:
                began = time.monotonic()
                got = {client: bytearray() for client in (first, second)}
                for client in got:
                    client.send(b"RETR 1\r\n")
                    client.socket.setblocking(False)
                other = 0
                while any(len(got[client]) < len(reply) for client, reply in zip(got, replies, strict=True)):
                    for client, reply in zip(got, replies, strict=True):
                        try:
                            got[client] += client.socket.recv(1 << 16)
                        except BlockingIOError:
                            time.sleep(0.001)
                        if len(got[client]) == len(reply) and not other:
                            other = min(len(taken) for taken in got.values())
                assert [bytes(taken) for taken in got.values()] == replies
                # Each session may have one slice that nobody has waited for yet.
                assert time.monotonic() - began >= (sum(map(len, replies)) - 8 * KIB) / rate - 0.5
                assert other > octets / 8, "one of them had all, the other nothing"


@both_loops
def test_the_end_of_the_worker_ends_the_waiting(loop: str, tmp_path: Path) -> None:
    reply = message(600 * KIB)
    with Upstream(answering(reply)) as upstream:
        with running(made(upstream, loop, Paced(Pace(KIB, 1))), tmp_path) as proxy:
            with proxy.logged_in() as client:
                client.send(b"RETR 1\r\n")
                got = client.socket.recv(KIB)
                proxy.stop(5.0)
                assert got + read_rest(client) == reply, "at that pace it would take ten minutes"
            assert proxy.session()["reason"] == "shutdown"


@pytest.mark.parametrize("how", ["half-close", "shutdown"])
@both_loops
def test_the_reason_is_that_of_the_end_not_of_what_comes_while_the_rest_is_waited_for(
    loop: str, how: str, tmp_path: Path
) -> None:
    reply = message(100 * KIB)
    with Upstream(answering(reply, b"+OK bye\r\n"), quits=1) as upstream:
        with running(made(upstream, loop, Paced(Pace(50 * KIB, 1))), tmp_path) as proxy:
            with proxy.logged_in() as client:
                client.send(b"RETR 1\r\nQUIT\r\n")
                got = client.socket.recv(10)
                eventually(lambda: pump(proxy).session.phase is Phase.CLOSED, "end of the session")
                if how == "shutdown":
                    proxy.stop(5.0)
                else:
                    half_close(client)
                assert got + read_rest(client) == reply + b"+OK bye\r\n"
            assert proxy.session()["reason"] == "quit"


@both_loops
def test_the_deadline_of_the_worker_cuts(loop: str, tmp_path: Path) -> None:
    def half(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(message(30 * KIB)[:-3])
        peer.until_gone()

    with Upstream(half) as upstream:
        with running(made(upstream, loop, Paced(Pace(KIB, 1))), tmp_path) as proxy:
            with proxy.logged_in() as client:
                client.send(b"RETR 1\r\n")
                assert client.socket.recv(10)
                proxy.stop(0.0)
            assert proxy.session()["reason"] == "shutdown"


@both_legs
@both_loops
def test_a_client_that_takes_nothing_still_ends_in_time(loop: str, tls: str, tmp_path: Path) -> None:
    with Upstream(large(1024)) as upstream:
        setup = made(upstream, loop, Paced(Pace(64 << 20, 64 * KIB)), tls=tls, timeouts={"idle": SHORT})
        with running(setup, tmp_path) as proxy, proxy.logged_in(**options(tls)) as client:
            client.send(b"RETR 1\r\n")
            assert proxy.session()["reason"] == "client_stalled"
            assert proxy.sample("backpressure_pauses_total", side="upstream") > 0


@both_legs
@both_loops
def test_a_client_slower_than_its_pace_gets_everything(loop: str, tls: str, tmp_path: Path) -> None:
    chunks = 64
    with Upstream(large(chunks)) as upstream:
        with running(made(upstream, loop, Paced(Pace(64 << 20, 64 * KIB)), tls=tls), tmp_path) as proxy:
            with proxy.logged_in(**options(tls)) as client:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
                client.send(b"RETR 1\r\n")
                left = octets_of(chunks)
                while left:
                    left -= len(client.socket.recv(min(left, 1 << 16)) or pytest.fail(f"closed, {left} octets left"))
                    time.sleep(0.0002)
                assert client.single(b"NOOP") == b"+OK bye\r\n"


@both_loops
def test_a_client_that_leaves_in_its_waiting(loop: str, tmp_path: Path) -> None:
    with Upstream(answering(message(100 * KIB))) as upstream:
        with running(made(upstream, loop, Paced(Pace(2 * KIB, 1))), tmp_path) as proxy:
            client = proxy.logged_in()
            client.send(b"RETR 1\r\n")
            assert client.socket.recv(10)
            reset(client)
            assert proxy.session()["reason"] == "client_reset"
            eventually(lambda: proxy.total("upstream_connections_active") == 0, "end of the upstream's connection")


@both_loops
def test_an_upstream_that_is_lost_meanwhile(loop: str, tmp_path: Path) -> None:
    """What has come of the message still goes out, and no end of it is made up."""
    part = message(40 * KIB)[:-3]

    def lost(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(part)

    with Upstream(lost) as upstream:
        with running(made(upstream, loop, Paced(Pace(40 * KIB, 1))), tmp_path) as proxy, proxy.logged_in() as client:
            client.send(b"RETR 1\r\n")
            assert read_rest(client) == part
            assert proxy.session()["reason"] == "upstream_eof"


@pytest.mark.parametrize("fail", list(Fail))
@both_loops
def test_a_plugin_that_fails_to_tell_its_pace(loop: str, fail: Fail, tmp_path: Path) -> None:
    paced = Paced()
    paced.paces = [5]
    with Upstream(answering(b"+OK\r\n")) as upstream:
        with running(made(upstream, loop, paced, fail=fail), tmp_path) as proxy, proxy.logged_in() as client:
            if fail is Fail.CLOSED:
                assert read_rest(client) == b""
                assert proxy.session()["reason"] == "policy"
            else:
                assert client.single(b"NOOP") == b"+OK\r\n"
            assert proxy.wait("plugin_error")["hook"] == "pace"


class Stage:
    """A pump without a world around it: what it writes, and when it is woken, is the test's."""

    def __init__(self, *paces: Pace) -> None:
        self.written: list[int] = []
        self.waits: list[tuple[float, Any]] = []
        self.told: list[bool] = []
        self.limit = 1 << 30
        loop = SimpleNamespace(call_later=self._later)
        self.client: Any = SimpleNamespace(write=self._write)
        self.pump: Any = SimpleNamespace(
            client_blocked=False,
            client=self.client,
            eased=self._eased,
            close_client=lambda: self.told.append(self.pacer.ended(self.client)),
            front=SimpleNamespace(loop=loop),
            session=SimpleNamespace(client_blocked=self.told.append),
        )
        self.pacer = Pacer(self.pump, paces)

    def _later(self, seconds: float, call: Any) -> Any:
        self.waits.append((seconds, call))
        return SimpleNamespace(cancel=self.waits.pop)

    def _write(self, data: bytes) -> None:
        self.written.append(len(data))
        self.pacer.full = self.pump.client_blocked = sum(self.written) >= self.limit

    def _eased(self, blocked: bool) -> None:
        self.pump.client_blocked = blocked
        self.told.append(blocked)

    def send(self, octets: int) -> None:
        self.pacer.write(self.client, b"x" * octets)

    def wake(self) -> float:
        seconds, call = self.waits.pop()
        call()
        return seconds


def test_slices_and_their_times() -> None:
    stage = Stage(Pace(8000, 5000), Pace(100_000, 1))
    stage.send(4000)
    assert stage.written == [2000], "a quarter of a second of the slowest"
    assert stage.told == [True] and stage.pacer.resting
    # The faster one has no burst: 2,000 octets of it take 20 ms.
    assert stage.wake() == pytest.approx(0.02, abs=1e-3)
    assert stage.written == [2000, 2000] and stage.told == [True, True]
    stage.wake()
    assert stage.told == [True, True, False] and not stage.pacer.resting
    stage.send(4000)
    assert stage.written == [2000, 2000], "here no time passes, so that debts add up, and are waited for first"
    assert stage.wake() == pytest.approx(4000 / 100_000, abs=5e-3)
    assert stage.written == [2000] * 3
    assert stage.wake() == pytest.approx((2000 + 4000 - 5000) / 8000, abs=0.05)


def test_what_is_within_the_burst_leaves_at_once() -> None:
    stage = Stage(Pace(4096, 100_000))
    stage.send(3000)
    stage.send(10)
    assert (stage.written, stage.told, stage.waits) == ([1024, 1024, 952, 10], [], [])


def test_slices_of_a_slow_pace_are_small_but_not_single_octets() -> None:
    stage = Stage(Pace(1, 1))
    stage.send(100)
    assert stage.written == [64]
    assert stage.wake() == pytest.approx(63, abs=1), "not the seventeen minutes that a KiB takes"
    assert stage.written == [64, 36]


def test_who_comes_again_and_again_has_no_more_than_the_pace() -> None:
    """Each session leaves with what it got at once; the next one shares its pace."""
    pace = Pace(4096, 1)
    stages = [Stage(pace) for _ in range(20)]
    for stage in stages:
        stage.send(1024)
    assert [stage.written for stage in stages] == [[1024]] + [[]] * 19
    assert all(stage.pacer.resting and stage.told == [True] for stage in stages)
    assert all(not stage.pacer.ended(stage.client) for stage in stages[1:]), "even a short answer waits for its time"
    assert stages[19].wake() == pytest.approx(0.25, abs=0.05)
    assert stages[19].written == [1024]


def test_a_full_transport_is_no_matter_of_the_pace() -> None:
    stage = Stage(Pace(4096, 1))
    stage.limit = 2048
    stage.send(5000)
    assert stage.pacer.resting
    stage.wake()
    assert not stage.pacer.resting, "its time-out counts"
    assert stage.written == [1024, 1024]
    stage.wake()
    assert stage.written == [1024, 1024], "nothing for who takes nothing"
    assert stage.told[-1] is True
    stage.limit = 1 << 30
    assert stage.pacer.resumed(stage.client) is False
    assert stage.written == [1024] * 3


def test_the_end_waits_for_the_rest() -> None:
    stage = Stage(Pace(4096, 1))
    stage.send(2500)
    assert stage.pacer.ended(stage.client) is False
    stage.wake()
    assert stage.told == [True, True]
    stage.wake()
    assert stage.written == [1024, 1024, 452]
    assert stage.told == [True, True, True] and not stage.waits, "closed, and nobody is waited for"


def test_an_end_behind_the_rest_comes_at_once() -> None:
    stage = Stage(Pace(4096, 1))
    stage.send(1000)
    assert stage.pacer.ended(stage.client) is True
    assert not stage.waits


def test_release_sends_everything() -> None:
    stage = Stage(Pace(4096, 1))
    stage.send(50_000)
    stage.pacer.release(stage.client)
    assert stage.written == [1024, 50_000 - 1024]
    stage.send(7000)
    assert stage.written[2:] == [7000]
    assert not stage.waits

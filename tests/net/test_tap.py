"""Looking on at sessions of a real worker: who is found, what is told, what it costs, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from popproxy.core.transcriber import Transcriber
from popproxy.net.desk import BadQuestion
from popproxy.net.desk import tap as tapping
from popproxy.net.desk.tap import LINES, OCTETS, TAPS, Tap
from popproxy.net.pump import Pump
from popproxy.net.tapped import TappedPump, tap, untap
from popproxy.sample import SampleServer
from tests.net.running import PASSWORD, USER, Proxy, Setup, both_loops, eventually, running, sample
from tests.net.upstream import PATIENCE

STEP = 8
SECRET = PASSWORD.decode().strip()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[SampleServer]:
    with sample(tmp_path, [("one", b"Subject: one\n\n.dots\n"), ("two", b"Subject: two\n\nbody\n")]) as server:
        yield server


def url(server: SampleServer) -> str:
    return f"pop3+clear://127.0.0.1:{server.port}"


class Looker:
    """Somebody who looks on."""

    def __init__(self, proxy: Proxy, **whom: str) -> None:
        self.proxy = proxy
        opened = self.ask("tap.open", **whom)
        self.name, self.sessions = opened["tap"], opened["sessions"]
        self.lines: list[str] = []
        self.over = False
        self.dropped = 0

    def ask(self, question: str, **arguments: Any) -> Any:
        return self.proxy.call(self.proxy.worker.desk.answer(question, arguments))

    def read(self, wait: float = 0.0) -> list[dict[str, Any]]:
        told = self.ask("tap.read", tap=self.name, wait=wait)
        self.over = told["over"]
        self.dropped += told["dropped"]
        self.lines += [f"{line['mark']} {line['text']}" for line in told["lines"]]
        return list(told["lines"])

    def until(self, text: str) -> list[str]:
        """The transcript, once a line of it begins so."""
        end = time.monotonic() + PATIENCE
        while not any(line.startswith(text) for line in self.lines):
            assert time.monotonic() < end, self.lines
            self.read(0.2)
        return self.lines

    def close(self) -> None:
        self.ask("tap.close", tap=self.name)


def pumps(proxy: Proxy) -> list[Pump]:
    async def all_of() -> list[Pump]:
        return list(proxy.worker.pumps())

    found: list[Pump] = proxy.call(all_of())
    return found


@both_loops
def test_a_user_is_looked_at_from_the_first_word_on(upstream: SampleServer, tmp_path: Path, loop: str) -> None:
    with running(Setup([url(upstream)], loop=loop), tmp_path) as proxy:
        looker = Looker(proxy, user="ALI*")
        with proxy.client() as other:
            other.single(b"USER bob")
            with proxy.logged_in() as client:
                client.single(b"STAT")
                client.multi(b"RETR 1")
                client.single(b"QUIT")
        lines = looker.until("-- session reason=quit")
        text = "\n".join(lines)
        for part in (
            "-- session of 127.0.0.1:", "<S +OK", "C> USER alice", "C> PASS <password>", "-- dialing upstream=main",
            "-- connected server=127.0.0.1:", "U> ", "-- upstream_login upstream=main ok=true", "C> STAT", "U> STAT",
            "<U +OK 2 ", "C> RETR 1", "<S <message: ", "C> QUIT",
        ):  # fmt: skip
            assert part in text, text
        assert SECRET not in text and "bob" not in text
        assert lines.index("C> USER alice") > next(n for n, line in enumerate(lines) if line.startswith("<S +OK"))
        looker.close()
        eventually(lambda: not any(isinstance(pump, TappedPump) for pump in pumps(proxy)), "an end of the tap")


@pytest.mark.parametrize("step", ["line", "client_data", "client_told", "upstream_data", "upstream_told", "note"])
def test_a_fault_of_the_transcript_ends_the_looking_on_and_not_the_session(
    upstream: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with running(Setup([url(upstream)]), tmp_path, faults=1) as proxy:
        looker = Looker(proxy, ip="127.0.0.1")
        monkeypatch.setattr(Transcriber, step, broken)
        with proxy.logged_in() as client:
            assert client.multi(b"RETR 1").endswith(b"..dots\r\n.\r\n")
            assert client.single(b"DELE 1").startswith(b"+OK")
            assert client.single(b"QUIT").startswith(b"+OK")
        looker.until("-- the transcript ends here by a fault of popproxy")
        looker.read()
        eventually(lambda: len(proxy.lines("session")) == 1, "session line")
        (line,) = proxy.lines("session")
        assert (line["reason"], line["retrieved"], line["deleted"]) == ("quit", 1, 1)
        (fault,) = proxy.lines("internal_error")
        assert fault["error"] == "RuntimeError" and fault["session"] == line["session"]
        assert looker.ask("tap.read", tap=looker.name, wait=0.0)["sessions"] == 0


def test_one_session_is_looked_at_in_the_middle_and_its_end_is_the_end(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy, proxy.logged_in() as client:
        (pump,) = pumps(proxy)
        looker = Looker(proxy, session=pump.view.id)
        assert looker.sessions == 1 and type(pump) is TappedPump
        client.single(b"STAT")
        looker.until("<S +OK 2")
        assert looker.lines[0].startswith("-- session of 127.0.0.1:") and "user alice at 127.0.0.1:" in looker.lines[0]
        client.single(b"QUIT")
        looker.until("-- session reason=quit")
        looker.read()
        assert looker.over


def test_an_address_is_looked_at_and_one_that_nobody_has_is_not(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy:
        here, elsewhere = Looker(proxy, ip="127.0.0.0/8"), Looker(proxy, ip="192.0.2.1")
        with proxy.logged_in() as client:
            client.single(b"NOOP")
            here.until("C> NOOP")
            elsewhere.read()
            assert elsewhere.lines == []


def test_whose_session_it_is_may_come_out_at_the_second_try(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy:
        looker = Looker(proxy, user="alice")
        with proxy.client() as client:
            assert client.user_pass(b"bob", b"wrong").startswith(b"-ERR")
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            looker.until("-- upstream_login upstream=main ok=true")
        # What came before the name is of the same session.
        assert any(line.startswith("-- login_failed") for line in looker.lines)
        assert looker.lines.count("C> PASS <password>") == 2


def test_of_a_session_that_may_be_anybodys_little_is_kept(upstream: SampleServer, tmp_path: Path) -> None:
    """Ten thousand clients that say much and never log in must not fill the memory."""
    with running(Setup([url(upstream)]), tmp_path) as proxy:
        looker = Looker(proxy, user="alice")
        with proxy.client() as client:
            for _ in range(30):
                client.single(b"USER " + b"x" * 500)
                client.multi(b"CAPA")
            client.user_pass(USER, PASSWORD)
            lines = looker.until("-- upstream_login")
        early = lines[: lines.index("C> USER alice")]
        assert early[1].startswith("-- ") and early[1].endswith(" lines before this are forgotten")
        assert sum(map(len, early)) < 10_000


def test_a_session_of_somebody_else_costs_nothing(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy, proxy.client() as client:
        looker = Looker(proxy, user="somebody else")
        (pump,) = pumps(proxy)
        # It may still turn out to be theirs.
        assert type(pump) is TappedPump
        client.user_pass(USER, PASSWORD)
        assert type(pump) is Pump and pump.session.ear is None
        with proxy.client() as late:
            late.single(b"CAPA")
            assert {type(one) for one in pumps(proxy)} == {Pump, TappedPump}
            assert looker.read() == []
            looker.close()
            assert {type(one) for one in pumps(proxy)} == {Pump}


def test_a_closed_tap_leaves_the_session_as_it_was(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy, proxy.logged_in() as client:
        one, two = Looker(proxy, user="alice"), Looker(proxy, ip="127.0.0.1")
        (pump,) = pumps(proxy)
        assert one.sessions == two.sessions == 1
        one.close()
        assert type(pump) is TappedPump
        client.single(b"NOOP")
        two.until("C> NOOP")
        two.close()
        assert type(pump) is Pump and pump.session.ear is None
        assert client.single(b"STAT").startswith(b"+OK 2")


def test_a_tap_that_nobody_reads_ends(
    upstream: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapping, "IDLE", 0.05)
    with running(Setup([url(upstream)]), tmp_path) as proxy, proxy.logged_in():
        looker = Looker(proxy, user="alice")
        (pump,) = pumps(proxy)
        eventually(lambda: type(pump) is Pump, "an end of the tap")
        with pytest.raises(BadQuestion) as caught:
            looker.read()
        assert caught.value.status == 404


def test_a_tap_of_many_lets_others_be_served_between(
    upstream: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put to sessions some at a time, and taken from them so; whoever comes or goes meanwhile, and another tap of the
    same sessions, is not hurt by it."""
    monkeypatch.setattr(tapping, "STEP", STEP)
    with running(Setup([url(upstream)]), tmp_path) as proxy, ExitStack() as clients:
        first = clients.enter_context(proxy.client())
        for _ in range(3 * STEP):
            clients.enter_context(proxy.client())

        def tapped() -> int:
            return sum(type(pump) is TappedPump for pump in proxy.worker.pumps())

        async def opened_and_closed() -> list[int]:
            """How many were tapped at each turn of the loop."""
            desk, loop, seen, over = proxy.worker.desk, proxy._loop, [0], False

            def turn() -> None:
                seen.append(tapped())
                if not over:
                    loop.call_soon(turn)

            loop.call_soon(turn)
            await desk.answer("tap.open", {"user": "alice", "tap": "one"})
            assert tapped() == 3 * STEP + 1
            await desk.answer("tap.close", {"tap": "one"})
            # Taken from the last of them; the first ones get another ear before it is their turn.
            await desk.answer("tap.open", {"ip": "127.0.0.1", "tap": "two"})
            while any(proxy.worker.taps.open["two"] not in ear.listeners for ear in ears()):
                await asyncio.sleep(0)
            over = True
            return seen

        def ears() -> list[Any]:
            return [pump.session.ear for pump in proxy.worker.pumps()]

        seen = proxy.call(opened_and_closed())
        assert max(abs(after - before) for before, after in pairwise(seen)) <= STEP
        assert first.single(b"CAPA").startswith(b"+OK")
        read = proxy.call(proxy.worker.desk.answer("tap.read", {"tap": "two"}))
        assert "CAPA" in {line["text"] for line in read["lines"] if line["mark"] == "C>"}
        proxy.call(proxy.worker.desk.answer("tap.close", {"tap": "two"}))
        eventually(lambda: not proxy.call(counted(tapped)), "an end of the tap")


def test_an_ear_that_is_left_late_does_not_take_away_its_successor(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy, proxy.client():

        async def work() -> None:
            (pump,) = proxy.worker.pumps()
            before = tap(pump)
            untap(pump)
            after = tap(pump)
            before.leave(Tap("t", lambda pump: True, None, lambda: 0.0))
            assert type(pump) is TappedPump and pump.session.ear is after

        proxy.call(work())


async def counted(count: Callable[[], int]) -> int:
    return count()


def test_there_are_few_taps_at_a_time(upstream: SampleServer, tmp_path: Path) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy:
        lookers = [Looker(proxy, user="alice") for _ in range(TAPS)]
        with pytest.raises(BadQuestion) as caught:
            Looker(proxy, user="alice")
        assert caught.value.status == 409
        lookers[0].close()
        Looker(proxy, user="alice", tap="mine")
        with pytest.raises(BadQuestion) as caught:
            Looker(proxy, user="alice", tap="mine")
        assert caught.value.status == 409


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({}, 400), ({"user": "a", "ip": "::1"}, 400), ({"ip": "nowhere"}, 400), ({"user": ""}, 400),
        ({"session": "none"}, 404), ({"user": 7}, 400),
    ],
)  # fmt: skip
def test_a_tap_says_whom_it_means(
    upstream: SampleServer, tmp_path: Path, arguments: dict[str, Any], status: int
) -> None:
    with running(Setup([url(upstream)]), tmp_path) as proxy:
        with pytest.raises(BadQuestion) as caught:
            Looker(proxy, **arguments)
        assert caught.value.status == status
        with pytest.raises(BadQuestion):
            proxy.call(proxy.worker.desk.answer("tap.read", {"tap": "none"}))


def test_a_reader_waits_for_a_line_and_not_longer_than_it_says() -> None:
    async def work() -> None:
        tap = Tap("t", lambda pump: True, None, lambda: 1.5)
        asyncio.get_running_loop().call_soon(tap.take, "ab", "C>", "NOOP")
        await tap.some.wait()
        assert tap.read() == {
            "lines": [{"time": 1.5, "session": "ab", "mark": "C>", "text": "NOOP"}], "dropped": 0, "sessions": 1,
            "over": False,
        }  # fmt: skip
        assert not tap.some.is_set()

    asyncio.run(work())


def test_a_slow_reader_loses_the_oldest_lines_and_is_told_how_many() -> None:
    async def work() -> None:
        tap = Tap("t", lambda pump: True, None, lambda: 0.0)
        for number in range(LINES + 5):
            tap.take("ab", "C>", str(number))
        told = tap.read()
        assert (told["dropped"], len(told["lines"]), told["lines"][0]["text"]) == (5, LINES, "5")
        for _ in range(20):
            tap.take("ab", "C>", "x" * (OCTETS // 10))
        told = tap.read()
        assert (told["dropped"], len(told["lines"])) == (10, 10)
        assert tap.read()["dropped"] == 0

    asyncio.run(work())

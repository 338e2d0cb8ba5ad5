"""spam: the small rooms: the cache, the gate, and servers that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from popproxy_plugins.spam.cache import Verdicts
from popproxy_plugins.spam.gate import Gate
from popproxy_plugins.spam.servers import LONGEST_REST, Servers
from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned

from popproxy.api.fakes import FakeClock

HAM, SPAM = Scored(0.0, False), Scored(9.0, True)

# Cache


def test_verdicts_are_forgotten_by_age_and_by_number() -> None:
    clock = FakeClock()
    cache = Verdicts(2, 60.0, clock.monotonic)
    cache.put("a", HAM)
    clock.wait(59)
    assert cache.get("a") == HAM
    clock.wait(1)
    assert cache.get("a") is None
    assert len(cache) == 0
    cache.put("a", HAM)
    cache.put("b", SPAM)
    assert cache.get("a") == HAM
    cache.put("c", HAM)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (HAM, None, HAM)
    cache.put("a", SPAM)
    assert cache.get("a") == SPAM


def test_a_cache_of_size_0_keeps_nothing() -> None:
    cache = Verdicts(0, 60.0, FakeClock().monotonic)
    cache.put("a", HAM)
    assert cache.get("a") is None


# Gate


def test_no_more_scans_at_once_than_allowed_and_the_rest_in_order() -> None:
    async def work() -> None:
        gate = Gate(2, 3)
        running: list[int] = []
        begun: list[int] = []
        go = asyncio.Event()

        async def scan(number: int) -> None:
            async with gate:
                running.append(number)
                begun.append(number)
                assert len(running) <= 2
                await go.wait()
                running.remove(number)

        tasks = [asyncio.ensure_future(scan(number)) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == [0, 1]
        with pytest.raises(ScanFailed) as caught:
            await scan(99)
        assert caught.value.why is Unscanned.BUSY
        # Who gives up in the queue leaves its place to another one.
        tasks[3].cancel()
        await asyncio.gather(tasks[3], return_exceptions=True)
        late = asyncio.ensure_future(scan(5))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks, late, return_exceptions=True)
        assert begun == [0, 1, 2, 4, 5]
        assert not running
        async with gate:
            pass

    asyncio.run(work())


def test_a_scan_that_fails_or_is_given_up_frees_its_place() -> None:
    async def work() -> None:
        gate = Gate(1, 0)

        async def hangs() -> None:
            async with gate:
                await asyncio.Event().wait()

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with gate:
                    raise ZeroDivisionError
            task = asyncio.ensure_future(hangs())
            await asyncio.sleep(0)
            with pytest.raises(ScanFailed):
                await hangs()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())


# Servers


class Rig:
    """Servers whose answers are a script: a verdict, a failure, or None for one that never answers."""

    def __init__(self, **answers: Scored | Unscanned | None) -> None:
        self.answers = answers
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.heard: list[tuple[str, Unscanned]] = []
        self.servers = Servers(tuple(answers), self.clock.monotonic, self._failed, 9.0)

    def _failed(self, server: str, failure: ScanFailed) -> None:
        self.heard.append((server, failure.why))

    async def _ask(self, server: str, seconds: float) -> Scored:
        self.asked.append(server)
        answer = self.answers[server]
        if answer is None:
            self.clock.wait(seconds)
            raise TimeoutError
        if isinstance(answer, Unscanned):
            raise ScanFailed(answer, "as the script says")
        return answer

    def scan(self, seconds: float = 9.0) -> Scored | Unscanned:
        self.asked.clear()

        async def work() -> Scored | Unscanned:
            try:
                return await self.servers.scan(self._ask, seconds)
            except ScanFailed as failed:
                return failed.why

        return asyncio.run(work())


@pytest.mark.parametrize("failure", [Unscanned.AWAY, Unscanned.WRONG, None])
def test_the_next_server_is_asked_when_one_fails(failure: Unscanned | None) -> None:
    rig = Rig(a=failure, b=SPAM, c=HAM)
    assert rig.scan() == SPAM
    assert rig.asked == ["a", "b"]
    assert rig.heard == [("a", failure or Unscanned.LATE)]


def test_a_server_that_failed_goes_behind_the_others_until_it_works() -> None:
    rig = Rig(a=Unscanned.AWAY, b=SPAM)
    assert rig.scan() == SPAM
    assert rig.scan() == SPAM
    assert rig.asked == ["b"]
    rig.answers["b"] = Unscanned.AWAY
    rig.answers["a"] = HAM
    assert rig.scan() == HAM
    assert rig.asked == ["b", "a"]
    assert rig.scan() == HAM
    assert rig.asked == ["a"]


def test_each_server_gets_its_share_of_the_time() -> None:
    rig = Rig(a=None, b=None, c=HAM)
    assert rig.scan(9.0) == HAM
    assert rig.clock.elapsed == 6.0


def test_a_server_that_had_no_time_is_not_to_blame() -> None:
    rig = Rig(a=None)
    for _ in range(5):
        assert rig.scan(4.0) is Unscanned.LATE
        assert rig.asked == ["a"]
    for _ in range(2):
        assert rig.scan(9.0) is Unscanned.LATE
        assert rig.asked == ["a"]
    assert rig.scan(9.0) is Unscanned.LATE
    assert not rig.asked


def test_the_last_failure_is_told() -> None:
    assert Rig(a=None, b=Unscanned.WRONG).scan() is Unscanned.WRONG
    assert Rig(a=Unscanned.WRONG, b=None).scan() is Unscanned.LATE
    assert Rig(a=HAM).scan(0.0) is Unscanned.LATE


def test_a_server_that_fails_again_and_again_is_left_alone() -> None:
    rig = Rig(a=Unscanned.AWAY)
    pauses = []
    for _ in range(9):
        rig.clock.wait(0.001)
        assert rig.scan() is Unscanned.AWAY
        waited = 0.0
        while not (rig.scan() is Unscanned.AWAY and rig.asked):
            rig.clock.wait(0.5)
            waited += 0.5
        pauses.append(waited)
    assert pauses[0] == 0.0
    assert sorted(pauses) == pauses
    assert pauses[-1] == LONGEST_REST
    rig.answers["a"] = HAM
    rig.clock.wait(LONGEST_REST)
    assert rig.scan() == HAM
    rig.answers["a"] = Unscanned.AWAY
    assert rig.scan() is Unscanned.AWAY
    assert rig.scan() is Unscanned.AWAY
    assert rig.asked == ["a"]


def test_a_wrong_answer_is_the_messages_fault_as_often_as_the_servers() -> None:
    rig = Rig(a=Unscanned.WRONG)
    for _ in range(20):
        assert rig.scan() is Unscanned.WRONG
        assert rig.asked == ["a"]


def test_scans_that_fall_together_count_as_one_failure() -> None:
    clock = FakeClock()
    servers = Servers(("a",), clock.monotonic, lambda server, failure: None, 9.0)
    down = asyncio.Event()
    asked = 0

    async def ask(server: str, seconds: float) -> Scored:
        nonlocal asked
        asked += 1
        await down.wait()
        clock.wait(0.001)
        raise ScanFailed(Unscanned.AWAY, "closed")

    async def work(ask: Callable[[str, float], Awaitable[Scored]]) -> None:
        scans = [asyncio.ensure_future(servers.scan(ask, 5.0)) for _ in range(8)]
        await asyncio.sleep(0)
        down.set()
        await asyncio.gather(*scans, return_exceptions=True)
        with pytest.raises(ScanFailed):
            await servers.scan(ask, 5.0)

    asyncio.run(work(ask))
    assert asked == 9

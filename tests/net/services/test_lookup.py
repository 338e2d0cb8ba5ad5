"""services.lookup: single flight, lifetimes, invalidation, and a source that is down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from popproxy.api import HttpFailed, LookupFailed
from popproxy.api.cache import Cache
from popproxy.api.fakes import FakeCounter
from popproxy.net.services.lookup import SingleFlight
from tests.net.running import both_loops
from tests.net.tlspeers import run


class Source:
    """A source that answers when it is told to."""

    def __init__(self, **options: Any) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.answers: dict[str, str | None | Exception] = {}
        self.cancelled = 0
        self.now = 0.0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.counters = {name: FakeCounter() for name in ("cached", "found", "unknown", "failed")}
        bounds: Any = {"ttl": 60.0, "negative_ttl": 10.0, "size": 100, **options}
        seconds = bounds.pop("timeout", 20.0)
        cache: Cache[str, str] = Cache(lambda: self.now, **bounds)
        self.lookup = SingleFlight("users", self.fetch, self.counters, self.spawn, cache, seconds)

    def spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self.tasks.add(task)
        return task

    async def fetch(self, key: str) -> str | None:
        self.asked.append(key)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = self.answers.get(key)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def counted(self) -> dict[str, float]:
        return {name: counter.value for name, counter in self.counters.items() if counter.value}


def scene(loop: str, work: Callable[[Source], Awaitable[None]], **options: Any) -> None:
    async def play() -> None:
        source = Source(**options)
        await work(source)
        assert all(task.done() for task in source.tasks)
        assert not source.lookup._flights

    run(loop, play)


@both_loops
def test_one_question_for_all_who_ask_at_once(loop: str) -> None:
    async def work(source: Source) -> None:
        source.answers["joe"] = "main"
        asking = [asyncio.ensure_future(source.lookup.get("joe")) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        source.gate.set()
        assert await asyncio.gather(*asking) == ["main"] * 50
        assert await source.lookup.get("joe") == "main"
        assert source.asked == ["joe"]
        assert source.counted() == {"found": 1, "cached": 1}

    scene(loop, work)


@both_loops
def test_lifetimes(loop: str) -> None:
    async def work(source: Source) -> None:
        source.gate.set()
        source.answers["joe"] = "main"
        for now, known, unknown in ((0, 1, 1), (9, 1, 1), (11, 1, 2), (59, 1, 3), (61, 2, 3)):
            source.now = now
            assert (await source.lookup.get("joe"), await source.lookup.get("eve")) == ("main", None)
            assert (source.asked.count("joe"), source.asked.count("eve")) == (known, unknown), now
        assert source.counted() == {"found": 2, "unknown": 3, "cached": 5}

    scene(loop, work)


@both_loops
def test_nothing_is_kept_when_the_lifetimes_are_zero(loop: str) -> None:
    async def work(source: Source) -> None:
        source.gate.set()
        source.answers["joe"] = "main"
        for _ in range(3):
            assert (await source.lookup.get("joe"), await source.lookup.get("eve")) == ("main", None)
        assert source.asked == ["joe", "eve"] * 3

    scene(loop, work, ttl=0.0, negative_ttl=0.0)


@both_loops
def test_the_key_not_used_for_longest_goes(loop: str) -> None:
    async def work(source: Source) -> None:
        source.gate.set()
        for key in ("a", "b", "a", "c", "a", "b"):
            await source.lookup.get(key)
        assert source.asked == ["a", "b", "c", "b"]

    scene(loop, work, size=2)


@both_loops
@pytest.mark.parametrize("forget", [lambda lookup: lookup.forget("joe"), lambda lookup: lookup.clear()])
def test_what_is_forgotten_is_asked_again_and_what_was_under_way_is_not_kept(
    loop: str, forget: Callable[[Any], None]
) -> None:
    async def work(source: Source) -> None:
        source.answers["joe"] = "old"
        first = asyncio.ensure_future(source.lookup.get("joe"))
        await asyncio.sleep(0)
        forget(source.lookup)
        second = asyncio.ensure_future(source.lookup.get("joe"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert source.asked == ["joe", "joe"]
        source.gate.set()
        assert await first == "old"
        assert await second == "old"
        source.answers["joe"] = "new"
        assert await source.lookup.get("joe") == "old"
        forget(source.lookup)
        assert await source.lookup.get("joe") == "new"

    scene(loop, work)


@both_loops
@pytest.mark.parametrize("error", [OSError(111, "refused"), HttpFailed("refused", "x:1: refused"), TimeoutError()])
def test_a_source_that_is_down_is_no_unknown_key_and_not_remembered(
    loop: str, error: Exception
) -> None:
    async def work(source: Source) -> None:
        source.answers["joe"] = error
        asking = [asyncio.ensure_future(source.lookup.get("joe")) for _ in range(3)]
        await asyncio.sleep(0)
        source.gate.set()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LookupFailed] * 3
        assert str(outcomes[0]).startswith("users: ")
        source.answers["joe"] = "main"
        assert await source.lookup.get("joe") == "main"
        assert source.counted() == {"failed": 1, "found": 1}

    scene(loop, work)


@both_loops
def test_a_slow_source_is_down(loop: str) -> None:
    async def work(source: Source) -> None:
        with pytest.raises(LookupFailed, match=r"users: no answer within 0\.01 s"):
            await source.lookup.get("joe")
        assert source.cancelled == 1

    scene(loop, work, timeout=0.01)


@both_loops
def test_a_mistake_of_the_plugin_stays_what_it_is(loop: str) -> None:
    async def work(source: Source) -> None:
        source.gate.set()
        source.answers["joe"] = KeyError("x")
        with pytest.raises(KeyError):
            await source.lookup.get("joe")
        assert source.counted() == {}

    scene(loop, work)


@both_loops
def test_who_goes_away_ends_nothing_for_the_others_and_the_last_one_ends_it(
    loop: str
) -> None:
    async def work(source: Source) -> None:
        source.answers["joe"] = "main"
        asking = [asyncio.ensure_future(source.lookup.get("joe")) for _ in range(3)]
        await asyncio.sleep(0.01)
        for gone in asking[:2]:
            gone.cancel()
        source.gate.set()
        assert await asking[2] == "main"
        assert source.cancelled == 0
        source.gate.clear()
        source.lookup.clear()
        asking = [asyncio.ensure_future(source.lookup.get("joe")) for _ in range(3)]
        await asyncio.sleep(0.01)
        for gone in asking:
            gone.cancel()
        for gone in asking:
            with suppress(asyncio.CancelledError):
                await gone
        await asyncio.sleep(0.01)
        assert source.cancelled == 1
        source.gate.set()
        assert await source.lookup.get("joe") == "main"

    scene(loop, work)


@both_loops
def test_a_worker_that_stops_ends_look_ups_as_trouble(loop: str) -> None:
    async def work(source: Source) -> None:
        asking = asyncio.ensure_future(source.lookup.get("joe"))
        await asyncio.sleep(0.01)
        for task in source.tasks:
            task.cancel()
        with pytest.raises(LookupFailed, match="ended"):
            await asking

    scene(loop, work)


@pytest.mark.parametrize("options", [{"timeout": 0.0}, {"ttl": -1.0}, {"negative_ttl": -1.0}, {"size": 0}])
def test_bounds_that_are_none(options: dict[str, float]) -> None:
    async def play() -> None:
        with pytest.raises(ValueError):
            Source(**options)

    run("asyncio", play)

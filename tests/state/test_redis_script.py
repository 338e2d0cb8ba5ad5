"""The script computes what memory computes: the same steps, at the same times, come to the same results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from popproxy.api.store import Drop, Fixed, Get, Lease, Mark, Put, Sliding, Spend, Step, TokenBucket, Window
from popproxy.state.memory import MemoryStore
from popproxy.state.redis import store as room
from popproxy.state.redis.link import Link
from popproxy.state.redis.plan import RedisPlan, read_url
from popproxy.state.redis.store import RedisStore
from tests.integration.redis_server import Redis, server

NOW = 1_700_000_000.0
CLOCK = b"local clock = call('TIME')"

# Odd lengths show a different order of operations: the results must be equal to the last bit.
seconds = st.sampled_from([0.1, 0.7, 1.0, 3.0, 60.0, 3600.0, 86400.0]) | st.floats(0.05, 1e6)
windows = st.builds(
    lambda cls, limit, length: cls(limit, length),
    st.sampled_from([Fixed, Sliding, TokenBucket]),
    st.integers(0, 6) | st.integers(0, 2**40),
    seconds,
)
modes = st.sampled_from(["hard", "soft", "force"])
ends = st.floats(2e6, 1e8)  # values do not end here: the server's clock does that, and cannot be moved


class Pair:
    """The two stores, side by side, at one time: the script reads it from a key, and all else is as ever."""

    def __init__(self, runner: asyncio.Runner, redis: Redis) -> None:
        self.runner = runner
        plan = RedisPlan(read_url(f"unix://{redis.socket}"), prefix="test", timeout=20, lease=1e9)
        self.plan = plan
        self.redis = RedisStore(plan)
        self.memory = MemoryStore(lambda: self.now)
        self.now = NOW
        self.numbers = count()
        self._clock = Link(plan)

    async def open(self) -> None:
        await self._clock.ready()
        await self.set(NOW)
        await self.redis.open()

    async def close(self) -> None:
        await self.redis.close()
        await self._clock.drop()

    async def set(self, now: float) -> None:
        """Let it be ``now``."""
        self.now = now
        await self._clock.ask([("SET", "{test}clock", repr(now))])


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    assert room._SCRIPT.count(CLOCK) == 1
    script = room._SCRIPT.replace(CLOCK, b"local clock = {call('GET', '{test}clock'), '0'}")
    with pytest.MonkeyPatch.context() as patch, server() as redis, asyncio.Runner() as runner:
        patch.setattr(room, "_SCRIPT", script)
        patch.setattr(room, "_SHA", room.sha1(script, usedforsecurity=False).hexdigest())
        pair = Pair(runner, redis)
        runner.run(pair.open())
        yield pair
        runner.run(pair.close())


@st.composite
def runs(draw: st.DrawFn, known: Sequence[Window]) -> list[Step[Any]]:
    """A run; a key has one kind of step, as the contract says, and here and there another window."""
    window = st.sampled_from(range(len(known)))
    one = st.one_of(
        st.builds(Get, st.sampled_from(["v1", "v2"])),
        st.builds(Put, st.sampled_from(["v1", "v2"]), st.binary(max_size=9), ends, st.booleans()),
        st.builds(Drop, st.sampled_from(["v1", "v2", "m1", "m2"])),
        st.builds(
            Mark,
            st.sampled_from(["m1", "m2"]),
            st.none() | st.sampled_from([b"", b"a", b"b", b"\x00c", b"\xff"]),
            seconds,
            st.integers(1, 4),
        ),
        st.builds(
            lambda at, other, amount, mode: Spend(f"w{at}", known[other], amount, mode),
            window,
            window,
            st.integers(0, 3) | st.integers(0, 2**40),
            modes,
        ),
        st.builds(lambda at, amount, mode: Spend(f"w{at}", known[at], amount, mode), window, st.integers(0, 3), modes),
        st.builds(Lease, st.sampled_from(["l1", "l2"]), st.integers(0, 3), modes),
    )
    return draw(st.lists(one, min_size=1, max_size=5, unique_by=lambda step: step.key))  # type: ignore[attr-defined]


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[float, list[Step[Any]], int]]:
    """Runs, how long after the one before each comes (also before it), and which outcome is released behind it."""
    known = draw(st.lists(windows, min_size=1, max_size=3))
    # Also with another limit at the same key.
    known += [type(window)(draw(st.integers(0, 9)), window.seconds) for window in known[:1]]
    pause = st.sampled_from([0.0, 1e-6, 0.1, 1.0, 30.0, 3600.0, -0.5, -90.0]) | st.floats(0, 1e5)
    return draw(st.lists(st.tuples(pause, runs(known), st.integers(-1, 9)), min_size=1, max_size=12))


def copied(step: Step[Any]) -> Step[Any]:
    """Another step of the same meaning: an outcome knows steps by identity."""
    return type(step)(*(getattr(step, name) for name in type(step).__slots__))


# No explain phase: it traces every line of redis-py.
@settings(max_examples=50, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(story=stories())
def test_the_script_comes_to_what_memory_comes_to(pair: Pair, story: list[tuple[float, list[Step[Any]], int]]) -> None:
    pair.runner.run(compare(pair, story))


async def compare(pair: Pair, story: list[tuple[float, list[Step[Any]], int]]) -> None:
    """Play ``story`` to both, in a space of its own, and release in the end what is held."""
    space = f"{next(pair.numbers)}:"
    tickets: list[tuple[int, int]] = []
    await pair.set(NOW)
    for pause, steps, released in story:
        await pair.set(pair.now + pause)
        others = [copied(step) for step in steps]
        theirs, ours = await pair.redis.run(space, steps), await pair.memory.run(space, others)
        assert theirs.now == ours.now == pair.now
        assert theirs.granted == ours.granted
        for step, other in zip(steps, others, strict=True):
            assert theirs[step] == ours[other], step
        assert bool(theirs.ticket) == bool(ours.ticket)
        tickets.append((theirs.ticket, ours.ticket))
        if 0 <= released < len(tickets):
            pair.redis.release(tickets[released][0])
            pair.memory.release(tickets[released][1])
    for theirs_held, ours_held in tickets:
        pair.redis.release(theirs_held)
        pair.memory.release(ours_held)


def test_a_clock_that_goes_back_lets_a_dead_owner_live_no_longer_than_its_lease(pair: Pair) -> None:
    pair.runner.run(go_back(pair))


async def go_back(pair: Pair) -> None:
    async def another() -> RedisStore:
        store = RedisStore(replace(pair.plan, lease=30.0))
        await store.open()
        return store

    async def places(store: RedisStore) -> int:
        step = Lease("k", 0, "soft")
        return int((await store.run("back:", [step]))[step].used)

    await pair.set(NOW + 86400)
    dead = await another()
    await dead.run("back:", [Lease("k", 9)])
    task = dead._batcher._task
    assert task is not None
    task.cancel()
    await asyncio.wait({task})
    await dead._link.drop()
    await pair.set(NOW)
    store = await another()
    assert await places(store) == 1
    await pair.set(NOW + 31)
    assert await places(store) == 0
    await store.close()


def test_who_has_a_short_lease_shortens_nobody_else_s(pair: Pair) -> None:
    """As while the lease in the config changes, machine by machine."""
    pair.runner.run(mix(pair))


async def mix(pair: Pair) -> None:
    link = Link(pair.plan)
    await link.ready()
    await pair.set(NOW)
    stores = [RedisStore(replace(pair.plan, lease=lease)) for lease in (3000.0, 30.0)]
    for store in stores:
        await store.open()
        await store.run("mix:", [Lease("k", 9)])
        # Told once more, as after a failure.
        store._holding.doubt(["mix:k"])
        await store.run("mix:", [Get("x")])
        key, owners = await link.ask([("PTTL", "{test}l:mix:k"), ("PTTL", "{test}owners")])
        assert key > 3000 * 39_000
        assert owners > 3000 * 1_900
    for store in stores:
        await store.close()
    await link.drop()

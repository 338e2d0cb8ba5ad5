"""Errands and limits: what a task does for a coroutine, without one."""

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from popproxy.net.tasks import Errand, Limit, Tasks
from tests.net.running import both_loops
from tests.net.tlspeers import run


class Scene:
    """Tasks, what their errands ended with, and what the loop had to report."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.tasks = Tasks(self.loop)
        self.ended: list[Any] = []
        self.reported: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, context: self.reported.append(context["exception"]))

    def begin(self, work: Any) -> Errand[Any]:
        return self.tasks.errand(work, self.ended.append)

    async def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(5):
            await asyncio.sleep(0)


def scene(loop: str, play: Callable[[Scene], Awaitable[None]]) -> None:
    async def played() -> None:
        await play(Scene())

    run(loop, played)


async def waits(future: Awaitable[Any], seen: list[str]) -> Any:
    seen.append("began")
    try:
        return await future
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise
    finally:
        seen.append("over")


@both_loops
def test_an_errand_begins_at_once_and_ends_with_what_it_returns(loop: str) -> None:
    async def play(s: Scene) -> None:
        seen: list[str] = []
        future = s.loop.create_future()
        s.begin(waits(future, seen))
        assert seen == ["began"] and len(s.tasks) == 1
        future.set_result(5)
        await s.settle()
        assert (seen, s.ended, len(s.tasks)) == (["began", "over"], [5], 0)

    scene(loop, play)


@both_loops
def test_what_need_not_wait_ends_behind_the_one_who_began_it(loop: str) -> None:
    async def play(s: Scene) -> None:
        async def work() -> int:
            return 5

        s.begin(work())
        assert not s.ended and len(s.tasks) == 1
        await s.settle()
        assert s.ended == [5] and not s.tasks
        s.begin(work()).cancel()
        await s.settle()
        assert s.ended == [5] and not s.tasks

    scene(loop, play)


@pytest.mark.parametrize("done", ["not", "result", "fault"])
@both_loops
def test_a_cancelled_errand_is_cancelled_inside(loop: str, done: str) -> None:
    """Also when what it waits for is there already, as with a task; then nobody hears of its fault."""

    async def play(s: Scene) -> None:
        seen: list[str] = []
        future = s.loop.create_future()
        errand = s.begin(waits(future, seen))
        if done == "result":
            future.set_result(5)
        elif done == "fault":
            future.set_exception(OSError("gone"))
        errand.cancel()
        errand.cancel()
        assert seen == ["began"]
        await s.settle()
        assert seen == ["began", "cancelled", "over"] and not s.tasks
        del future
        gc.collect()
        assert not s.ended and not s.reported

    scene(loop, play)


@both_loops
def test_the_owner_ends_errands_with_the_tasks(loop: str) -> None:
    async def play(s: Scene) -> None:
        seen: list[str] = []
        s.begin(waits(s.loop.create_future(), seen))
        inner = s.tasks.spawn(waits(s.loop.create_future(), seen))
        s.begin(waits(inner, seen))
        await s.settle()
        assert len(s.tasks) == 3
        await s.tasks.cancel(1.0)
        await s.settle()
        assert not s.tasks and not s.ended and seen.count("cancelled") == 3

    scene(loop, play)


@both_loops
def test_a_fault_is_reported_and_the_errand_forgotten(loop: str) -> None:
    async def play(s: Scene) -> None:
        future = s.loop.create_future()
        s.begin(waits(future, []))
        future.set_exception(OSError("gone"))
        await s.settle()
        assert [str(error) for error in s.reported] == ["gone"]

        async def work() -> None:
            raise OSError("at once")

        with pytest.raises(OSError, match="at once"):
            s.begin(work())
        assert not s.tasks and not s.ended

    scene(loop, play)


@both_loops
@pytest.mark.parametrize("by", ["errand", "task"])
def test_a_limit_ends_what_takes_too_long(loop: str, by: str) -> None:
    async def play(s: Scene) -> None:
        limit, seen = Limit(0.02), list[str]()

        async def work() -> str:
            try:
                await limit.of(waits(s.loop.create_future(), seen))
            except TimeoutError:
                return "late"
            return "in time"

        if by == "task":
            s.ended.append(await work())
        else:
            s.begin(work())
            while not s.ended:
                await asyncio.sleep(0.005)
        assert (s.ended, seen) == (["late"], ["began", "cancelled", "over"])

    scene(loop, play)


@both_loops
def test_what_is_in_time_is_left_alone(loop: str) -> None:
    """Results and faults come through."""

    async def play(s: Scene) -> None:
        limit = Limit(60.0)
        first, second = s.loop.create_future(), s.loop.create_future()
        both = asyncio.gather(limit.of(waits(first, [])), limit.of(waits(second, [])), return_exceptions=True)
        await s.settle()
        first.set_result(1)
        second.set_exception(OSError("gone"))
        one, two = await both
        assert one == 1 and isinstance(two, OSError)

    scene(loop, play)


@both_loops
def test_one_timer_goes_on_for_those_who_came_later(loop: str) -> None:
    async def play(s: Scene) -> None:
        limit, late = Limit(0.02), list[str]()

        async def work(name: str, before: float) -> None:
            await asyncio.sleep(before)
            with contextlib.suppress(TimeoutError):
                await limit.of(waits(s.loop.create_future(), []))
            late.append(name)

        await asyncio.gather(work("second", 0.01), work("first", 0.0), work("third", 0.1))
        assert late == ["first", "second", "third"]

    scene(loop, play)


@both_loops
def test_who_is_cancelled_is_not_late(loop: str) -> None:
    async def play(s: Scene) -> None:
        limit, seen = Limit(60.0), list[str]()

        async def work() -> None:
            await limit.of(waits(s.loop.create_future(), seen))

        task = asyncio.ensure_future(work())
        errand = s.begin(work())
        await s.settle()
        task.cancel()
        errand.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await s.settle()
        assert task.cancelled() and not s.ended and not s.tasks
        assert seen == ["began", "began", "cancelled", "over", "cancelled", "over"]

    scene(loop, play)

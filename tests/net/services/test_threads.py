"""services.threads: bounded, off the loop, and honest about what is under way."""

from __future__ import annotations

import asyncio
import threading

import pytest

from popproxy.api import Busy
from popproxy.net.services.threads import Pool
from tests.net.running import both_loops
from tests.net.tlspeers import run


@both_loops
def test_it_runs_elsewhere_and_gives_back_what_comes(loop: str) -> None:
    async def scene() -> None:
        pool = Pool()
        assert await pool.run(threading.get_ident) != threading.get_ident()
        assert await pool.run(max, 3, 5) == 5
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)
        pool.close()
        assert pool._busy == 0

    run(loop, scene)


@both_loops
def test_no_more_at_once_than_threads_and_no_more_waiting_than_allowed(loop: str) -> None:
    gate, running, most, lock = threading.Event(), 0, 0, threading.Lock()

    def work() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(20)
        with lock:
            running -= 1
        return 1

    async def scene() -> None:
        pool = Pool(threads=2, waiting=3)
        calls = [asyncio.ensure_future(pool.run(work)) for _ in range(5)]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="5 calls run or wait for one of 2 threads"):
            await pool.run(work)
        gate.set()
        assert await asyncio.gather(*calls) == [1] * 5
        assert most == 2
        # The count goes down a moment later, on the loop.
        while pool._busy:
            await asyncio.sleep(0)
        assert await pool.run(work) == 1
        pool.close()

    run(loop, scene)


@both_loops
def test_a_call_given_up_keeps_its_place_until_its_thread_is_free(loop: str) -> None:
    gate = threading.Event()

    async def scene() -> None:
        pool = Pool(threads=1, waiting=1)
        running = asyncio.ensure_future(pool.run(gate.wait, 20))
        waiting = asyncio.ensure_future(pool.run(gate.wait, 20))
        await asyncio.sleep(0.01)
        running.cancel()
        waiting.cancel()
        await asyncio.wait({running, waiting})
        await asyncio.sleep(0.01)
        assert pool._busy == 1
        gate.set()
        while pool._busy:
            await asyncio.sleep(0.001)
        pool.close()

    run(loop, scene)


@both_loops
def test_the_end_of_the_pool_waits_for_nothing(loop: str) -> None:
    gate = threading.Event()

    async def scene() -> None:
        pool = Pool(threads=1)
        calls = [asyncio.ensure_future(pool.run(gate.wait, 20)) for _ in range(3)]
        await asyncio.sleep(0.01)
        pool.close()
        await asyncio.wait(calls[1:])
        assert all(call.cancelled() for call in calls[1:])
        gate.set()
        assert await calls[0] is True

    run(loop, scene)

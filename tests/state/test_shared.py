"""Several workers, each a process of its own, at one store.

Processes of one host have the host's clock, so for sqlite there are no clocks that differ; test_redis* has those.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from popproxy.api.store import Lease
from popproxy.state.space import Space
from tests.state.backends import LEASE, SHARED, Rig

ROOT = Path(__file__).parents[2]


class Process:
    """A member in another process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, *words: object) -> int:
        """The answer to a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        return int(await self.line())

    async def line(self) -> bytes:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 100)
        assert line, "the member died"
        return line

    async def end(self) -> None:
        """Let it close its store."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.wait_for(self.process.wait(), 60) == 0


@asynccontextmanager
async def member(rig: Rig) -> AsyncIterator[Process]:
    assert rig.start is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.state.member",
        rig.start,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    made = Process(process)
    try:
        assert await made.line() == b"ready\n"
        yield made
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(params=sorted(SHARED))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with SHARED[request.param](tmp_path) as made:
        yield made


async def places(rig: Rig, key: str) -> int:
    step = Lease(key, 0, "soft")
    return (await Space(rig.backend, "test").run(step))[step].used


async def until(rig: Rig, key: str, right: Callable[[int], bool]) -> None:
    async with asyncio.timeout(60):
        while not right(await places(rig, key)):
            await asyncio.sleep(0.1)


@pytest.mark.asyncio
async def test_eight_processes_at_one_key_get_exactly_what_there_is(rig: Rig) -> None:
    async with AsyncExitStack() as stack:
        members = await asyncio.gather(*(stack.enter_async_context(member(rig)) for _ in range(8)))
        spent = await asyncio.gather(*(one.ask("spend", "w", 1000, 200) for one in members))
        assert sum(spent) == 1000
        leased = await asyncio.gather(*(one.ask("lease", "k", 300, 60) for one in members))
        assert sum(leased) == 300
        assert await places(rig, "k") == 300
        # Half of them give back, all of them ask again at the same time: again exactly what there is.
        await asyncio.gather(*(one.ask("release") for one in members[:4]))
        await until(rig, "k", lambda count: count == sum(leased[4:]))
        again = await asyncio.gather(*(one.ask("lease", "k", 300, 60) for one in members))
        assert sum(again) == sum(leased[:4])
        await asyncio.gather(*(one.end() for one in members))
        assert await places(rig, "k") == 0, "who ends gives back"


@pytest.mark.asyncio
async def test_sessions_of_a_killed_worker_are_given_back_and_of_no_other(rig: Rig) -> None:
    async with member(rig) as victim, member(rig) as other:
        assert await victim.ask("lease", "k", 10, 7) == 7
        assert await other.ask("lease", "k", 10, 10) == 3
        victim.process.kill()
        await victim.process.wait()
        # Which takes longer than a lease, in which the heart of the other has to beat.
        await until(rig, "k", lambda count: count == 3)
        await asyncio.sleep(1.5 * LEASE)
        assert await other.ask("lease", "k", 10, 10) == 7
        assert await places(rig, "k") == 10


@pytest.mark.asyncio
async def test_a_worker_that_was_paused_asserts_what_it_holds(rig: Rig) -> None:
    async with member(rig) as paused, member(rig) as other:
        assert await paused.ask("lease", "k", 5, 5) == 5
        paused.process.send_signal(signal.SIGSTOP)
        await until(rig, "k", lambda count: count == 0)
        assert await other.ask("lease", "k", 5, 9) == 5
        paused.process.send_signal(signal.SIGCONT)
        # Those sessions exist: there are more than the limit until some have ended.
        await until(rig, "k", lambda count: count == 10)
        assert await other.ask("lease", "k", 5, 1) == 0
        await paused.ask("release")
        await until(rig, "k", lambda count: count == 5)

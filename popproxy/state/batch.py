"""One round trip for all that wait: jobs that come while a batch is under way are done together in the next one.

A worker has one batch under way at a time, so that what it tells the store about its own places comes in order. A
backend gives ``perform``: one transaction, or one pipeline. All else that stores outside of the process have in common
is here: who waits for what, what is kept while the store is down, and when it is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import uniform
from secrets import token_hex
from typing import Any, Protocol

from popproxy.api.store import Lease, Outcome, Step, StoreFailed
from popproxy.state.holding import Holding

_LARGEST = 500
"""Runs in one batch, and as many posts: what a batch may cost is bounded."""
_RUNS = 10_000
"""Runs that may wait: behind so many a store is slower than what is asked of it, and one more would wait in vain."""
_POSTS = 10_000
"""Posts that are kept while the store is down."""
_DOUBTS = 50_000
"""Keys in doubt; with more it is cheaper to begin again as another owner, and to let the store forget this one."""
_FIRST_REST, _LONGEST_REST = 0.05, 1.0
"""Seconds, shortened by up to a half by chance, lest all workers come back at once. From the second failure on the
store rests until it has answered: nobody waits for it, and a batch without runs tries it after each rest."""
_GOODBYE = 3.0
"""Seconds that close() takes at most to tell the store."""


class Watch(Protocol):
    """Who is told how the store fares: metrics and log. Called on the event loop; must not raise."""

    def took(self, seconds: float) -> None:
        """A run was answered, so long after it was asked."""
        ...

    def up(self) -> None:
        """The store answers: for the first time, or after a failure."""
        ...

    def failed(self, error: StoreFailed) -> None:
        """A batch failed."""
        ...

    def refused(self, kind: str, runs: int) -> None:
        """So many runs were not asked at all: the store is ``resting``, or ``busy`` with those that wait."""
        ...

    def lost(self, posts: int) -> None:
        """So many posts will never be done."""
        ...


class Unwatched:
    """A Watch that looks away."""

    def took(self, seconds: float) -> None:
        """See Watch."""

    def up(self) -> None:
        """See Watch."""

    def failed(self, error: StoreFailed) -> None:
        """See Watch."""

    def refused(self, kind: str, runs: int) -> None:
        """See Watch."""

    def lost(self, posts: int) -> None:
        """See Watch."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one job: ``results`` in the order of its steps, and the keys (with space) of leases it took."""

    granted: bool
    now: float
    results: Sequence[Any]
    held: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Job:
    """Steps of one run or post. ``waiter`` is None for a post; ``asked`` is the loop's time."""

    space: str
    steps: Sequence[Step[Any]]
    waiter: asyncio.Future[Outcome] | None = None
    asked: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What ``perform`` does, in this order: count ``owner`` as alive; set how many places it holds at each key of
    ``settle``, 0 for none; then each of ``jobs`` by itself. ``leaving``: the owner goes and holds nothing any more.

    An owner that the store does not know, or knows as dead, is made known first with ``Holding.everything()``.
    ``trial``: the batch before failed; this one writes in any case, or it would not show that the store is back."""

    owner: str
    settle: dict[str, int] = field(default_factory=dict[str, int])
    jobs: list[Job] = field(default_factory=list[Job])
    leaving: bool = False
    trial: bool = False


Perform = Callable[[Batch], Awaitable[Sequence[Done]]]
"""Do a batch, within a bounded time; one Done per job. Raises StoreFailed: then its jobs' runs fail, its posts are done
again (those that were done nevertheless are done twice), and what the owner holds is told again."""


class Batcher:
    """See the head of this file. ``beat``: seconds after which there is a batch in any case."""

    def __init__(self, perform: Perform, holding: Holding, watch: Watch, beat: float, posts: int = _POSTS) -> None:
        self._perform = perform
        self._holding = holding
        self._watch = watch
        self._owner = ""
        self._beat = beat
        self._most = posts
        self._runs: deque[Job] = deque()
        self._posts: deque[Job] = deque()
        self._doubtful: set[str] = set()
        self._doubt_due = 0.0
        self._failures = 0
        self._failure = ""
        self._up = False
        self._rests_until = 0.0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def open(self) -> None:
        """Begin, on the running loop; the first batch is tried at once."""
        # Not when it was made: of two processes that a fork made of one, each is an owner.
        self._owner = token_hex(8)
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Release everything, do what is posted, and say that the owner leaves; bounded, and without an error."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._holding.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                self._wake.set()
                if self._task is not None:
                    await self._task
                await self._goodbye()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._end(self._runs, StoreFailed("the store is closed", "closed"))
        self._lose(len(self._posts))
        self._posts.clear()

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See api.Store."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise StoreFailed("the store is closed", "closed")
        if self._failures > 1:
            # Also while it is tried: a store that hangs would have everybody wait for the end of that.
            self._watch.refused("resting", 1)
            raise self._rests()
        if len(self._runs) >= _RUNS:
            self._watch.refused("busy", 1)
            raise StoreFailed(f"the store is too slow: {_RUNS} wait for it", "busy")
        job = Job(space, steps, loop.create_future(), loop.time())
        self._runs.append(job)
        self._wake.set()
        assert job.waiter is not None
        try:
            return await job.waiter
        except asyncio.CancelledError:
            if not job.waiter.cancelled():
                # The answer came in the moment of the cancelling: nobody will see it.
                self.release(job.waiter.result().ticket)
            raise

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See api.Store. Posts are done in order, before runs that are asked later unless many are waiting."""
        if self._closed:
            self._lose(1)
            return
        self._posts.append(Job(space, steps))
        self._trim()
        self._stir()

    def release(self, ticket: int) -> None:
        """See Backend."""
        if self._holding.release(ticket):
            self._stir()

    def _stir(self) -> None:
        """Something to do that nobody waits for: a store that failed is tried again when its rest is over."""
        if not self._failures:
            self._wake.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            if self._timer is not None:
                self._timer.cancel()
            if self._closed:
                return
            await self._once(self._gather())
            if self._failures:
                # Also with nothing to do: whoever watches sees that it is back.
                self._timer = loop.call_at(self._rests_until, self._wake.set)
            elif self._runs or self._posts or self._holding.unsettled:
                self._wake.set()
            else:
                self._timer = loop.call_later(self._beat, self._wake.set)

    def _gather(self, leaving: bool = False) -> Batch:
        if self._doubtful and not self._failures and asyncio.get_running_loop().time() >= self._doubt_due:
            # What a failed batch had on the way may have arrived late, behind what was told since.
            self._holding.doubt(self._doubtful)
            self._doubtful.clear()
        jobs = [self._posts.popleft() for _ in range(min(_LARGEST, len(self._posts)))]
        posts = len(jobs)
        while self._runs and len(jobs) < posts + _LARGEST:
            job = self._runs.popleft()
            if job.waiter is not None and not job.waiter.done():
                jobs.append(job)
        return Batch(self._owner, self._holding.settle(), jobs, leaving, self._failures > 0)

    async def _once(self, batch: Batch) -> bool:
        """Do ``batch``. Gives whether it was done."""
        try:
            done = await self._perform(batch)
            if len(done) != len(batch.jobs):
                raise RuntimeError(f"{len(done)} answers for {len(batch.jobs)} jobs")
        except StoreFailed as error:
            self._failed(batch, error)
            return False
        except asyncio.CancelledError:
            self._failed(batch, StoreFailed("the store did not answer before the end", "timeout"))
            raise
        except Exception as error:
            # A fault of ours: jobs that would cause it again and again must not stay.
            kept = Batch(batch.owner, batch.settle, [job for job in batch.jobs if job.waiter is not None])
            self._lose(len(batch.jobs) - len(kept.jobs))
            self._failed(kept, StoreFailed(f"{type(error).__name__}: {error}", "fault"))
            return False
        self._failures = 0
        if not self._up:
            self._up = True
            self._watch.up()
        now = asyncio.get_running_loop().time()
        for job, one in zip(batch.jobs, done, strict=False):
            if job.waiter is not None:
                self._answer(job, job.waiter, one, now)
        return True

    def _answer(self, job: Job, waiter: asyncio.Future[Outcome], done: Done, now: float) -> None:
        ticket = self._holding.take(done.held)
        if waiter.done():
            # Nobody waits any more, who could release it?
            self._holding.release(ticket)
            return
        results = {id(step): result for step, result in zip(job.steps, done.results, strict=True)}
        waiter.set_result(Outcome(done.granted, done.now, results, ticket))
        self._watch.took(now - job.asked)

    def _failed(self, batch: Batch, error: StoreFailed) -> None:
        self._failures += 1
        self._failure = str(error)
        self._up = False
        rest = min(_LONGEST_REST, _FIRST_REST * 2 ** min(self._failures - 1, 10)) * uniform(0.5, 1.0)
        now = asyncio.get_running_loop().time()
        self._rests_until, self._doubt_due = now + rest, now + self._beat
        leases = {job.space + step.key for job in batch.jobs for step in job.steps if isinstance(step, Lease)}
        self._holding.doubt(leases.union(batch.settle))
        self._doubtful.update(leases, batch.settle)
        if len(self._doubtful) > _DOUBTS:
            self._owner = token_hex(8)
            self._holding.settle()
            self._doubtful.clear()
        self._posts.extendleft(reversed([job for job in batch.jobs if job.waiter is None]))
        self._trim()
        self._watch.failed(error)
        self._end(batch.jobs, error)
        if self._failures > 1:
            waiting = [job for job in self._runs if job.waiter is not None and not job.waiter.done()]
            self._runs.clear()
            self._end(waiting, self._rests())
            if waiting:
                self._watch.refused("resting", len(waiting))

    def _rests(self) -> StoreFailed:
        return StoreFailed(f"the store rests after a failure: {self._failure}", "resting")

    def _end(self, jobs: Sequence[Job] | deque[Job], error: StoreFailed) -> None:
        for job in jobs:
            if job.waiter is not None and not job.waiter.done():
                job.waiter.set_exception(StoreFailed(str(error), error.kind))

    def _trim(self) -> None:
        over = len(self._posts) - self._most
        if over > 0:
            for _ in range(over):
                self._posts.popleft()
            self._lose(over)

    def _lose(self, posts: int) -> None:
        if posts:
            self._watch.lost(posts)

    async def _goodbye(self) -> None:
        while True:
            batch = self._gather(leaving=len(self._posts) <= _LARGEST and len(self._runs) <= _LARGEST)
            if not await self._once(batch) or batch.leaving:
                return

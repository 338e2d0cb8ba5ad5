"""Tasks that somebody keeps: asyncio itself holds them only weakly. And errands, which do without a task."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Tasks:
    """The tasks and errands of one owner, who can end them all. Every method belongs to the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errands: set[Errand[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._errands)

    def spawn(self, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run ``awaitable``; the task is kept until it is done, and its failure is reported by the loop."""
        # A coroutine is not wrapped in another one: cancelled before its first step, the inner would never run.
        work = awaitable if inspect.iscoroutine(awaitable) else _run(awaitable)
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def errand(self, work: Coroutine[Any, Any, T], ended: Callable[[T], None]) -> Errand[T]:
        """Run ``work`` at once as far as it comes; the errand is kept until it is over. See Errand."""
        return Errand(self._loop, self._errands, work, ended)

    async def cancel(self, seconds: float) -> None:
        """Cancel them all but the one that asks, and wait at most ``seconds`` for those that do not end at once."""
        for errand in list(self._errands):
            errand.cancel()
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)


async def _run(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Errand(Generic[T]):
    """A coroutine that runs without a task, for what every login does: a task costs as much as a connect.

    It may await futures, tasks and coroutines that do, but nothing that asks which task it is in, as asyncio.timeout()
    does (see Limit). ``ended`` gets what it returns, never before the one who began it has gone on, and is not called
    when it was cancelled. It must not raise; if it does, the loop reports that, or the one who began it gets it.
    """

    __slots__ = ("_cancelled", "_ended", "_future", "_kept", "_loop", "_work")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        kept: set[Errand[Any]],
        work: Coroutine[Any, Any, T],
        ended: Callable[[T], None],
    ) -> None:
        self._loop = loop
        self._kept = kept
        self._work = work
        self._ended = ended
        self._cancelled = False
        self._future: asyncio.Future[Any] | None = None
        kept.add(self)
        self._step()

    def _step(self, before: asyncio.Future[Any] | None = None) -> None:
        work = self._work
        if self._cancelled and before is not None and not before.cancelled():
            # It came too late for the future; whose fault nobody hears of would be reported.
            before.exception()
        try:
            future = work.throw(asyncio.CancelledError()) if self._cancelled else work.send(None)
        except StopIteration as end:
            if before is None:
                self._loop.call_soon(self._end, end.value)
            else:
                self._end(end.value)
        except asyncio.CancelledError:
            self._kept.discard(self)
        except BaseException:
            self._kept.discard(self)
            raise
        else:
            # What a task does: it tells the future that it has understood, and is called when that is done.
            future._asyncio_future_blocking = False
            future.add_done_callback(self._step)
            self._future = future

    def _end(self, result: T) -> None:
        self._kept.discard(self)
        if not self._cancelled:
            self._ended(result)

    def cancel(self) -> None:
        """End it as soon as the loop comes to it: ``ended`` is not called. May be repeated, and called too late."""
        self._cancelled = True
        if self._future is not None:
            self._future.cancel()


class Limit:
    """What may take so many seconds and no longer, any number at once. One timer looks after them all, because who
    began first is due first."""

    __slots__ = ("_seconds", "_timer", "_waiting")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[_Waiting, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @coroutine
    def of(self, work: Coroutine[Any, Any, T]) -> Generator[asyncio.Future[Any], None, T]:
        """What ``work`` returns, in a task or an errand. Raises TimeoutError when it takes too long; then it was
        cancelled."""
        loop = asyncio.get_running_loop()
        one = _Waiting(loop.time() + self._seconds)
        self._waiting[one] = None
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)
        try:
            future = work.send(None)
            while True:
                one.future = future
                try:
                    yield future
                except BaseException as error:
                    future = work.throw(error)
                else:
                    future = work.throw(asyncio.CancelledError()) if one.late else work.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        except asyncio.CancelledError:
            if one.late:
                raise TimeoutError from None
            raise
        finally:
            del self._waiting[one]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._timer = None
        for one in self._waiting:
            if one.due > now:
                self._timer = loop.call_at(one.due, self._look, loop)
                return
            one.late = True
            if one.future is not None:
                one.future.cancel()


class _Waiting:
    __slots__ = ("due", "future", "late")

    def __init__(self, due: float) -> None:
        self.due = due
        self.future: asyncio.Future[Any] | None = None
        self.late = False

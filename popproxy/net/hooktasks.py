"""The async hooks of one session that are under way. They end with their session, or at their deadline."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from popproxy.core.effects import Await, Outcome, Returned
from popproxy.core.hooks import CONTAINED

Spawn = Callable[[Awaitable[Any]], asyncio.Task[Any]]


class HookTasks:
    """``done`` gets the outcome of each; ``spawn`` runs a task that the worker keeps."""

    __slots__ = ("_done", "_loop", "_spawn", "_timers")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, spawn: Spawn, done: Callable[[int, Outcome], None]
    ) -> None:
        self._loop = loop
        self._spawn = spawn
        self._done = done
        self._timers: dict[asyncio.Task[Returned], asyncio.TimerHandle] = {}

    def begin(self, effect: Await) -> None:
        """Await a hook. Never longer than its deadline, even when it will not be cancelled."""
        task: asyncio.Task[Returned] = self._spawn(_returned(effect.awaitable))
        self._timers[task] = self._loop.call_later(effect.entry.subscriber.deadline, self._late, effect, task)
        task.add_done_callback(lambda task: self._ended(effect, task))

    def cancel(self) -> None:
        """The session is over: nobody waits for them any more."""
        for task in self._timers:
            task.cancel()

    def _late(self, effect: Await, task: asyncio.Task[Returned]) -> None:
        del self._timers[task]
        task.cancel()
        self._done(effect.id, Returned(error=TimeoutError()))

    def _ended(self, effect: Await, task: asyncio.Task[Returned]) -> None:
        if task.cancelled() and inspect.iscoroutine(effect.awaitable):
            # Cancelled before its first step it has not begun.
            effect.awaitable.close()
        timer = self._timers.pop(task, None)
        if timer is None:
            # Too late: it was given up.
            return
        timer.cancel()
        lost = Returned(error=RuntimeError("the hook was cancelled"))
        self._done(effect.id, lost if task.cancelled() else task.result())


async def _returned(awaitable: Awaitable[Any]) -> Returned:
    """How a hook ended. SystemExit is an error like others: a plugin does not end the process."""
    try:
        return Returned(await awaitable)
    except CONTAINED as error:
        return Returned(error=error)

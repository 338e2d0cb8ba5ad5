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

    __slots__ = ("_done", "_spawn", "_tasks")

    def __init__(self, spawn: Spawn, done: Callable[[int, Outcome], None]) -> None:
        self._spawn = spawn
        self._done = done
        self._tasks: set[asyncio.Task[Returned]] = set()

    def begin(self, effect: Await) -> None:
        """Await a hook."""
        task = self._spawn(_returned(effect.awaitable))
        self._tasks.add(task)
        self._spawn(self._until(effect, task))

    def cancel(self) -> None:
        """The session is over: nobody waits for them any more."""
        for task in self._tasks:
            task.cancel()

    async def _until(self, effect: Await, task: asyncio.Task[Returned]) -> None:
        """Never longer than the deadline, even when the hook will not be cancelled."""
        await asyncio.wait({task}, timeout=effect.entry.subscriber.deadline)
        self._tasks.discard(task)
        if not task.done():
            task.cancel()
            outcome = Returned(error=TimeoutError())
        elif task.cancelled():
            if inspect.iscoroutine(effect.awaitable):
                # Cancelled before its first step it has not begun.
                effect.awaitable.close()
            outcome = Returned(error=RuntimeError("the hook was cancelled"))
        else:
            outcome = task.result()
        self._done(effect.id, outcome)


async def _returned(awaitable: Awaitable[Any]) -> Returned:
    """How a hook ended. SystemExit is an error like others: a plugin does not end the process."""
    try:
        return Returned(await awaitable)
    except CONTAINED as error:
        return Returned(error=error)

"""Tasks that somebody keeps: asyncio itself holds them only weakly."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any


class Tasks:
    """The tasks of one owner, who can end them all. Every method belongs to the event loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run ``awaitable``; the task is kept until it is done, and its failure is reported by the loop."""
        # A coroutine is not wrapped in another one: cancelled before its first step, the inner would never run.
        work = awaitable if inspect.iscoroutine(awaitable) else _run(awaitable)
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self, seconds: float) -> None:
        """Cancel them all but the one that asks, and wait at most ``seconds`` for those that do not end at once."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)


async def _run(awaitable: Awaitable[Any]) -> Any:
    return await awaitable

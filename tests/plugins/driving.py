"""Calling async hooks without a loop."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import TypeVar

T = TypeVar("T")


def drive(awaitable: Awaitable[T] | None) -> T | None:
    """The result of a hook that never really waits; None for one that is not async."""
    if awaitable is None:
        return None
    assert isinstance(awaitable, Coroutine)
    try:
        awaitable.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    awaitable.close()
    raise AssertionError("the hook waits for something")

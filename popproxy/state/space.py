"""What a plugin gets of the worker's store: its own keys, and nobody else's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from popproxy.api.store import Lease, Outcome, Step, Stored, check_steps


class Backend(Protocol):
    """A store: memory, sqlite or redis. ``space`` stands before every key. Steps were checked."""

    async def open(self) -> None:
        """Begin. A store that is down is no failure: it is tried again. OSError for one that can never be used."""
        ...

    async def close(self) -> None:
        """Give back every lease, do what was posted, as far as the store answers soon, and end."""
        ...

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See api.Store."""
        ...

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See api.Store."""
        ...

    def release(self, ticket: int) -> None:
        """Give back the leases of this outcome; one that holds none, or that is released already, is no fault."""
        ...

    async def scan(self, space: str, prefix: str, most: int) -> list[Stored]:
        """See api.Store. Keys come without their space."""
        ...


class Space:
    """api.Store: the keys of ``name`` in ``backend``."""

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self._space = f"{name}:"

    async def run(self, *steps: Step[Any]) -> Outcome:
        """See api.Store."""
        check_steps(steps)
        return await self._backend.run(self._space, steps)

    def post(self, *steps: Step[Any]) -> None:
        """See api.Store."""
        check_steps(steps)
        if any(isinstance(step, Lease) for step in steps):
            raise ValueError("a Lease cannot be posted: nobody would know what to release")
        self._backend.post(self._space, steps)

    def release(self, outcome: Outcome) -> None:
        """See api.Store."""
        if outcome.ticket:
            self._backend.release(outcome.ticket)

    async def scan(self, prefix: str, most: int = 1000) -> list[Stored]:
        """See api.Store."""
        return await self._backend.scan(self._space, prefix, most)

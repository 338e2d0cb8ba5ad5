"""One run, on whatever keeps the keys: first all claims are looked at, then all are taken or none, then the rest.

memory and sqlite do it here, redis in Lua; the conformance suite holds them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from popproxy.api.store import Drop, Get, Lease, Mark, Put, Room, Spend, Step, Window
from popproxy.state.batch import Done
from popproxy.state.windows import Level, added, moved, room, shown


class Table(Protocol):
    """Keys, with their space, and what is at them. What has ended is not there."""

    def level(self, key: str, window: Window, now: float) -> Level | None:
        """What is used of ``window``, whatever its limit, as it was written; None when nothing is, or when a window of
        another kind or length was used."""
        ...

    def keep(self, key: str, window: Window, level: Level) -> None:
        """Write what is used of ``window``."""
        ...

    def places(self, key: str, now: float) -> int:
        """Places that all owners who are alive hold at ``key``."""
        ...

    def take(self, key: str) -> None:
        """This owner holds one more."""
        ...

    def value(self, key: str, now: float) -> bytes | None:
        """The value at ``key``."""
        ...

    def put(self, key: str, value: bytes, end: float) -> None:
        """Set the value at ``key``."""
        ...

    def drop(self, key: str, now: float) -> bool:
        """Forget value and marks at ``key``; whether there were any."""
        ...

    def mark(self, key: str, mark: Mark, now: float) -> int:
        """See api.Mark. Of marks with the same end the smaller member ends first."""
        ...


def do(table: Table, space: str, steps: Sequence[Step[Any]], now: float) -> Done:
    """All of ``steps``, as one."""
    claims = [step for step in steps if isinstance(step, Spend | Lease)]
    found: dict[int, tuple[Room, Level | None]] = {}
    granted = True
    for claim in claims:
        one = found[id(claim)] = _look(table, space + claim.key, claim, now)
        granted = granted and (one[0].ok or claim.mode != "hard")
    results: list[Any] = []
    held: list[str] = []
    for step in steps:
        if isinstance(step, Spend | Lease):
            space_for, level = found[id(step)]
            if step.mode == "force" or (granted and space_for.ok):
                if isinstance(step, Lease):
                    held.append(space + step.key)
                space_for = _take(table, space + step.key, step, space_for, level, now)
            results.append(space_for)
        elif isinstance(step, Get | Put | Drop | Mark):
            results.append(_do(table, space + step.key, step, now))
    return Done(granted, now, results, tuple(held))


def _look(table: Table, key: str, claim: Spend | Lease, now: float) -> tuple[Room, Level | None]:
    if isinstance(claim, Lease):
        count = table.places(key, now)
        return Room(count < claim.limit, count, claim.limit), None
    level = moved(claim.window, table.level(key, claim.window, now), now)
    return room(claim.window, level, claim.amount, now), level


def _take(table: Table, key: str, claim: Spend | Lease, found: Room, level: Level | None, now: float) -> Room:
    if isinstance(claim, Lease):
        table.take(key)
        return Room(found.ok, found.used + 1, claim.limit)
    if level is None or not claim.amount:
        return found
    level = added(level, claim.amount)
    table.keep(key, claim.window, level)
    return Room(found.ok, shown(claim.window, level, now), claim.window.limit, found.wait)


def _do(table: Table, key: str, step: Get | Put | Drop | Mark, now: float) -> bytes | bool | int | None:
    if isinstance(step, Mark):
        return table.mark(key, step, now)
    if isinstance(step, Drop):
        return table.drop(key, now)
    if isinstance(step, Get):
        return table.value(key, now)
    if step.absent and table.value(key, now) is not None:
        return False
    table.put(key, step.value, now + step.seconds)
    return True

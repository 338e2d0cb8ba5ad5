"""The store in the memory of one worker: exact, at once, and gone with it.

What has ended is forgotten when its time comes up, a few keys with every run: memory follows what is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from popproxy.api.store import Drop, Get, Lease, Mark, Outcome, Put, Room, Spend, Step, Stored, Window
from popproxy.state.windows import Level, added, life, moved, room, used

_SWEEP = 8
"""Keys looked at with each run; each run makes fewer than that, so none stays for long."""


@dataclass(slots=True)
class _Entry:
    """What is at a key until ``ends``: a value, marks by member with their ends, or the level of a window."""

    ends: float
    value: bytes = b""
    marks: dict[bytes, float] = field(default_factory=dict[bytes, float])
    level: Level | None = None
    window: Window | None = None


class MemoryStore:
    """See the head of this file. ``clock`` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._ends: list[tuple[float, str]] = []
        self._leases: dict[str, int] = {}
        self._held: dict[int, tuple[str, ...]] = {}
        self._tickets = 0

    def __len__(self) -> int:
        """Keys that are kept."""
        return len(self._entries) + len(self._leases)

    async def open(self) -> None:
        """See Backend."""

    async def close(self) -> None:
        """See Backend."""

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See Backend. It never fails and never waits."""
        return self.do(space, steps)

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See Backend."""
        self.do(space, steps)

    def release(self, ticket: int) -> None:
        """See Backend."""
        for key in self._held.pop(ticket, ()):
            left = self._leases[key] - 1
            if left:
                self._leases[key] = left
            else:
                del self._leases[key]

    async def scan(self, space: str, prefix: str, most: int) -> list[Stored]:
        """See Backend."""
        now = self._clock()
        begin = space + prefix
        found = sorted(
            key
            for key, entry in self._entries.items()
            if key.startswith(begin) and entry.ends > now and entry.level is None and not entry.marks
        )
        entries = [(key, self._entries[key]) for key in found[:most]]
        return [Stored(key[len(space) :], entry.value, entry.ends - now) for key, entry in entries]

    def do(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """All of ``steps``, as one."""
        now = self._clock()
        self._sweep(now)
        claims = [step for step in steps if isinstance(step, Spend | Lease)]
        rooms = [self._room(space + claim.key, claim, now) for claim in claims]
        granted = all(found.ok or claim.mode != "hard" for claim, found in zip(claims, rooms, strict=True))
        results: dict[int, Any] = {}
        held: list[str] = []
        for claim, found in zip(claims, rooms, strict=True):
            taken = claim.mode == "force" or (granted and found.ok)
            results[id(claim)] = self._take(space + claim.key, claim, found, now, held) if taken else found
        for step in steps:
            if isinstance(step, Get | Put | Drop | Mark):
                results[id(step)] = self._do(space + step.key, step, now)
        ticket = 0
        if held:
            ticket = self._tickets = self._tickets + 1
            self._held[ticket] = tuple(held)
        return Outcome(granted, now, results, ticket)

    def _room(self, key: str, claim: Spend | Lease, now: float) -> Room:
        if isinstance(claim, Lease):
            count = self._leases.get(key, 0)
            return Room(count < claim.limit, count, claim.limit)
        return room(claim.window, self._level(key, claim.window, now), claim.amount, now)

    def _take(self, key: str, claim: Spend | Lease, found: Room, now: float, held: list[str]) -> Room:
        if isinstance(claim, Lease):
            count = self._leases[key] = self._leases.get(key, 0) + 1
            held.append(key)
            return Room(found.ok, count, claim.limit)
        if claim.amount:
            level = added(self._level(key, claim.window, now), claim.amount)
            entry = _Entry(now + life(claim.window), level=level, window=claim.window)
            self._keep(key, entry)
            return Room(found.ok, round(used(claim.window, level, now)), claim.window.limit, found.wait)
        return found

    def _level(self, key: str, window: Window, now: float) -> Level:
        entry = self._entries.get(key)
        return moved(window, entry.level if entry is not None and entry.window == window else None, now)

    def _do(self, key: str, step: Get | Put | Drop | Mark, now: float) -> bytes | bool | int | None:
        if isinstance(step, Mark):
            return self._mark(key, step, now)
        entry = self._entries.get(key)
        alive = entry is not None and entry.ends > now
        if isinstance(step, Get):
            return entry.value if entry is not None and alive else None
        if isinstance(step, Drop):
            self._entries.pop(key, None)
            return alive
        if step.absent and alive:
            return False
        self._keep(key, _Entry(now + step.seconds, step.value))
        return True

    def _mark(self, key: str, mark: Mark, now: float) -> int:
        entry = self._entries.get(key)
        marks = {} if entry is None else {member: end for member, end in entry.marks.items() if end > now}
        if mark.member is not None:
            marks[mark.member] = now + mark.seconds
            while len(marks) > mark.most:
                del marks[min(marks, key=lambda member: marks[member])]
        if marks:
            self._keep(key, _Entry(max(marks.values()), marks=marks))
        else:
            self._entries.pop(key, None)
        return len(marks)

    def _keep(self, key: str, entry: _Entry) -> None:
        known = self._entries.get(key)
        self._entries[key] = entry
        if known is None:
            heappush(self._ends, (entry.ends, key))

    def _sweep(self, now: float) -> None:
        for _ in range(_SWEEP):
            if not self._ends or self._ends[0][0] > now:
                return
            key = heappop(self._ends)[1]
            entry = self._entries.get(key)
            if entry is None:
                continue
            if entry.ends <= now:
                del self._entries[key]
            else:
                heappush(self._ends, (entry.ends, key))

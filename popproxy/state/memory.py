"""The store in the memory of one worker: exact, at once, and gone with it.

What has ended is forgotten when its time comes up, a few keys with every run: memory follows what is alive. There is a
bound for that, too: names and addresses are what clients send, and a flood of them must not take all memory there is.
Behind it new keys fail, as in Redis with noeviction; known ones go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from popproxy.api.store import Mark, Outcome, Put, Spend, Step, Stored, StoreFailed, Window
from popproxy.state.doing import do
from popproxy.state.holding import Holding
from popproxy.state.windows import Level, ends, same

_SWEEP = 8
"""Keys looked at with each run, and two for each of its steps: more than it makes, so none stays for long."""
KEYS = 1_000_000
"""Keys that are kept: half a gigabyte of them."""
_SEARCH = 1000
"""Keys looked at with each run while there is no room."""
_STALE = 64
"""Notes of ends in vain that may always be there; above it as many as there are keys."""


@dataclass(slots=True)
class _Entry:
    """What is at a key until ``ends``; ``due`` is the end that is noted for it, at or before ``ends``."""

    ends: float
    content: bytes | dict[bytes, float] | tuple[Window, Level]
    due: float = 0.0


class MemoryStore:
    """See the head of this file. ``clock`` gives seconds since the epoch; ``most`` keys are kept."""

    def __init__(self, clock: Callable[[], float], most: int = KEYS) -> None:
        self._clock = clock
        self._most = most
        self._entries: dict[str, _Entry] = {}
        self._ends: list[tuple[float, str]] = []
        self._holding = Holding()

    def __len__(self) -> int:
        """Keys that are kept."""
        return len(self._entries) + len(self._holding)

    async def open(self) -> None:
        """See Backend."""

    async def close(self) -> None:
        """See Backend."""
        self._holding.clear()

    @property
    def roomy(self) -> bool:
        """Whether there is room again, a tenth of it, so that nobody is told so with every key that ends."""
        return len(self._entries) <= self._most * 0.9

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See Backend. It never waits, and fails only when it is full."""
        return self.do(space, steps)

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See Backend. What has no room is lost."""
        with suppress(StoreFailed):
            self.do(space, steps)

    def release(self, ticket: int) -> None:
        """See Backend."""
        self._holding.release(ticket)
        self._holding.settle()

    async def scan(self, space: str, prefix: str, most: int) -> list[Stored]:
        """See Backend."""
        now = self._clock()
        found = [
            Stored(key[len(space) :], entry.content, entry.ends - now)
            for key, entry in self._entries.items()
            if key.startswith(space + prefix) and entry.ends > now and isinstance(entry.content, bytes)
        ]
        return sorted(found, key=lambda stored: stored.key)[:most]

    def do(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """All of ``steps``, as one. Raises StoreFailed when it is full; nothing is done then."""
        now = self._clock()
        self._sweep(now, _SWEEP + 2 * len(steps))
        if len(self._entries) + len(steps) > self._most:
            self._sweep(now, _SEARCH)
            made = sum(isinstance(one, Put | Mark | Spend) and space + one.key not in self._entries for one in steps)
            if made and len(self._entries) + made > self._most:
                raise StoreFailed(f"memory: {self._most} keys are kept already", "full")
        done = do(self, space, steps, now)
        results = {id(step): result for step, result in zip(steps, done.results, strict=True)}
        return Outcome(done.granted, now, results, self._holding.take(done.held))

    def level(self, key: str, window: Window, now: float) -> Level | None:
        """See Table."""
        content = self._content(key, now)
        return content[1] if isinstance(content, tuple) and same(content[0], window) else None

    def keep(self, key: str, window: Window, level: Level) -> None:
        """See Table."""
        self._set(key, _Entry(ends(window, level), (window, level)))

    def places(self, key: str, now: float) -> int:
        """See Table."""
        return self._holding.count(key)

    def take(self, key: str) -> None:
        """See Table. It counts when the ticket is made."""

    def value(self, key: str, now: float) -> bytes | None:
        """See Table."""
        content = self._content(key, now)
        return content if isinstance(content, bytes) else None

    def put(self, key: str, value: bytes, end: float) -> None:
        """See Table."""
        self._set(key, _Entry(end, value))

    def drop(self, key: str, now: float) -> bool:
        """See Table."""
        content = self._content(key, now)
        if content is None or isinstance(content, tuple):
            return False
        del self._entries[key]
        return True

    def mark(self, key: str, mark: Mark, now: float) -> int:
        """See Table."""
        content = self._content(key, now)
        known = content if isinstance(content, dict) else {}
        marks = {member: end for member, end in known.items() if end > now}
        if mark.member is not None:
            marks[mark.member] = now + mark.seconds
            for _, member in sorted((end, member) for member, end in marks.items())[: max(0, len(marks) - mark.most)]:
                del marks[member]
        if marks:
            self._set(key, _Entry(max(marks.values()), marks))
        elif isinstance(content, dict):
            del self._entries[key]
        return len(marks)

    def _content(self, key: str, now: float) -> bytes | dict[bytes, float] | tuple[Window, Level] | None:
        entry = self._entries.get(key)
        return entry.content if entry is not None and entry.ends > now else None

    def _set(self, key: str, entry: _Entry) -> None:
        known = self._entries.get(key)
        self._entries[key] = entry
        if known is not None and known.due <= entry.ends:
            # What is noted comes up earlier, and is noted again then: a key that is used often is noted seldom.
            entry.due = known.due
            return
        entry.due = entry.ends
        heappush(self._ends, (entry.due, key))
        if len(self._ends) > 2 * len(self._entries) + _STALE:
            self._ends = [(kept.due, key) for key, kept in self._entries.items()]
            heapify(self._ends)

    def _sweep(self, now: float, most: int) -> None:
        for _ in range(most):
            if not self._ends or self._ends[0][0] > now:
                return
            due, key = heappop(self._ends)
            entry = self._entries.get(key)
            if entry is None or entry.due != due:
                continue
            if entry.ends <= now:
                del self._entries[key]
            else:
                entry.due = entry.ends
                heappush(self._ends, (entry.due, key))

"""The worker's store: made by its plan, watched by metrics and log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, perf_counter, time
from typing import Any, Protocol

from popproxy.api.store import Outcome, Step, StoreFailed
from popproxy.config.plan import StorePlan, state_directory
from popproxy.core.effects import Level
from popproxy.metrics.store import StoreMeter
from popproxy.state.batch import Watch
from popproxy.state.memory import KEYS, MemoryStore
from popproxy.state.space import Backend


class EventLog(Protocol):
    """Where log lines go; run/logs.py has one."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


class StoreWatch:
    """state.batch.Watch: counts, and logs each outage once."""

    def __init__(
        self, kind: str, meter: StoreMeter, log: EventLog, clock: Callable[[], float] = monotonic
    ) -> None:
        self._kind = kind
        self._meter = meter
        self._log = log
        self._clock = clock
        self._down: float | None = None
        self.took = meter.took

    def up(self) -> None:
        """See Watch."""
        self._meter.up(True)
        if self._down is not None:
            seconds, self._down = self._clock() - self._down, None
            self._log.event("info", "store_up", store=self._kind, seconds=round(seconds, 3))

    def failed(self, error: StoreFailed) -> None:
        """See Watch."""
        self._meter.up(False)
        self._meter.failed(error.kind)
        if self._down is None:
            self._down = self._clock()
            self._log.event("warning", "store_down", store=self._kind, reason=error.kind, detail=str(error))

    def refused(self, kind: str, runs: int) -> None:
        """See Watch."""
        self._meter.failed(kind, runs)

    def lost(self, posts: int) -> None:
        """See Watch."""
        self._meter.lost(posts)


class WatchedMemory(MemoryStore):
    """The store in memory, with its runs timed and its want of room told."""

    def __init__(self, clock: Callable[[], float], watch: Watch, most: int = KEYS) -> None:
        super().__init__(clock, most)
        self._watch = watch
        self._took = watch.took
        self._full = False

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See Backend."""
        began = perf_counter()
        outcome = self._done(space, steps)
        self._took(perf_counter() - began)
        return outcome

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See Backend."""
        try:
            self._done(space, steps)
        except StoreFailed:
            self._watch.lost(1)

    def _done(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        try:
            outcome = self.do(space, steps)
        except StoreFailed as error:
            self._full = True
            self._watch.failed(error)
            raise
        if self._full and self.roomy:
            self._full = False
            self._watch.up()
        return outcome


def make(plan: StorePlan, watch: Watch) -> Backend:
    """The store of ``plan``, not yet opened. What it needs is imported now."""
    if plan.redis is not None:
        from popproxy.state.redis.store import RedisStore

        return RedisStore(plan.redis, watch)
    if plan.path is not None:
        from popproxy.state.sqlite import SqliteStore

        return SqliteStore(plan.path, lease=plan.lease, watch=watch)
    watch.up()
    return WatchedMemory(time, watch)


async def begin(store: Backend, plan: StorePlan) -> None:
    """Open it. One that is down is no failure: it is tried again. Raises OSError for one that can never be used."""
    if plan.path is not None and plan.path.parent == state_directory():
        plan.path.parent.mkdir(0o700, parents=True, exist_ok=True)
    await store.open()


class Stores:
    """The stores of one process by their plans: as long as the plan is the same, so is the store, whichever config
    names it. ``watched`` makes the Watch of a kind of store, ``gone`` is told of a kind that nobody uses any more."""

    def __init__(self, watched: Callable[[str], Watch], gone: Callable[[str], None]) -> None:
        self._watched = watched
        self._gone = gone
        self._open: dict[StorePlan, tuple[Backend, list[object]]] = {}

    async def take(self, plan: StorePlan, who: object) -> Backend:
        """The store of ``plan``, opened when nobody has it; ``who`` holds it from now on. Raises as ``begin`` does."""
        if plan not in self._open:
            store = make(plan, self._watched(plan.use))
            await begin(store, plan)
            self._open[plan] = store, []
        store, holders = self._open[plan]
        holders.append(who)
        return store

    async def leave(self, plan: StorePlan, who: object) -> None:
        """``who`` needs it no more; it is closed when nobody does. May be repeated."""
        if plan not in self._open:
            return
        store, holders = self._open[plan]
        if who in holders:
            holders.remove(who)
        if not holders:
            del self._open[plan]
            await store.close()
            if all(other.use != plan.use for other in self._open):
                self._gone(plan.use)

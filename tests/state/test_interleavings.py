"""No interleaving lets a count go below zero or above its limit: memory, and two workers at sqlite, and a model."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from popproxy.api.store import Fixed, Lease, Mode, Outcome, Spend
from popproxy.state.memory import MemoryStore
from popproxy.state.space import Backend, Space
from popproxy.state.sqlite import SqliteStore

KEYS = ("a", "b")
LIMIT = 3
WINDOW = Fixed(5, 60)
LEASE = 30.0

WANTS = st.lists(
    st.tuples(
        st.integers(0, 1),  # which worker
        st.sets(st.sampled_from(KEYS), min_size=1).map(sorted),  # leases
        st.sets(st.sampled_from(KEYS)).map(sorted),  # windows
    ),
    min_size=1,
    max_size=6,
)


class Interleavings(RuleBasedStateMachine):
    """What is asked at once is asked of all workers at once; which of them is first is left to chance."""

    workers: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.now = 1_700_000_040.0
        self.backends: list[Backend] = []
        self.held: list[tuple[int, Outcome, list[str]]] = []
        self.places: Counter[str] = Counter()
        self.forced: Counter[str] = Counter()
        self.spent: Counter[tuple[str, float]] = Counter()

    def make(self) -> Backend:
        raise NotImplementedError

    def do(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    @initialize()
    def open(self) -> None:
        self.backends = [self.make() for _ in range(self.workers)]
        self.do(self.each(Backend.open))

    async def each(self, method: Any) -> None:
        for backend in self.backends:
            await getattr(backend, method.__name__)()

    def store(self, number: int) -> Space:
        return Space(self.backends[number % self.workers], "test")

    @property
    def period(self) -> float:
        return self.now // 60

    @rule(wants=WANTS)
    def claim(self, wants: list[tuple[int, list[str], list[str]]]) -> None:
        """Hard claims, all at once."""

        async def ask() -> list[Outcome]:
            return await asyncio.gather(
                *(
                    self.store(who).run(
                        *(Lease(f"l{key}", LIMIT) for key in leases), *(Spend(f"w{key}", WINDOW) for key in windows)
                    )
                    for who, leases, windows in wants
                )
            )

        before = self.places.copy()
        outcomes = self.do(ask())
        for (who, leases, windows), outcome in zip(wants, outcomes, strict=True):
            assert bool(outcome.ticket) == outcome.granted
            if outcome.granted:
                self.held.append((who, outcome, leases))
                self.places.update(leases)
                self.spent.update((key, self.period) for key in windows)
        for key in KEYS:
            # Never above, unless it was above before: then nothing was added.
            assert self.places[key] <= max(LIMIT, before[key])
            assert self.spent[key, self.period] <= max(WINDOW.limit, self.forced[f"{key}{self.period}"])
        # Who asked for one thing only is refused only if it is used up.
        for (_, leases, windows), outcome in zip(wants, outcomes, strict=True):
            if not outcome.granted:
                assert any(self.places[key] >= LIMIT for key in leases) or any(
                    self.spent[key, self.period] >= WINDOW.limit for key in windows
                )

    @rule(who=st.integers(0, 1), key=st.sampled_from(KEYS), mode=st.sampled_from(["soft", "force"]))
    def take(self, who: int, key: str, mode: Mode) -> None:
        lease = Lease(f"l{key}", LIMIT, mode)
        outcome = self.do(self.store(who).run(lease))
        room = self.places[key] < LIMIT
        assert outcome.granted and outcome[lease].ok == room
        assert bool(outcome.ticket) == (room or mode == "force")
        if outcome.ticket:
            self.held.append((who, outcome, [key]))
            self.places[key] += 1
        assert outcome[lease].used == self.places[key]

    @rule(key=st.sampled_from(KEYS), amount=st.integers(0, 4))
    def spend(self, key: str, amount: int) -> None:
        step = Spend(f"w{key}", WINDOW, amount, "force")
        room = self.do(self.store(0).run(step))[step]
        assert room.ok == (self.spent[key, self.period] + amount <= WINDOW.limit)
        self.spent[key, self.period] += amount
        self.forced[f"{key}{self.period}"] = max(WINDOW.limit, self.spent[key, self.period])
        assert room.used == self.spent[key, self.period]

    @rule(numbers=st.lists(st.integers(0, 99), min_size=1, max_size=3), twice=st.booleans())
    def release(self, numbers: list[int], twice: bool) -> None:
        # How many are held may depend on chance; what is drawn must not.
        chosen = {number % len(self.held) for number in numbers} if self.held else set()

        async def give_back() -> None:
            for number in chosen:
                for _ in range(1 + twice):
                    self.store(self.held[number][0]).release(self.held[number][1])

        self.do(give_back())
        for number in sorted(chosen, reverse=True):
            self.places.subtract(self.held.pop(number)[2])

    @rule(turns=st.integers(0, 12), who=st.integers(0, 1), key=st.sampled_from(KEYS))
    def cancel(self, turns: int, who: int, key: str) -> None:
        """A claim that is cancelled some turns of the loop later."""

        async def ask() -> Outcome | None:
            task = asyncio.get_running_loop().create_task(self.store(who).run(Lease(f"l{key}", LIMIT, "force")))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                return task.result()
            await asyncio.wait({task})
            assert task.cancelled()
            return None

        outcome = self.do(ask())
        if outcome is not None:
            self.held.append((who, outcome, [key]))
            self.places[key] += 1

    @rule(seconds=st.sampled_from([1.0, 20.0, 40.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

        async def beat() -> None:
            for number in range(self.workers):
                step = Lease("beat", 0, "soft")
                await self.store(number).run(step)

        self.do(beat())

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        if not self.backends:
            return

        async def count() -> None:
            # What a worker has to tell is told with its next batch.
            for _ in range(2):
                for number in range(self.workers):
                    steps = [Lease(f"l{key}", 0, "soft") for key in KEYS]
                    windows = [Spend(f"w{key}", WINDOW, 0, "soft") for key in KEYS]
                    outcome = await self.store(number).run(*steps, *windows)
            assert [outcome[step].used for step in steps] == [self.places[key] for key in KEYS]
            assert [outcome[step].used for step in windows] == [self.spent[key, self.period] for key in KEYS]

        self.do(count())

    def teardown(self) -> None:
        self.do(self.each(Backend.close))
        self.runner.close()
        self.directory.cleanup()


class InMemory(Interleavings):
    workers = 1

    def make(self) -> Backend:
        return MemoryStore(lambda: self.now)


class InSqlite(Interleavings):
    workers = 2

    def make(self) -> Backend:
        path = Path(self.directory.name) / "store.db"
        return SqliteStore(path, lease=LEASE, busy=20.0, clock=lambda: self.now)

    @rule(who=st.integers(0, 1))
    def die(self, who: int) -> None:
        """A worker ends without a word; another one takes its place, and what it held is given back by its lease."""

        async def replace() -> None:
            dead = self.backends[who]
            assert isinstance(dead, SqliteStore)
            task = dead._batcher._task
            assert task is not None
            task.cancel()
            await asyncio.wait({task})
            dead._strand.call(dead._base.close)
            dead._strand.stop()
            self.backends[who] = self.make()
            await self.backends[who].open()

        self.do(replace())
        for _, _, leases in [one for one in self.held if one[0] == who]:
            self.places.subtract(leases)
        self.held = [one for one in self.held if one[0] != who]
        self.pass_time(LEASE + 1)


InMemory.TestCase.settings = settings(deadline=None, max_examples=50, stateful_step_count=30)
InSqlite.TestCase.settings = settings(deadline=None, max_examples=20, stateful_step_count=20)
TestInMemory = InMemory.TestCase
TestInSqlite = InSqlite.TestCase

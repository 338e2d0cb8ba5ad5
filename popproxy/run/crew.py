"""All slots: who starts the workers, starts them again when they die, asks them, and brings a config to all or none.

Law: a worker that comes up later than the others ends with the config in force, whatever happens meanwhile. A slot
never gives up: it waits longer each time, 30 s at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from popproxy.config.plan import Bind, Plan
from popproxy.core.effects import Level
from popproxy.run.addresses import Addresses
from popproxy.run.fleet import Answer
from popproxy.run.lending import Lending
from popproxy.run.process import EX_UNAVAILABLE, LoopName
from popproxy.run.restarts import LONGEST, SETTLED, Restarts
from popproxy.run.slot import BEGIN_SECONDS, Child, Death, Done
from popproxy.run.workerprocess import BEAT

_STANDING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in seconds: between two beats of a worker; for how long it may be mute; for how long one must have served
    for its death not to count as the next in a row; the longest wait before a start; and between two times that workers
    tell what they counted, of which the last is lost when one is killed."""

    beat: float = BEAT
    mute: float = 10.0
    settled: float = SETTLED
    longest: float = LONGEST
    counts: float = 5.0


@dataclass(frozen=True, slots=True)
class Force:
    """A config as workers get it. ``number`` counts them from 1 on; ``arguments`` are those of the order."""

    number: int
    plan: Plan
    arguments: Mapping[str, Any]

    @property
    def binds(self) -> list[Bind]:
        """Where it listens, in the order of the sockets that go with it."""
        return [where for listener in self.plan.listeners for where in listener.bind]


class Log(Protocol):
    """Where lines go."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...


class Watch(Protocol):
    """Who counts workers: metrics.merge.Merger."""

    def started(self, slot: int) -> None:
        """The first worker of a slot serves."""
        ...

    def restarted(self, slot: int) -> None:
        """Another one serves in its place."""
        ...

    def died(self, slot: int) -> None:
        """It is no more."""
        ...


class Slot:
    """A place for a worker. ``child`` is the process that has it now; ``up``: it serves."""

    def __init__(self, number: int, pace: Pace) -> None:
        self.number = number
        self.child: Child | None = None
        self.up = False
        self.restarts = Restarts(pace.settled, pace.longest)

    def as_dict(self) -> dict[str, Any]:
        """As Status has it."""
        child = self.child if self.up else None
        return {
            "worker": self.number,
            "pid": child.pid if child is not None else 0,
            "up": self.up,
            "sessions": child.sessions if child is not None else 0,
            "restarts": self.restarts.count,
            "generation": child.generation if child is not None else 0,
        }


class Crew:
    """See the head of this file. Every method belongs to the event loop's thread."""

    def __init__(
        self, force: Force, addresses: Addresses, log: Log, watch: Watch, loop: LoopName, pace: Pace
    ) -> None:
        self.force = force
        self.slots = [Slot(number, pace) for number in range(force.plan.workers)]
        self._addresses = addresses
        self._log = log
        self._watch = watch
        self._loop_name = loop
        self._pace = pace
        self.standing: Callable[[], Iterable[tuple[str, Mapping[str, Any]]]] = tuple
        """See run.admin.api.Api."""
        self._stopping = asyncio.Event()
        self._lending = Lending(self, addresses, self._stopping, pace.beat)
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    # Life

    async def start(self) -> Done:
        """Have all workers serve. The first one goes alone: what it cannot have, the others could not, either. When one
        cannot start: what it said; the others are still to be stopped then. Raises BindError."""
        self._addresses.take(self.force.binds)
        self._look(monotonic())
        done = await self._first(self.slots[0])
        if done.code == 0:
            others = await asyncio.gather(*map(self._first, self.slots[1:]))
            done = next((other for other in others if other.code != 0), done)
        return done

    async def _first(self, slot: Slot) -> Done:
        first: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep(slot, first)))
        return await first

    def stop(self, deadline: float) -> None:
        """Take no more clients; workers end with their last session, or ``deadline`` seconds later."""
        self._stopping.set()
        self._addresses.close()
        for child in self._children():
            child.tell("stop", deadline)

    def hurry(self) -> None:
        """Wait for no session any more."""
        for child in self._children():
            child.tell("hurry")

    def reopen(self) -> None:
        """Open the log files anew."""
        for child in self._children():
            child.tell("reopen")

    async def ended(self, seconds: float) -> None:
        """Wait for the end of all processes after stop(); those that are still there after ``seconds`` are killed."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for child in self._children() if late else ():
                child.kill()
            await asyncio.gather(*self._tasks)
        if self._timer is not None:
            self._timer.cancel()

    def _children(self) -> list[Child]:
        return [slot.child for slot in self.slots if slot.child is not None]

    async def _keep(self, slot: Slot, first: asyncio.Future[Done]) -> None:
        """Have a process in ``slot`` until the end; ``first`` is how the first one began."""
        while not self._stopping.is_set():
            began, served = monotonic(), 0.0
            child = slot.child = Child(slot.number, self._loop_name, self._pace.beat)
            done = await self._begun(slot, child)
            if done.code == 0:
                slot.up = True
                (self._watch.restarted if first.done() else self._watch.started)(slot.number)
                await self._stand(child)
                seconds = round(monotonic() - began, 3)
                self._log.event("info", "worker_started", slot=slot.number, pid=child.pid, seconds=seconds)
                self._lending.end(slot)
                began = monotonic()
                if not first.done():
                    first.set_result(done)
                await self._catch_up(child)
                await child.gone.wait()
                served = monotonic() - began
                slot.up = False
                self._watch.died(slot.number)
            sessions = child.sessions
            death = await child.ended()
            slot.child = None
            self._settle()
            if not first.done():
                first.set_result(done)
                return
            if not self._stopping.is_set():
                self._dead(child, death, done, sessions=sessions, seconds=round(served, 3))
                self._lending.begin(slot)
                await self._rest(slot.restarts.died(served))
        self._lending.end(slot)

    async def _stand(self, child: Child) -> None:
        """What was said by hand before holds for it, too. What is said from now on, it hears behind that."""
        questions = list(self.standing())
        await asyncio.gather(*(child.ask(question, given, _STANDING_SECONDS) for question, given in questions))

    async def _begun(self, slot: Slot, child: Child) -> Done:
        """The process is there and has obeyed its first order."""
        try:
            await child.launch()
        except (OSError, EOFError) as error:
            return Done(EX_UNAVAILABLE, None, f"cannot start worker {slot.number}: {error or type(error).__name__}")
        if self._stopping.is_set():
            return Done(None, None, "it is being stopped")
        # Only now: a reload meanwhile may have closed sockets that the config before it names.
        force = self.force
        done = await child.order("start", force.arguments, self._addresses.of(slot.number, force.binds))
        child.generation = force.number
        return done

    def _dead(self, child: Child, death: Death, done: Done, **fields: object) -> None:
        detail = f"it {_end(child)}" if child.mute else done.text
        self._log.event(
            "error",
            "worker_died",
            slot=child.slot,
            signal=death.signal,
            status=death.status,
            detail=detail,
            pid=child.pid,
            **fields,
        )

    async def _rest(self, seconds: float) -> None:
        """Wait, or until the end."""
        if seconds:
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except TimeoutError:
                return

    def _look(self, due: float) -> None:
        """Kill who is mute. When this was late itself, nobody is to blame."""
        now = monotonic()
        for child in self._children() if now - due > self._pace.beat else ():
            child.heard = now
        for slot in self.slots:
            if slot.child is not None and slot.child.pid and now - slot.child.heard > self._patience(slot.child):
                slot.child.mute = self._patience(slot.child)
                slot.child.kill()
        self._timer = asyncio.get_running_loop().call_later(self._pace.beat, self._look, now + self._pace.beat)

    def _patience(self, child: Child) -> float:
        return max(self._pace.mute, BEGIN_SECONDS) if child.busy else self._pace.mute

    def heard(self) -> bool:
        """Whether a worker serves and has been heard of lately."""
        now = monotonic()
        return any(
            slot.up and slot.child is not None and now - slot.child.heard <= self._patience(slot.child)
            for slot in self.slots
        )

    # Questions

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float) -> list[Answer]:
        """The answers of all that are up, by slot."""
        up = [slot.child for slot in self.slots if slot.up and slot.child is not None]
        return list(await asyncio.gather(*(child.ask(question, arguments, deadline) for child in up)))

    # Configs

    async def reload(self, force: Force) -> tuple[list[Mapping[str, Any]], list[str]]:
        """Have all workers go by ``force``: what is wrong, if it cannot be; then all is as before. And who held it up.
        Raises BindError. One at a time."""
        try:
            self._addresses.take(force.binds)
            return await self._reloaded(force)
        finally:
            self._settle()

    async def _reloaded(self, force: Force) -> tuple[list[Mapping[str, Any]], list[str]]:
        await self._lending.last(force.binds)
        prepared: dict[Child, Done] = {}
        # Between the last look at who is up and the change no time passes: whoever comes up behind it catches up.
        while fresh := [slot.child for slot in self.slots if slot.up and slot.child not in prepared]:
            found = await asyncio.gather(*(self._prepare(child, force) for child in fresh if child is not None))
            prepared.update(found)
        ready = [child for child, done in prepared.items() if done.code == 0]
        # It has nothing to say of a config that it has not seen: its successor takes it, as who comes later does.
        unseen = [child for child, done in prepared.items() if done.code is None and not done.begun]
        bad = [
            problem for child, done in prepared.items() if done.code != 0 and (child not in unseen or not ready)
            for problem in self._told(child, done)
        ]  # fmt: skip
        if bad:
            await asyncio.gather(*(child.order("discard", {"number": force.number}) for child in ready))
            self._addresses.keep(self.force.binds)
            return bad, []
        self.force = force
        # First: whoever still connects to an address that goes is in the queue of a worker, which accepts him.
        self._addresses.keep(force.binds)
        adopted = await asyncio.gather(*(self._adopt(child, force) for child in ready))
        late = [child for child, well in zip(ready, adopted, strict=True) if not well]
        return [], [f"worker {child.slot} {_end(child)}: the next one takes the new config" for child in unseen + late]

    @staticmethod
    def _told(child: Child, done: Done) -> list[Mapping[str, Any]]:
        if done.code is not None:
            return done.told(child.slot)
        return [{"message": f"worker {child.slot} {_end(child)}: ask again"}]

    async def _prepare(self, child: Child, force: Force) -> tuple[Child, Done]:
        sockets = self._addresses.of(child.slot, force.binds)
        return child, await child.order("prepare", force.arguments, sockets)

    async def _adopt(self, child: Child, force: Force) -> bool:
        done = await child.order("adopt", {"number": force.number})
        if done.code == 0:
            child.generation = force.number
            await self._stand(child)
        else:
            if done.code is not None:
                self._log.event("error", "internal_error", error="ReloadFailed", where=done.text)
            # It cannot go back alone. Its successor begins with the new config.
            child.kill()
        return done.code == 0

    async def _catch_up(self, child: Child) -> None:
        """The config was changed while it started."""
        while child.generation != self.force.number and not (child.gone.is_set() or self._stopping.is_set()):
            force = self.force
            _, done = await self._prepare(child, force)
            if done.code != 0:
                child.kill()
                return
            if force is not self.force:
                await child.order("discard", {"number": force.number})
            elif not await self._adopt(child, force):
                return
        self._settle()

    def _settle(self) -> None:
        """When all workers go by the config in force, none has a socket of another one."""
        children = self._children()
        if all(child.generation == self.force.number and not child.gone.is_set() for child in children):
            self._addresses.settle()


def _end(child: Child) -> str:
    return f"said nothing for {child.mute:g} s and was killed" if child.mute else "died"

"""All slots: who starts the workers, starts them again when they die, asks them, and brings a config to all or none.

Law: a worker that comes up later than the others ends with the config in force, whatever happens meanwhile. A slot
never gives up: it waits longer each time, 30 s at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from popproxy.config.plan import Bind, Plan
from popproxy.core.effects import Level
from popproxy.run.addresses import Addresses
from popproxy.run.fleet import Answer
from popproxy.run.process import EX_UNAVAILABLE, LoopName
from popproxy.run.restarts import LONGEST, SETTLED, Restarts
from popproxy.run.slot import BEGIN_SECONDS, Child, Death, Done
from popproxy.run.workerprocess import BEAT

_STANDING_SECONDS = 2.0
_ALONE_SECONDS = 1.0
"""For how long who waits at a slot without a worker is left to its next one."""


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
        self.mute = False
        """It was killed because it said nothing."""
        self.restarts = Restarts(pace.settled, pace.longest)
        self.lent: asyncio.Task[None] | None = None
        """Has others serve who waits here; None while there is a worker."""
        self.helper: Child | None = None
        """Who was told to last."""

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
        """Questions that each worker is asked when it has come up: see run.admin.api.Api."""
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._returning: set[asyncio.Task[Done]] = set()
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
                for question, arguments in list(self.standing()):
                    await child.ask(question, arguments, _STANDING_SECONDS)
                self._up(slot, child, began, not first.done())
                self._return(slot)
                began = monotonic()
                if not first.done():
                    first.set_result(done)
                await self._catch_up(child)
                await child.gone.wait()
                served = monotonic() - began
                slot.up = False
                self._watch.died(slot.number)
            pid, sessions = child.pid, child.sessions
            death = await child.ended()
            slot.child = None
            if not first.done():
                first.set_result(done)
                return
            if not self._stopping.is_set():
                self._dead(slot, death, done, pid=pid, sessions=sessions, seconds=round(served, 3))
                if slot.lent is None:
                    slot.lent = asyncio.get_running_loop().create_task(self._lend(slot))
                await self._rest(slot.restarts.died(served))
        self._return(slot)

    async def _lend(self, slot: Slot) -> None:
        """Have another worker serve who waits at ``slot``, until this is cancelled: the next worker may be long in
        coming, and the kernel goes on dealing clients to it."""
        await asyncio.sleep(_ALONE_SECONDS)
        while not self._stopping.is_set():
            force, binds = self.force, self.force.binds
            own = self._addresses.of(slot.number, binds)
            up = (other.child for other in self.slots if other.up and other.child is not None)
            # Others are about to take another config.
            able = [child for child in up if child.generation == force.number]
            for child in sorted(able, key=lambda child: child.sessions)[:1]:
                theirs = self._addresses.of(child.slot, binds)
                which = [place for place, sock in enumerate(own) if sock is not theirs[place]]
                slot.helper = child
                arguments = {"slot": slot.number, "places": which}
                done = await child.order("lend", arguments, [own[place] for place in which], patient=False)
                while done.code == 0 and self.force is force and not await self._left(child):
                    pass
            await asyncio.sleep(self._pace.beat)

    async def _left(self, child: Child) -> bool:
        """Whether it is gone, a beat later at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.gone.wait(), self._pace.beat)
        return child.gone.is_set()

    def _return(self, slot: Slot) -> None:
        """``slot`` has a worker, or will have none."""
        task, slot.lent = slot.lent, None
        if task is not None:
            task.cancel()
            helper, slot.helper = slot.helper, None
            if helper is not None and not self._stopping.is_set():
                # Nobody waits for a helper that hangs itself.
                back = asyncio.get_running_loop().create_task(
                    helper.order("return", {"slot": slot.number}, patient=False)
                )
                self._returning.add(back)
                back.add_done_callback(self._returning.discard)

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

    def _up(self, slot: Slot, child: Child, began: float, first: bool) -> None:
        slot.up = True
        slot.mute = False
        (self._watch.started if first else self._watch.restarted)(slot.number)
        seconds = round(monotonic() - began, 3)
        self._log.event("info", "worker_started", slot=slot.number, pid=child.pid, seconds=seconds)

    def _dead(self, slot: Slot, death: Death, done: Done, **fields: object) -> None:
        detail = done.text
        if slot.mute:
            detail = f"it said nothing for {self._pace.mute:g} s and was killed"
        self._log.event(
            "error",
            "worker_died",
            slot=slot.number,
            signal=death.signal,
            status=death.status,
            detail=detail,
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
                slot.mute = True
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

    async def reload(self, force: Force) -> list[Mapping[str, Any]]:
        """Have all workers go by ``force``: what is wrong, if it cannot be; then all is as before. Raises BindError.
        One at a time."""
        self._addresses.take(force.binds)
        prepared: dict[Child, Done] = {}
        while fresh := [slot.child for slot in self.slots if slot.up and slot.child not in prepared]:
            found = await asyncio.gather(*(self._prepare(child, force) for child in fresh if child is not None))
            prepared.update(found)
            bad = [problem for child, done in found if done.code != 0 for problem in done.told(child.slot)]
            if bad:
                await asyncio.gather(
                    *(child.order("discard", {"number": force.number}) for child, done in prepared.items()
                      if done.code == 0)
                )  # fmt: skip
                self._addresses.keep(self.force.binds)
                return bad
        self.force = force
        # First: whoever still connects to an address that goes is in the queue of a worker, which accepts him.
        self._addresses.keep(force.binds)
        await asyncio.gather(*(self._adopt(child, force) for child in prepared))
        return []

    async def _prepare(self, child: Child, force: Force) -> tuple[Child, Done]:
        sockets = self._addresses.of(child.slot, force.binds)
        return child, await child.order("prepare", force.arguments, sockets)

    async def _adopt(self, child: Child, force: Force) -> None:
        done = await child.order("adopt", {"number": force.number})
        if done.code != 0:
            # It cannot go back alone. Its successor begins with the new config.
            self._log.event("error", "internal_error", error="ReloadFailed", where=done.text)
            child.kill()
        child.generation = force.number

    async def _catch_up(self, child: Child) -> None:
        """The config was changed while it started."""
        while child.generation != self.force.number and not (child.gone.is_set() or self._stopping.is_set()):
            force = self.force
            _, done = await self._prepare(child, force)
            if done.code != 0:
                child.kill()
                return
            if force is self.force:
                await self._adopt(child, force)
            else:
                await child.order("discard", {"number": force.number})

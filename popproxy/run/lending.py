"""Who waits at a slot that has no worker is served by another slot's: the next worker may be long in coming, and the
kernel goes on dealing clients to the sockets that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from popproxy.config.plan import Bind
from popproxy.run.addresses import Addresses, keys
from popproxy.run.slot import Child, Done

if TYPE_CHECKING:
    from popproxy.run.crew import Crew, Slot

_ALONE_SECONDS = 1.0
"""For how long who waits at a slot without a worker is left to its next one."""


class Lending:
    """What the slots of ``crew`` lend each other, until ``stopping``. ``beat``: see Pace."""

    def __init__(self, crew: Crew, addresses: Addresses, stopping: asyncio.Event, beat: float) -> None:
        self._crew = crew
        self._addresses = addresses
        self._stopping = stopping
        self._beat = beat
        self._lent: dict[int, asyncio.Task[None]] = {}
        self._helpers: dict[int, set[Child]] = {}
        """By slot, who was told to."""
        self._returning: set[asyncio.Task[Done]] = set()

    def begin(self, slot: Slot) -> None:
        """``slot`` has no worker. May be repeated."""
        if slot.number not in self._lent:
            self._lent[slot.number] = asyncio.get_running_loop().create_task(self._lend(slot))

    def end(self, slot: Slot) -> None:
        """``slot`` has a worker, or will have none."""
        task = self._lent.pop(slot.number, None)
        if task is not None:
            task.cancel()
        for helper in self._helpers.pop(slot.number, ()):
            if not self._stopping.is_set():
                # Nobody waits for a helper that hangs itself.
                back = asyncio.get_running_loop().create_task(helper.order("return", {"slot": slot.number}))
                self._returning.add(back)
                back.add_done_callback(self._returning.discard)

    async def last(self, binds: Sequence[Bind]) -> None:
        """Only ``binds`` are kept: who waits elsewhere at a slot without a worker is served now or never."""
        before = self._crew.force.binds
        gone = {place for place, key in enumerate(keys(before)) if key not in set(keys(binds))}
        if gone:
            for slot in self._crew.slots:
                if not slot.up:
                    await self._once(slot, gone)

    async def _lend(self, slot: Slot) -> None:
        """Until this is cancelled."""
        await asyncio.sleep(_ALONE_SECONDS)
        while not self._stopping.is_set():
            force = self._crew.force
            helper = await self._once(slot, set(range(len(force.binds))))
            while helper is not None and self._crew.force is force and not await self._left(helper):
                pass
            await asyncio.sleep(self._beat)

    async def _once(self, slot: Slot, places: set[int]) -> Child | None:
        """Lend what ``slot`` has for these binds of the config in force; to whom."""
        number, binds = self._crew.force.number, self._crew.force.binds
        up = (other.child for other in self._crew.slots if other.up and other.child is not None)
        # Others are about to take another config.
        able = [child for child in up if child.generation == number]
        for child in sorted(able, key=lambda child: child.sessions)[:1]:
            own, theirs = (self._addresses.of(each, binds) for each in (slot.number, child.slot))
            which = [place for place in sorted(places) if own[place] is not theirs[place]]
            self._helpers.setdefault(slot.number, set()).add(child)
            arguments = {"slot": slot.number, "places": which}
            done = await child.order("lend", arguments, [own[place] for place in which])
            return child if done.code == 0 else None
        return None

    async def _left(self, child: Child) -> bool:
        """Whether it is gone, a beat later at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.gone.wait(), self._beat)
        return child.gone.is_set()

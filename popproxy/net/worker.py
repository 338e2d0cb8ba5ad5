"""The worker: what lives as long as the process, and the generations of the plan that it runs.

Life: a generation is prepared and adopted, then perhaps another one, and so on; sessions stay with the one they began
under, and it ends behind the last of them. Anything that cannot be had stops a start with an error that says what is
wrong, and leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import socket
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any

from popproxy.api.store import Store, StoreFailed
from popproxy.config.plan import Bind, Plan
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.desk import Desk
from popproxy.net.desk.overheard import Overheard
from popproxy.net.desk.pulse import Pulse
from popproxy.net.desk.recent import Recent
from popproxy.net.desk.sessions import Sessions
from popproxy.net.desk.tap import Taps
from popproxy.net.desk.top import Tops
from popproxy.net.desk.upstreams import Upstreams
from popproxy.net.dialer import Dialer
from popproxy.net.front import Front
from popproxy.net.generation import Generation, Ground, PluginFailed, WorkerLog
from popproxy.net.group import Group
from popproxy.net.listener import Listener
from popproxy.net.overload import Overload
from popproxy.net.pump import Pump
from popproxy.net.services import Pool
from popproxy.net.sockets import Give, Sockets
from popproxy.net.store import Stores, StoreWatch
from popproxy.net.tasks import Tasks

__all__ = ["Generation", "Give", "PluginFailed", "Worker", "WorkerLog"]

_LAG_SECONDS = 0.1
_CANCEL_SECONDS = 1.0
_RENEW_SECONDS = 10.0


class Worker:
    """All listeners and sessions of one process, on the running loop. ``desk`` answers questions about them.

    ``give`` is where listening sockets come from; with None the worker binds and keeps them itself, but for those that
    are ``given``: bound by somebody else, and the worker's from now on. ``held``: some of those that ``give`` gives
    stay open elsewhere when this process ends. ``generations`` has the one in force first, then those before it that
    still have sessions, the latest first.
    """

    def __init__(
        self,
        plan: Plan,
        log: WorkerLog,
        metrics: WorkerMetrics,
        give: Give | None = None,
        given: Mapping[Bind, socket.socket] | None = None,
        held: bool = False,
    ) -> None:
        self.generations: list[Generation] = []
        self.desk = Desk()
        log = heard = Overheard(log)
        self._plan = plan
        self._log = log
        self._metrics = metrics
        self._loop = loop = asyncio.get_running_loop()
        self._give = give
        self._sockets = Sockets(given)
        # Who waits at a socket that systemd holds is served by the process that is started next.
        self._farewell = not (held or given)
        self._tasks = Tasks(loop)
        self._ending: set[asyncio.Task[None]] = set()
        self._prepared: list[Generation] = []
        self._threads = Pool()
        stores = Stores(lambda kind: StoreWatch(kind, metrics.store(kind), log), metrics.store_gone)
        self._overload = Overload(plan.overload, metrics.overload, log)
        self._lag: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._prefix = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._plans = itertools.count(1)
        self._stopping = False
        self._empty = asyncio.Event()
        self.taps = Taps(self.desk, self.pumps, loop)
        self._ground = Ground(
            loop, log, metrics, self._threads, stores, self._overload, {}, set(), self.next_id, self._ended,
            self.taps,
        )  # fmt: skip
        metrics.tasks = lambda: len(self._tasks) + sum(len(generation.tasks) for generation in list(self.generations))
        self._answer(metrics, heard)

    def _answer(self, metrics: WorkerMetrics, log: Overheard) -> None:
        """What an administrator may ask."""
        desk = self.desk
        Sessions(desk, self.pumps)
        Upstreams(desk, self._dialers)
        Tops(desk, log, self.pumps)
        Recent(desk, log)
        Pulse(desk, metrics, self._dialers)

        async def config(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            return self.plan.shown

        desk.add("config", config)

    def _dialers(self) -> Mapping[str, Dialer]:
        return self.generations[0].dialers if self.generations else {}

    # What it is made of

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self.generations[0].plan if self.generations else self._plan

    @property
    def fronts(self) -> list[Front]:
        """Those of the plan in force."""
        return self.generations[0].fronts if self.generations else []

    @property
    def listeners(self) -> list[Listener]:
        """Those of the plan in force."""
        return self.generations[0].listeners if self.generations else []

    @property
    def sessions(self) -> int:
        """Sessions that are open, of all generations."""
        return sum(generation.sessions for generation in list(self.generations))

    def pumps(self) -> Iterator[Pump]:
        """All sessions of all generations."""
        for generation in self.generations:
            yield from generation.pumps()

    def store(self, plugin: str) -> Store:
        """What the plugin called so has in the store. Raises StoreFailed when no plan is in force."""
        if not self.generations:
            raise StoreFailed("the store is not open yet", "closed")
        return self.generations[0].store(plugin)

    def spawn(self, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run ``awaitable``; the task is kept until it is done, and its failure is reported by the loop."""
        return self._tasks.spawn(awaitable)

    def next_id(self) -> str:
        """A session id: unique in this process, and almost surely on all machines."""
        return f"{self._prefix}{next(self._numbers):06x}"

    # Generations

    async def start(self) -> None:
        """Open everything, or raise BindError, TlsConfigError, PluginFailed or OSError and leave nothing open."""
        try:
            await self.replace(self._plan)
        except BaseException:
            await self.stop(0.0)
            raise

    async def prepare(self, plan: Plan, give: Give | None = None) -> Generation:
        """Make all that ``plan`` needs, and start its plugins. Raises BindError, TlsConfigError, PluginFailed or
        OSError, and leaves everything as it was."""
        before = self.generations[0] if self.generations else None
        generation = Generation(next(self._plans), plan, self._ground, before)
        self._prepared.append(generation)
        try:
            await generation.prepare(give or self._give or self._sockets.giver(), self._groups())
        except BaseException:
            await self.discard(generation)
            raise
        return generation

    def _groups(self) -> dict[str, Group]:
        """By upstream, the latest that is in use."""
        oldest_first = reversed(self.generations)
        return {name: dialer.group for each in oldest_first for name, dialer in each.dialers.items()}

    async def adopt(self, generation: Generation) -> None:
        """New connections go to ``generation``; the one before accepts no more, and ends behind its last session.
        Raises OSError when the system does not let it accept: then it ends by itself, and the one before goes on."""
        before = self.generations[0] if self.generations else None
        self._prepared.remove(generation)
        if before is None:
            self._overload.begin()
        try:
            await generation.open(() if before is None else before.binds)
        except BaseException:
            # Clients whom it has accepted already stay with it.
            self.generations.append(generation)
            self._retire(generation, before)
            raise
        self.generations.insert(0, generation)
        if before is None:
            self._beat(self._loop.time() + _LAG_SECONDS)
            self._renew_later()
        else:
            self._overload.take(generation.plan.overload, self._loop.time())
            self._retire(before, generation)

    def _retire(self, generation: Generation, successor: Generation | None) -> None:
        kept = [] if successor is None else successor.binds
        generation.retire(kept, () if successor is None else successor.dialers)
        self._sockets.keep(kept)
        if successor is not None:
            generation.forget(successor)
        self._ended(generation)

    async def replace(self, plan: Plan) -> None:
        """``prepare`` and ``adopt``. Raises as they do."""
        await self.adopt(await self.prepare(plan))

    async def discard(self, generation: Generation) -> None:
        """It was prepared, perhaps only in part, and will not be adopted."""
        await generation.end()
        self._prepared.remove(generation)
        self._sockets.keep(self.generations[0].binds if self.generations else ())

    def _ended(self, generation: Generation) -> None:
        """A session of ``generation`` is over."""
        if self._stopping:
            if not self.sessions:
                self._empty.set()
        elif generation.retired and not generation.connections and not generation.over:
            generation.over = True
            task = self._loop.create_task(self._finish(generation))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _finish(self, generation: Generation) -> None:
        await generation.end()
        self.generations.remove(generation)
        if self.generations:
            generation.forget(self.generations[0])
        self._log.event("info", "config_retired", hash=generation.plan.hash)

    def _beat(self, due: float) -> None:
        """Measure how late the loop is."""
        now = self._loop.time()
        late = max(0.0, now - due)
        self._metrics.lag(late)
        self._overload.beat(now, late)
        self._lag = self._loop.call_at(now + _LAG_SECONDS, self._beat, now + _LAG_SECONDS)

    def _renew_later(self) -> None:
        if not self._stopping:
            self._renewal = self._loop.call_later(_RENEW_SECONDS, lambda: self._tasks.spawn(self._renew()))

    async def _renew(self) -> None:
        """Certificates of the plan in force follow their files; those before keep what they have."""
        try:
            await self.generations[0].renew()
        finally:
            self._renew_later()

    # The end

    def hurry(self) -> None:
        """Wait no longer for open sessions: stop() goes on at once."""
        self._empty.set()

    async def stop(self, deadline: float) -> None:
        """Accept no more, and tell who waits in a backlog that will be gone; idle sessions end without a word, busy
        ones behind their reply, at most ``deadline``
        seconds later; then plugins stop, the last one first. May be called after a failed start, and again."""
        self._stopping = True
        self._metrics.draining(True)
        for generation in self.generations:
            generation.stop(self._farewell)
        self._sockets.close()
        await self._until_empty(deadline)
        for generation in self.generations:
            generation.abort()
        for transport in self._ground.closing:
            transport.abort()
        self._empty.clear()
        await self._until_empty(_CANCEL_SECONDS)
        for timer in (self._lag, self._renewal):
            if timer is not None:
                timer.cancel()
        if self._ending:
            await asyncio.wait(self._ending)
        await self._tasks.cancel(_CANCEL_SECONDS)
        for generation in [*self._prepared, *self.generations]:
            await generation.end()
        self._threads.close()
        await self._tasks.cancel(_CANCEL_SECONDS)

    async def _until_empty(self, seconds: float) -> None:
        if not self.sessions:
            self._empty.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)

"""All that belongs to one plan: its listeners and fronts, TLS contexts, dialers, plugins and probers.

Life: prepared (everything that can fail; nothing of it is seen by a client), opened (it accepts), retired (it accepts
no more, its sessions go on as they began), ended (its last session is over: plugins stop, the last one first). One that
cannot be prepared is ended at once and leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from time import monotonic
from typing import Any, Protocol

from popproxy.api.plugin import HOOKS, overrides, subscribes
from popproxy.api.services import Log
from popproxy.api.store import Store
from popproxy.config.plan import Bind, Plan, UpstreamPlan
from popproxy.core.chain import Subscriber
from popproxy.core.effects import Level
from popproxy.core.hooks import CONTAINED
from popproxy.core.login import Knowledge
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.certificates import Certificates
from popproxy.net.desk.tap import Taps
from popproxy.net.dialer import Dialer
from popproxy.net.front import Front, Seats, Shared
from popproxy.net.group import Group
from popproxy.net.listener import Listener
from popproxy.net.overload import Overload
from popproxy.net.own import OwnAddresses
from popproxy.net.probe import Prober
from popproxy.net.pump import Pump
from popproxy.net.services import PluginServices, Pool
from popproxy.net.sockets import Give, Place, place
from popproxy.net.spool import Spools
from popproxy.net.store import Stores
from popproxy.net.tasks import Tasks
from popproxy.net.watch import UpstreamWatch
from popproxy.state.space import Backend, Space

_START_SECONDS = 30.0
_CANCEL_SECONDS = 1.0


class WorkerLog(Protocol):
    """Where a worker and its plugins log."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...

    def plugin(self, name: str) -> Log:
        """``services.log`` of a plugin."""
        ...


class PluginFailed(Exception):
    """A plugin refused to start. The text names it and says why."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What outlives a plan: the process lends it to every generation. ``seats`` are by the name of the listener,
    ``closing`` are upstream connections nobody uses any more. ``ended`` is called when a session is over."""

    loop: asyncio.AbstractEventLoop
    log: WorkerLog
    metrics: WorkerMetrics
    threads: Pool
    stores: Stores
    overload: Overload
    seats: dict[str, Seats]
    closing: set[asyncio.Transport]
    next_id: Callable[[], str]
    ended: Callable[[Generation], None]
    taps: Taps


class Generation:
    """See the head of this file. ``number`` counts the plans of a process from 1 on."""

    def __init__(self, number: int, plan: Plan, ground: Ground, before: Generation | None) -> None:
        self.number = number
        self.plan = plan
        self.fronts: list[Front] = []
        self.listeners: list[Listener] = []
        self.dialers: dict[str, Dialer] = {}
        self.tasks = Tasks(ground.loop)
        self.retired = False
        self.over = False
        """Somebody has begun to end it."""
        self._ground = ground
        self._own = OwnAddresses()
        self._knowledge = Knowledge()
        if before is not None:
            # Decoys go on looking as they did; what upstreams can do is asked again when they are others now.
            same = before.plan.upstreams == plan.upstreams
            self._knowledge = before._knowledge if same else self._knowledge
            self._knowledge.shapes = before._knowledge.shapes
        self._certificates = Certificates(ground.loop, ground.log)
        self._store: Backend | None = None
        self._started: list[tuple[Subscriber, PluginServices]] = []
        self._probes: dict[str, list[asyncio.Task[Any]]] = {}
        self._lent: dict[int, list[Listener]] = {}

    # Sessions

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return sum(len(front.pumps) for front in self.fronts)

    @property
    def connections(self) -> int:
        """Clients that are here, with a session or without one yet."""
        return sum(front.open for front in self.fronts)

    def pumps(self) -> Iterator[Pump]:
        """All sessions."""
        for front in self.fronts:
            yield from front.pumps

    def store(self, plugin: str) -> Store:
        """What the plugin called so has in the store of this plan. Only between ``prepare`` and ``end``."""
        assert self._store is not None
        return Space(self._store, plugin)

    # Preparing

    async def prepare(self, give: Give, groups: Mapping[str, Group]) -> None:
        """Make everything and start the plugins. Raises BindError, TlsConfigError, PluginFailed or OSError; then it is
        still to be ended. ``groups`` are those of upstreams that are in use."""
        plan, ground = self.plan, self._ground
        for upstream in plan.upstreams.values():
            self.dialers[upstream.name] = dialer = self._dialer(upstream, groups.get(upstream.name))
            await self._certificates.trust(dialer)
        for listener in plan.listeners:
            if listener.tls != "off":
                await self._certificates.load(listener.tls_context)
        spools = Spools(plan.limits.spool_memory, plan.limits.spool_disk, ground.metrics.spooled)
        shared = Shared(
            ground.loop,
            ground.log,
            self._knowledge,
            self.dialers,
            self.tasks,
            ground.next_id,
            spools,
            partial(ground.ended, self),
            ground.overload,
            ground.taps,
            plan.exemplars,
        )
        for listener in plan.listeners:
            context = self._certificates.context(listener.tls_context) if listener.tls != "off" else None
            seats = ground.seats.setdefault(listener.name, Seats())
            meter = ground.metrics.listener(listener.name)
            front = Front(listener, shared, meter, context, seats)
            self.fronts.append(front)
            for where in listener.bind:
                bound = Listener(front, give(where), where)
                self.listeners.append(bound)
                if where.family == "inet":
                    self._own.add(*bound.bound)
        self._store = await ground.stores.take(plan.store, self)
        for subscriber in plan.plugins:
            await self._start_plugin(subscriber, self._store)

    def _dialer(self, upstream: UpstreamPlan, before: Group | None) -> Dialer:
        ground = self._ground
        meter = ground.metrics.upstream(upstream.name)
        group = Group(upstream, monotonic, UpstreamWatch(upstream.name, ground.log, meter), before)
        return Dialer(upstream, self.plan.timeouts, meter, group, self._own, ground.closing)

    async def _start_plugin(self, subscriber: Subscriber, store: Backend) -> None:
        name, plugin, ground = subscriber.name, subscriber.plugin, self._ground
        observing = ["observe"] if overrides(type(plugin), "observe") else []
        ground.metrics.hooks(name, [*(hook for hook in HOOKS if subscribes(plugin, hook)), *observing])
        log, metrics = ground.log.plugin(name), ground.metrics.plugin(name)
        table = subscriber.fail, subscriber.deadline
        services = PluginServices(log, metrics, ground.threads, Space(store, name), self.tasks.spawn, *table)
        # Noted before it is started: stop() is promised also after a failed start.
        self._started.append((subscriber, services))
        error = await self._contained(lambda: plugin.start(services), max(subscriber.deadline, _START_SECONDS))
        if error is not None:
            raise PluginFailed(f"plugin {name} did not start: {type(error).__name__}: {error}") from error

    async def _contained(self, call: Callable[[], Awaitable[None] | None], seconds: float) -> BaseException | None:
        """Call a plugin, sync or async; how it failed. One that will not be cancelled is not waited for."""

        async def work(begun: Awaitable[None]) -> BaseException | None:
            try:
                await begun
            except CONTAINED as error:
                return error
            return None

        try:
            begun = call()
        except CONTAINED as error:
            return error
        if not inspect.isawaitable(begun):
            return None
        task = self.tasks.spawn(work(begun))
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            task.cancel()
            return TimeoutError(f"not done within {seconds:g} s")
        if task.cancelled():
            return RuntimeError("it was cancelled")
        outcome: BaseException | None = task.result()
        return outcome

    # In force

    @property
    def binds(self) -> list[Bind]:
        """Where it listens."""
        return [listener.where for listener in self.listeners]

    async def open(self, known: Iterable[Bind] = ()) -> None:
        """Accept from now on, and probe. Addresses that are not ``known`` are told to the log."""
        for listener in self.listeners:
            await listener.open()
        log, plan, told = self._ground.log, self.plan, Counter(map(place, known))
        for listener in self.listeners:
            if not _taken(told, listener):
                of = listener.front.listener
                log.event("info", "listening", listener=of.name, address=listener.address, tls=of.tls)
        self._show()
        for name, dialer in self.dialers.items():
            dialer.group.join()
            prober = Prober(dialer, plan.timeouts)
            if dialer.plan.health.probe:
                probes = [prober.run(member, place) for place, member in enumerate(dialer.group.members)]
            else:
                probes = [prober.untried()]
            self._probes[name] = [self.tasks.spawn(probe) for probe in probes]

    def _show(self) -> None:
        """What the gauges say of a plan."""
        for front in self.fronts:
            front.meter.limit(front.listener.limit)
            self._certificates.show(front)
        for dialer in self.dialers.values():
            dialer.meter.limit(dialer.plan.max_sessions)
            for member in dialer.group.members:
                dialer.meter.up(member.name, member.breaker.up)

    def forget(self, successor: Generation) -> None:
        """What gauges say of servers and certificates that the plan of ``successor`` does not have any more."""
        for name, dialer in self.dialers.items():
            heir = successor.dialers.get(name)
            members = () if heir is None else heir.group.members
            for server in {member.name for member in dialer.group.members} - {member.name for member in members}:
                dialer.meter.gone(server)
        shown = {name for front in successor.fronts for name in successor.certificates(front)}
        for front in self.fronts:
            for _, certificate in set(self.certificates(front)) - shown:
                front.meter.certificate_gone(certificate)

    def certificates(self, front: Front) -> list[tuple[str, str]]:
        """Names of the listener and of each certificate that it serves."""
        return [(front.listener.name, name) for name in self._certificates.names(front)]

    async def renew(self) -> None:
        """Take certificates, keys and authorities from their files again, where those have changed."""
        for front in await self._certificates.renew(self.fronts):
            self._certificates.show(front)
        for dialer in self.dialers.values():
            await self._certificates.renew_upstream(dialer)

    def retire(self, kept: Iterable[Bind], upstreams: Iterable[str]) -> None:
        """Accept no more: ``kept`` are the addresses where somebody else does, those who wait at the others are
        accepted first. ``upstreams`` are probed by somebody else."""
        self.retired = True
        for front in self.fronts:
            front.retired = True
        kept = list(kept)
        others = Counter(map(place, kept))
        for listener in self.listeners:
            if _taken(others, listener):
                listener.close()
            else:
                listener.finish()
        places = set(map(place, kept))
        for listener in chain.from_iterable(self._lent.values()):
            if place(listener.where) in places:
                listener.close()
            else:
                listener.finish()
        for name in upstreams:
            for probe in self._probes.pop(name, ()):
                probe.cancel()

    async def lend(self, slot: int, sockets: Iterable[tuple[int, socket.socket]]) -> None:
        """Accept also from the sockets of worker ``slot``, which is not there: each with the number of the listener
        that it is like. They stay open elsewhere. Raises OSError."""
        lent = [Listener(self.listeners[of].front, sock, self.listeners[of].where) for of, sock in sockets]
        self._lent.setdefault(slot, []).extend(lent)
        try:
            for listener in lent:
                await listener.open()
        except OSError:
            self.give_back(slot)
            raise

    def give_back(self, slot: int) -> None:
        """Worker ``slot`` is back, or somebody else accepts for it: who waits is whoever's who has the sockets."""
        for listener in self._lent.pop(slot, ()):
            listener.close()

    # The end

    def stop(self, farewell: bool = False) -> None:
        """Accept no more; idle sessions end without a word, busy ones behind their reply. ``farewell``: who waits in a
        backlog is told to try later, because nobody else will accept him. May be repeated."""
        for front in self.fronts:
            front.draining = True
        for listener in [*self.listeners, *chain.from_iterable(self._lent.values())]:
            if farewell:
                listener.finish()
            else:
                listener.close()
        for front in self.fronts:
            front.door.close()
            for pump in list(front.pumps):
                pump.stop()

    def abort(self) -> None:
        """End all sessions now."""
        for pump in list(self.pumps()):
            pump.abort()

    async def end(self) -> None:
        """Stop the plugins, the last one first, and give back what was lent. May be repeated, and is called also when
        preparing failed."""
        for listener in self.listeners:
            listener.close()
        for slot in list(self._lent):
            self.give_back(slot)
        # No hook is under way any more when its plugin stops.
        await self.tasks.cancel(_CANCEL_SECONDS)
        while self._started:
            subscriber, services = self._started.pop()
            await self._stop_plugin(subscriber)
            await services.close()
        for dialer in self.dialers.values():
            dialer.group.leave()
        await self._ground.stores.leave(self.plan.store, self)
        await self.tasks.cancel(_CANCEL_SECONDS)

    async def _stop_plugin(self, subscriber: Subscriber) -> None:
        error = await self._contained(subscriber.plugin.stop, subscriber.deadline)
        if error is not None:
            self._ground.log.event(
                "error",
                "plugin_error",
                plugin=subscriber.name,
                hook="stop",
                action="fail_open",
                error=type(error).__name__,
                detail=str(error),
            )


def _taken(places: Counter[Place], listener: Listener) -> bool:
    """Whether its place is there, which is taken out then."""
    key = place(listener.where)
    places[key] -= 1
    return places[key] >= 0

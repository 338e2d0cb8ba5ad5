"""The worker: the one place where config, core, metrics and sockets are joined.

Life: certificates and dialers are made, sockets bound, plugins started, listeners opened; stopping runs the other
way round. Anything that cannot be had stops the start with an error that says what is wrong, and what was begun is
undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from hashlib import sha256
from time import monotonic
from typing import Any, Protocol

from popproxy.api.plugin import HOOKS, subscribes
from popproxy.api.services import Log
from popproxy.api.store import Store
from popproxy.config.plan import CertificatePlan, ListenerPlan, Plan, TlsPlan, UpstreamPlan
from popproxy.core.chain import Subscriber
from popproxy.core.effects import Level
from popproxy.core.hooks import CONTAINED
from popproxy.core.login import Knowledge
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.desk import Desk
from popproxy.net.dialer import Dialer
from popproxy.net.front import Front, Shared
from popproxy.net.group import Group
from popproxy.net.listener import Listener, bind
from popproxy.net.overload import Overload
from popproxy.net.own import OwnAddresses
from popproxy.net.probe import Prober
from popproxy.net.selfsigned import ensure_self_signed
from popproxy.net.services import PluginServices, Pool
from popproxy.net.spool import Spools
from popproxy.net.store import StoreWatch, begin, make
from popproxy.net.tls import CertificateFiles, certificate_expiry, certificate_warnings, server_context
from popproxy.net.watch import UpstreamWatch
from popproxy.state.space import Space

_LAG_SECONDS = 0.1
_START_SECONDS = 30.0
_CANCEL_SECONDS = 1.0
_SELF_SIGNED_ADVICE = (
    "clients will warn about it: set [tls] certificates = [{ cert = \"...\", key = \"...\" }] to one they trust"
)


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


class Worker:
    """All listeners and sessions of one process, on the running loop. ``desk`` answers questions about them."""

    def __init__(self, plan: Plan, log: WorkerLog, metrics: WorkerMetrics) -> None:
        self.plan = plan
        self.fronts: list[Front] = []
        self.listeners: list[Listener] = []
        self.desk = Desk()
        self._log = log
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._contexts: dict[TlsPlan, tuple[ssl.SSLContext, list[CertificateFiles]]] = {}
        self._started: list[tuple[Subscriber, PluginServices]] = []
        self._threads = Pool()
        self._store = make(plan.store, StoreWatch(plan.store.use, metrics.store(plan.store.use), log))
        self._remembers = False
        self._overload = Overload(plan.overload, metrics.overload, log)
        self._own = OwnAddresses()
        self._lag: asyncio.TimerHandle | None = None
        self._prefix = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._stopping = False
        self._empty = asyncio.Event()

    def spawn(self, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
        """Run ``awaitable``; the task is kept until it is done, and its failure is reported by the loop."""
        # A coroutine is not wrapped in another one: cancelled before its first step, the inner would never run.
        work = awaitable if inspect.iscoroutine(awaitable) else _run(awaitable)
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def next_id(self) -> str:
        """A session id: unique in this process, and almost surely on all machines."""
        return f"{self._prefix}{next(self._numbers):06x}"

    async def start(self) -> None:
        """Open everything, or raise BindError, TlsConfigError, PluginFailed or OSError and leave nothing open."""
        try:
            await self._start()
        except BaseException:
            await self.stop(0.0)
            raise

    async def _start(self) -> None:
        plan, metrics = self.plan, self._metrics
        knowledge = Knowledge()
        dialers = {name: self._dialer(upstream) for name, upstream in plan.upstreams.items()}
        spools = Spools(plan.limits.spool_memory, plan.limits.spool_disk, metrics.spooled)
        shared = Shared(
            self._loop, self._log, knowledge, dialers, self.spawn, self.next_id, spools, self._ended, self._overload
        )
        for listener in plan.listeners:
            meter = metrics.listener(listener.name)
            meter.limit(listener.limit)
            front = Front(listener, shared, meter, self._context(listener))
            self.fronts.append(front)
            for where in listener.bind:
                bound = Listener(front, bind(where), where)
                self.listeners.append(bound)
                if where.family == "inet":
                    self._own.add(*bound.bound)
        await begin(self._store, plan.store)
        self._remembers = True
        for subscriber in plan.plugins:
            await self._start_plugin(subscriber)
        self._overload.begin()
        for opening in self.listeners:
            await opening.open()
            listener = opening.front.listener
            self._log.event("info", "listening", listener=listener.name, address=opening.address, tls=listener.tls)
        for dialer in dialers.values():
            if dialer.plan.health.probe:
                prober = Prober(dialer, plan.timeouts)
                for place, member in enumerate(dialer.group.members):
                    self.spawn(prober.run(member, place))
        self._beat(self._loop.time() + _LAG_SECONDS)

    def _dialer(self, upstream: UpstreamPlan) -> Dialer:
        meter = self._metrics.upstream(upstream.name)
        group = Group(upstream, monotonic, UpstreamWatch(upstream, self._log, meter))
        return Dialer(upstream, self.plan.timeouts, meter, group, self._own)

    def _context(self, listener: ListenerPlan) -> ssl.SSLContext | None:
        """The TLS context of a listener, None when it has no TLS. Listeners with the same TLS share one."""
        if listener.tls == "off":
            return None
        if listener.tls_context not in self._contexts:
            self._contexts[listener.tls_context] = self._make_context(listener.tls_context)
        context, files = self._contexts[listener.tls_context]
        meter = self._metrics.listener(listener.name)
        for file in files:
            meter.certificate(file.cert.name, certificate_expiry(file.cert))
        return context

    def _make_context(self, tls: TlsPlan) -> tuple[ssl.SSLContext, list[CertificateFiles]]:
        files = [_files(certificate) for certificate in tls.certificates]
        if not files:
            made = ensure_self_signed(tls.self_signed_directory, [socket.gethostname()]).files
            files = [made]
            begin = made.cert.read_text("ascii")
            der = ssl.PEM_cert_to_DER_cert(begin[begin.index(ssl.PEM_HEADER) :])
            self._log.event(
                "warning",
                "self_signed",
                certificate=str(made.cert),
                fingerprint=sha256(der).hexdigest(),
                advice=_SELF_SIGNED_ADVICE,
            )
        for warning in certificate_warnings(files):
            self._log.event("warning", "certificate", detail=warning)
        context = server_context(
            files,
            minimum=tls.minimum,
            ciphers=tls.ciphers,
            verify_client=tls.verify_client,
            client_ca_file=tls.client_ca_file,
        )
        return context, files

    async def _start_plugin(self, subscriber: Subscriber) -> None:
        name, plugin = subscriber.name, subscriber.plugin
        self._metrics.hooks(name, [hook for hook in HOOKS if subscribes(plugin, hook)])
        log, metrics, table = self._log.plugin(name), self._metrics.plugin(name), (subscriber.fail, subscriber.deadline)
        services = PluginServices(log, metrics, self._threads, Space(self._store, name), self.spawn, *table)
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
        task = self.spawn(work(begun))
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            task.cancel()
            return TimeoutError(f"not done within {seconds:g} s")
        if task.cancelled():
            return RuntimeError("it was cancelled")
        outcome: BaseException | None = task.result()
        return outcome

    def _beat(self, due: float) -> None:
        """Measure how late the loop is."""
        now = self._loop.time()
        late = max(0.0, now - due)
        self._metrics.lag(late)
        self._overload.beat(now, late)
        self._lag = self._loop.call_at(now + _LAG_SECONDS, self._beat, now + _LAG_SECONDS)

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return sum(len(front.pumps) for front in self.fronts)

    def store(self, plugin: str) -> Store:
        """What the plugin called so has in the store."""
        return Space(self._store, plugin)

    def hurry(self) -> None:
        """Wait no longer for open sessions: stop() goes on at once."""
        self._empty.set()

    def _ended(self) -> None:
        """A session is over."""
        if self._stopping and not self.sessions:
            self._empty.set()

    async def stop(self, deadline: float) -> None:
        """Accept no more; idle sessions end without a word, busy ones behind their reply, at most ``deadline``
        seconds later; then plugins stop, the last one first. May be called after a failed start, and again."""
        self._stopping = True
        self._metrics.draining(True)
        for listener in self.listeners:
            listener.close()
        for front in self.fronts:
            front.draining = True
            front.door.close()
            for pump in list(front.pumps):
                pump.stop()
        await self._until_empty(deadline)
        for front in self.fronts:
            for pump in list(front.pumps):
                pump.abort()
            for dialer in front.dialers.values():
                for transport in dialer.closing:
                    transport.abort()
        self._empty.clear()
        await self._until_empty(_CANCEL_SECONDS)
        if self._lag is not None:
            self._lag.cancel()
        # No hook is under way any more when its plugin stops.
        await self._cancel_tasks()
        while self._started:
            subscriber, services = self._started.pop()
            await self._stop_plugin(subscriber)
            await services.close()
        if self._remembers:
            await self._store.close()
            self._remembers = False
        self._threads.close()
        await self._cancel_tasks()

    async def _until_empty(self, seconds: float) -> None:
        self._ended()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)

    async def _cancel_tasks(self) -> None:
        # Not ourselves: a failed start() may stop from within a task of ours.
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)

    async def _stop_plugin(self, subscriber: Subscriber) -> None:
        error = await self._contained(subscriber.plugin.stop, subscriber.deadline)
        if error is not None:
            self._log.event(
                "error",
                "plugin_error",
                plugin=subscriber.name,
                hook="stop",
                action="fail_open",
                error=type(error).__name__,
                detail=str(error),
            )


async def _run(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _files(certificate: CertificatePlan) -> CertificateFiles:
    secret = certificate.password.get_secret_value().encode() if certificate.password is not None else None
    return CertificateFiles(certificate.cert, certificate.key, secret)

"""Several workers: the first process has no sessions. It owns the listening sockets, starts the workers and starts them
again, has the admin listener, adds up what the workers count, and takes the signals.

TERM drains, INT ends at once, and so does a second one of them; HUP reloads; USR1 reopens the logs of all processes.
A reload is prepared in all workers before any of them takes it: all have the new config, or none.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from popproxy import __version__
from popproxy.config.load import Loaded
from popproxy.config.plan import Bind, Plan
from popproxy.metrics.cells import Block
from popproxy.metrics.collector import WorkerMetrics
from popproxy.metrics.exposition import Shown, new_registry, render
from popproxy.metrics.merge import Merger
from popproxy.net.binding import BindError
from popproxy.net.tls import TlsConfigError
from popproxy.run.addresses import Addresses
from popproxy.run.admin import Admin
from popproxy.run.crew import Crew, Force, Pace
from popproxy.run.fleet import Answer, Reloaded, Status
from popproxy.run.logs import EventLog, salt_of
from popproxy.run.process import (
    ENDING,
    EX_CONFIG,
    EX_OK,
    EX_UNAVAILABLE,
    HEARD,
    LoopName,
    failed,
    grace,
    internal,
    loop_factory,
    open_admin,
    opened,
    raise_descriptor_limit,
)  # fmt: skip
from popproxy.run.reload import Again, Refused, Reloader
from popproxy.run.slot import Done
from popproxy.run.systemd import Reports, activated

if TYPE_CHECKING:
    from aiohttp import web

_LATE_SECONDS = 10.0
"""How long workers may take to end behind the deadline of a drain."""


def supervise(
    loaded: Loaded, again: Again, loop: LoopName = "uvloop", warnings: Sequence[str] = (), pace: Pace | None = None
) -> int:
    """Serve ``loaded`` with as many workers as its plan says, until a signal ends it; returns the exit code.

    ``warnings`` are what the config check had to say; they are logged. As after serve(), signals stay blocked.
    """
    plan = loaded.plan
    salt = salt_of(plan.log)
    log = opened(plan.log, salt)
    if log is None:
        return EX_CONFIG
    raise_descriptor_limit()
    try:
        given = activated(plan.listeners)
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:

            async def run() -> int:
                return await _Supervisor(loaded, again, log, salt, given, loop, pace or Pace()).run(warnings)

            return runner.run(run())
    except BindError as error:
        # Of sockets that systemd opened; others are told where they are opened.
        return failed(str(error), EX_UNAVAILABLE, plan, log)
    finally:
        log.close()


class _Supervisor:
    """What runs in the loop: the Fleet of several processes. ``state`` is why no sessions are taken, empty when they
    are."""

    def __init__(
        self,
        loaded: Loaded,
        again: Again,
        log: EventLog,
        salt: bytes,
        given: Mapping[Bind, socket.socket],
        loop: LoopName,
        pace: Pace,
    ) -> None:
        self.state = "starting"
        self._loaded = loaded
        self._log = log
        self._salt = salt
        self._decoy = loaded.plan.listeners[0].session.decoy
        self._began = time.monotonic()
        self._since = time.time()
        self._merger = Merger()
        self._blocks: list[Block] = []
        self._pace = pace
        self._gathered = 0.0
        self._metrics = WorkerMetrics(new_registry(), dropped=lambda: log.dropped, waiting=lambda: log.waiting)
        self._reports = Reports(self.status, lambda: self._crew.heard())
        self._reloader = Reloader(loaded.plan, again, self._take, log, self._metrics, self._reports.reloading)
        self._held = bool(given)
        addresses = Addresses(loaded.plan.workers, given)
        self._crew = Crew(self._force(loaded, loaded.plan, 1), addresses, log, self._merger, loop, pace)
        self._signalled: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()

    def _force(self, loaded: Loaded, plan: Plan, number: int) -> Force:
        """What was read, and ``plan``, as workers get it. Without a secret for them, decoys go on looking as they
        did."""
        secret, log = loaded.config.protocol.decoy_secret, plan.log
        arguments = {
            "number": number,
            "origin": astuple(loaded.origin),
            "workers": plan.workers,
            "decoy": self._decoy if secret is None else secret.get_secret_value().encode(),
            "salt": self._salt,
            "held": self._held,
            "log": (log.format, log.level, None if log.file is None else str(log.file), log.users),
        }
        return Force(number, plan, arguments)

    async def run(self, warnings: Sequence[str]) -> int:
        """From the first log line to the last; the exit code."""
        plan, log, crew = self._loaded.plan, self._log, self._crew
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: internal(log, context))
        log.event("info", "starting", version=__version__, pid=os.getpid(), config=self._config, hash=plan.hash)
        for warning in warnings:
            log.event("warning", "config_warning", detail=warning)
        self._metrics.build(type(loop).__module__.partition(".")[0])
        admin = None
        if plan.admin is not None:
            admin = Admin(
                self._render, lambda: self.state or None, private=self._api, gather=self._gather,
                refused=self._metrics.admin(),
            )  # fmt: skip
        self._on_signals(loop)
        try:
            try:
                code = await self._start(admin)
                if code == EX_OK:
                    if not self._signalled.done():
                        self._reports.ready()
                    self._reloader.open()
                    name = await self._signalled
                    self.state = "draining"
                    await self._reloader.close()
                    self._metrics.draining(True)
                    self._reports.stopping()
                    seconds = grace(name, self._reloader.plan)
                    log.event("info", "stopping", signal=name, sessions=self._sessions, grace=seconds)
            finally:
                self.state = self.state or "draining"
                await self._reloader.close()
                deadline = grace(self._signalled.result(), self._reloader.plan) if self._signalled.done() else 0.0
                crew.stop(deadline)
                await crew.ended(deadline + _LATE_SECONDS)
        finally:
            self._reports.close()
            for task in self._tasks:
                task.cancel()
            if admin is not None:
                await admin.stop()
            signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        log.event("info", "stopped", sessions=0, seconds=round(time.monotonic() - self._began, 3))
        return code

    async def _start(self, admin: Admin | None) -> int:
        """Open everything; the exit code when that fails. A signal ends it early, which is no failure."""
        starting = self._spawn(self._open(admin))
        await asyncio.wait({starting, self._signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return EX_OK
        done = starting.result()
        if done.code == 0:
            self.state = ""
            if admin is not None:
                self._spawn(self._remember())
            self._log.event("info", "started", seconds=round(time.monotonic() - self._began, 3))
            return EX_OK
        code = EX_UNAVAILABLE if done.code is None else done.code
        return failed(done.text, code, self._reloader.plan, self._log)

    async def _open(self, admin: Admin | None) -> Done:
        plan = self._loaded.plan
        try:
            if admin is not None and plan.admin is not None:
                await open_admin(admin, plan.admin, self._log)
            return await self._crew.start()
        except TlsConfigError as error:
            return Done(EX_CONFIG, None, str(error))
        except (BindError, OSError) as error:
            return Done(EX_UNAVAILABLE, None, str(error))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Signals

    def _on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in ENDING:
            loop.add_signal_handler(number, self.drain, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.signalled)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)

    def _reopen(self) -> None:
        self._log.reopen()
        self._crew.reopen()

    # run.fleet.Fleet

    def _api(self) -> Sequence[web.RouteDef]:
        from popproxy.run.admin.api import Api

        api = Api(self)
        self._crew.standing = api.standing
        return api.routes()

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float = 2.0) -> list[Answer]:
        """See Fleet."""
        return await self._crew.ask(question, arguments, deadline)

    async def reload(self) -> Reloaded:
        """See Fleet."""
        return await self._reloader.reload()

    async def _take(self, loaded: Loaded, plan: Plan) -> Sequence[str]:
        """Have all workers go by ``plan``, of what was read."""
        problems, held_up = await self._crew.reload(self._force(loaded, plan, self._crew.force.number + 1))
        if problems:
            raise Refused(problems)
        return held_up

    def drain(self, reason: str) -> None:
        """See Fleet. Said again, it waits no longer."""
        if self._signalled.done():
            self._crew.hurry()
        else:
            self._signalled.set_result(reason)

    def status(self) -> Status:
        """See Fleet."""
        plan, reloader = self._reloader.plan, self._reloader
        return Status(
            state=self.state or ("reloading" if reloader.busy else "ready"),
            version=__version__,
            pid=os.getpid(),
            config=self._config,
            hash=plan.hash,
            since=self._since,
            reloaded=reloader.at,
            reload_ok=reloader.ok,
            restart=reloader.waiting,
            workers=tuple(slot.as_dict() for slot in self._crew.slots),
        )

    @property
    def _config(self) -> str:
        source = self._reloader.plan.source
        return str(source) if source is not None else ""

    @property
    def _sessions(self) -> int:
        return sum(slot.child.sessions for slot in self._crew.slots if slot.child is not None)

    # Metrics

    async def _remember(self) -> None:
        """Gather so often that little is lost with a worker, however seldom somebody scrapes."""
        while True:
            due = self._gathered + self._pace.counts - time.monotonic()
            if due <= 0:
                await self._gather()
            else:
                await asyncio.sleep(due)

    async def _gather(self) -> None:
        """Have all workers tell what they counted."""
        self._gathered = time.monotonic()
        for answer in await self.ask("metrics", {}):
            if answer.status == 200:
                self._merger.snapshot(answer.slot, answer.value)
            else:
                self._merger.mute(answer.slot)
        self._blocks = self._merger.blocks(self._metrics.snapshot())

    def _render(self, accept: str) -> tuple[bytes, str]:
        return render(Shown(self._blocks), accept)

"""One process that serves: the loop, the log, the metrics, the admin listener, the worker and the signals.

TERM drains, INT ends at once, and so does a second one of them; USR1 reopens the log file. HUP reads the config again;
where there is none to read it drains: it comes from a terminal that was closed. Exit codes are those of sysexits.h.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from popproxy import __version__
from popproxy.config.load import Loaded
from popproxy.config.plan import Bind, Plan
from popproxy.metrics.collector import WorkerMetrics
from popproxy.metrics.exposition import new_registry, render
from popproxy.net.binding import BindError
from popproxy.net.tls import TlsConfigError
from popproxy.net.worker import Worker
from popproxy.run.admin import Admin
from popproxy.run.fleet import Answer, Reloaded, Status, asked
from popproxy.run.logs import EventLog, salt_of
from popproxy.run.process import (
    ENDING,
    EX_CONFIG,
    EX_OK,
    EX_UNAVAILABLE,
    HEARD,
    LoopName,
    answer_more,
    failed,
    grace,
    internal,
    loop_factory,
    open_admin,
    opened,
    raise_descriptor_limit,
)  # fmt: skip
from popproxy.run.reload import UNUSABLE, Again, Reloader
from popproxy.run.systemd import Reports, activated

if TYPE_CHECKING:
    from aiohttp import web


_RENDER_PAUSE = 0.0005

Ready = Callable[[Worker, Admin | None], Awaitable[None]]


def serve(
    plan: Plan,
    loop: LoopName = "uvloop",
    ready: Ready | None = None,
    warnings: Sequence[str] = (),
    again: Again | None = None,
) -> int:
    """Serve ``plan`` until a signal ends it; returns the exit code. ``ready`` is awaited when all is open.

    ``warnings`` are what the config check had to say; they are logged. ``again`` reads the config once more for a
    reload; without it there is none, and HUP ends it. The signals of HEARD stay blocked afterwards: the process is
    about to end, and a late one must not take its exit code away.
    """
    log = opened(plan.log, salt_of(plan.log))
    if log is None:
        return EX_CONFIG
    raise_descriptor_limit()
    try:
        given = activated(plan.listeners)
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            return runner.run(_Service(plan, log, warnings, again, given).run(ready))
    except BindError as error:
        # Of sockets that systemd opened; others are told where they are opened.
        return failed(str(error), EX_UNAVAILABLE, plan, log)
    finally:
        log.close()


class _Service:
    """What runs in the loop. ``state`` is why no sessions are taken, empty when they are."""

    def __init__(
        self,
        plan: Plan,
        log: EventLog,
        warnings: Sequence[str],
        again: Again | None,
        given: Mapping[Bind, socket.socket],
    ) -> None:
        self.plan = plan
        self.warnings = warnings
        self.again = again
        self.given = given
        self.reports = Reports(self.status, lambda: True)
        self.log = log
        self.state = "starting"
        self.began = time.monotonic()
        self.since = time.time()
        self.worker: Worker | None = None
        self.reloader: Reloader | None = None
        self.standing: Callable[[], Iterable[tuple[str, Mapping[str, Any]]]] = tuple
        self.signalled: asyncio.Future[str] | None = None

    async def run(self, ready: Ready | None) -> int:
        """From the first log line to the last; the exit code."""
        plan, log = self.plan, self.log
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: internal(log, context))
        source = str(plan.source) if plan.source is not None else ""
        log.event("info", "starting", version=__version__, pid=os.getpid(), config=source, hash=plan.hash)
        for warning in self.warnings:
            log.event("warning", "config_warning", detail=warning)
        registry = new_registry()
        metrics = WorkerMetrics(registry, dropped=lambda: log.dropped, waiting=lambda: log.waiting)
        metrics.build(type(loop).__module__.partition(".")[0])
        worker = self.worker = Worker(plan, log, metrics, given=self.given)
        reloader = self.reloader = Reloader(plan, self.again, self._take, log, metrics, self.reports.reloading)
        answer_more(worker, metrics)
        admin = None
        if plan.admin is not None:
            admin = Admin(
                lambda accept: render(registry, accept, _RENDER_PAUSE),
                lambda: self.state or None,
                private=self._api,
                refused=metrics.admin(),
            )
        signalled = self.signalled = loop.create_future()
        self._on_signals(loop, reloader)
        try:
            code = await self._start(worker, admin, signalled)
            if code == EX_OK:
                try:
                    if ready is not None and not signalled.done():
                        await ready(worker, admin)
                    if not signalled.done():
                        self.reports.ready()
                    reloader.open()
                    name = await signalled
                    self.state = "draining"
                    await reloader.close()
                    self.reports.stopping()
                    seconds = grace(name, worker.plan)
                    log.event("info", "stopping", signal=name, sessions=worker.sessions, grace=seconds)
                    await worker.stop(seconds)
                finally:
                    await worker.stop(0.0)
        finally:
            await reloader.close()
            self.reports.close()
            if admin is not None:
                await admin.stop()
            signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        log.event("info", "stopped", sessions=worker.sessions, seconds=round(time.monotonic() - self.began, 3))
        return code

    def _api(self) -> Sequence[web.RouteDef]:
        from popproxy.run.admin.api import Api

        api = Api(self)
        self.standing = api.standing
        return api.routes()

    async def _take(self, _: Loaded, plan: Plan) -> None:
        assert self.worker is not None
        await self.worker.replace(plan)
        for question, arguments in list(self.standing()):
            await asked(self.worker.desk, 0, question, arguments)

    # run.fleet.Fleet

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float = 2.0) -> list[Answer]:
        """See Fleet."""
        if self.worker is None:
            return []
        return [await asked(self.worker.desk, 0, question, arguments)]

    async def reload(self) -> Reloaded:
        """See Fleet."""
        if self.reloader is None:
            return Reloaded(self.plan.hash, [{"message": "the process is not ready yet: ask again"}])
        return await self.reloader.reload()

    def drain(self, reason: str) -> None:
        """See Fleet. Said again, it waits no longer."""
        if self.signalled is None or self.worker is None:
            return
        if self.signalled.done():
            self.worker.hurry()
        else:
            self.signalled.set_result(reason)

    def status(self) -> Status:
        """See Fleet."""
        worker, reloader = self.worker, self.reloader
        generations = worker.generations if worker is not None else []
        of = {
            "worker": 0,
            "pid": os.getpid(),
            "up": True,
            "sessions": worker.sessions if worker is not None else 0,
            "restarts": 0,
            "generation": generations[0].number if generations else 0,
        }
        plan = reloader.plan if reloader is not None else self.plan
        return Status(
            state=self.state or ("reloading" if reloader is not None and reloader.busy else "ready"),
            version=__version__,
            pid=os.getpid(),
            config=str(plan.source) if plan.source is not None else "",
            hash=plan.hash,
            since=self.since,
            reloaded=reloader.at if reloader is not None else self.since,
            reload_ok=reloader is None or reloader.ok,
            restart=reloader.waiting if reloader is not None else (),
            workers=(of,),
        )

    def _on_signals(self, loop: asyncio.AbstractEventLoop, reloader: Reloader) -> None:
        for number in ENDING:
            loop.add_signal_handler(number, self.drain, number.name)
        if self.again is not None:
            loop.add_signal_handler(signal.SIGHUP, reloader.signalled)
        else:
            loop.add_signal_handler(signal.SIGHUP, self.drain, signal.SIGHUP.name)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen)

    async def _start(self, worker: Worker, admin: Admin | None, signalled: asyncio.Future[str]) -> int:
        """Open everything; the exit code when that fails. A signal ends it early, which is no failure."""
        starting = worker.spawn(self._open(worker, admin))
        await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        if starting.cancelled():
            return EX_OK
        error = starting.exception()
        if error is None:
            return EX_OK
        if not isinstance(error, UNUSABLE):
            raise error
        code = EX_CONFIG if isinstance(error, TlsConfigError) else EX_UNAVAILABLE
        return failed(str(error), code, self.plan, self.log)

    async def _open(self, worker: Worker, admin: Admin | None) -> None:
        if admin is not None and self.plan.admin is not None:
            await open_admin(admin, self.plan.admin, self.log)
        await worker.start()
        self.state = ""
        self.log.event("info", "started", seconds=round(time.monotonic() - self.began, 3))

"""One process that serves: the loop, the log, the metrics, the admin listener, the worker and the signals.

TERM and INT drain, a second one of them ends at once; USR1 reopens the log file. Exit codes are those of sysexits.h.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from popproxy import __version__
from popproxy.config.plan import Plan
from popproxy.metrics.collector import WorkerMetrics
from popproxy.metrics.exposition import new_registry, render
from popproxy.net.listener import BindError
from popproxy.net.tls import TlsConfigError
from popproxy.net.worker import PluginFailed, Worker
from popproxy.run.admin import Admin
from popproxy.run.logs import EventLog, LibraryHandler, describe

EX_OK, EX_UNAVAILABLE, EX_CONFIG = 0, 69, 78
DRAIN_SECONDS = 30.0

_RENDER_PAUSE = 0.0005

LoopName = Literal["uvloop", "asyncio"]
Ready = Callable[[Worker, Admin | None], Awaitable[None]]


def serve(plan: Plan, loop: LoopName = "uvloop", ready: Ready | None = None) -> int:
    """Serve ``plan`` until a signal ends it; returns the exit code. ``ready`` is awaited when all is open."""
    log = EventLog(
        plan.log.file if plan.log.file is not None else 2,
        form=plan.log.format,
        level=plan.log.level,
        users=plan.log.users,
    )
    logging.getLogger().handlers[:] = [LibraryHandler(log)]
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            return runner.run(_serve(plan, loop, log, ready))
    finally:
        log.close()


def loop_factory(name: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop. Falls back to asyncio where uvloop has no build."""
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            return asyncio.new_event_loop
        return uvloop.new_event_loop
    return asyncio.new_event_loop


async def _serve(plan: Plan, loop_name: str, log: EventLog, ready: Ready | None) -> int:
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: _internal(log, context))
    source = str(plan.source) if plan.source is not None else ""
    log.event("info", "starting", version=__version__, pid=os.getpid(), config=source, hash=plan.hash)
    registry = new_registry()
    metrics = WorkerMetrics(registry, dropped=lambda: log.dropped)
    metrics.build(type(loop).__module__.partition(".")[0])
    metrics.config(plan.hash)
    worker = Worker(plan, log, metrics)
    state = ["starting"]
    admin = Admin(lambda accept: render(registry, accept, _RENDER_PAUSE), lambda: state[0] or None) if plan.admin else None
    try:
        if admin is not None and plan.admin is not None:
            await admin.start(plan.admin.bind)
            log.event("info", "admin_listening", address=admin.address)
        await worker.start()
    except (BindError, TlsConfigError, PluginFailed, OSError) as error:
        print(f"popproxy: {error}", file=sys.stderr)
        log.event("error", "start_failed", detail=str(error))
        if admin is not None:
            await admin.stop()
        return EX_CONFIG if isinstance(error, TlsConfigError) else EX_UNAVAILABLE
    state[0] = ""
    log.event("info", "started", seconds=round(time.monotonic() - began, 3))
    try:
        name = await _signalled(log, None if ready is None else ready(worker, admin))
        state[0] = "draining"
        log.event("info", "stopping", signal=name, sessions=worker.sessions)
        await _drain(worker)
    finally:
        if admin is not None:
            await admin.stop()
    log.event("info", "stopped", sessions=0, seconds=round(time.monotonic() - began, 3))
    return EX_OK


async def _signalled(log: EventLog, ready: Awaitable[None] | None) -> str:
    """Wait for TERM or INT; its name."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[str] = loop.create_future()

    def end(name: str) -> None:
        if not ended.done():
            ended.set_result(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    loop.add_signal_handler(signal.SIGUSR1, log.reopen)
    if ready is not None:
        await ready
    return await ended


async def _drain(worker: Worker) -> None:
    """Stop within DRAIN_SECONDS; a second signal ends the waiting."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.hurry)
    await worker.stop(DRAIN_SECONDS)


def _internal(log: EventLog, context: dict[str, object]) -> None:
    """The loop caught an exception that nobody handles: a fault of ours."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        log.event("error", "internal_error", **describe(error))
    else:
        log.event("error", "internal_error", error=str(context.get("message")), where="")

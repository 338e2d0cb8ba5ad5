"""What processes of popproxy do at their beginning, one like the other: the log, the loop, signals, limits, what is
answered, the admin listener. Exit codes of a service."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from popproxy.config.plan import AdminPlan, LogPlan, Plan
from popproxy.metrics.cells import Block
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.worker import Worker
from popproxy.run.logs import EventLog, LibraryHandler, describe, open_log

if TYPE_CHECKING:
    from popproxy.run.admin import Admin

EX_OK, EX_UNAVAILABLE, EX_CONFIG = 0, 69, 78

ENDING = (signal.SIGTERM, signal.SIGINT)
AT_ONCE = signal.SIGINT.name
"""What waits for no session: Ctrl-C."""
HEARD = (*ENDING, signal.SIGHUP, signal.SIGUSR1)
"""All that the first process listens to."""

LoopName = Literal["uvloop", "asyncio"]


def opened(plan: LogPlan, salt: bytes) -> EventLog | None:
    """The log, which libraries write to as well; None, and a word on standard error, when it cannot be written."""
    try:
        with signals_blocked():
            log = open_log(plan, salt)
    except OSError as error:
        print(
            f"popproxy: cannot write the log to {plan.file}: {error.strerror}; set [log] file to a path that the "
            "proxy's user may write, or leave it out for standard error",
            file=sys.stderr,
        )
        return None
    logging.getLogger().handlers[:] = [LibraryHandler(log)]
    return log


def loop_factory(name: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop. Falls back to asyncio where uvloop has no build."""
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            return asyncio.new_event_loop
        return uvloop.new_event_loop
    return asyncio.new_event_loop


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Threads that are made in the block never take signals: those are for the loop alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def raise_descriptor_limit() -> None:
    """A session needs two descriptors; the usual soft limit of 1024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def internal(log: EventLog, context: dict[str, object]) -> None:
    """The loop caught an exception that nobody handles: a fault of ours."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        log.event("error", "internal_error", **describe(error))
    else:
        log.event("error", "internal_error", error=str(context.get("message")), where="")


def answer_more(worker: Worker, metrics: WorkerMetrics) -> None:
    """Have the worker answer ``metrics``, and what ``popproxy bans`` asks."""
    from popproxy.run.bandesk import BanDesk
    from popproxy.run.bans import banning

    async def counted(_: Mapping[str, Any]) -> list[Block]:
        return metrics.snapshot()

    worker.desk.add("metrics", counted)
    BanDesk(worker.desk, lambda: {name: worker.store(name) for name in banning(worker.plan)})


def grace(name: str, plan: Plan) -> float:
    """For how many seconds sessions may go on that are busy when the signal ``name`` ends the process."""
    return 0.0 if name == AT_ONCE else plan.timeouts.drain


def failed(why: str, code: int, plan: Plan, log: EventLog) -> int:
    """The start has failed: tell it, and return ``code``."""
    if plan.log.file is not None:
        # Who starts it by hand looks here; a log on standard error says it there itself.
        print(f"popproxy: {why}", file=sys.stderr)
    log.event("error", "start_failed", detail=why)
    return code


async def open_admin(admin: Admin, plan: AdminPlan, log: EventLog) -> None:
    """Have ``admin`` listen, and say where. Raises BindError when it cannot, and TlsConfigError."""
    await admin.open(plan, log)

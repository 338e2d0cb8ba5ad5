"""Reading the config again while it serves: in a thread, checked as at the start, in force as a whole or not at all.

Law: one reload at a time, none before everything is open and none once the process ends. Whatever goes wrong changes
nothing, and is told to the log, the metrics and whoever asked.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

from popproxy.config.load import Loaded
from popproxy.config.plan import AdminPlan, LogPlan, Plan
from popproxy.config.problems import ConfigError
from popproxy.net.binding import BindError
from popproxy.net.tls import TlsConfigError
from popproxy.net.worker import PluginFailed, WorkerLog
from popproxy.run.fleet import Reloaded
from popproxy.run.logs import describe
from popproxy.run.process import signals_blocked

_READ_SECONDS = 60.0
"""For reading a config and all that it names."""

Again = Callable[[], tuple[Loaded, Sequence[str]]]
"""Reads what the process was started with once more: the config, and notes on what was decided for the user. Called in
a thread. Raises ConfigError."""

UNUSABLE = (BindError, TlsConfigError, PluginFailed, OSError)
"""What keeps a good config from being put in force; the text is for people."""

ENDING = "the process is ending and takes no other config"
_LATE = (
    "not taken over: {keys}; all else is in force. They need a restart (systemctl restart popproxy), or write them as "
    "they were"
)
NO_CONFIG = "the process was started without a config that can be read again: start it anew"


class Refused(Exception):
    """Workers cannot run by a plan. ``problems`` are as in Reloaded."""

    def __init__(self, problems: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(str(problem["message"]) for problem in problems))
        self.problems = problems


class Gauges(Protocol):
    """Where it is shown; metrics.collector has it."""

    def config(self, digest: str) -> None:
        """The hash of the config in force."""
        ...

    def reloaded(self, ok: bool, now: float) -> None:
        """A config was read: whether it is in force now."""
        ...


class Reloader:
    """What a reload is, for one process and for several. Every method belongs to the event loop's thread.

    ``take`` puts a plan in force, of what was read, in all workers or in none; it raises Refused or one of UNUSABLE,
    and returns what is to be told all the same. ``plan`` is what is in force, ``at`` when that began, ``ok`` whether
    the last config that was read is that one. ``told`` hears when a reload begins (True), and when it has ended.
    """

    def __init__(
        self,
        plan: Plan,
        again: Again | None,
        take: Callable[[Loaded, Plan], Awaitable[Sequence[str] | None]],
        log: WorkerLog,
        gauges: Gauges,
        told: Callable[[bool], None] | None = None,
    ) -> None:
        self.plan = plan
        self.at = time.time()
        self.ok = True
        self.busy = False
        self.waiting: Sequence[str] = ()
        """Keys of the config in force that count only when the process is started again."""
        self._again = again
        self._take = take
        self._log = log
        self._gauges = gauges
        self._told = told
        self._one = asyncio.Lock()
        self._open = asyncio.Event()
        self._closed = False
        self._asked = 0
        self._running: set[asyncio.Task[Reloaded]] = set()
        gauges.config(plan.hash)
        gauges.reloaded(True, self.at)

    def open(self) -> None:
        """Everything is open: from now on it reloads. What was asked before is done now."""
        self._open.set()

    async def close(self) -> None:
        """The process ends: a reload under way is given up, others are refused. May be repeated."""
        self._closed = True
        self._open.set()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def signalled(self) -> None:
        """HUP: reload. One that is waiting already reads what this one would."""
        if not self._asked and not self._closed:
            self._begin()

    async def reload(self) -> Reloaded:
        """See run.fleet.Fleet."""
        if self._closed:
            return self._refuse(ENDING)
        task = self._begin()
        try:
            # Whoever asked may go away: the reload goes on.
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return self._refuse(ENDING)
            raise

    def _begin(self) -> asyncio.Task[Reloaded]:
        self._asked += 1
        task = asyncio.get_running_loop().create_task(self._reload())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _reload(self) -> Reloaded:
        try:
            await self._open.wait()
            await self._one.acquire()
        finally:
            self._asked -= 1
        self._busy(True)
        try:
            return await self._reloaded()
        finally:
            self._busy(False)
            self._one.release()

    def _busy(self, on: bool) -> None:
        self.busy = on
        if self._told is not None and not self._closed:
            self._told(on)

    async def _reloaded(self) -> Reloaded:
        if self._closed:
            return self._refuse(ENDING)
        if self._again is None:
            return self._failed([{"message": NO_CONFIG}])
        try:
            loaded, notes = await _read(self._again)
            plan, kept = unchanged(self.plan, loaded.plan)
            odd = await self._take(loaded, plan) or ()
        except ConfigError as error:
            return self._failed([problem.as_dict() for problem in error.problems], list(map(str, error.problems)))
        except Refused as error:
            return self._failed(error.problems)
        except UNUSABLE as error:
            return self._failed([{"message": str(error), "worker": 0}])
        except Exception as error:
            # A fault of ours, or of a plugin's module: nothing has changed, and it is told in full.
            self._log.event("error", "internal_error", **describe(error))
            return self._failed([{"message": f"internal error: {type(error).__name__}; the log says where"}])
        self.plan, self.at, self.ok, self.waiting = plan, time.time(), True, kept
        self._gauges.config(plan.hash)
        self._gauges.reloaded(True, self.at)
        late = [_LATE.format(keys=", ".join(kept))] if kept else []
        warnings = [*notes, *map(str, loaded.warnings), *late, *odd]
        for warning in warnings:
            self._log.event("warning", "config_warning", detail=warning)
        self._log.event("info", "config_loaded", config=self._source, hash=plan.hash)
        return Reloaded(plan.hash, (), warnings, kept)

    @property
    def _source(self) -> str:
        return str(self.plan.source) if self.plan.source is not None else ""

    def _failed(self, problems: Sequence[Mapping[str, Any]], told: Sequence[str] = ()) -> Reloaded:
        """``told`` is how the log says it."""
        self.ok = False
        self._gauges.reloaded(False, time.time())
        texts = list(told) or [str(problem["message"]) for problem in problems]
        self._log.event("error", "config_failed", config=self._source, problems=texts)
        return Reloaded(self.plan.hash, problems)

    def _refuse(self, why: str) -> Reloaded:
        return Reloaded(self.plan.hash, [{"message": why}])


async def _read(again: Again) -> tuple[Loaded, Sequence[str]]:
    """What ``again`` gives, in a thread that nobody has to wait for: a FIFO or a network's file system may keep it for
    ever. Raises as it does, and OSError when it takes too long."""
    loop = asyncio.get_running_loop()
    read: asyncio.Future[tuple[Loaded, Sequence[str]]] = loop.create_future()

    def told(found: tuple[Loaded, Sequence[str]] | Exception) -> None:
        if read.done():
            return
        if isinstance(found, Exception):
            read.set_exception(found)
        else:
            read.set_result(found)

    def work() -> None:
        found: tuple[Loaded, Sequence[str]] | Exception
        try:
            found = again()
        except Exception as error:
            found = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(told, found)

    with signals_blocked():
        threading.Thread(target=work, name="popproxy-config", daemon=True).start()
    try:
        return await asyncio.wait_for(read, _READ_SECONDS)
    except TimeoutError:
        why = f"the config could not be read within {_READ_SECONDS:g} s: see whether it, or a file it names, is a FIFO"
        raise OSError(why) from None


def unchanged(before: Plan, after: Plan) -> tuple[Plan, list[str]]:
    """``after`` with what a running process cannot change as it is in ``before``, and the keys of that: ``[log]
    level``."""
    kept = [*_admin(before.admin, after.admin), *_log(before.log, after.log)]
    if after.workers != before.workers:
        kept.append("workers")
    return replace(after, admin=before.admin, log=before.log, workers=before.workers), kept


def _admin(before: AdminPlan | None, after: AdminPlan | None) -> Iterator[str]:
    if before is None or after is None:
        if before is not after:
            yield "[admin] bind"
        return
    old, new = ([*plan.binds, *([] if plan.spare is None else [plan.spare])] for plan in (before, after))
    if [replace(where, mode=0) for where in old] != [replace(where, mode=0) for where in new]:
        yield "[admin] bind"
    elif old != new:
        yield "[admin] unix_mode"
    if before.token != after.token:
        yield "[admin] token"
    for name in ("cert", "key"):
        if getattr(before.certificate, name, None) != getattr(after.certificate, name, None):
            yield f"[admin] {name}"
    if before.client_ca_file != after.client_ca_file:
        yield "[admin] client_ca_file"
    if before.hosts != after.hosts:
        yield "[admin] hosts"


def _log(before: LogPlan, after: LogPlan) -> Iterator[str]:
    for each in fields(LogPlan):
        if getattr(before, each.name) != getattr(after, each.name):
            yield f"[log] {each.name}"

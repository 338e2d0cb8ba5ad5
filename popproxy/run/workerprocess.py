"""A worker as a process of its own: what the supervisor's fork server runs.

It takes its config and its sockets from the channel and reads the config file never. Signals are the supervisor's
business: TERM, INT, HUP and USR1 mean nothing here. When the channel ends, the supervisor is gone: the worker drains
and ends, so that no process is left behind.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from popproxy.config.load import Origin
from popproxy.config.plan import Bind, LogPlan, Plan
from popproxy.config.problems import ConfigError
from popproxy.config.workers import divided
from popproxy.core.effects import Level
from popproxy.metrics.collector import WorkerMetrics
from popproxy.metrics.exposition import new_registry
from popproxy.net.binding import BindError
from popproxy.net.sockets import Give, Place, place
from popproxy.net.tls import TlsConfigError
from popproxy.net.worker import Generation, PluginFailed, Worker
from popproxy.run.channel import Channel, Message
from popproxy.run.fleet import asked
from popproxy.run.logs import EventLog, LibraryHandler, PluginLog, open_log
from popproxy.run.process import EX_CONFIG, EX_UNAVAILABLE, LoopName, answer_more, internal, loop_factory

BEAT = 1.0
"""Seconds between two signs of life."""
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals of the supervisor. They are blocked when this process begins, so that none can end it."""

_CANCEL_SECONDS = 5.0
_ONCE = frozenset({"listening", "self_signed", "certificate"})
"""Events that would be the same in every worker: the first one tells them."""


def main(slot: int, sock: socket.socket, loop: LoopName, beat: float = BEAT) -> None:
    """Serve as worker ``slot`` until the supervisor at the other end of ``sock`` says stop, or is gone."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(_serve(slot, sock, beat))


async def _serve(slot: int, sock: socket.socket, beat: float) -> None:
    await _Process(slot, sock, beat).run()


class _Others:
    """The log of a worker that is not the first."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line that the first worker does not write."""
        if name not in _ONCE:
            self._log.event(level, name, **fields)

    def plugin(self, name: str) -> PluginLog:
        """``services.log`` of the plugin called ``name``."""
        return self._log.plugin(name)


class _Given:
    """The sockets that came with an order: one for each bind of the plan, in its order."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._left: dict[Place, deque[socket.socket]] = {}
        self._sockets = sockets

    def of(self, plan: Plan) -> Give:
        """What hands them out, each once."""
        binds = [where for listener in plan.listeners for where in listener.bind]
        for where, sock in zip(binds, self._sockets, strict=True):
            self._left.setdefault(place(where), deque()).append(sock)
        return self._give

    def _give(self, where: Bind) -> socket.socket:
        sock = self._left[place(where)].popleft()
        self._sockets.remove(sock)
        return sock

    def all(self) -> list[socket.socket]:
        """All of them, which are the caller's then."""
        sockets, self._sockets = self._sockets, []
        return sockets

    def close(self) -> None:
        """Close those that nobody took."""
        for sock in self._sockets:
            sock.close()


class _Process:
    """What runs in the loop."""

    def __init__(self, slot: int, sock: socket.socket, beat: float) -> None:
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._beats = beat
        self._log: EventLog | None = None
        self._worker: Worker | None = None
        self._prepared: dict[int, Generation] = {}
        self._order = asyncio.Lock()
        self._orders: set[asyncio.Task[None]] = set()
        self._questions: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Future[float | None] = self._loop.create_future()
        self._channel = Channel(sock, self._taken, self._gone)

    async def run(self) -> None:
        """Until it is told to stop."""
        self._loop.set_exception_handler(self._internal)
        self._beat()
        deadline = await self._stopping
        await _cancelled(self._orders)
        if self._worker is not None:
            try:
                await self._worker.stop(self._worker.plan.timeouts.drain if deadline is None else deadline)
            finally:
                await self._worker.stop(0.0)
        await _cancelled(self._questions)
        self._channel.close()
        if self._log is not None:
            self._log.close()

    def _internal(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self._log is not None:
            internal(self._log, context)

    def _fault(self, error: Exception) -> None:
        self._internal(self._loop, {"exception": error})

    def _beat(self) -> None:
        worker = self._worker
        self._channel.send(("beat", worker.sessions if worker is not None else 0))
        self._loop.call_later(self._beats, self._beat)

    def _gone(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)

    def _taken(self, message: Message, sockets: list[socket.socket]) -> None:
        kind, *rest = message
        if kind == "stop":
            if not self._stopping.done():
                self._stopping.set_result(rest[0])
        elif kind == "hurry":
            if self._worker is not None:
                self._worker.hurry()
        elif kind == "reopen":
            if self._log is not None:
                self._log.reopen()
        elif kind == "do":
            self._spawn(self._obey(sockets, *rest), self._orders)
        else:
            self._spawn(self._say(*rest), self._questions)

    def _spawn(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _say(self, number: int, question: str, arguments: Mapping[str, Any]) -> None:
        if self._worker is None:
            self._channel.send(("answer", number, 503, None, "it is not ready yet"))
            return
        try:
            said = await asked(self._worker.desk, self._slot, question, arguments)
            self._channel.send(("answer", number, said.status, said.value, said.error))
        except Exception as error:
            # A fault of whoever answers, or an answer that cannot travel: whoever asked does not wait for it.
            self._fault(error)
            self._channel.send(("answer", number, 500, None, f"worker {self._slot} failed: {type(error).__name__}"))

    async def _obey(
        self, sockets: list[socket.socket], number: int, what: str, arguments: Mapping[str, Any]
    ) -> None:
        orders = {
            "start": self._start,
            "prepare": self._prepare,
            "adopt": self._adopt,
            "discard": self._discard,
            "lend": self._lend,
            "return": self._return,
        }
        given = _Given(sockets)
        try:
            async with self._order:
                self._channel.send(("begun", number))
                await orders[what](arguments, given)
        except ConfigError as error:
            problems = [problem.as_dict() for problem in error.problems]
            told = " | ".join(map(str, error.problems))
            self._channel.send(("answer", number, EX_CONFIG, problems, told))
        except (BindError, PluginFailed, OSError, TlsConfigError) as error:
            code = EX_CONFIG if isinstance(error, TlsConfigError) else EX_UNAVAILABLE
            self._channel.send(("answer", number, code, None, str(error)))
        except Exception as error:
            self._fault(error)
            told = f"internal error: {type(error).__name__}; the log says where"
            self._channel.send(("answer", number, EX_UNAVAILABLE, None, told))
        else:
            self._channel.send(("answer", number, 0, None, ""))
        finally:
            given.close()

    # Orders

    def _plan(self, arguments: Mapping[str, Any]) -> Plan:
        """What this worker runs by."""
        plan = Origin(*arguments["origin"]).load().plan
        plan = divided(replace(plan, workers=arguments["workers"]))
        # Users who do not exist look the same whichever worker is asked.
        listeners = (
            replace(each, session=replace(each.session, decoy=arguments["decoy"])) for each in plan.listeners
        )
        return replace(plan, listeners=tuple(listeners))

    async def _start(self, arguments: Mapping[str, Any], given: _Given) -> None:
        plan = self._plan(arguments)
        form, level, file, users = arguments["log"]
        # The first process's, whatever the config says by now.
        written = LogPlan(form, level, None if file is None else Path(file), users)
        log = self._log = open_log(written, arguments["salt"], self._slot)
        logging.getLogger().handlers[:] = [LibraryHandler(log)]
        metrics = WorkerMetrics(new_registry(), dropped=lambda: log.dropped, waiting=lambda: log.waiting)
        metrics.build(type(self._loop).__module__.partition(".")[0])
        told = log if self._slot == 0 else _Others(log)
        worker = Worker(plan, told, metrics, given.of(plan), held=arguments["held"])
        answer_more(worker, metrics)
        await worker.start()
        self._worker = worker

    async def _prepare(self, arguments: Mapping[str, Any], given: _Given) -> None:
        plan = self._plan(arguments)
        self._prepared[arguments["number"]] = await self._running.prepare(plan, given.of(plan))

    async def _adopt(self, arguments: Mapping[str, Any], given: _Given) -> None:
        await self._running.adopt(self._prepared.pop(arguments["number"]))

    async def _discard(self, arguments: Mapping[str, Any], given: _Given) -> None:
        generation = self._prepared.pop(arguments["number"], None)
        if generation is not None:
            await self._running.discard(generation)

    async def _lend(self, arguments: Mapping[str, Any], given: _Given) -> None:
        """Serve who waits at the sockets of a slot that has no worker."""
        sockets = zip(arguments["places"], given.all(), strict=True)
        await self._running.generations[0].lend(arguments["slot"], sockets)

    async def _return(self, arguments: Mapping[str, Any], given: _Given) -> None:
        for generation in self._running.generations:
            generation.give_back(arguments["slot"])

    @property
    def _running(self) -> Worker:
        assert self._worker is not None
        return self._worker


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel ``tasks``, and wait until they have cleaned up."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)

"""One slot: a place for a worker, and the processes that hold it one after the other.

A process begins in the fork server, which has everything imported, gets its orders over the channel and is up when it
has obeyed the first one, ``start``. When it dies another one takes the same sockets, in whose backlogs clients wait
meanwhile. A process that is mute is killed: what cannot be asked cannot be trusted to serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from time import monotonic
from typing import Any

from popproxy.run.channel import Channel, Message, pair
from popproxy.run.fleet import Answer
from popproxy.run.process import EX_UNAVAILABLE
from popproxy.run.workerprocess import BEAT, IGNORED, main

PRELOAD = ("popproxy.run.workerprocess", "uvloop")
"""What the fork server imports once for all workers."""
BEGIN_SECONDS = 120.0
"""A worker may be mute for so long while it starts or obeys an order: plugins may read large files meanwhile."""
_END_SECONDS = 5.0

_context = get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an order. ``code`` 0: it was obeyed. Else an exit code, with the config's ``problems`` or a
    ``text`` that says what is wrong; None: the worker died, before it had ``begun`` or meanwhile."""

    code: int | None
    problems: Sequence[Mapping[str, Any]] | None = None
    text: str = ""
    begun: bool = True

    def told(self, slot: int) -> list[Mapping[str, Any]]:
        """As Reloaded has it."""
        if self.problems is not None:
            return [{**problem, "worker": slot} for problem in self.problems]
        return [{"message": self.text, "worker": slot}]


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended: by a ``signal`` (its name, else empty) or with an exit ``status`` (else None)."""

    signal: str
    status: int | None


class Child:
    """One process. Every method belongs to the event loop's thread; ``gone`` is set when it is no more."""

    def __init__(self, slot: int, loop: str, beat: float = BEAT) -> None:
        self.slot = slot
        self.pid = 0
        """Its process id; 0 before it has one."""
        self.sessions = 0
        """What it told last; of one that is gone, how many went with it."""
        self.generation = 0
        """Number of the config that it was given last."""
        self.heard = monotonic()
        self.gone = asyncio.Event()
        self.mute = 0.0
        """For how many seconds it had said nothing when it was killed for that; else 0."""
        self._starting = True
        self._begun: set[int] = set()
        """Numbers of the orders that it is about to obey."""
        self._handle = -1
        """Stands for this process alone, also when its number is another's already."""
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Message | None]] = {}
        mine, theirs = pair()
        self._theirs = theirs
        self._process: ForkServerProcess = _context.Process(
            target=main, args=(slot, theirs, loop, beat), name=f"popproxy-{slot}"
        )
        self._channel = Channel(mine, self._taken, self._lost)

    async def launch(self) -> None:
        """Have it forked. Takes a moment when the fork server has to be started first."""
        try:
            await asyncio.to_thread(_launch, self._process)
        finally:
            self._theirs.close()
        self.pid = self._process.pid or 0
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self.pid)
        self.heard = monotonic()

    @property
    def busy(self) -> bool:
        """It may be mute for longer: it starts, or obeys an order. One that has not even begun with it may not."""
        return self._starting or bool(self._begun)

    def tell(self, *message: Any) -> None:
        """Send what needs no answer."""
        self._channel.send(message)

    async def order(
        self, what: str, arguments: Mapping[str, Any], sockets: Sequence[socket.socket] = ()
    ) -> Done:
        """Have it do something; waits for as long as that takes it."""
        number = next(self._numbers)
        try:
            answer = await self._asked("do", number, what, arguments, sockets)
        except OSError as error:
            # No descriptor for the copies of the sockets.
            return Done(EX_UNAVAILABLE, None, f"worker {self.slot} cannot be told: {error.strerror or error}")
        finally:
            begun = number in self._begun
            self._begun.discard(number)
            self._starting = False
        if answer is None:
            return Done(None, None, f"worker {self.slot} died", begun)
        code, problems, text = answer
        return Done(code, problems, text)

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float) -> Answer:
        """Its desk's answer."""
        try:
            answer = await asyncio.wait_for(self._asked("ask", next(self._numbers), question, arguments), deadline)
        except TimeoutError:
            return Answer(self.slot, None, 504, f"worker {self.slot} did not answer within {deadline:g} s")
        if answer is None:
            return Answer(self.slot, None, 503, f"worker {self.slot} died")
        status, value, text = answer
        return Answer(self.slot, value, status, text)

    async def _asked(
        self, kind: str, number: int, what: str, arguments: Mapping[str, Any], sockets: Sequence[socket.socket] = ()
    ) -> Message | None:
        """The answer; None when it died before it gave one."""
        if self.gone.is_set():
            return None
        waiting: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._open[number] = waiting
        try:
            self._channel.send((kind, number, what, dict(arguments)), sockets)
            answer = await waiting
        finally:
            self._open.pop(number, None)
        return answer

    def kill(self) -> None:
        """End it at once."""
        if self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def ended(self) -> Death:
        """Wait until the process is no more, killing it when it takes too long. ``gone`` is set."""
        self._lost()
        self._channel.close()
        if not self.pid:
            return Death("", None)
        # The process itself is asked: a fork server that was killed says of all its workers that they are gone.
        for patience in (_END_SECONDS, _END_SECONDS):
            if self._handle < 0 or await _readable(self._handle, patience):
                break
            self.kill()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        await _readable(self._process.sentinel, _END_SECONDS)
        status = self._process.exitcode
        if status is not None:
            # Its two descriptors go now, not with the garbage.
            self._process.close()
        if status is None or status == _UNKNOWN:
            return Death("", None)
        return Death(signal.Signals(-status).name, None) if status < 0 else Death("", status)

    def _taken(self, message: Message, _: list[socket.socket]) -> None:
        self.heard = monotonic()
        kind, *rest = message
        if kind == "beat":
            (self.sessions,) = rest
            return
        number, *answer = rest
        if kind == "begun":
            self._begun.add(number)
            return
        waiting = self._open.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(tuple(answer))

    def _lost(self) -> None:
        self.gone.set()
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_result(None)
        self._open.clear()


_UNKNOWN = 255
"""multiprocessing's exit code when the fork server itself is gone."""


def _launch(process: ForkServerProcess) -> None:
    # The fork server and all that it forks begin with these blocked; main() ignores them.
    signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    _context.set_forkserver_preload(list(PRELOAD))
    process.start()


async def _readable(descriptor: int, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), seconds)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True

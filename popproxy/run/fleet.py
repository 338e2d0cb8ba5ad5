"""The workers as the admin listener and the signals see them, in one process or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from popproxy.net.desk import BadQuestion, Desk


@dataclass(frozen=True, slots=True)
class Answer:
    """What one worker said. ``slot`` is its number, from 0 on. With a ``status`` that is not 200 it could not answer:
    ``error`` is why (504: it was mute until the deadline)."""

    slot: int
    value: Any = None
    status: int = 200
    error: str = ""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How a reload ended. ``problems`` is empty when the new config is in force, else nothing has changed; each is
    what ConfigProblem.as_dict() gives, or has the keys ``message`` and ``worker``. ``restart`` are keys of the new
    config that count only when the process is started again: ``[log] level``."""

    hash: str
    problems: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    restart: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """The process as its administrator asks for it. ``state`` is ``starting``, ``ready``, ``reloading`` or
    ``draining``. ``workers`` are by slot: ``{"worker": 0, "pid": 7, "up": true, "sessions": 3, "restarts": 0,
    "generation": 2}``. ``since`` and ``reloaded`` are seconds since the epoch, ``restart`` as in Reloaded."""

    state: str
    version: str
    pid: int
    config: str
    hash: str
    since: float
    reloaded: float
    reload_ok: bool
    workers: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    restart: Sequence[str] = ()


class Fleet(Protocol):
    """All workers of this popproxy."""

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float = 2.0) -> list[Answer]:
        """Ask every worker that is up; the answers by slot, after ``deadline`` seconds at most. Never raises."""
        ...

    async def reload(self) -> Reloaded:
        """Read the config again, check it, and have new sessions go by it: in all workers, or in none."""
        ...

    def drain(self, reason: str) -> None:
        """Take no more sessions, let those that are open end, then end the process: what TERM does."""
        ...

    def status(self) -> Status:
        """What is known without asking anybody."""
        ...


async def asked(desk: Desk, slot: int, question: str, arguments: Mapping[str, Any]) -> Answer:
    """What the worker in this process says."""
    try:
        return Answer(slot, await desk.answer(question, arguments))
    except BadQuestion as error:
        return Answer(slot, None, error.status, str(error))

"""The log of a worker, and those who listen to it: what is told of a session's end or of a login that failed is counted
where it is told anyway, and nothing on the way of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from popproxy.api.services import Log
from popproxy.core.effects import Level

Hears = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event and its fields. Must neither raise nor take long."""


class WorkerLog(Protocol):
    """Where a worker and its plugins log."""

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """Write a line."""
        ...

    def plugin(self, name: str) -> Log:
        """``services.log`` of a plugin."""
        ...


class Overheard:
    """A WorkerLog in front of ``log``. Fields come as they are, whatever the log makes of names of users."""

    def __init__(self, log: WorkerLog) -> None:
        self._log = log
        self._hears: dict[str, tuple[Hears, ...]] = {}

    def listen(self, hears: Hears, *names: str) -> None:
        """``hears`` is told of the events called ``names``."""
        for name in names:
            self._hears[name] = (*self._hears.get(name, ()), hears)

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        """See WorkerLog."""
        for hears in self._hears.get(name, ()):
            hears(name, fields)
        self._log.event(level, name, **fields)

    def plugin(self, name: str) -> Log:
        """See WorkerLog."""
        return self._log.plugin(name)

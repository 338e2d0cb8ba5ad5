"""What a plugin is given at start(). All of it belongs to one worker and lives until stop() has returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Log(Protocol):
    """Structured log of one plugin. Never pass a secret."""

    def info(self, event: str, **fields: object) -> None:
        """Something an administrator may want to know."""
        ...

    def warning(self, event: str, **fields: object) -> None:
        """Something an administrator should look at."""
        ...

    def error(self, event: str, **fields: object) -> None:
        """Something that is broken."""
        ...


class Clock(Protocol):
    """Time, so that tests can set it."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class Counter(Protocol):
    """A counter with its labels bound."""

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``, which is not negative."""
        ...


class Metrics(Protocol):
    """Counters of one plugin. Label values are fixed at start: nothing read off the wire becomes a label."""

    def counter(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> dict[str, Counter]:
        """``popproxy_plugin_<plugin>_<name>_total``: one bound counter per value; without a label under ``""``."""
        ...


class Resolver(Protocol):
    """Host names to addresses without blocking the loop."""

    async def addresses(self, host: str) -> list[str]:
        """IPv4 and IPv6 addresses as text. Raises OSError when there is none."""
        ...


class Services(Protocol):
    """The services of one plugin."""

    @property
    def log(self) -> Log:
        """Log lines with the plugin's name on them."""
        ...

    @property
    def clock(self) -> Clock:
        """The worker's clock."""
        ...

    @property
    def metrics(self) -> Metrics:
        """The plugin's own counters, exported on /metrics."""
        ...

    @property
    def resolver(self) -> Resolver:
        """Name look-ups."""
        ...

"""The services of a plugin under test: what it logs and counts is kept, time stands still until the test moves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from popproxy.api.services import Counter


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line a plugin logged."""

    level: str
    event: str
    fields: Mapping[str, object]


class FakeLog:
    """api.Log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def info(self, event: str, **fields: object) -> None:
        """See api.Log."""
        self.lines.append(LogLine("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        """See api.Log."""
        self.lines.append(LogLine("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        """See api.Log."""
        self.lines.append(LogLine("error", event, fields))


class FakeClock:
    """api.Clock that only ``wait`` moves. It begins at noon, 2026-01-01 UTC; its monotonic seconds at 1000."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def now(self) -> float:
        """See api.Clock."""
        return 1_767_268_800.0 + self.elapsed

    def monotonic(self) -> float:
        """See api.Clock."""
        return 1000.0 + self.elapsed

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.elapsed += seconds


class FakeCounter:
    """api.Counter that can be read."""

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """See api.Counter. Raises ValueError for a negative ``amount``."""
        if amount < 0:
            raise ValueError(f"a counter only grows: inc({amount})")
        self.value += amount


class FakeMetrics:
    """api.Metrics. ``counters`` holds every counter by its name and label value (``""`` without a label)."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], FakeCounter] = {}

    def counter(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> dict[str, Counter]:
        """See api.Metrics. Raises ValueError for a name made twice, and for a label without values or the reverse."""
        if any(name == known for known, _ in self.counters):
            raise ValueError(f"counter {name!r} is made twice")
        if bool(label) != bool(values):
            raise ValueError(f"counter {name!r}: a label and its values go together")
        made = {value: FakeCounter() for value in (values or ("",))}
        self.counters.update({(name, value): counter for value, counter in made.items()})
        return dict[str, Counter](made)


class FakeResolver:
    """api.Resolver that knows the names it is given."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = names

    async def addresses(self, host: str) -> list[str]:
        """See api.Resolver."""
        if host not in self.names:
            raise OSError(f"no address for {host!r}: give play(..., names={{{host!r}: [...]}})")
        return list(self.names[host])


class FakeServices:
    """api.Services of one plugin under test."""

    def __init__(self, clock: FakeClock, names: Mapping[str, Sequence[str]]) -> None:
        self.log = FakeLog()
        self.clock = clock
        self.metrics = FakeMetrics()
        self.resolver = FakeResolver(names)

"""The counters of plugins: their own, ``popproxy_plugin_<plugin>_<name>_total``, and those that plugins of one kind
share, by the names of rules and limits.

Law: name, label and values are fixed when the plugin starts. A reload that asks for the same counter goes on
with its counts; asking for it in another shape is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from popproxy.api.services import DECISIONS, LABEL_WORD, LIMITED, SCANNED, Counter
from popproxy.metrics.backend import BackendMeter
from popproxy.metrics.cells import Block, Families, Scalars, block_of
from popproxy.metrics.names import PREFIX, RESERVED, Metric

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LABEL = re.compile(r"(?!__)[a-z_][a-z0-9_]*")
VALUES = 500
"""The most values one plugin counter may have, the most rules or limits of one plugin."""


class BoundCounter:
    """api.Counter."""

    __slots__ = ("_at", "_row")

    def __init__(self, row: list[float] | list[int], at: int = 0) -> None:
        self._row: list[Any] = row
        self._at = at

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Raises ValueError when it is negative or not a number."""
        if not amount >= 0:
            raise ValueError(f"a counter only goes up; inc({amount!r}) would not")
        self._row[self._at] += amount


class PluginCounters:
    """The counters of all plugins of a worker. ``house`` has those they share."""

    def __init__(self, house: Families | None = None) -> None:
        self._house = house or Families()
        self._families: dict[str, tuple[str, Scalars[float]]] = {}

    def of(self, plugin: str) -> PluginMetrics:
        """What the plugin called ``plugin`` in the config gets as ``services.metrics``."""
        return PluginMetrics(self, plugin)

    def bind(self, plugin: str, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
        """See api.Metrics.counter. Raises ValueError with what to write instead."""
        where = f"counter {name!r} of plugin {plugin!r}"
        _check(where, name, label, values)
        full = f"plugin_{re.sub('[^a-z0-9_]', '_', plugin.lower())}_{name}"
        if PREFIX + full in RESERVED:
            raise ValueError(f"{where}: {PREFIX}{full} exists already; choose another name")
        owner, family = self._families.get(full) or (plugin, Scalars(_metric(full, text, label), 0.0))
        if owner != plugin:
            raise ValueError(f"{where}: plugin {owner!r} has a counter of that name; rename one of the plugins")
        if family.metric.key != _key(label):
            raise ValueError(f"{where} was made with the labels {family.metric.key!r}; keep them, or rename it")
        bound: dict[str, Counter] = {value: BoundCounter(family.bind(*((value,) if label else ()))) for value in values}
        self._families[full] = (plugin, family)
        return bound

    def shared(
        self, metric: str, plugin: str, names: Sequence[str], values: Sequence[str], all_values: Sequence[str]
    ) -> dict[str, dict[str, Counter]]:
        """Counters of the house's ``metric`` by name and value. Raises ValueError with what to write instead."""
        where = f"{metric} of plugin {plugin!r}"
        unknown = [value for value in values if value not in all_values]
        if unknown:
            raise ValueError(f"{where}: {unknown[0]!r} is none of {', '.join(all_values)}")
        wrong = [name for name in names if not LABEL_WORD.fullmatch(name)]
        if wrong:
            raise ValueError(f"{where}: {wrong[0]!r} is no name for a label: write 1 to 40 of a-z, 0-9, _ and -")
        if len(names) > VALUES:
            raise ValueError(f"{where} has {len(names)} names; {VALUES} is the most")
        rows = {name: self._house.counters[metric].bind(plugin, name) for name in names}
        return {
            name: {value: BoundCounter(row, all_values.index(value)) for value in values} for name, row in rows.items()
        }

    def scans(self, plugin: str, scanner: str) -> dict[str, Counter]:
        """See api.Metrics.scans."""
        if not LABEL_WORD.fullmatch(scanner):
            where = f"scanner_results of plugin {plugin!r}"
            raise ValueError(f"{where}: {scanner!r} is no name for a label: write 1 to 40 of a-z, 0-9, _ and -")
        row = self._house.counters["scanner_results"].bind(scanner)
        return {result: BoundCounter(row, place) for place, result in enumerate(SCANNED)}

    def backend(self, plugin: str) -> BackendMeter:
        """See api.Metrics.backend."""
        return BackendMeter(self._house, plugin)

    def blocks(self) -> Iterator[Block]:
        """Every counter made so far."""
        for _, family in list(self._families.values()):
            yield block_of(family)


class PluginMetrics:
    """api.Metrics of one plugin."""

    def __init__(self, counters: PluginCounters, plugin: str) -> None:
        self._counters = counters
        self._plugin = plugin

    def counter(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> dict[str, Counter]:
        """``popproxy_plugin_<plugin>_<name>_total``: one bound counter per value; without a label under ``""``."""
        return self._counters.bind(self._plugin, name, help, label, values if label or values else ("",))

    def decisions(self, rules: Sequence[str], actions: Sequence[str]) -> Mapping[str, Mapping[str, Counter]]:
        """See api.Metrics."""
        return self._counters.shared("policy_decisions", self._plugin, rules, actions, DECISIONS)

    def limits(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Counter]]:
        """See api.Metrics."""
        return self._counters.shared("rate_limit_decisions", self._plugin, names, LIMITED, LIMITED)

    def scans(self, scanner: str) -> Mapping[str, Counter]:
        """See api.Metrics."""
        return self._counters.scans(self._plugin, scanner)

    def backend(self) -> BackendMeter:
        """See api.Metrics."""
        return self._counters.backend(self._plugin)


def _check(where: str, name: str, label: str, values: Sequence[str]) -> None:
    if not _NAME.fullmatch(name) or name.endswith(("_total", "_created")):
        raise ValueError(f"{where}: write a name of a-z, 0-9 and _ without _total; that is added")
    if label and not _LABEL.fullmatch(label):
        raise ValueError(f"{where}: the label {label!r} is not a name of a-z, 0-9 and _")
    if label and not values:
        raise ValueError(f"{where}: a label needs its values now; later ones would be without bound")
    if values and not label and tuple(values) != ("",):
        raise ValueError(f"{where}: values need a label")
    if len(values) > VALUES:
        raise ValueError(f"{where} has {len(values)} label values; {VALUES} is the most")


def _key(label: str) -> tuple[str, ...]:
    return (label,) if label else ()


def _metric(full: str, text: str, label: str) -> Metric:
    return Metric(full, "counter", text, _key(label), start={})

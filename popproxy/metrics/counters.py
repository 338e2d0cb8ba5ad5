"""The counters plugins make for themselves: ``popproxy_plugin_<plugin>_<name>_total``.

Law: name, label and values are fixed when the plugin starts. A reload that asks for the same counter goes on
with its counts; asking for it in another shape is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from popproxy.api.services import Counter
from popproxy.metrics.cells import Block, Scalars, block_of
from popproxy.metrics.names import PREFIX, RESERVED, Metric

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LABEL = re.compile(r"(?!__)[a-z_][a-z0-9_]*")
VALUES = 500
"""The most values one plugin counter may have."""


class BoundCounter:
    """api.Counter."""

    __slots__ = ("_row",)

    def __init__(self, row: list[float]) -> None:
        self._row = row

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``. Raises ValueError when it is negative or not a number."""
        if not amount >= 0:
            raise ValueError(f"a counter only goes up; inc({amount!r}) would not")
        self._row[0] += amount


class PluginCounters:
    """The counters of all plugins of a worker."""

    def __init__(self) -> None:
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

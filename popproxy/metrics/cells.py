"""Where counting happens: plain lists of numbers, bound once, incremented by one thread, read by any.

Law: the event loop's thread alone writes; a reader copies under the interpreter's lock and may be one observation
behind. Nothing is looked up by label while traffic flows: a row is a list in the order of ``Metric.rows``, a
histogram's cell is ``[count per bucket ..., count above the last, sum]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from popproxy.metrics.names import METRICS, Kind, Metric
from popproxy.metrics.words import OTHER, Values

N = TypeVar("N", int, float)

Cell = list[float]
"""One histogram: ``cell[bisect_left(buckets, value)] += 1; cell[-1] += value``."""

Series = tuple[Values, float | Cell]
"""Label values in the order of ``Metric.label_names``, and the number or a copy of the cell."""

Exemplar = tuple[Values, int, str, float, float]
"""An observation to look into: label values of its series, number of its bucket (0 for a counter), session id, the
value that was observed, seconds since the epoch."""

Block = tuple[Kind, str, str, Values, str, tuple[float, ...], list[Exemplar], list[Series]]
"""A metric with its series as plain data, fit for marshal: kind, full name, help, label names, merge rule of a
gauge, buckets, exemplars, series."""


class Index(dict[Values, int]):
    """Row numbers by enum values. Unknown values find the row of their ``_other`` and leave no trace."""

    def __init__(self, metric: Metric) -> None:
        super().__init__((row, number) for number, row in enumerate(metric.rows))
        self._labels = metric.labels

    def __missing__(self, values: Values) -> int:
        fitted: Values = ()
        for label in self._labels:
            begin = len(fitted)
            fitted += label.fit(values[begin : begin + len(label.names)])
        return self[fitted]


class Scalars(Generic[N]):
    """A counter or a gauge: one list of numbers per key of config names."""

    def __init__(self, metric: Metric, zero: N) -> None:
        self.metric = metric
        self._zero: N = zero
        self._rows: dict[Values, list[N]] = {}

    def bind(self, *key: str) -> list[N]:
        """The row of ``key``, made if it is new; the same list every time."""
        return self._rows.setdefault(key, [self._zero] * len(self.metric.rows))

    def only(self, value: N, *key: str) -> None:
        """``key`` has this value in all its rows; every other key is forgotten."""
        self._rows = {key: [value] * len(self.metric.rows)}

    def forget(self, *key: str) -> None:
        """The series of ``key`` end; a later bind() begins anew."""
        self._rows.pop(key, None)

    def sums(self) -> dict[Values, N]:
        """For each combination of enum values the sum over all keys."""
        rows = list(self._rows.values())
        return {values: sum((row[place] for row in rows), self._zero) for place, values in enumerate(self.metric.rows)}

    def series(self) -> Iterator[Series]:
        """What is to be exported: rows shown from the start, and what is not zero."""
        metric = self.metric
        for key, row in list(self._rows.items()):
            plain = OTHER not in key
            for labels, shown, value in zip(metric.rows, metric.shown, row.copy(), strict=True):
                if value or (shown and plain):
                    yield key + labels, value


class Histograms:
    """A histogram: one list of cells per key of config names."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._rows: dict[Values, list[Cell]] = {}

    def bind(self, *key: str) -> list[Cell]:
        """The cells of ``key``, made if they are new; the same list every time."""
        width = len(self.metric.buckets) + 2
        return self._rows.setdefault(key, [[0] * width for _ in self.metric.rows])

    def series(self) -> Iterator[Series]:
        """What is to be exported: cells shown from the start, and those that counted something."""
        metric = self.metric
        for key, cells in list(self._rows.items()):
            plain = OTHER not in key
            for labels, shown, cell in zip(metric.rows, metric.shown, cells, strict=True):
                copy = cell.copy()
                if (shown and plain) or any(copy):
                    yield key + labels, copy


class Families:
    """All metrics of ``names`` as cells."""

    def __init__(self) -> None:
        self.counters = {m.name: Scalars(m, 0) for m in METRICS.values() if m.kind == "counter"}
        self.gauges = {m.name: Scalars(m, 0.0) for m in METRICS.values() if m.kind == "gauge"}
        self.histograms = {m.name: Histograms(m) for m in METRICS.values() if m.kind == "histogram"}

    def blocks(self, exemplars: Callable[[str], Iterable[Exemplar]]) -> Iterator[Block]:
        """Every metric that has series, in the order of the table, with its ``exemplars``."""
        found: dict[str, Scalars[int] | Scalars[float] | Histograms] = {
            **self.counters, **self.gauges, **self.histograms,
        }  # fmt: skip
        for name in METRICS:
            block = block_of(found[name], exemplars(name))
            if block[-1]:
                yield block


def block_of(family: Scalars[int] | Scalars[float] | Histograms, exemplars: Iterable[Exemplar] = ()) -> Block:
    """One metric as plain data."""
    metric = family.metric
    series = list(family.series())
    return (
        metric.kind, metric.full_name, metric.help, metric.label_names, metric.merge, metric.buckets,
        list(exemplars), series,
    )  # fmt: skip

"""The snapshots of several workers as one exposition.

Law: a counter and a histogram are the sum of what every worker has ever counted, also of those that are dead: what
is exported never goes down. A gauge merges by the rule that its block names, over the workers that are alive. Only
``worker_*`` tells one worker from another, by its slot: a number from 0 on that a worker's successor takes over.

Pure: no clock, no sockets, no tasks. Whoever asks the workers (a supervisor) says here what came of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from popproxy.metrics.cells import Block, Cell, Exemplar, Families, Scalars, block_of
from popproxy.metrics.names import METRICS, Kind
from popproxy.metrics.words import Values

Number = float | Cell
Fold = Callable[[Number, Number], Number]
Shape = tuple[Kind, Values, tuple[float, ...]]


@dataclass(slots=True)
class _Held:
    """One metric: its series by label values, and the newest exemplar of each place in them."""

    kind: Kind
    name: str
    help: str
    labels: Values
    merge: str
    buckets: tuple[float, ...]
    series: dict[Values, Number] = field(default_factory=dict)
    exemplars: dict[tuple[Values, int], Exemplar] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """What must be equal for two of them to be added up."""
        return (self.kind, self.labels, self.buckets)

    def take(self, other: _Held, fold: Fold) -> None:
        """Fold the series of ``other`` in. Neither shares a cell with the other afterwards."""
        mine = self.series
        for values, number in other.series.items():
            if values in mine:
                mine[values] = fold(mine[values], number)
            else:
                mine[values] = number.copy() if isinstance(number, list) else number
        for place, exemplar in other.exemplars.items():
            known = self.exemplars.get(place)
            if known is None or known[-1] <= exemplar[-1]:
                self.exemplars[place] = exemplar

    def block(self) -> Block:
        """As plain data again."""
        return (
            self.kind, self.name, self.help, self.labels, self.merge, self.buckets,
            list(self.exemplars.values()), list(self.series.items()),
        )  # fmt: skip


def _sum(one: Number, other: Number) -> Number:
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    assert not isinstance(one, list) and not isinstance(other, list)
    return one + other


def _max(one: Number, other: Number) -> Number:
    if isinstance(one, list) and isinstance(other, list):
        return [max(a, b) for a, b in zip(one, other, strict=True)]
    assert not isinstance(one, list) and not isinstance(other, list)
    return max(one, other)


def _min(one: Number, other: Number) -> Number:
    assert not isinstance(one, list) and not isinstance(other, list)
    return min(one, other)


_FOLDS: Mapping[str, Fold] = {"sum": _sum, "max": _max, "min": _min, "mean": _sum}
_Metrics = dict[str, _Held]


class Merger:
    """What all workers of one supervisor have counted, by slot.

    A slot is up from started(), restarted() or its first snapshot() on until died(). Every method belongs to one
    thread; what blocks() gives shares nothing with the merger.
    """

    def __init__(self) -> None:
        self._carried: _Metrics = {}
        self._live: dict[int, _Metrics] = {}
        self._slots: set[int] = set()
        self._born: dict[int, float | None] = {}
        self._buried: dict[int, float | None] = {}
        """When the processes began that live in a slot, and that died in it last: their names."""
        families = Families()
        self._up = families.gauges["worker_up"]
        self._asked = families.gauges["worker_scrape_ok"]
        self._restarts = families.counters["worker_restarts"]

    def started(self, slot: int) -> None:
        """The first worker of ``slot`` runs."""
        self._slots.add(slot)
        self._live.setdefault(slot, {})
        self._up.bind(str(slot))[0] = 1
        self._asked.bind(str(slot))[0] = 1
        self._restarts.bind(str(slot))

    def restarted(self, slot: int) -> None:
        """A new worker runs in ``slot`` in place of one that died; died() is said first, or now."""
        if slot in self._live:
            self.died(slot)
        self.started(slot)
        self._restarts.bind(str(slot))[0] += 1

    def snapshot(self, slot: int, blocks: Iterable[Block]) -> None:
        """The worker answered, with what WorkerMetrics.snapshot() gives (tuples or lists).

        Answers of one worker may come in any order: a counter keeps the highest. An answer of a worker that has died
        came too late and is left out, also when its successor runs already: ``process_start_time_seconds`` tells whose
        it is.
        """
        if slot not in self._live:
            if slot in self._slots:
                return
            self.started(slot)
        taken = _taken(blocks)
        if not self._lives(slot, taken.get("process_start_time_seconds")):
            return
        for name, before in self._live[slot].items():
            now = taken.get(name)
            if before.kind == "gauge":
                continue
            if now is None:
                taken[name] = before
            elif now.shape == before.shape:
                now.take(before, _max)
        self._live[slot] = taken
        self._asked.bind(str(slot))[0] = 1

    def _lives(self, slot: int, told: _Held | None) -> bool:
        """Whether an answer is of the worker that lives in the slot. One that nobody has heard of before may have died
        unheard, and its answer have come first: then the younger one is its successor."""
        born = None if told is None else told.series.get(())
        if not isinstance(born, float):
            return True
        known = self._born.get(slot)
        if born == self._buried.get(slot) or (known is not None and born < known):
            return False
        if known is not None and born > known:
            self._bury(slot)
            self._live[slot] = {}
        self._born[slot] = born
        return True

    def mute(self, slot: int) -> None:
        """The worker did not answer in time: what it said last goes on to count."""
        if slot in self._live:
            self._asked.bind(str(slot))[0] = 0

    def died(self, slot: int) -> None:
        """The worker is gone: what it counted is kept for ever, its gauges are forgotten. May be repeated."""
        self._bury(slot)
        if slot in self._slots:
            self._up.bind(str(slot))[0] = 0
            self._asked.bind(str(slot))[0] = 0

    def _bury(self, slot: int) -> None:
        if slot in self._born:
            self._buried[slot] = self._born.pop(slot)
        for name, held in self._live.pop(slot, {}).items():
            if held.kind != "gauge":
                _fold(self._carried, name, held, _sum)

    def removed(self, slot: int) -> None:
        """There is no such slot any more: fewer workers are configured. Its series end, what it counted stays."""
        self.died(slot)
        if slot in self._slots:
            self._slots.remove(slot)
            for family in (self._up, self._asked, self._restarts):
                family.forget(str(slot))

    def blocks(self, own: Iterable[Block] = ()) -> list[Block]:
        """Everything merged, in the order of the table. ``own`` is what the supervisor itself counts (its process,
        the config it has read): it merges like the snapshot of one worker more, and is not kept."""
        total: _Metrics = {}
        said: Counter[tuple[str, Values]] = Counter()
        for source in (self._carried, *(held for _, held in sorted(self._live.items())), _taken(own)):
            for name, held in source.items():
                _fold(total, name, held, _FOLDS[held.merge])
                if held.merge == "mean":
                    said.update((name, values) for values in held.series)
        for (name, values), sources in said.items():
            number = total[name].series[values]
            assert not isinstance(number, list)
            total[name].series[values] = number / sources
        found = [held.block() for held in total.values()]
        found += [block for block in map(block_of, self._own()) if block[-1]]
        return sorted(found, key=lambda block: (_ORDER.get(block[1], len(_ORDER)), block[1]))

    def _own(self) -> Iterator[Scalars[int] | Scalars[float]]:
        yield from (self._up, self._asked, self._restarts)


_ORDER = {metric.full_name: place for place, metric in enumerate(METRICS.values())}


def _fold(into: _Metrics, name: str, held: _Held, fold: Fold) -> None:
    """Fold a metric in. One of another shape (a reload gave a plugin's counter another label) takes the place of the
    one before."""
    known = into.get(name)
    if known is None or known.shape != held.shape:
        known = into[name] = _Held(held.kind, held.name, held.help, held.labels, held.merge, held.buckets)
    known.take(held, fold)


def _taken(blocks: Iterable[Block]) -> _Metrics:
    """Snapshots by name. Lists that were tuples before they went through JSON are tuples again."""
    found: _Metrics = {}
    for kind, name, text, labels, merge, buckets, exemplars, series in blocks:
        held = found[name] = _Held(kind, name, text, tuple(labels), merge, tuple(buckets))
        held.series = {tuple(values): number for values, number in series}
        held.exemplars = {
            (tuple(values), place): (tuple(values), place, session, value, when)
            for values, place, session, value, when in exemplars
        }
    return found

"""From cells to the text a Prometheus reads. The formats and the choice between them are prometheus_client's.

No ``_created`` series: they double the output and nothing here reads them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from popproxy.metrics.cells import Block

_go_float: Callable[[float], str] = floatToGoString
_END = b"# EOF\n"
_HEADER = re.compile(rb"\A(?:# .*\n)+")
_PIECE = 150


def new_registry() -> CollectorRegistry:
    """A registry with the collectors of prometheus_client for the process, the platform and the garbage collector."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def family(block: Block) -> Family:
    """A block as prometheus_client takes it. Exemplars are shown in OpenMetrics; the text format has no place for
    them."""
    kind, name, text, labels, _, buckets, noted, series = block
    exemplars = {
        (values, place): Exemplar({"session_id": session}, value, when) for values, place, session, value, when in noted
    }
    if kind == "histogram":
        found = HistogramMetricFamily(name, text, labels=labels)
        bounds = [*(_go_float(bound) for bound in buckets), "+Inf"]
        for values, cell in series:
            assert isinstance(cell, list)
            counts = accumulate(cell[:-1])
            rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for place, row in enumerate(zip(bounds, counts, strict=True)):
                exemplar = exemplars.get((values, place))
                rows.append(row if exemplar is None else (*row, exemplar))
            found.add_metric(values, rows, cell[-1])
        return found
    if kind == "counter":
        counter = CounterMetricFamily(name, text, labels=labels)
        for values, value in series:
            assert not isinstance(value, list)
            counter.add_metric(values, value, exemplar=exemplars.get((values, 0)))
        return counter
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for values, value in series:
        assert not isinstance(value, list)
        gauge.add_metric(values, value)
    return gauge


class _Part:
    """One collected family in the shape of a registry."""

    def __init__(self, found: Family) -> None:
        self._found = found

    def collect(self) -> Iterable[Family]:
        """The family."""
        return (self._found,)


class Shown:
    """Blocks, of a Merger or of a snapshot, as render() takes them."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = blocks

    def collect(self) -> Iterable[Family]:
        """prometheus_client's Collector: one family after the other."""
        return map(family, self._blocks)


def render(registry: Collector, accept: str = "", pause: float = 0.0) -> tuple[bytes, str]:
    """The whole exposition and its content type: text, or OpenMetrics when the Accept header asks for it.

    Thousands of samples take tens of milliseconds. In a thread beside an event loop, give a ``pause`` (seconds) that
    is slept after every 150 samples: the loop then waits for a millisecond or two, not for the interpreter's switch
    interval again and again.
    """
    encode, content_type = _encoder(accept)
    parts: list[bytes] = []
    for found in registry.collect():
        samples = found.samples
        for begin in range(0, len(samples) or 1, _PIECE):
            found.samples = samples[begin : begin + _PIECE]
            text = encode(_Part(found)).removesuffix(_END)
            parts.append(_HEADER.sub(b"", text) if begin else text)
            if pause:
                time.sleep(pause)
    if content_type.startswith("application/openmetrics-text"):
        parts.append(_END)
    return b"".join(parts), content_type


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """prometheus_client's choice; the plain text format when the header is broken."""
    try:
        return choose_encoder(accept)
    except TypeError:
        return choose_encoder("")

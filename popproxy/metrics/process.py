"""What prometheus_client tells of this process, its garbage collector and its Python, as blocks that merge."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family

from popproxy.metrics.cells import Block
from popproxy.metrics.names import Kind, Merge

_KINDS: Mapping[str, Kind] = {"counter": "counter", "gauge": "gauge"}
_MERGE: Mapping[str, Merge] = {
    "process_start_time_seconds": "min",
    "process_open_fds": "max",
    "process_max_fds": "min",
    "python_info": "max",
}
"""Octets and seconds of several processes add up. The oldest process says since when all runs: it is the one whose end
is a restart of the service. Each process has a limit of descriptors of its own: what the fullest holds counts against
the nearest."""


def process_blocks(registry: CollectorRegistry) -> list[Block]:
    """The families of ``registry``, which holds the collectors of exposition.new_registry() and nothing else."""
    return [_block(found) for found in registry.collect()]


def _block(found: Family) -> Block:
    names = tuple(found.samples[0].labels) if found.samples else ()
    series = [(tuple(sample.labels[name] for name in names), sample.value) for sample in found.samples]
    kind = _KINDS[found.type]
    return (kind, found.name, found.documentation, names, _MERGE.get(found.name, "sum"), (), [], list(series))

"""FLOOR 2, beside core: counts what happens and shows it to Prometheus.

Theory: prometheus_client's own children cost 0.3 to 1.4 microseconds an increment; sessions increment plain ints in
lists instead, and one collector reads them when somebody scrapes. ``names`` is the table of all metrics.
"""

from popproxy.metrics.collector import WorkerMetrics
from popproxy.metrics.exposition import Shown, new_registry, render
from popproxy.metrics.merge import Merger
from popproxy.metrics.meters import ListenerMeter, UpstreamMeter
from popproxy.metrics.names import METRICS, ceiling

__all__ = [
    "METRICS",
    "ListenerMeter",
    "Merger",
    "Shown",
    "UpstreamMeter",
    "WorkerMetrics",
    "ceiling",
    "new_registry",
    "render",
]

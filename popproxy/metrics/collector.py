"""All metrics of one worker, and the one collector that shows them to prometheus_client."""

from __future__ import annotations

import platform
import ssl
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family

from popproxy import __version__
from popproxy.metrics.buffers import Buffers
from popproxy.metrics.cells import Block, Families, Index
from popproxy.metrics.counters import PluginCounters, PluginMetrics
from popproxy.metrics.exemplars import Exemplars
from popproxy.metrics.exposition import family, new_registry
from popproxy.metrics.meters import Hooks, ListenerMeter, UpstreamMeter
from popproxy.metrics.names import METRICS
from popproxy.metrics.overload import OverloadMeter
from popproxy.metrics.process import process_blocks
from popproxy.metrics.store import StoreMeter
from popproxy.metrics.words import LAG


class WorkerMetrics:
    """Makes every meter of a worker and collects them into ``registry``.

    ``plugins`` are pairs of a plugin's name and the hooks it overrides. ``dropped`` tells how many log records were
    lost so far, ``waiting`` how many octets of them are not written yet; both are called from any thread. A reload
    binds what is new with the same methods; what exists goes on counting.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        listeners: Sequence[str] = (),
        upstreams: Sequence[str] = (),
        plugins: Sequence[tuple[str, Sequence[str]]] = (),
        dropped: Callable[[], int] = int,
        waiting: Callable[[], int] = int,
    ) -> None:
        self._families = Families()
        self._hooks = Hooks(self._families)
        self._counters = PluginCounters(self._families)
        self._dropped = dropped
        self._process = new_registry()
        self._waiting = waiting
        self.tasks: Callable[[], int] = int
        """How many tasks run; the worker sets it. Called from any thread."""
        self._log_records = self._families.counters["log_records_dropped"].bind()
        self._log_queue = self._families.gauges["log_queue_bytes"].bind()
        self._tasks = self._families.gauges["tasks_active"].bind()
        self._exemplars = Exemplars()
        self._buffers = Buffers(self._families)
        self._draining = self._families.gauges["draining"].bind()
        self.spooled: list[float] = self._families.gauges["spooled_bytes"].bind()
        """Octets in spools in memory and on disk, for whoever keeps them."""
        self._lag = self._families.histograms["event_loop_lag_seconds"].bind()[0]
        self.overload = OverloadMeter(self._families)
        """For whoever measures the marks."""
        self._listeners: dict[str, ListenerMeter] = {}
        self._upstreams: dict[str, UpstreamMeter] = {}
        for name in listeners:
            self.listener(name)
        for name in upstreams:
            self.upstream(name)
        for name, hooks in plugins:
            self.hooks(name, hooks)
        registry.register(self)

    def listener(self, name: str) -> ListenerMeter:
        """The meter of a configured listener, made if it is new."""
        if name not in self._listeners:
            self._listeners[name] = ListenerMeter(self._families, self._hooks, name, self._buffers, self._exemplars)
        return self._listeners[name]

    def upstream(self, name: str) -> UpstreamMeter:
        """The meter of a configured upstream, made if it is new."""
        if name not in self._upstreams:
            self._upstreams[name] = UpstreamMeter(self._families, name)
        return self._upstreams[name]

    def store(self, kind: str) -> StoreMeter:
        """The meter of the store, which is of this kind."""
        return StoreMeter(self._families, kind)

    def store_gone(self, kind: str) -> None:
        """No store of this kind is in use any more."""
        self._families.gauges["store_up"].forget(kind)

    def hooks(self, plugin: str, hooks: Sequence[str]) -> None:
        """Make the series of a configured plugin and the hooks it overrides."""
        self._hooks.bind(plugin, hooks)

    def plugin(self, name: str) -> PluginMetrics:
        """``services.metrics`` of a configured plugin."""
        return self._counters.of(name)

    def build(self, loop: str) -> None:
        """What runs; ``loop`` names the event loop and its version."""
        self._families.gauges["build_info"].only(
            1.0, __version__, platform.python_version(), ssl.OPENSSL_VERSION, loop
        )

    def config(self, digest: str) -> None:
        """The hash of the config in force; the one before is forgotten."""
        self._families.gauges["config_info"].only(1.0, digest)

    def reloaded(self, ok: bool, now: float) -> None:
        """Whoever reads the config has read it: at the start, and for each reload. ``ok`` says whether it is in
        force since ``now`` (seconds since the epoch); if not, the one before goes on. Nothing is shown before the
        first call: a worker that is given its config by a supervisor leaves this to it."""
        self._families.gauges["config_last_reload_successful"].bind()[0] = int(ok)
        if ok:
            self._families.gauges["config_last_reload_success_timestamp_seconds"].bind()[0] = now

    def admin(self) -> Callable[[str], None]:
        """Counts a request that the admin listener has refused, by why (a word of ADMIN_REFUSALS). For whoever has
        one."""
        cells = self._families.counters["admin_refused"].bind()
        rows = Index(METRICS["admin_refused"])

        def refused(reason: str) -> None:
            cells[rows[reason,]] += 1

        return refused

    def draining(self, on: bool) -> None:
        """Whether the process shuts down."""
        self._draining[0] = int(on)

    def lag(self, seconds: float) -> None:
        """A timer fired ``seconds`` late."""
        self._lag[bisect_left(LAG, seconds)] += 1
        self._lag[-1] += seconds

    def pulse(self) -> dict[str, Any]:
        """What a page shows anew each second: open ``sessions``, the ``states`` they are in, and ``totals``."""
        counters = self._families.counters
        states = self._families.gauges["sessions_active"].sums()
        attempts = counters["auth_attempts"].sums()
        logins = sum(count for row, count in attempts.items() if "ok" in row)
        octets = counters["transferred_bytes"].sums()
        return {
            "sessions": int(sum(states.values())),
            "states": {row[0]: int(count) for row, count in states.items()},
            "totals": {
                "connections": sum(counters["connections"].sums().values()),
                "rejected": sum(counters["connections_rejected"].sums().values()),
                "logins": logins,
                "login_failures": sum(attempts.values()) - logins,
                "commands": sum(counters["commands"].sums().values()),
                "messages": counters["messages"].sums()["RETR", "ok"],
                "octets_in": octets["client", "received"],
                "octets_out": octets["client", "sent"],
            },
        }

    def snapshot(self) -> list[Block]:
        """Every metric, and what is known of this process, as plain data, fit for marshal."""
        return [*self._blocks(), *process_blocks(self._process)]

    def _blocks(self) -> Iterator[Block]:
        self._log_records[0] = self._dropped()
        self._log_queue[0] = self._waiting()
        self._tasks[0] = self.tasks()
        self._buffers.measure()
        for listener in list(self._listeners.values()):
            listener.measure()
        for upstream in list(self._upstreams.values()):
            upstream.measure()
        yield from self._families.blocks(self._exemplars.of)
        yield from self._counters.blocks()

    def collect(self) -> Iterable[Family]:
        """prometheus_client's Collector: one family after the other."""
        return map(family, self._blocks())

    def describe(self) -> Iterable[Family]:
        """All names of the table, so that a second registration is refused."""
        return [Family(m.full_name, m.help, m.kind) for m in METRICS.values()]

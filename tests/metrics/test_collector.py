"""A worker's metrics as a whole: what is exported, and that no input adds a series."""

import marshal
import platform
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from popproxy import __version__
from popproxy.api.plugin import HOOKS
from popproxy.metrics import METRICS, WorkerMetrics, ceiling
from popproxy.metrics.meters import ListenerMeter
from tests.metrics.traffic import LISTENERS, PLUGINS, UPSTREAMS, touch

OWN = {metric.full_name for metric in METRICS.values() if "worker" not in metric.key}
"""What a worker counts; the others are its supervisor's."""


def samples(registry: CollectorRegistry) -> Iterator[Sample]:
    for family in registry.collect():
        yield from family.samples


def series(registry: CollectorRegistry) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples(registry)}


def test_meters_are_made_once() -> None:
    metrics = WorkerMetrics(CollectorRegistry(), ["pop3"], ["main"])
    assert metrics.listener("pop3") is metrics.listener("pop3")
    assert metrics.upstream("main") is metrics.upstream("main")
    assert metrics.listener("new") is not metrics.listener("pop3")


def test_a_registry_takes_one_worker() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        WorkerMetrics(registry)


def test_a_reload_goes_on_counting() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, ["pop3"], [], [("headers", ["open_body"])])
    metrics.listener("pop3").plugin("headers", "open_body", "pass", 0.1)
    metrics.hooks("headers", ["open_body", "on_login"])
    metrics.listener("pop3").plugin("headers", "open_body", "pass", 0.1)
    labels = {"plugin": "headers", "hook": "open_body", "verdict": "pass"}
    assert registry.get_sample_value("popproxy_plugin_calls_total", labels) == 2


def test_build_and_config_are_one_series_each() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.build("uvloop 0.23.0")
    metrics.config("aaaa")
    metrics.config("bbbb")
    shown = [sample for sample in samples(registry) if sample.name.endswith("_info")]
    assert [(sample.labels, sample.value) for sample in shown] == [
        (
            {
                "version": __version__, "python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION,
                "loop": "uvloop 0.23.0",
            },
            1,
        ),
        ({"hash": "bbbb"}, 1),
    ]  # fmt: skip


def test_dropped_log_records_are_asked_for_at_each_scrape() -> None:
    registry = CollectorRegistry()
    lost = [0]
    WorkerMetrics(registry, dropped=lambda: lost[0])
    assert registry.get_sample_value("popproxy_log_records_dropped_total") == 0
    lost[0] = 7
    assert registry.get_sample_value("popproxy_log_records_dropped_total") == 7


def test_the_store() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    assert not [name for name, _ in series(registry) if "store" in name]
    meter = metrics.store("sqlite")
    assert registry.get_sample_value("popproxy_store_errors_total", {"store": "sqlite", "reason": "full"}) == 0
    meter.took(0.002)
    meter.failed("full")
    meter.failed("something new")
    meter.lost(3)
    for up in (True, False):
        meter.up(up)
        assert registry.get_sample_value("popproxy_store_up", {"store": "sqlite"}) == up
    assert registry.get_sample_value("popproxy_store_errors_total", {"store": "sqlite", "reason": "full"}) == 1
    assert registry.get_sample_value("popproxy_store_errors_total", {"store": "sqlite", "reason": "_other"}) == 1
    assert registry.get_sample_value("popproxy_store_posts_lost_total", {"store": "sqlite"}) == 3
    assert registry.get_sample_value("popproxy_rate_limit_store_duration_seconds_sum", {"store": "sqlite"}) == 0.002


def test_draining_and_lag() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    assert registry.get_sample_value("popproxy_draining") == 0
    metrics.draining(True)
    metrics.lag(0.03)
    assert registry.get_sample_value("popproxy_draining") == 1
    assert registry.get_sample_value("popproxy_event_loop_lag_seconds_bucket", {"le": "0.025"}) == 0
    assert registry.get_sample_value("popproxy_event_loop_lag_seconds_bucket", {"le": "0.05"}) == 1
    assert registry.get_sample_value("popproxy_event_loop_lag_seconds_sum") == 0.03
    metrics.draining(False)
    assert registry.get_sample_value("popproxy_draining") == 0


def test_refusals_of_the_admin_listener_are_counted_where_there_is_one() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    name, reasons = "popproxy_admin_refused_total", ("token", "nothing", "host", "origin", "content_type")
    assert registry.get_sample_value(name, {"reason": "token"}) is None
    refused = metrics.admin()
    assert [registry.get_sample_value(name, {"reason": reason}) for reason in reasons] == [0] * 5
    for count, reason in enumerate(reasons):
        for _ in range(count):
            refused(reason)
    assert [registry.get_sample_value(name, {"reason": reason}) for reason in reasons] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("connections_total", {"listener": "pop3"}),
        ("auth_attempts_total", {"listener": "pop3", "mechanism": "USER", "result": "bad_credentials"}),
        ("tls_handshake_failures_total", {"listener": "pop3", "mode": "stls", "reason": "protocol"}),
        ("sessions_total", {"listener": "pop3", "state": "transaction", "reason": "internal_error"}),
        ("sessions_total", {"listener": "pop3", "state": "transaction", "reason": "upstream_eof"}),
        ("upstream_connections_total", {"upstream": "main", "result": "refused"}),
        ("plugin_errors_total", {"plugin": "headers", "hook": "open_body", "action": "fail_open"}),
        ("command_duration_seconds_count", {"verb": "STAT"}),
        ("event_loop_lag_seconds_count", {}),
        ("log_records_dropped_total", {}),
    ],
)
def test_what_has_an_alert_is_there_from_the_start(name: str, labels: dict[str, str]) -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry, ["pop3"], ["main"], [("headers", ["open_body"])])
    assert registry.get_sample_value(f"popproxy_{name}", labels) == 0


def test_untouched_products_are_not_exported() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry, ["pop3"], ["main"], [("headers", ["open_body"])])
    names = {name for name, _ in series(registry)}
    assert not names & {"popproxy_commands_total", "popproxy_tls_handshakes_total", "popproxy_upstream_retries_total"}
    assert len(series(registry)) < 200


def test_everything_touched_is_every_metric_and_the_ceiling() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, LISTENERS, UPSTREAMS, [(name, HOOKS) for name in PLUGINS])
    touch(metrics)
    found = series(registry)
    own = {item for item in found if not item[0].startswith("popproxy_plugin_headers_found")}
    own = {item for item in own if not item[0].startswith("popproxy_plugin_policy_found")}
    assert len(own) == ceiling(
        len(LISTENERS), len(UPSTREAMS), len(PLUGINS), rules=4, limits=2, backends=2, scanners=1
    )
    assert {family.name for family in registry.collect()} >= OWN
    assert len(found - own) == 6


ANY = st.text(max_size=12) | st.sampled_from(["", "closed", "_other", "client", 'a"} 1\nevil 2', "é\ud800", "USER"])


def shout(meter: ListenerMeter, a: str, b: str) -> None:
    meter.auth(a, b, 0.1)
    meter.violation(a, b)
    meter.plugin(a, b, a, 0.1)
    meter.plugin("headers", "open_body", a, 0.1)
    meter.plugin_error(a, b, a)
    meter.rejected(a)
    meter.proxy_error(a)
    meter.tls_ok("stls", a, b, True, 0.1)
    meter.tls_failed("stls", a)
    meter.pause(a)
    meter.session_state(a, b)
    meter.session_end(a, b, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY, ANY), max_size=8))
def test_no_input_adds_a_series(pairs: list[tuple[str, str]]) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, LISTENERS, UPSTREAMS, [(name, HOOKS) for name in PLUGINS])
    touch(metrics)
    before = series(registry)
    for a, b in pairs:
        shout(metrics.listener("pop3"), a, b)
        metrics.upstream("main").dial(a)
    assert series(registry) - before == set()


def test_a_snapshot_is_fit_for_marshal() -> None:
    metrics = WorkerMetrics(CollectorRegistry(), LISTENERS, UPSTREAMS)
    touch(metrics)
    snapshot = metrics.snapshot()
    assert marshal.loads(marshal.dumps(snapshot)) == snapshot
    assert {block[1] for block in snapshot} >= OWN

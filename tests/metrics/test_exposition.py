"""What Prometheus reads: both formats, read back by prometheus_client's own parsers."""

from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from popproxy.api.plugin import HOOKS
from popproxy.metrics import WorkerMetrics, new_registry, render
from tests.metrics.traffic import LISTENERS, PLUGINS, UPSTREAMS, touch

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
parse_open: Callable[[str], Iterable[Metric]] = parse_openmetrics
generate_open: Callable[[CollectorRegistry], bytes] = generate_openmetrics
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def touched(registry: CollectorRegistry) -> CollectorRegistry:
    metrics = WorkerMetrics(registry, LISTENERS, UPSTREAMS, [(name, HOOKS) for name in PLUGINS])
    touch(metrics)
    return registry


def values(families: list[Metric]) -> Values:
    found: Values = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def test_both_formats_read_back_equal() -> None:
    registry = touched(CollectorRegistry())
    kept = values(list(registry.collect()))
    text, text_type = render(registry)
    open_text, open_type = render(registry, OPENMETRICS)
    assert text_type.startswith("text/plain; version=0.0.4")
    assert open_type.startswith("application/openmetrics-text; version=1.0.0")
    assert values(list(parse_text(text.decode()))) == kept
    assert values(list(parse_open(open_text.decode()))) == kept


def test_parts_are_what_prometheus_client_renders_at_once() -> None:
    registry = touched(CollectorRegistry())
    assert render(registry)[0] == generate_latest(registry)
    assert render(registry, OPENMETRICS)[0] == generate_open(registry)


def test_no_created_series() -> None:
    text, _ = render(touched(new_registry()), OPENMETRICS)
    assert b"_created" not in text


def test_histograms_are_cumulative_with_the_sum_at_the_end() -> None:
    registry = CollectorRegistry()
    meter = WorkerMetrics(registry, ["pop3"]).listener("pop3")
    meter.session_end("update", "quit", 2.0)
    meter.session_end("update", "quit", 70.5)
    lines = [line for line in render(registry)[0].decode().splitlines() if "popproxy_session_duration" in line]
    assert lines[2:] == [
        'popproxy_session_duration_seconds_bucket{le="1.0",listener="pop3"} 0.0',
        'popproxy_session_duration_seconds_bucket{le="5.0",listener="pop3"} 1.0',
        'popproxy_session_duration_seconds_bucket{le="15.0",listener="pop3"} 1.0',
        'popproxy_session_duration_seconds_bucket{le="60.0",listener="pop3"} 1.0',
        'popproxy_session_duration_seconds_bucket{le="300.0",listener="pop3"} 2.0',
        'popproxy_session_duration_seconds_bucket{le="900.0",listener="pop3"} 2.0',
        'popproxy_session_duration_seconds_bucket{le="1800.0",listener="pop3"} 2.0',
        'popproxy_session_duration_seconds_bucket{le="3600.0",listener="pop3"} 2.0',
        'popproxy_session_duration_seconds_bucket{le="+Inf",listener="pop3"} 2.0',
        'popproxy_session_duration_seconds_count{listener="pop3"} 2.0',
        'popproxy_session_duration_seconds_sum{listener="pop3"} 72.5',
    ]


def test_the_process_is_shown_beside() -> None:
    text, _ = render(new_registry())
    for name in (b"process_open_fds", b"process_cpu_seconds_total", b"python_gc_collections_total", b"python_info"):
        assert b"\n" + name in text


@pytest.mark.parametrize(
    "accept",
    ["*/*", "text/plain;version=zz", "text/plain;version=1.x", ";;,=,", "application/json", "\x00"],
)
def test_a_strange_accept_header_gets_plain_text(accept: str) -> None:
    body, content_type = render(CollectorRegistry(), accept)
    assert body == b""
    assert content_type.startswith("text/plain; version=0.0.4")


def test_a_pause_is_slept_between_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("popproxy.metrics.exposition.time.sleep", slept.append)
    registry = CollectorRegistry()
    WorkerMetrics(registry, ["pop3"])
    body, _ = render(registry, pause=0.0002)
    assert body == generate_latest(registry)
    assert slept == [0.0002] * len(list(registry.collect()))
    many = touched(CollectorRegistry())
    slept.clear()
    assert render(many, pause=0.0002)[0] == generate_latest(many)
    assert len(slept) == sum(-(-len(family.samples) // 150) for family in many.collect())

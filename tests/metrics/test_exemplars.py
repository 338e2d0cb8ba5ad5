"""Session ids of failed logins and slow commands: OpenMetrics only, opt-in, the newest one of each place."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.samples import Sample

from popproxy.core.meter import SessionMeter
from popproxy.metrics import ListenerMeter, Merger, Shown, WorkerMetrics, render
from popproxy.wire.commands import VERB_NAMES

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
parse_open: Callable[[str], Iterable[Family]] = parse_openmetrics
RETR, XOIP = VERB_NAMES.index("RETR"), VERB_NAMES.index("XOIP")


@dataclass
class Session:
    id: str


def made() -> tuple[CollectorRegistry, ListenerMeter]:
    registry = CollectorRegistry()
    return registry, WorkerMetrics(registry, ["pop3"]).listener("pop3")


def shown(text: bytes) -> dict[tuple[str, ...], Sample]:
    """Samples that have an exemplar."""
    samples = [sample for family in parse_open(text.decode()) for sample in family.samples if sample.exemplar]
    return {(sample.name, *(value for _, value in sorted(sample.labels.items()))): sample for sample in samples}


def test_a_failed_login_and_a_slow_command_name_their_session() -> None:
    registry, meter = made()
    session = Session("s1")
    traced: SessionMeter = meter.traced(session)
    traced.auth("PLAIN", "bad_credentials", 0.3)
    traced.auth("KERBEROS_V4", "aborted", 0.3)
    traced.auth("PLAIN", "ok", 0.3)
    traced.latency(RETR, 0.9, 1, 0)
    traced.latency(RETR, 3.0, 1, 0)
    session.id = "s1-by-the-proxy-in-front"
    traced.latency(XOIP, 99.0, 2, 1)
    found = shown(render(registry, OPENMETRICS)[0])
    assert {key: sample.exemplar.labels["session_id"] for key, sample in found.items() if sample.exemplar} == {
        ("popproxy_auth_attempts_total", "pop3", "PLAIN", "bad_credentials"): "s1",
        ("popproxy_auth_attempts_total", "pop3", "_other", "aborted"): "s1",
        ("popproxy_command_duration_seconds_bucket", "5.0", "RETR"): "s1",
        ("popproxy_command_duration_seconds_bucket", "+Inf", "_other"): "s1-by-the-proxy-in-front",
    }  # fmt: skip
    exemplar = found["popproxy_command_duration_seconds_bucket", "5.0", "RETR"].exemplar
    assert exemplar is not None and exemplar.value == 3.0
    assert exemplar.timestamp is not None and abs(float(exemplar.timestamp) - time.time()) < 3600
    assert registry.get_sample_value("popproxy_command_duration_seconds_count", {"verb": "RETR"}) == 2


def test_the_text_format_has_none() -> None:
    registry, meter = made()
    meter.traced(Session("s1")).auth("PLAIN", "aborted", 0.3)
    assert b"s1" not in render(registry)[0]


def test_the_newest_one_is_shown() -> None:
    registry, meter = made()
    for name in ("s1", "s2"):
        meter.traced(Session(name)).auth("PLAIN", "aborted", 0.3)
    (sample,) = shown(render(registry, OPENMETRICS)[0]).values()
    assert sample.exemplar is not None and sample.exemplar.labels == {"session_id": "s2"}


@pytest.mark.parametrize("name", ["x" * 101, "", "a\nb", "\udc80", "\u00e9", 'a"} 1 # \\ b'])
def test_an_id_that_cannot_be_shown_is_left_out(name: str) -> None:
    registry, meter = made()
    meter.traced(Session(name)).auth("PLAIN", "aborted", 0.3)
    assert shown(render(registry, OPENMETRICS)[0]) == {}


def test_several_workers_show_the_last_one_of_any() -> None:
    merger = Merger()
    for slot, name in enumerate(("s1", "s2")):
        metrics = WorkerMetrics(CollectorRegistry(), ["pop3"])
        metrics.listener("pop3").traced(Session(name)).auth("PLAIN", "aborted", 0.3)
        merger.snapshot(slot, metrics.snapshot())
    (sample,) = shown(render(Shown(merger.blocks()), OPENMETRICS)[0]).values()
    assert sample.exemplar is not None and sample.exemplar.labels == {"session_id": "s2"}
    assert sample.value == 2

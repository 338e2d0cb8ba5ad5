"""What is exported is shown, and what is shown is exported."""

from __future__ import annotations

import re

import pytest

from grafana.boards.query import scoped
from grafana.unshown import UNSHOWN
from popproxy.metrics.names import METRICS
from popproxy.run.events import EVENTS, FIELDS
from tests.grafana.expressions import boards, expressions, panels

SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
SAMPLES = {metric.full_name + suffix: name for name, metric in METRICS.items() for suffix in SUFFIXES[metric.kind]}


def shown() -> set[str]:
    """Metrics that panels ask for (what only variables or annotations use is not shown)."""
    asked = [found.raw for found in expressions() if not found.panel.startswith("annotation ")]
    return {SAMPLES[name] for expr in asked for name in re.findall(r"popproxy_\w+", expr) if name in SAMPLES}


def test_every_metric_is_on_a_board_or_excused() -> None:
    assert set(METRICS) - shown() == set(UNSHOWN)
    for name, reason in UNSHOWN.items():
        assert len(reason.split()) >= 5, name


def test_boards_ask_for_nothing_that_is_not_exported() -> None:
    asked = [found.raw for found in expressions()]
    asked += [
        variable["query"]
        for board in boards().values()
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    names = {name for expr in asked for name in re.findall(r"popproxy_\w+", expr)}
    assert names - SAMPLES.keys() == set()
    others = {name for expr in asked for name in re.findall(r"\b(?:process|python)_\w+", expr)}
    assert others <= {
        "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes",
        "process_open_fds", "process_max_fds", "python_gc_collections_total",
    }  # fmt: skip


def test_labels_in_matchers_have_values_that_exist() -> None:
    """`result="tempfial"` parses, and is never there."""
    for found in expressions():
        for name, braces in re.findall(r"(popproxy_\w+)\{([^{}]*)\}", found.raw):
            metric = METRICS[SAMPLES[name]]
            for label, pattern in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"$]*)"', braces):
                position = metric.label_names.index(label) - len(metric.key)
                assert position >= 0, f"{found}: {label} is a name of the config"
                values = {row[position] for row in metric.rows}
                assert set(pattern.split("|")) <= values, f"{found}: {label}"


def test_legends_name_labels_that_their_query_has() -> None:
    for board in boards().values():
        for panel in panels(board):
            for target in panel["targets"]:
                for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
                    kept = re.findall(r"\b(?:by|on) \(([^()]*)\)", target["expr"])
                    assert any(label in found.replace(" ", "").split(",") for found in kept), (panel["title"], label)


def test_log_queries_name_events_and_fields_that_exist() -> None:
    found = list(expressions(kind="loki"))
    assert found
    for query in found:
        for pattern in re.findall(r'\bevent=~?"([^"]*)"', query.raw):
            assert set(pattern.split("|")) <= EVENTS.keys() | {"event"}, query
        for field in re.findall(r"\| (\w+)=~?\"", query.raw) + re.findall(r"\| unwrap (\w+)", query.raw):
            assert field in FIELDS.keys() | {"event", "level"}, query


SCOPE = 'job=~"$job", instance=~"$instance"'


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("popproxy_draining", "popproxy_draining{SCOPE}"),
        (
            'rate(popproxy_sessions_total{reason="quit"}[5m])',
            'rate(popproxy_sessions_total{reason="quit", SCOPE, listener=~"$listener"}[5m])',
        ),
        (
            'popproxy_upstream_connections_active{upstream="a"}',
            'popproxy_upstream_connections_active{upstream="a", SCOPE}',
        ),
        (
            'increase(popproxy_upstream_state_changes_total{to="up"}[1h])',
            'increase(popproxy_upstream_state_changes_total{to="up", SCOPE, upstream=~"$upstream"}[1h])',
        ),
        ("up{} and on (job) popproxy_draining", "up{SCOPE} and on (job) popproxy_draining{SCOPE}"),
        ('ALERTS{alertstate="firing"}', 'ALERTS{alertstate="firing"}'),
    ],
)
def test_expressions_get_the_selectors_of_the_variables(expression: str, expected: str) -> None:
    assert scoped(expression) == expected.replace("SCOPE", SCOPE)


@pytest.mark.parametrize(
    "expression",
    ["popproxy_nothing", "popproxy_sessions", 'popproxy_draining{verb="RETR"}', "sum by (verb) (popproxy_draining)"],
)
def test_expressions_are_refused_for_what_does_not_exist(expression: str) -> None:
    with pytest.raises(ValueError, match=r"no metric|has no label"):
        scoped(expression)

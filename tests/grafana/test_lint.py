"""dashboard-linter's rules hold for every board, but for exceptions that give a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.grafana.expressions import DASHBOARDS, Json, boards, panels
from tests.grafana.lint import RULES

COMMITTED = boards()
EXCLUSIONS: dict[str, Json] = yaml.safe_load((DASHBOARDS / ".lint").read_text())["exclusions"]


def faults(name: str, board: Json) -> Iterator[tuple[str, str]]:
    """(panel, message) of what no exception allows."""
    allowed = {(entry["dashboard"], entry["panel"]) for entry in EXCLUSIONS.get(name, {}).get("entries", ())}
    for panel, message in RULES[name](board):
        if (board["title"], panel) not in allowed:
            yield panel, message


@pytest.mark.parametrize("board", COMMITTED.values(), ids=COMMITTED.keys())
@pytest.mark.parametrize("name", RULES)
def test_rule(name: str, board: Json) -> None:
    assert list(faults(name, board)) == []


@pytest.mark.parametrize("name", EXCLUSIONS)
def test_exceptions_have_a_reason_and_are_needed(name: str) -> None:
    assert len(EXCLUSIONS[name]["reason"].split()) >= 5
    found = {(board["title"], panel) for board in COMMITTED.values() for panel, _ in RULES[name](board)}
    assert found == {(entry["dashboard"], entry["panel"]) for entry in EXCLUSIONS[name]["entries"]}


def _variable(board: Json, name: str) -> Json:
    return next(found for found in board["templating"]["list"] if found["name"] == name)  # type: ignore[no-any-return]


def _expr(board: Json, expr: str) -> None:
    panels(board)[1]["targets"][0]["expr"] = expr


SPOILED: dict[str, Callable[[Json], object]] = {
    "template-datasource-rule": lambda board: _variable(board, "datasource").update(label="Prometheus"),
    "template-job-rule": lambda board: _variable(board, "job").update(multi=False),
    "template-instance-rule": lambda board: board["templating"]["list"].remove(_variable(board, "instance")),
    "template-label-promql-rule": lambda board: _variable(board, "job").update(query="label_values(job"),
    "template-on-time-change-reload-rule": lambda board: _variable(board, "job").update(refresh=1),
    "panel-datasource-rule": lambda board: panels(board)[0]["datasource"].update(uid="prometheus"),
    "panel-title-description-rule": lambda board: panels(board)[0].update(description=""),
    "panel-units-rule": lambda board: panels(board)[0]["fieldConfig"]["defaults"].update(unit="seconds"),
    "panel-no-targets-rule": lambda board: panels(board)[0].update(targets=[]),
    "target-rate-interval-rule": lambda board: _expr(board, "rate(popproxy_connections_total[5m])"),
    "target-job-rule": lambda board: _expr(board, 'popproxy_draining{instance=~"$instance"}'),
    "target-instance-rule": lambda board: _expr(board, "popproxy_draining"),
    "target-counter-agg-rule": lambda board: _expr(board, "sum(popproxy_connections_total{})"),
    "target-logql-auto-rule": lambda board: _expr(board, 'count_over_time({job="x"}[5m])'),
    "uneditable-rule": lambda board: board.update(editable=True),
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_finds_what_it_is_about(name: str) -> None:
    """A rule that finds nothing whatever stands there would hold nothing."""
    file = "popproxy-logs.json" if "logql" in name else "popproxy-overview.json"
    board = json.loads(json.dumps(COMMITTED[file]))
    before = list(RULES[name](board))
    SPOILED[name](board)
    assert list(RULES[name](board)) != before

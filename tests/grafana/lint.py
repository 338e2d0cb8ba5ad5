"""The rules of grafana/dashboard-linter (docs/index.md there), as far as they can be held without parsing a query.

That queries parse is Prometheus' to say, which is asked all of them elsewhere. Each rule takes a board and yields what
is wrong, as (panel, message); panel is empty for the board itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tests.grafana.expressions import Json, panels, source

Fault = tuple[str, str]
Rule = Callable[[Json], Iterator[Fault]]

UNITS = frozenset({
    "none", "short", "percentunit", "bytes", "Bps", "s", "ops", "dateTimeAsIso", "dateTimeFromNow",
})  # fmt: skip
"""Those of the linter's list that make sense here: base units, as the metrics are."""

_SELECTED = re.compile(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^{}]*)\}")
_EXPORTED = re.compile(r"\b(?:popproxy|process|python)_\w+|\bALERTS\b")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def _variable(board: Json, name: str) -> Json | None:
    return next((found for found in board["templating"]["list"] if found["name"] == name), None)


def _targets(board: Json) -> Iterator[tuple[str, Json]]:
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], target


def _queries(board: Json, kind: str) -> Iterator[tuple[str, str]]:
    """(panel, expression), if the board asks ``kind``."""
    if source(board) == kind:
        for title, target in _targets(board):
            yield title, target["expr"]


def template_datasource(board: Json) -> Iterator[Fault]:
    """A variable for the data source, called ``datasource`` and "Data source"."""
    found = [variable for variable in board["templating"]["list"] if variable["type"] == "datasource"]
    if len(found) != 1 or (found[0]["name"], found[0]["label"]) != ("datasource", "Data source"):
        yield "", "no variable datasource, labelled Data source"


def _template(board: Json, name: str, label: str) -> Iterator[Fault]:
    if source(board) != "prometheus":
        return
    found = _variable(board, name)
    if found is None:
        yield "", f"no variable {name}"
        return
    expected = {"type": "query", "label": label, "multi": True, "includeAll": True, "allValue": ".+"}
    for key, value in expected.items():
        if found.get(key) != value:
            yield "", f"variable {name}: {key} is {found.get(key)!r}, not {value!r}"
    if found["datasource"] != {"type": "prometheus", "uid": "$datasource"}:
        yield "", f"variable {name} does not ask $datasource"


def template_job(board: Json) -> Iterator[Fault]:
    """A variable ``job``, of many values, All being ``.+``."""
    yield from _template(board, "job", "Job")


def template_instance(board: Json) -> Iterator[Fault]:
    """A variable ``instance``, of many values, All being ``.+``."""
    yield from _template(board, "instance", "Instance")


def template_label_promql(board: Json) -> Iterator[Fault]:
    """Variables' queries are ``label_values(SELECTOR, LABEL)``."""
    for variable in board["templating"]["list"]:
        if variable["type"] != "query" or source(board) != "prometheus":
            continue
        if not re.fullmatch(r"label_values\(\w+(?:\{[^{}]*\})?, \w+\)", variable["query"]):
            yield "", f"variable {variable['name']}: {variable['query']}"


def template_on_time_change_reload(board: Json) -> Iterator[Fault]:
    """Variables are asked for again when the time changes."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query" and variable["refresh"] != 2:
            yield "", f"variable {variable['name']}: refresh is {variable['refresh']}"


def panel_datasource(board: Json) -> Iterator[Fault]:
    """Every panel and target asks ``$datasource``."""
    expected = {"type": source(board), "uid": "$datasource"}
    for panel in panels(board):
        if panel["datasource"] != expected or any(target["datasource"] != expected for target in panel["targets"]):
            yield panel["title"], "does not ask $datasource"


def panel_title_description(board: Json) -> Iterator[Fault]:
    """Every panel has a title and a description."""
    for panel in panels(board):
        if not panel.get("title") or not panel.get("description"):
            yield panel.get("title", ""), "no title or no description"


def panel_units(board: Json) -> Iterator[Fault]:
    """Every panel with values has a unit, and thresholds."""
    for panel in panels(board):
        if panel["type"] == "logs":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        if defaults.get("unit") not in UNITS:
            yield panel["title"], f"unit {defaults.get('unit')!r}"
        if not defaults.get("thresholds", {}).get("steps"):
            yield panel["title"], "no thresholds"


def panel_no_targets(board: Json) -> Iterator[Fault]:
    """Every panel asks something, and its queries have ids: A, B, C ..."""
    for panel in panels(board):
        ids = [target.get("refId") for target in panel["targets"]]
        if not ids or ids != [chr(65 + index) for index in range(len(ids))]:
            yield panel["title"], f"queries {ids}"


def target_rate_interval(board: Json) -> Iterator[Fault]:
    """rate and irate are over ``$__rate_interval``."""
    for title, expr in _queries(board, "prometheus"):
        for call in re.finditer(r"\bi?rate\([^\[\]]*\[([^\]]*)\]", expr):
            if call[1] != "$__rate_interval":
                yield title, f"rate over {call[1]}"


def _matched(board: Json, label: str) -> Iterator[Fault]:
    for title, expr in _queries(board, "prometheus"):
        for name, selector in _SELECTED.findall(expr):
            if f'{label}=~"${label}"' not in selector:
                yield title, f"{name} without {label}"
        bare = _STRING.sub('""', expr)
        if missing := [found[0] for found in _EXPORTED.finditer(bare) if bare[found.end() : found.end() + 1] != "{"]:
            yield title, f"{missing} without any selector"


def target_job(board: Json) -> Iterator[Fault]:
    """Every selector has ``job=~"$job"``."""
    yield from _matched(board, "job")


def target_instance(board: Json) -> Iterator[Fault]:
    """Every selector has ``instance=~"$instance"``."""
    yield from _matched(board, "instance")


def target_counter_agg(board: Json) -> Iterator[Fault]:
    """Counters stand in rate, irate or increase, and nowhere else."""
    for title, expr in _queries(board, "prometheus"):
        for found in re.finditer(r"\b\w+_total\b", _STRING.sub('""', expr)):
            bare = _STRING.sub('""', expr)
            if not re.search(r"\b(?:rate|irate|increase)\($", bare[: found.start()]):
                yield title, f"{found[0]} is not in rate, irate or increase"


def target_logql_auto(board: Json) -> Iterator[Fault]:
    """Ranges of LogQL are ``$__auto``."""
    for title, expr in _queries(board, "loki"):
        for period in re.findall(r"\[([^\]]*)\]", expr):
            if period != "$__auto":
                yield title, f"range {period}"


def uneditable(board: Json) -> Iterator[Fault]:
    """A board that is provisioned is not edited in place."""
    if board["editable"] is not False:
        yield "", "editable"


RULES: dict[str, Rule] = {
    f"{rule.__name__.replace('_', '-')}-rule": rule
    for rule in (
        template_datasource, template_job, template_instance, template_label_promql, template_on_time_change_reload,
        panel_datasource, panel_title_description, panel_units, panel_no_targets, target_rate_interval, target_job,
        target_instance, target_counter_agg, target_logql_auto, uneditable,
    )
}  # fmt: skip
"""By the linter's names."""

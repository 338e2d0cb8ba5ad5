"""Every expression of the committed boards, with values in place of Grafana's variables.

What a Prometheus is asked with: ``for found in expressions(): query(found.expr)``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).resolve().parents[2] / "grafana" / "dashboards"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """One query: of the panel ``panel`` (or of an annotation) on the board ``board`` (a uid). ``raw`` is as written."""

    board: str
    panel: str
    ref: str
    expr: str
    raw: str

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}: {self.ref}"


def boards() -> dict[str, Json]:
    """File name: content of each committed board."""
    return {path.name: json.loads(path.read_bytes()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: Json) -> list[Json]:
    """All panels of a board but its headings, in their order."""
    found: list[Json] = []
    for panel in board["panels"]:
        found += panel.get("panels", []) if panel["type"] == "row" else [panel]
    return found


def source(board: Json) -> str:
    """``prometheus`` or ``loki``: what the board asks."""
    kinds = [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "datasource"]
    assert len(kinds) == 1, board["title"]
    return str(kinds[0])


def expressions(interval: str = "30s", period: str = "15m", kind: str = "prometheus") -> Iterator[Expression]:
    """All queries of panels, then of annotations, of the boards that ask ``kind``.

    ``interval`` stands for ``$__rate_interval`` (at least four scrapes), ``period`` for the time that is shown.
    """
    for board in boards().values():
        if source(board) != kind:
            continue
        values = {"__rate_interval": interval, "__interval": interval, "__auto": interval, "__range": period}
        values |= {variable["name"]: value(variable) for variable in board["templating"]["list"]}
        for panel in panels(board):
            for target in panel["targets"]:
                raw = target["expr"]
                yield Expression(board["uid"], panel["title"], target["refId"], substituted(raw, values), raw)
        for note in board["annotations"]["list"]:
            raw = note["expr"]
            yield Expression(board["uid"], f"annotation {note['name']}", "A", substituted(raw, values), raw)


def value(variable: Json) -> str:
    """What a variable stands for when a board is opened."""
    if variable["type"] == "query":
        return str(variable["allValue"])
    return str(variable["query"])


def substituted(expr: str, values: dict[str, str]) -> str:
    """``expr`` with values for its variables, the longest names first."""
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${{{name}}}", values[name]).replace(f"${name}", values[name])
    assert "$" not in expr, f"a variable that no board has: {expr}"
    return expr

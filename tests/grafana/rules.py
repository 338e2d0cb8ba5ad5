"""The rules file and its tests, read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "grafana" / "rules" / "popproxy.rules.yml"
TESTS = sorted((ROOT / "grafana" / "rules" / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "grafana" / "runbooks.md"

_SELECTOR = re.compile(r"([a-z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})")
_NAME = re.compile(r"\b((?:[a-z_]+:)?popproxy_[a-z0-9_]+(?::[a-z0-9_]+)?|process_[a-z_]+|up)\b")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def rules() -> list[dict[str, Any]]:
    """All rules, recording and alerting, in the file's order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerting rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recordings() -> dict[str, str]:
    """The expressions of the recording rules by what they record."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def names(expression: str) -> set[str]:
    """Names of the series that an expression reads, as they stand there: of samples, recordings and of Prometheus."""
    return set(_NAME.findall(re.sub(r'"[^"]*"|\b(?:by|on|ignoring|group_left)\s*\([^)]*\)', "", expression)))


def sources(expression: str) -> set[str]:
    """Names of the series that an expression reads, recordings replaced by what they are made of."""
    recorded = recordings()
    found: set[str] = set()
    for name in names(expression):
        found |= sources(recorded[name]) if name in recorded else {name}
    return found


def matchers(expression: str) -> Iterator[tuple[str, str, str, str]]:
    """(series name, label, operator, value) of each matcher in an expression."""
    for name, inside in _SELECTOR.findall(expression):
        for label, operator, value in _MATCHER.findall(inside):
            yield name, label, operator, value

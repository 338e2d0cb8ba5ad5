"""The rules as files: valid, about metrics that exist, with a runbook and a test of each side for every alert."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from popproxy.metrics.names import METRICS, Metric
from popproxy.run.cli import parser
from tests.grafana.rules import RULES, RUNBOOKS, TESTS, alerts, matchers, names, recordings, rules, sources
from tests.integration.conftest import Need
from tests.integration.packages import program

SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")
FOREIGN = {"up", "process_start_time_seconds", "process_open_fds", "process_max_fds"}
"""What the rules read and metrics/names.py does not have: Prometheus's own, and prometheus_client's."""


def promtool(*arguments: str) -> None:
    """Run it; AssertionError with all it says when it finds something."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def metric(sample: str) -> Metric | None:
    """The metric that a sample's name belongs to."""
    for suffix in SUFFIXES:
        found = METRICS.get(sample.removeprefix("popproxy_").removesuffix(suffix))
        if found is not None and sample.endswith(suffix) and suffix in _suffixes(found):
            return found
    return None


def _suffixes(found: Metric) -> tuple[str, ...]:
    return {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[found.kind]


@pytest.mark.integration
def test_promtool_finds_nothing_wrong(need: Need) -> None:
    need("prometheus")
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@pytest.mark.integration
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_they_fire_and_stay_silent(need: Need, file: Path) -> None:
    need("prometheus")
    promtool("test", "rules", str(file))


def test_each_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """A silent case proves something only when there is something that the alert reads."""
    fires: set[str] = set()
    silent: set[str] = set()
    known = alerts()
    for file in TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            given = {re.split(r"[{ ]", series["series"])[0] for series in case["input_series"]}
            for expected in case["alert_rule_test"]:
                name = expected["alertname"]
                assert name in known, f"{file.name}: {name} is no alert"
                assert name in case["name"], f"{file.name}: the case {case['name']!r} is about {name}"
                assert expected["exp_alerts"] or sources(known[name]["expr"]) & given, f"{case['name']}: of nothing"
                (fires if expected["exp_alerts"] else silent).add(name)
    assert fires == set(known), f"no case fires: {set(known) - fires}"
    assert silent == set(known), f"no case is silent: {set(known) - silent}"


@pytest.mark.parametrize("name", alerts())
def test_each_alert_says_what_to_do(name: str) -> None:
    rule: dict[str, Any] = alerts()[name]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"grafana/runbooks.md#{name.lower()}"
    assert len(rule["annotations"]["summary"]) < 120
    assert rule["annotations"]["description"].rstrip().endswith(".")


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    text = RUNBOOKS.read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    headings = [part.splitlines()[0] for part in parts]
    assert sorted(headings) == sorted(alerts())
    commandless = [part.splitlines()[0] for part in parts if "```sh\n" not in part and "`" not in part]
    assert not commandless, f"no command to begin with: {commandless}"
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (RUNBOOKS.parent / link).exists(), f"runbooks.md links to {link}"
    for word in re.findall(r"\bPopproxy[A-Za-z]+", text):
        assert word in headings, f"runbooks.md speaks of {word}"


def commands() -> list[str]:
    """What the runbooks have you type that begins with popproxy, in blocks and within the text."""
    text = RUNBOOKS.read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [" ".join(found.split()) for found in re.findall(r"`(popproxy [^`]+)`", prose)]
    return sorted({line.partition("  #")[0].strip() for line in lines + inline if line.startswith("popproxy ")})


@pytest.mark.parametrize("command", commands())
def test_each_command_of_the_runbooks_is_one(command: str) -> None:
    """A runbook that is wrong is found out at night."""
    words = shlex.split(command)[1:]
    if words == ["--version"]:
        return
    assert parser().parse_args(words).run is not None


def test_they_read_metrics_that_exist() -> None:
    recorded = recordings()
    for rule in rules():
        for name in names(rule["expr"]):
            assert name in recorded or name in FOREIGN or metric(name), f"{rule}: there is no {name}"


def test_they_ask_for_label_values_that_exist() -> None:
    """A renamed value makes an alert that never fires."""
    for rule in rules():
        for name, label, operator, value in matchers(rule["expr"]):
            found = metric(name)
            if found is None:
                assert (name in FOREIGN, label, value) == (True, "job", "popproxy.*"), f"{rule}: {name}{{{label}}}"
                continue
            enum = next(one for one in found.labels if label in one.names)
            position = enum.names.index(label)
            values = {row[position] for row in enum.values}
            asked = value.split("|") if operator in ("=~", "!~") else [value]
            assert set(asked) <= values, f"{rule}: {name} has {label} of {sorted(values)}"


def test_counters_that_they_read_are_there_before_their_first_event() -> None:
    """rate() and increase() do not see the event with which a series begins. Handshakes are only what failures are a
    share of, and have a row for each cipher."""
    for rule in rules():
        for name in names(rule["expr"]) - {"popproxy_tls_handshakes_total"}:
            found = metric(name)
            if found is not None and found.kind == "counter":
                assert any(found.shown), f"{rule.get('alert')}: {name} begins with its first event"

"""The gate: a real Prometheus and a real Alertmanager watch a real popproxy under scripted traffic.

Rules are the shipped ones with their times cut to seconds (watchers.shortened); nothing else of them is changed. That
each fires and stays silent at its own times is what `promtool test rules` holds.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from popproxy.metrics.names import METRICS
from tests.grafana import traffic
from tests.grafana.expressions import Expression, expressions
from tests.grafana.rules import recordings, rules
from tests.grafana.stage import Stage, stage
from tests.grafana.watchers import Watchers, shortened, watching
from tests.integration.conftest import Need
from tests.integration.packages import program
from tests.integration.proxy import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
EMPTY_RULES = {"PopproxyAbsent": "true only when there is nothing"}
"""Rules that have no data here, and why."""
EMPTY_PANELS: dict[str, str] = {}
"""Beginnings of `board: panel: ref` of the queries that have no data here, and why."""
NUMBERLESS: dict[str, str] = {}
"""The same, of those whose data is no number: a share of nothing."""
ENDS = {"counter": "_total", "gauge": "", "histogram": "_count"}
NOT_PLAYED = (
    "proxy_protocol_errors",
    "buffered_bytes",
    "upstream_queue_length",
    "upstream_queued",
    "upstream_queue_duration_seconds",
    "protocol_violations",
    "plugin_errors",
)
"""Metrics of the scenes that one process is spared."""


@pytest.fixture(scope="module")
def watched(need: Need) -> Iterator[tuple[Stage, Watchers]]:
    """Two workers on whom traffic has been played twice, and those who watch them; some sessions are still open."""
    need("prometheus", "prometheus-alertmanager", "dovecot-pop3d", "rspamd")
    with ExitStack() as running:
        scene = running.enter_context(stage(trustme.CA(), workers=2))
        watchers = running.enter_context(watching(f"127.0.0.1:{scene.ports['admin']}"))
        eventually(lambda: watchers.targets() == ["up"], "scrape")
        for _ in range(2):
            traffic.play(scene)
        for role in ("reader", "group", traffic.SPARE):
            running.enter_context(traffic.inside(scene, role))
        running.enter_context(traffic.client(scene, "clear"))
        settle(watchers)
        yield scene, watchers


def settle(watchers: Watchers) -> None:
    """Wait for two scrapes, and one evaluation of the rules behind them."""
    end = time.time() + 2
    eventually(lambda: bool(watchers.query(f"min(timestamp(popproxy_build_info)) > {end}")), "two scrapes more")


def test_each_panel_shows_something(watched: tuple[Stage, Watchers]) -> None:
    """A panel that shows only what has happened (`> 0`) may have nothing to show, but must have looked at something."""
    _, watchers = watched
    asked = list(expressions(interval="2m", period="2m"))
    assert len(asked) > 50
    empty, numberless = [], []
    for found in asked:
        samples = watchers.query(found.expr) or watchers.query(found.expr.removesuffix(" > 0"))
        if not samples:
            empty.append(found)
        elif not any(math.isfinite(float(sample["value"][1])) for sample in samples):
            numberless.append(found)
    assert not unexplained(empty, EMPTY_PANELS), "no data"
    assert not unexplained(numberless, NUMBERLESS), "no numbers"


def unexplained(found: list[Expression], reasons: dict[str, str]) -> list[str]:
    """Those without a reason; AssertionError for reasons that nothing needs any more."""
    idle = [start for start in reasons if not any(str(one).startswith(start) for one in found)]
    assert not idle, f"these have data now: {idle}"
    return [f"{one}: {one.raw}" for one in found if not any(str(one).startswith(start) for start in reasons)]


def test_each_rule_has_something_to_judge(watched: tuple[Stage, Watchers]) -> None:
    """With `bool` a comparison has a sample whether or not it holds: none means that a join or a name is wrong."""
    _, watchers = watched
    empty: dict[str, str] = {}
    for rule in rules():
        expression = re.sub(r"\s(==|>|<)\s(?!bool)", r" \1 bool ", shortened(rule["expr"]))
        if not watchers.query(expression):
            empty[rule.get("alert") or rule["record"]] = expression
    assert sorted(empty) == sorted(EMPTY_RULES), empty


def test_each_recording_is_there(watched: tuple[Stage, Watchers]) -> None:
    _, watchers = watched
    for name in recordings():
        samples = watchers.query(f"max_over_time({name}[2m])")
        assert any(math.isfinite(float(one["value"][1])) for one in samples), (name, samples)


def test_prometheus_holds_the_rules_for_good(watched: tuple[Stage, Watchers]) -> None:
    _, watchers = watched
    groups = watchers.ask("rules")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    sick = [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"]
    assert not sick
    assert len(found) == len(rules())


def test_each_metric_was_touched(watched: tuple[Stage, Watchers]) -> None:
    """What the traffic leaves at zero proves nothing about its panels and rules."""
    _, watchers = watched
    silent = []
    for metric in METRICS.values():
        samples = watchers.query(f"max_over_time({metric.full_name}{ENDS[metric.kind]}[2m])")
        if not any(float(sample["value"][1]) for sample in samples):
            silent.append(metric.name)
    assert set(silent) <= traffic.UNTOUCHED.keys()


def test_one_process_shows_the_same(need: Need) -> None:
    """Without workers there is no supervisor who merges; what belongs to workers is not there."""
    need("dovecot-pop3d", "rspamd")
    with stage(trustme.CA()) as scene:
        for play in (traffic.whole_session, traffic.after_stls, traffic.failed_logins, traffic.upstreams):
            play(scene)
        valid(scene)
        shown = {line.split("{")[0].split(" ")[0] for line in scene.get("/metrics").decode().splitlines()}
    lacking = {metric.name for metric in METRICS.values() if metric.full_name + ENDS[metric.kind] not in shown}
    assert lacking <= {*traffic.OF_WORKERS, *NOT_PLAYED}, lacking


def test_both_formats_are_valid(watched: tuple[Stage, Watchers]) -> None:
    """`promtool check metrics` for the text, prometheus_client's parser for OpenMetrics."""
    valid(watched[0])


def valid(scene: Stage) -> None:
    """Both formats of what it shows."""
    command = [program("promtool"), "check", "metrics"]
    checked = subprocess.run(command, input=scene.get("/metrics"), capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b""), checked
    families = {family.name for family in text_string_to_metric_families(scene.get("/metrics", OPENMETRICS).decode())}
    assert len(families) > 40


def test_an_upstream_is_killed_and_comes_back(watched: tuple[Stage, Watchers]) -> None:
    """From a dead server to the webhook, and back again."""
    scene, watchers = watched
    name, labels = "PopproxyUpstreamDown", {"upstream": "spare"}
    hook = watchers.webhook
    assert hook.of(name, **labels) == []
    scene.kill_spare()
    eventually(lambda: "firing" in hook.of(name, **labels), "alert at the webhook")
    texts = [text for _, found, text in hook.got if found["alertname"] == name and found["upstream"] == "spare"]
    assert texts[0]["summary"] == f"Upstream spare is down for 127.0.0.1:{scene.ports['admin']}"
    assert texts[0]["runbook_url"].endswith("#popproxyupstreamdown")
    scene.revive_spare()
    eventually(lambda: "resolved" in hook.of(name, **labels), "end of the alert at the webhook")
    with traffic.inside(scene, traffic.SPARE) as found:
        assert found.single(b"STAT").startswith(b"+OK")

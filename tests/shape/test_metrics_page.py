"""docs/metrics.md says what the table and the guide say, and the guide says something of every metric."""

import re
import runpy
from pathlib import Path

import pytest

from popproxy.metrics.guide import USES, markdown
from popproxy.metrics.names import METRICS

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    assert written == markdown(), "run: python -m popproxy.metrics.guide > docs/metrics.md"


def test_the_module_writes_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "popproxy" / "metrics" / "guide.py"), run_name="__main__")
    assert capsys.readouterr().out == markdown()


def test_every_metric_has_a_use_and_no_other() -> None:
    assert list(USES) == list(METRICS)
    assert all(use.endswith(".") and len(use) > 10 for use in USES.values())


def test_every_table_is_whole() -> None:
    for line in markdown().splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 6), line


def test_metrics_that_are_named_exist() -> None:
    known = {metric.full_name + ("_total" if metric.kind == "counter" else "") for metric in METRICS.values()}
    for name in re.findall(r"\bpopproxy_[a-z_]+\b", markdown()):
        assert name in known or name.startswith(("popproxy_plugin_", "popproxy_worker_")) or name == "popproxy_", name

"""Prometheus's own linter reads what we show."""

import os
import shutil
import subprocess

import pytest

from popproxy.api.plugin import HOOKS
from popproxy.metrics import WorkerMetrics, new_registry, render
from tests.metrics.traffic import LISTENERS, PLUGINS, UPSTREAMS, touch


@pytest.mark.integration
def test_promtool_check_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "no promtool; install Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    registry = new_registry()
    touch(WorkerMetrics(registry, LISTENERS, UPSTREAMS, [(name, HOOKS) for name in PLUGINS]))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=render(registry)[0], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")

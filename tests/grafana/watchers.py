"""A real Prometheus that scrapes a stage, a real Alertmanager, and the webhook that it calls.

Both run with the configs that deploy/prometheus ships, read and then changed where a test must: addresses, and times
that would be minutes.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.grafana.rules import ROOT, RULES
from tests.integration.daemon import Daemon, private_directory
from tests.integration.packages import program
from tests.ports import free_ports

EXAMPLES = ROOT / "deploy" / "prometheus"
WINDOW = "8s"
"""What every window of the rules is shortened to."""


def shortened(text: str) -> str:
    """The rules with every window, offset and `for` cut to seconds: what takes an hour in life takes one here."""
    text = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW}]", text)
    text = re.sub(r"offset \d+[mhd]", "offset 2s", text)
    return re.sub(r"(?m)^(\s+for:) \d+[mhd]$", r"\1 1s", text)


@dataclass
class Webhook:
    """What Alertmanager has sent, in order: each is (status, labels, annotations) of one alert."""

    url: str = ""
    got: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)

    def of(self, name: str, **labels: str) -> list[str]:
        """The statuses of this alert with these labels so far: `firing`, then `resolved`."""
        wanted = {"alertname": name, **labels}
        return [status for status, found, _ in self.got if wanted.items() <= found.items()]


@dataclass
class Watchers:
    """What runs."""

    prometheus: str
    alertmanager: str
    webhook: Webhook

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of Prometheus's API; AssertionError when it reports an error."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode(errors='replace')}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now."""
        data = self.ask("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[dict[str, Any]] = data["result"]
        return found

    def targets(self) -> list[str]:
        """The health of each target: `up`, `down` or `unknown`."""
        return [target["health"] for target in self.ask("targets")["activeTargets"]]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver of Alertmanager's webhooks."""
    made = Webhook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.got += [(one["status"], one["labels"], one["annotations"]) for one in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing on standard error."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def watching(target: str) -> Iterator[Watchers]:
    """Prometheus scrapes `target` (host:port) every second and judges by the shortened rules every second."""
    with private_directory("watch") as base, webhook() as hook:
        prometheus, alertmanager = free_ports(2)
        (base / "popproxy.rules.yml").write_text(shortened(RULES.read_text()))
        (base / "prometheus.yml").write_text(yaml.safe_dump(_prometheus(target, alertmanager, base)))
        (base / "alertmanager.yml").write_text(yaml.safe_dump(_alertmanager(hook.url)))
        daemons: list[Daemon] = []
        try:
            daemons.append(
                Daemon(
                    [
                        program("prometheus-alertmanager"),
                        f"--config.file={base}/alertmanager.yml",
                        f"--storage.path={base}/alerts",
                        f"--web.listen-address=127.0.0.1:{alertmanager}",
                        "--cluster.listen-address=",
                    ],
                    base / "alertmanager.log",
                )
            )
            daemons.append(
                Daemon(
                    [
                        program("prometheus"),
                        f"--config.file={base}/prometheus.yml",
                        f"--storage.tsdb.path={base}/data",
                        f"--web.listen-address=127.0.0.1:{prometheus}",
                        "--rules.alert.resend-delay=1s",
                        "--enable-feature=exemplar-storage",
                    ],
                    base / "prometheus.log",
                )
            )
            made = Watchers(f"http://127.0.0.1:{prometheus}", f"http://127.0.0.1:{alertmanager}", hook)
            daemons[0].wait_until(lambda: _answers(f"{made.alertmanager}/-/ready"), "readiness")
            daemons[1].wait_until(lambda: _answers(f"{made.prometheus}/-/ready"), "readiness")
            yield made
        finally:
            for daemon in reversed(daemons):
                daemon.stop()


def _prometheus(target: str, alertmanager: int, base: Path) -> dict[str, Any]:
    """The example, with a second for what is 15, and one popproxy."""
    config: dict[str, Any] = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(base / "popproxy.rules.yml")]
    for manager in config["alerting"]["alertmanagers"]:
        manager["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
    jobs = [job for job in config["scrape_configs"] if job["job_name"].startswith("popproxy")]
    assert len(jobs) == 1, "the example has one job of popproxy's"
    jobs[0]["static_configs"] = [{"targets": [target]}]
    config["scrape_configs"] = jobs
    return config


def _alertmanager(url: str) -> dict[str, Any]:
    """The example with the webhook as its only receiver, and no waiting for more of a group."""
    config: dict[str, Any] = yaml.safe_load((EXAMPLES / "alertmanager.yml").read_text())
    config["receivers"] = [
        {"name": receiver["name"], "webhook_configs": [{"url": url, "send_resolved": True}]}
        for receiver in config["receivers"]
    ]
    for route in (config["route"], *config["route"].get("routes", ())):
        route |= {"group_wait": "100ms", "group_interval": "1s"}
    return config


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False

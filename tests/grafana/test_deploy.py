"""What deploy/ has for containers and Prometheus: valid, and about files that exist."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.grafana.rules import ROOT
from tests.integration.conftest import Need
from tests.integration.packages import program

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SCRIPTS = Path(sys.executable).parent


def passes(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run it; AssertionError with all it says when it finds something."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    passes(SCRIPTS / "hadolint", "--failure-threshold=style", DEPLOY / "Containerfile")


def test_the_container_runs_without_rights_and_from_a_base_that_can_be_chosen() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10110:10110"]
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    assert any(line.startswith("ARG BASE=docker.io/library/python:3.") for line in lines)


def test_the_context_holds_what_the_containerfile_copies_and_nothing_else() -> None:
    ignored = (ROOT / ".containerignore").read_text().split()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        word.removeprefix("./")
        for line in (DEPLOY / "Containerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert ignored[0] == "*" and kept == copied
    assert all((ROOT / name).exists() for name in copied)


def test_compose_is_what_the_specification_allows() -> None:
    passes(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_compose_mounts_files_that_exist() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    volumes = compose["volumes"]
    for name, service in compose["services"].items():
        for mount in service["volumes"]:
            source, target, *mode = mount.split(":")
            if source in volumes:
                continue
            assert (DEPLOY / source).exists(), f"{name}: there is no {source}"
            assert mode == ["ro"], f"{name}: {target} can be written"
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert "@sha256:" in service["image"] or ":" in service["image"].rpartition("/")[2], f"{name} has no tag"


def test_compose_opens_only_the_mail_ports_to_others() -> None:
    compose = yaml.safe_load(COMPOSE.read_text())
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert sorted(port for port in ports if not port.startswith("127.0.0.1:")) == ["110:1110", "995:1995"]


def test_compose_has_boards_rules_and_data_sources_where_they_are_looked_for() -> None:
    """Paths inside the containers are those that the files name."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    inside = {mount.split(":")[1]: mount.split(":")[0] for one in services.values() for mount in one["volumes"]}
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert all(inside[path] == "../grafana/rules/popproxy.rules.yml" for path in prometheus["rule_files"])
    boards = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/popproxy.yml").read_text())
    assert inside[boards["providers"][0]["options"]["path"]] == "../grafana/dashboards"
    sources = yaml.safe_load((ROOT / "grafana/provisioning/datasources/popproxy.yml").read_text())["datasources"]
    hosts = {source["url"].removeprefix("http://").partition(":")[0] for source in sources}
    hosts |= {job["static_configs"][0]["targets"][0].partition(":")[0] for job in prometheus["scrape_configs"]}
    assert hosts <= set(services)


def test_its_config_listens_where_compose_expects_it() -> None:
    path = DEPLOY / "compose" / "popproxy.toml"
    passes(sys.executable, "-m", "popproxy", "check", "--config", path)
    config = tomllib.loads(path.read_text())
    listened = {bind.rpartition(":")[2] for listener in config["listener"] for bind in listener["bind"]}
    listened |= {bind.rpartition(":")[2] for bind in config["admin"]["bind"] if not bind.startswith("unix:")}
    published = yaml.safe_load(COMPOSE.read_text())["services"]["popproxy"]["ports"]
    assert listened == {port.rpartition(":")[2] for port in published}
    exposed = next(line for line in (DEPLOY / "Containerfile").read_text().splitlines() if line.startswith("EXPOSE"))
    assert listened == set(exposed.split()[1:])


@pytest.mark.integration
def test_promtool_and_amtool_accept_the_examples(need: Need, tmp_path: Path) -> None:
    need("prometheus", "prometheus-alertmanager")
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules", str(ROOT / "grafana/rules")))
    passes(program("promtool"), "check", "config", "--lint=all", "--lint-fatal", config)
    passes(program("amtool"), "check-config", DEPLOY / "prometheus" / "alertmanager.yml")

"""``workers``: how many, what they share, and what an operator is told about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.config.defaults import default_config
from popproxy.config.load import Loaded, load
from popproxy.config.overload import Share
from popproxy.config.workers import MOST, divided, share
from popproxy.run.cli import main

Good = Callable[[str], Loaded]
Bad = Callable[[str], list[str]]

LIMITS = 'limits = [{ name = "a", key = "user", on = "login", limit = 5, per = "1d" }]\n'


@pytest.mark.parametrize(("text", "number"), [("", 1), ("workers = 1\n", 1), (f"workers = {MOST}\n", MOST)])
def test_how_many(good: Good, text: str, number: int) -> None:
    assert good(text).plan.workers == number


def test_auto_is_the_processors_that_may_be_used(good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    assert good('workers = "auto"\n').plan.workers == len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    assert good('workers = "auto"\n').plan.workers == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)))
    assert good('workers = "auto"\n').plan.workers == MOST


@pytest.mark.parametrize("value", ["0", "65", "-1", "true", '"all"', "1.5", "[]"])
def test_what_is_no_number_of_workers(bad: Bad, value: str) -> None:
    (problem,) = bad(f"workers = {value}\n")
    assert problem.startswith("1: workers: ") and problem.endswith('; write a number from 1 to 64, or "auto"')


@pytest.mark.parametrize(("bound", "number", "each"), [(0, 4, 0), (1, 4, 1), (7, 2, 4), (8, 4, 2), (9, 4, 3)])
def test_shares_are_rounded_up(bound: int, number: int, each: int) -> None:
    assert share(bound, number) == each


SHARED = """
workers = 3
[[listener]]
name = "main"
bind = ["127.0.0.1:110"]
tls = "starttls"
max_connections = 100
[upstream.main]
servers = [{ url = "pop3s://a", max_sessions = 10 }, "pop3s://b"]
max_sessions = 20
queue = 7
[overload]
memory = "60%"
[limits]
spool_memory = "9MiB"
"""


def test_bounds_of_the_machine_are_divided(good: Good) -> None:
    whole = good(SHARED).plan
    plan = divided(whole)
    assert plan.listeners[0].limit == 34 and plan.listeners[0].session is whole.listeners[0].session
    upstream = plan.upstreams["main"]
    assert [server.max_sessions for server in upstream.servers] == [4, 0]
    assert (upstream.max_sessions, upstream.queue) == (7, 3)
    assert isinstance(plan.overload.memory, Share) and plan.overload.memory.of == pytest.approx(0.2)
    assert plan.limits == whole.limits and plan.hash == whole.hash
    assert divided(good(SHARED.replace("60%", "3MiB")).plan).overload.memory == 1 << 20
    assert divided(good(SHARED.replace("60%", "off")).plan).overload.memory is None
    alone = good(SHARED.replace("workers = 3", "workers = 1")).plan
    assert divided(alone) is alone


@pytest.mark.parametrize(
    ("plugin", "warned"),
    [
        (f'[[plugin]]\nuse = "rate_limit"\n{LIMITS}', True),
        ('[[plugin]]\nuse = "brute_force"\n', True),
        ('[[plugin]]\nuse = "policy"\nrules = [{ name = "a", sessions_per_user = 3 }]\n', True),
        ('[[plugin]]\nuse = "policy"\nrules = [{ name = "a", tls = true }]\n', False),
    ],
)
def test_a_store_in_memory_is_each_workers_own(good: Good, plugin: str, warned: bool, tmp_path: Path) -> None:
    def told(text: str) -> bool:
        return any("each of the 4 workers counts for itself" in str(warning) for warning in good(text).warnings)

    assert told(f"workers = 4\n{plugin}") is warned
    assert not told(plugin)
    assert not told(f'workers = 4\n{plugin}[store]\nuse = "sqlite"\npath = "{tmp_path}/store"\n')


def test_a_bound_that_cannot_be_divided_is_told(good: Good) -> None:
    text = SHARED.replace("= 100", "= 2").replace("= 20", "= 1").replace("= 10 ", "= 2 ")
    found = [str(warning) for warning in good(text).warnings]
    assert [line.partition("; ")[0].split(": ", 1)[1] for line in found if "workers" in line] == [
        "listener[main].max_connections: each of the 3 workers takes one at least, which is more in all than 2",
        "upstream.main.servers[#1]: each of the 3 workers takes one at least, which is more in all than 2",
        "upstream.main.max_sessions: each of the 3 workers takes one at least, which is more in all than 1",
    ]


def test_the_origin_makes_the_same_config_without_the_file(good: Good, tmp_path: Path) -> None:
    loaded = good('workers = 2\n[log]\nfile = "log"\n')
    (tmp_path / "popproxy.toml").unlink()
    again = loaded.origin.load()
    assert again.plan.hash == loaded.plan.hash and again.plan.source == loaded.plan.source
    assert again.plan.log.file == tmp_path / "log" and again.config == loaded.config


def test_the_command_line_counts_before_the_file(good: Good, tmp_path: Path) -> None:
    good("workers = 2\n")
    loaded = load(tmp_path / "popproxy.toml", 5)
    assert loaded.plan.workers == loaded.origin.load().plan.workers == 5
    asked, _ = default_config("pop3s://mail.example.com", ["pop3s://127.0.0.1:0"], workers="auto")
    assert asked.plan.workers == len(os.sched_getaffinity(0))
    again = asked.origin.load()
    assert again.plan.hash == asked.plan.hash and again.plan.workers == asked.plan.workers


def test_a_wrong_number_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--upstream", "pop3s://mail.example.com", "--workers", "many"]) == 64
    assert capsys.readouterr().err == (
        "popproxy: --workers: 'many' is no number of workers; write a number from 1 to 64, or \"auto\"\n"
    )

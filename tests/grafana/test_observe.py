"""docs/observe.md as a new administrator follows it: its commands, in one shell, and whether what it shows is true.

Scrapes are a second apart here and rules look back seconds; users try more often. All else is as it is written.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.grafana.rules import ROOT, RULES
from tests.grafana.watchers import shortened
from tests.integration.daemon import private_directory
from tests.integration.packages import PATH
from tests.ports import free_ports

pytestmark = pytest.mark.integration

PAGE = ROOT / "docs" / "observe.md"
PORTS = ("1995", "1101", "1102", "9110", "9190", "9193")
PATIENCE = 60.0
PAUSE = 0.2
END = "--- end of this step ---"
NOT_HERE = ("make .venv/run.stamp", ". .venv/bin/activate")
"""The checkout is installed already, or no test would run."""


@dataclass(frozen=True)
class Step:
    """Commands, and what the page shows of their output ("" when nothing)."""

    commands: str
    shown: str


def steps(text: str) -> list[Step]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found: list[Step] = []
    for kind, body in blocks:
        if kind == "sh":
            found.append(Step(body, ""))
        else:
            assert kind == "text" and found and not found[-1].shown, f"whose output is this?\n{body}"
            found[-1] = Step(found[-1].commands, body)
    return found


def shape(line: str) -> str:
    """What does not depend on when and how fast it was: numbers, ids and the width of columns do."""
    line = re.sub(r"=> ([01]) @", lambda found: f"=> {('no', 'yes')[int(found[1])]} @", line)
    line = re.sub(r"\b[0-9a-f]{12}\b", "ID", line)
    line = re.sub(r"\d+(\.\d+)?( ?(ms|us|s|m|min)\b)?", "N", line)
    return " ".join(line.split())


def lacks(shown: str, printed: str) -> str:
    """The first shown line that was not printed behind those before it; "" when all were."""
    lines: Iterator[str] = iter([shape(line) for line in printed.splitlines()])
    for line in shown.splitlines():
        if line != "..." and line.strip() and shape(line) not in lines:
            return line
    return ""


class Shell:
    """One bash that is told step by step what to do, and in a group of its own with all it starts."""

    def __init__(self, directory: Path, moved: dict[str, str], hurried: dict[str, str]) -> None:
        self._moved, self._hurried = moved, hurried
        self._told: list[str] = []
        venv = str(Path(sys.executable).parent)
        environment = {**os.environ, "PATH": f"{venv}:{PATH}", "HOME": str(directory)}
        for name in ("POPPROXY_CONFIG", "COLUMNS"):
            environment.pop(name, None)
        self.bash = subprocess.Popen(
            ["bash"], cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.bash.stdout is not None
        self._told.extend(iter(self.bash.stdout.readline, ""))  # grows while it is read

    def run(self, commands: str) -> str:
        """What is printed while ``commands`` run, by them or by what runs in the background."""
        for old, new in (self._moved | self._hurried).items():
            commands = commands.replace(old, new)
        before = len(self._told)
        assert self.bash.stdin is not None
        self.bash.stdin.write(f"{commands}\necho '{END}'\n")
        self.bash.stdin.flush()
        end = time.monotonic() + PATIENCE
        while f"{END}\n" not in self._told[before:]:
            assert self.bash.poll() is None and time.monotonic() < end, "".join(self._told)
            time.sleep(0.02)
        printed = "".join(self._told[before:]).replace(f"{END}\n", "")
        for old, new in reversed(self._moved.items()):
            printed = printed.replace(new, old)
        print(commands, printed, sep="\n")  # told when the test fails
        return printed

    def until_true(self, step: Step) -> None:
        """Run it until it prints what is shown: the page says that it takes a while."""
        end = time.monotonic() + PATIENCE
        while line := lacks(step.shown, printed := self.run(step.commands)):
            assert time.monotonic() < end, f"never printed: {line}\n{printed}"
            time.sleep(1)

    def close(self) -> None:
        """End whatever is left of it."""
        if self.bash.poll() is None:
            os.killpg(self.bash.pid, signal.SIGKILL)
        self.bash.wait(10)
        for stream in (self.bash.stdin, self.bash.stdout):
            if stream is not None:
                stream.close()


REPEATED = (
    "popproxy status", "promtool query", "curl ", "popproxy top", "amtool", "popproxy upstreams", "jq ", "timeout ",
    "popproxy who",
)  # fmt: skip
"""Steps that look, and change nothing: they are run until they show it."""


@pytest.mark.timeout(300)
def test_the_path_of_a_new_administrator() -> None:
    with private_directory("tour") as base:
        tour = base / "tour"
        moved = {"/tmp/tour": str(tour), **dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))}
        hurried = {"sleep 2; do": f"sleep {PAUSE}; do", "INT 5": "INT 2", **dict.fromkeys(NOT_HERE, "true")}
        rules = base / "popproxy.rules.yml"
        rules.write_text(shortened(RULES.read_text()))
        scrapes = f"sed -i 's|: 15s|: 1s|; s|{RULES}|{rules}|' {tour}/prometheus.yml\npromtool check"
        shell = Shell(base, moved, hurried | {"promtool check": scrapes})
        try:
            for step in steps(PAGE.read_text()):
                if step.commands.startswith(REPEATED):
                    shell.until_true(step)
                else:
                    printed = shell.run(step.commands)
                    assert not (line := lacks(step.shown, printed)), f"{line}\nis not in\n{printed}"
            assert not tour.exists()
        finally:
            shell.close()


def test_boards_and_panels_that_are_named_exist() -> None:
    names = set()
    for path in (ROOT / "grafana" / "dashboards").glob("*.json"):
        board = json.loads(path.read_text())
        names.add(board["title"].removeprefix("popproxy / "))
        names |= {panel.get("title") for panel in board["panels"]}
    prose = re.sub(r"^```.*?^```$|`[^`]*`", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", prose)
    assert len(named) >= 8
    assert set(named) - names == set()


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("a 1\n...\nb 2s\n", "a 7\nx\nb  31s\n", ""),
        ("b\na\n", "a\nb\n", "a"),
        ("up => 0 @[1.5]\n", "up => 1 @[2.5]\nup => 0 @[2.5]\n", ""),
        ("up => 0 @[1.5]\n", "up => 1 @[2.5]\n", "up => 0 @[1.5]"),
        ("session ac2e96000020 up\n", "session 0123456789ab down\n", "session ac2e96000020 up"),
    ],
)
def test_what_counts_as_shown(shown: str, printed: str, missing: str) -> None:
    assert lacks(shown, printed) == missing

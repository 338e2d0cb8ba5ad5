"""popproxy as a process of its own: started, signalled and waited for."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from popproxy.run.events import strangers

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


class Process:
    """A running program. Its two streams go to files."""

    def __init__(self, command: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        self.out, self.err = directory / "out", directory / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.popen = subprocess.Popen(command, stdout=out, stderr=err, cwd=directory, env=environment)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code."""
        return self.popen.wait(patience)

    def until(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """What ``condition`` returns once it is true; AssertionError with what was printed when it never is."""
        end = time.monotonic() + patience
        while not (value := condition()):
            told = self.out.read_text(errors="replace") + self.err.read_text(errors="replace")
            assert time.monotonic() < end and self.popen.poll() is None, told
            time.sleep(0.02)
        return value

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The JSON lines of the log on standard error."""
        return lines(self.err, event)


def lines(path: Path, event: str = "") -> list[dict[str, Any]]:
    """The JSON lines of a log, those whose end is there: who reads while somebody writes may see half of a line."""
    whole = path.read_text().rpartition("\n")[0]
    found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [line for line in found if event in ("", line["event"])]


@contextmanager
def program(directory: Path, *arguments: str) -> Iterator[Process]:
    """``python -m popproxy`` with ``arguments``; killed when it outlives the block."""
    with _started(directory, [sys.executable, "-m", "popproxy", *arguments]) as process:
        yield process


@contextmanager
def script(directory: Path, code: str) -> Iterator[Process]:
    """Python code as a process."""
    with _started(directory, [sys.executable, "-c", code]) as process:
        yield process


@contextmanager
def _started(directory: Path, command: Sequence[str]) -> Iterator[Process]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    home = {"PYTHONPATH": path.rstrip(os.pathsep), "HOME": str(directory), "TMPDIR": str(directory)}
    process = Process(command, directory, {**os.environ, **home})
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait(PATIENCE)
    odd = {what for path in (process.out, process.err) for line in logged(path) for what in strangers(line)}
    assert not odd, f"popproxy/run/events.py does not know this: {sorted(odd)}"


def logged(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log in JSON among whatever else a program has printed there."""
    for line in path.read_text(errors="replace").rpartition("\n")[0].splitlines():
        if line.startswith('{"time":'):
            found: dict[str, Any] = json.loads(line)
            yield found


def get(address: str, path: str) -> tuple[int, bytes]:
    """GET from the admin listener: status and body."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()

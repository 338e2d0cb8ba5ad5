"""popproxy with several workers, as a process: started, its workers looked at, killed and counted."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.run.process import PATIENCE, Process, get, program, script
from tests.wireclient import WireClient

CONFIG = """
workers = {workers}
[[listener]]
name = "main"
bind = {bind}
tls = "off"
auth_before_tls = "allow"
greeting = "{greeting}"
max_connections = 1000
{tail}
[upstream.main]
servers = ["{server}"]
[admin]
bind = {admin}
[log]
format = "json"
{log}
"""

LONG = 180.0
"""Seconds for three processes to start on a machine that has other things to do."""

SUPERVISE = """
import sys
from pathlib import Path
from popproxy.config.load import load
from popproxy.run.crew import Pace
from popproxy.run.supervisor import supervise

def again():
    return load(Path({path!r})), ()

sys.exit(supervise(again()[0], again, "uvloop", (), Pace({pace})))
"""


def config(directory: Path, **given: object) -> Path:
    """A config file; ``given`` are the parts of CONFIG that are to be others."""
    values = {
        "workers": 2,
        "bind": '["127.0.0.1:0"]',
        "greeting": "ready",
        "server": "pop3+clear://127.0.0.1:9",
        "tail": "",
        "admin": '"127.0.0.1:0"',
        "log": "",
        **given,
    }
    path = directory / "popproxy.toml"
    path.write_text(CONFIG.format(**values))
    return path


class Workers:
    """A supervisor that runs, and what is known of its workers from its log."""

    def __init__(self, process: Process) -> None:
        self.process = process
        process.until(lambda: process.lines("started"), LONG)
        # The worker's own line, which may come behind the supervisor's.
        (line, *_) = process.until(lambda: process.lines("listening"), LONG)
        host, _, port = line["address"].rpartition(":")
        self.address = (host, int(port))
        process.until(lambda: process.lines("admin_listening"))
        (admin, *_) = process.lines("admin_listening")
        self.admin = str(admin["address"])

    def pids(self) -> dict[int, int]:
        """The newest process of each slot."""
        return {line["slot"]: line["pid"] for line in self.process.lines("worker_started")}

    def kill(self, slot: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the worker of ``slot``: its process id."""
        pid = self.pids()[slot]
        os.kill(pid, number)
        return pid

    def back(self, slot: int, dead: int) -> None:
        """Wait until another process serves in ``slot``."""
        self.process.until(lambda: self.pids()[slot] != dead)

    def client(self, **given: Any) -> WireClient:
        """A client that has read its greeting."""
        return WireClient(self.address, timeout=PATIENCE, **given)

    def whole(self) -> dict[str, float]:
        """As metrics(), with what every worker has to say: one that has no processor for long is late."""

        def asked() -> dict[str, float]:
            found = self.metrics()
            told = [value for name, value in found.items() if name.startswith("popproxy_worker_scrape_ok{")]
            return found if all(told) else {}

        whole: dict[str, float] = self.process.until(asked, LONG)
        return whole

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels."""
        status, body = get(self.admin, "/metrics")
        assert status == 200
        found = re.findall(r"^(popproxy_\S+?(?:\{.*\})?) (\S+)$", body.decode(), re.MULTILINE)
        return {name: float(value) for name, value in found}

    def descriptors(self) -> int:
        """How many the supervisor has open."""
        return len(list(Path(f"/proc/{self.process.popen.pid}/fd").iterdir()))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return self.process.lines(name)

    def end(self) -> None:
        """TERM, and a good end with nobody left."""
        pids = self.pids().values()
        self.process.signal(signal.SIGTERM)
        assert self.process.wait(LONG) == 0
        for pid in pids:
            assert gone(pid)


@contextmanager
def workers(directory: Path, loop: str = "uvloop", pace: str | None = None, **given: object) -> Iterator[Workers]:
    """popproxy with the config of ``given``; ``pace`` are arguments of Pace in place of the usual ones."""
    path = config(directory, **given)
    if pace is None:
        running = program(directory, "serve", "--config", str(path), "--loop", loop)
    else:
        running = script(directory, SUPERVISE.format(path=str(path), pace=pace))
    with running as process:
        ours = Workers(process)
        try:
            yield ours
        finally:
            # A test that failed leaves nobody behind, not even one that is stopped.
            for pid in ours.pids().values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def gone(pid: int) -> bool:
    """Whether the process is no more; waits for it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def free(address: tuple[str, int]) -> bool:
    """Whether nobody listens there any more; waits for it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError:
                time.sleep(0.02)
                continue
            return True
    return False

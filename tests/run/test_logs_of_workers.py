"""One log of several workers: one hash for a user, the worker on each line, and nothing lost over logrotate."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.net.upstream import Upstream, answering
from tests.run.process import PATIENCE, Process, program
from tests.wireclient import WireClient

CONFIG = """
workers = 2
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["{server}"]
mechanism = "user"
[log]
file = "log"
users = "hashed"
"""


def lines(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files if file.exists() for line in file.read_text("ascii").splitlines()]


def sessions(*files: Path) -> list[dict[str, Any]]:
    return [line for line in lines(*files) if line["event"] == "session"]


def test_two_workers_write_one_log(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        (tmp_path / "popproxy.toml").write_text(CONFIG.format(server=upstream.url))
        with program(tmp_path, "serve", "--config", "popproxy.toml") as process:
            process.until(lambda: any(line["event"] == "started" for line in lines(log)))
            (address, *_) = [line["address"] for line in lines(log) if line["event"] == "listening"]
            host, _, port = address.rpartition(":")
            done = talk((host, int(port)), process, log)
            log.rename(old)
            process.signal(signal.SIGUSR1)
            process.until(log.exists)
            done += talk((host, int(port)), process, log, old)
            process.until(lambda: len(sessions(old, log)) == done)
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
    told = sessions(old, log)
    assert len(told) == done and {line["worker"] for line in told} == {0, 1}
    (name,) = {line["user"] for line in told}
    assert name not in ("alice", "") and len(name) == 12
    assert lines(log)[-1]["event"] == "stopped" and "worker" not in lines(log)[-1]


def talk(address: tuple[str, int], process: Process, *files: Path) -> int:
    """Sessions until both workers have written some; how many there were."""
    done = 0
    before = len(sessions(*files))

    def both() -> bool:
        return {line["worker"] for line in sessions(*files)[before:]} == {0, 1}

    for _ in range(40):
        for _ in range(4):
            with WireClient(address, timeout=PATIENCE) as client:
                assert client.user_pass(b"alice", b"x").startswith(b"+OK")
                client.single(b"STAT")
            done += 1
        wanted = before + done
        process.until(lambda wanted=wanted: len(sessions(*files)) >= wanted)  # type: ignore[misc]
        if both():
            return done
    raise AssertionError("the kernel gave all connections to one worker")

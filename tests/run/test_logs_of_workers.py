"""One log of several workers: one hash for a user, the worker on each line, and nothing lost over logrotate."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

from tests.net.upstream import Upstream, answering
from tests.ports import free_ports
from tests.run.process import PATIENCE, Process, get, program
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


def test_what_waits_for_a_reader_is_shown_and_holds_nobody_up(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    config = CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{port}").format(server="pop3+clear://127.0.0.1:9")
    (tmp_path / "popproxy.toml").write_text(f'{config}[admin]\nbind = "127.0.0.1:{admin}"\n')
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDWR)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)

    def waits() -> bool:
        with WireClient(("127.0.0.1", port), timeout=PATIENCE) as client:
            assert client.single(b"QUIT").startswith(b"+OK")
        found = re.search(rb"^popproxy_log_queue_bytes (\S+)$", get(f"127.0.0.1:{admin}", "/metrics")[1], re.MULTILINE)
        return found is not None and float(found[1]) > 0

    with program(tmp_path, "serve", "--config", "popproxy.toml") as process:
        process.until(lambda: ready(admin))
        process.until(waits)
        # Somebody reads again: nothing keeps it from ending.
        threading.Thread(target=drain, args=(reader,)).start()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        os.write(reader, b"the end\n")


def ready(admin: int) -> bool:
    """Whether it takes sessions."""
    try:
        return get(f"127.0.0.1:{admin}", "/readyz")[0] == 200
    except OSError:
        return False


def drain(reader: int) -> None:
    """Read to the end."""
    while not os.read(reader, 65536).endswith(b"the end\n"):
        pass
    os.close(reader)

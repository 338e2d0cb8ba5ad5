"""/v1 over several worker processes."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from popproxy.run.client import UnixConnection
from tests.net.upstream import Upstream, answering
from tests.run.office import server_path
from tests.run.process import PATIENCE, program, script
from tests.wireclient import WireClient

CONFIG = """
workers = {workers}
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["{server}"]
{tail}
[admin]
bind = "unix:{socket}"
"""


def ask(socket: Path, method: str, path: str, body: object = None) -> Any:
    connection = UnixConnection(socket)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        told = json.loads(response.read())
        assert response.status == 200, told
        return told
    finally:
        connection.close()


def test_workers_are_asked_and_told_together_and_those_that_start_later_as_well(tmp_path: Path) -> None:
    socket = tmp_path / "admin.sock"
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        server = upstream.url.rpartition("/")[2]
        path = tmp_path / "popproxy.toml"
        path.write_text(CONFIG.format(workers=2, server=upstream.url, socket=socket, tail=""))
        with program(tmp_path, "serve", "--config", str(path)) as process, ExitStack() as clients:
            process.until(lambda: process.lines("started"))
            host, _, port = process.lines("listening")[0]["address"].rpartition(":")
            opened: list[WireClient] = []

            def everybody() -> set[int]:
                """Clients until each worker has one: the kernel decides whose they are."""
                opened.append(clients.enter_context(WireClient((host, int(port)), timeout=PATIENCE)))
                return {row["worker"] for row in ask(socket, "GET", "/v1/sessions")["sessions"]}

            process.until(lambda: everybody() == {0, 1})
            listed = ask(socket, "GET", "/v1/sessions")
            ports = [client.socket.getsockname()[1] for client in opened]
            assert [row["client_port"] for row in listed["sessions"]] == ports, "the oldest first, of both"
            for row in listed["sessions"]:
                assert ask(socket, "GET", f"/v1/sessions/{row['id']}")["worker"] == row["worker"]
            assert ask(socket, "POST", server_path("main", server, "drain"))["changed"]
            pids = {line["slot"]: line["pid"] for line in process.lines("worker_started")}
            os.kill(pids[1], signal.SIGKILL)
            process.until(lambda: len(process.lines("worker_started")) == 3)
            (shown,) = ask(socket, "GET", "/v1/upstreams/main")["servers"]
            assert [(one["worker"], one["drained"]) for one in shown["workers"]] == [(0, True), (1, True)]
            assert ask(socket, "GET", "/v1/config")["workers"] == 2
            assert ask(socket, "POST", "/v1/kick", {"ip": "127.0.0.1"})["kicked"] >= 1
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
    assert not process.lines("internal_error")


TWO = 'default_upstream = "main"\n' + CONFIG
SPARE = '[upstream.spare]\nservers = ["pop3+clear://127.0.0.1:9"]'
STALLED = """
import asyncio, sys
from pathlib import Path
from popproxy.config.load import load
from popproxy.run.crew import Pace
from popproxy.run.slot import Child
from popproxy.run.supervisor import supervise

ask = Child.ask

async def slowly(self, question, *rest):
    answer = await ask(self, question, *rest)
    while question == "upstream.drain" and rest[0]["on"] and Path("stall").exists():
        Path("stalled").touch()
        await asyncio.sleep(0.02)
    return answer

Child.ask = slowly

def again():
    return load(Path({path!r})), ()

sys.exit(supervise(again()[0], again, "uvloop", (), Pace()))
"""


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_drained_stays_so_when_its_upstream_leaves_the_config_and_comes_back(
    number: int, tmp_path: Path
) -> None:
    socket, path = tmp_path / "admin.sock", tmp_path / "popproxy.toml"
    main = "pop3+clear://127.0.0.1:9"
    both, one = (TWO.format(workers=number, server=main, socket=socket, tail=tail) for tail in (SPARE, ""))
    path.write_text(both)
    with program(tmp_path, "serve", "--config", str(path)) as process:
        process.until(lambda: process.lines("started"))
        ask(socket, "POST", server_path("spare", "127.0.0.1:9", "drain"))
        for text in (one, both):
            path.write_text(text)
            ask(socket, "POST", "/v1/reload")
        process.until(lambda: len(process.lines("config_retired")) == 2 * number)
        (shown,) = ask(socket, "GET", "/v1/upstreams/spare")["servers"]
        assert [one["drained"] for one in shown["workers"]] == [True] * number
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_what_is_undrained_while_a_worker_comes_up_is_undrained_there(tmp_path: Path) -> None:
    socket, path = tmp_path / "admin.sock", tmp_path / "popproxy.toml"
    path.write_text(CONFIG.format(workers=2, server="pop3+clear://127.0.0.1:9", socket=socket, tail=""))
    with script(tmp_path, STALLED.format(path=str(path))) as process:
        process.until(lambda: process.lines("started"))
        ask(socket, "POST", server_path("main", "127.0.0.1:9", "drain"))
        pids = {line["slot"]: line["pid"] for line in process.lines("worker_started")}
        (tmp_path / "stall").touch()
        os.kill(pids[1], signal.SIGKILL)
        process.until((tmp_path / "stalled").exists)
        ask(socket, "POST", server_path("main", "127.0.0.1:9", "undrain"))
        (tmp_path / "stall").unlink()
        process.until(lambda: len(process.lines("worker_started")) == 3)
        (shown,) = ask(socket, "GET", "/v1/upstreams/main")["servers"]
        assert [(one["worker"], one["drained"]) for one in shown["workers"]] == [(0, False), (1, False)]
        process.signal(signal.SIGTERM)
        assert process.wait() == 0

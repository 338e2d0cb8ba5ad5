"""Several workers as processes: they serve, die, hang, drain and end, and nobody who waits is lost."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import threading
from base64 import b64decode, b64encode
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.net.test_pump import CHUNK, HEAD, large, take
from tests.net.upstream import Upstream, answering
from tests.run.load import load
from tests.run.process import PATIENCE, get, lines, program
from tests.run.workers import config, free, gone, workers
from tests.wireclient import WireClient

loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
STAT, BYE = b"+OK 0 0\r\n", b"+OK bye\r\n"
PLUGIN = """
from pathlib import Path
from popproxy.api import Plugin, PluginConfig

class Moody(Plugin[PluginConfig]):
    def start(self, services):
        if Path("broken").exists():
            raise ValueError("my file is missing")
"""


def lower(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Counters that went down, or away."""
    counts = [name for name in before if "_total" in name or "_bucket" in name or "_count" in name]
    return [name for name in counts if after.get(name, -1.0) < before[name]]


@loops
def test_all_workers_serve_and_end_together(loop: str, tmp_path: Path) -> None:
    with (
        Upstream(answering(STAT, BYE), quits=1 << 20) as upstream,
        workers(tmp_path, loop, server=upstream.url) as ours,
    ):
        assert sorted(ours.pids()) == [0, 1] and ours.process.popen.pid not in ours.pids().values()
        served = 0
        while {line.get("worker") for line in ours.events("session")} != {0, 1}:
            with ours.client() as client:
                assert client.user_pass(b"alice", b"secret").startswith(b"+OK")
                assert client.single(b"STAT") == STAT
                assert client.single(b"QUIT").startswith(b"+OK")
            served += 1
            assert served < 200
        metrics = ours.whole()
        assert metrics['popproxy_connections_total{listener="main"}'] == served
        assert metrics['popproxy_connections_limit{listener="main"}'] == 1000
        assert [metrics[f'popproxy_worker_up{{worker="{slot}"}}'] for slot in (0, 1)] == [1, 1]
        assert [metrics[f'popproxy_worker_restarts_total{{worker="{slot}"}}'] for slot in (0, 1)] == [0, 0]
        assert metrics["popproxy_config_last_reload_successful"] == 1
        assert len([name for name in metrics if name.startswith("popproxy_config_info{")]) == 1
        assert get(ours.admin, "/readyz")[0] == get(ours.admin, "/healthz")[0] == 200
        ours.end()
        assert free(ours.address)
    life = ["starting", "started", "stopping", "stopped"]
    assert [line["event"] for line in ours.events("") if line["event"] in life] == life
    assert not ours.events("internal_error") and "Traceback" not in ours.process.err.read_text()


def test_twenty_kills_under_load(tmp_path: Path) -> None:
    """Only sessions of the killed worker are lost; counters never go down."""
    rolls = random.Random(7)
    with (
        Upstream(answering(STAT, BYE), quits=1 << 20) as upstream,
        workers(tmp_path, pace="settled=0.0", server=upstream.url) as ours,
    ):
        # In this order: a scrape has a connection, which ends when it does.
        open_before, before = ours.descriptors(), ours.metrics()
        with load(ours, 3) as (served, lost, wrong):
            for number in range(20):
                enough = len(served) + 2
                ours.process.until(lambda enough=enough: len(served) >= enough or wrong)
                slot = rolls.randrange(2)
                ours.back(slot, ours.kill(slot))
                if number % 5 == 0:
                    after = ours.metrics()
                    assert lower(before, after) == []
                    before = after
        assert wrong == [] and len(lost) <= 20 * 3
        ours.process.until(lambda: ours.descriptors() == open_before)
        deaths = ours.events("worker_died")
        assert len(deaths) == 20 and {(line["signal"], line["status"]) for line in deaths} == {("SIGKILL", None)}
        metrics = ours.metrics()
        assert lower(before, metrics) == []
        restarts = [metrics[f'popproxy_worker_restarts_total{{worker="{slot}"}}'] for slot in (0, 1)]
        assert sum(restarts) == 20 == sum(line["slot"] in (0, 1) for line in deaths)
        ours.end()
    ends = [line["reason"] for line in ours.events("session")]
    assert set(ends) == {"quit"}, "a session that was not of a killed worker ended as its client wanted"
    assert not ours.events("internal_error")


def test_who_waits_at_a_dead_worker_is_served_by_the_next(tmp_path: Path) -> None:
    """Clients that nobody has accepted yet, also at a Unix socket; and what was counted is counted."""
    path = tmp_path / "pop3"
    with workers(tmp_path, bind=f'["127.0.0.1:0", "unix:{path}"]') as ours:
        for slot in (0, 1):
            before = ours.whole()['popproxy_connections_total{listener="main"}']
            with ExitStack() as clients:
                dead = ours.kill(slot, signal.SIGSTOP)
                waiting = [
                    clients.enter_context(ours.client(greet=False)) for _ in range(30)
                ] + [clients.enter_context(WireClient(path, timeout=PATIENCE, greet=False)) for _ in range(6)]
                ours.kill(slot)
                for client in waiting:
                    assert client.read_line() == b"+OK ready\r\n"
                    assert client.single(b"QUIT").startswith(b"+OK")
                ours.back(slot, dead)
            after = ours.whole()
            assert after['popproxy_connections_total{listener="main"}'] - before == 36
            assert after[f'popproxy_worker_restarts_total{{worker="{slot}"}}'] == 1
        assert path.is_socket()
        ours.end()
    assert not path.exists()


def test_a_worker_that_hangs_fails_no_scrape_and_is_replaced(tmp_path: Path) -> None:
    with workers(tmp_path, pace="beat=0.2, mute=3.0") as ours:
        dead = ours.kill(1, signal.SIGSTOP)
        metrics = ours.metrics()
        assert [metrics[f'popproxy_worker_scrape_ok{{worker="{slot}"}}'] for slot in (0, 1)] == [1, 0]
        assert metrics['popproxy_worker_up{worker="1"}'] == 1
        ours.back(1, dead)
        (death,) = ours.events("worker_died")
        assert (death["slot"], death["pid"], death["signal"]) == (1, dead, "SIGKILL")
        assert death["detail"] == "it said nothing for 3 s and was killed"
        metrics = ours.metrics()
        assert metrics['popproxy_worker_scrape_ok{worker="1"}'] == metrics['popproxy_worker_up{worker="1"}'] == 1
        # A supervisor that was stopped itself blames nobody.
        ours.process.signal(signal.SIGSTOP)
        threading.Event().wait(3.5)
        ours.process.signal(signal.SIGCONT)
        threading.Event().wait(0.5)
        with ours.client() as client:
            assert client.greeting == b"+OK ready\r\n"
        assert len(ours.events("worker_died")) == 1
        ours.end()


def test_workers_without_a_supervisor_drain_and_end(tmp_path: Path) -> None:
    with Upstream(large(60)) as upstream, workers(tmp_path, server=upstream.url) as ours:
        pids = list(ours.pids().values())
        with ours.client() as idle, ours.client() as busy:
            busy.user_pass(b"alice", b"secret")
            busy.send(b"RETR 1\r\n")
            assert busy.socket.recv(len(HEAD), socket.MSG_WAITALL) == HEAD
            ours.process.popen.kill()
            ours.process.wait()
            assert idle.read_eof() == b""
            take(busy, 60 * len(CHUNK))
            assert busy.read_eof() == b".\r\n"
        assert all(map(gone, pids))
        assert free(ours.address)


@loops
def test_a_drain_lets_busy_sessions_end_and_a_second_signal_does_not(loop: str, tmp_path: Path) -> None:
    with Upstream(large(60)) as upstream, workers(tmp_path, loop, server=upstream.url) as ours:
        with ExitStack() as clients:
            idle = [clients.enter_context(ours.client()) for _ in range(6)]
            busy, slow = clients.enter_context(ours.client()), clients.enter_context(ours.client())
            for client in (busy, slow):
                client.user_pass(b"alice", b"secret")
                client.send(b"RETR 1\r\n")
                assert client.socket.recv(len(HEAD), socket.MSG_WAITALL) == HEAD
            ours.process.signal(signal.SIGTERM)
            for client in idle:
                assert client.read_eof() == b""
            assert get(ours.admin, "/readyz")[0] == 503
            assert ours.metrics()["popproxy_draining"] >= 1
            take(busy, 60 * len(CHUNK))
            assert busy.read_eof() == b".\r\n"
            assert ours.process.popen.poll() is None
            with pytest.raises(ConnectionError):
                ours.client()
            ours.process.signal(signal.SIGINT)
            assert ours.process.wait() == 0
    assert {line["reason"] for line in ours.events("session")} == {"shutdown"}
    assert not ours.events("worker_died")


def test_what_one_worker_cannot_start_with_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "broken").touch()
    path = config(tmp_path, tail='[[plugin]]\nuse = "mine:Moody"\n')
    with program(tmp_path, "serve", "--config", str(path)) as process:
        assert process.wait() == 69
    (line,) = process.lines("start_failed")
    assert line["detail"] == "plugin Moody did not start: ValueError: my file is missing"
    assert not process.lines("worker_died") and not process.lines("started")


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_in_use_is_told_also_when_it_could_be_shared(shared: bool, tmp_path: Path) -> None:
    with socket.socket() as other:
        if shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with program(tmp_path, "serve", "--config", str(config(tmp_path, bind=f'["{bind}"]'))) as process:
            assert process.wait() == 69
    (line,) = process.lines("start_failed")
    assert line["detail"].startswith(f"cannot listen on {bind}: Address already in use; another program listens there")


def test_a_worker_that_cannot_start_again_is_tried_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    tail = '[[plugin]]\nuse = "mine:Moody"\n'
    with workers(tmp_path, pace="settled=60.0, longest=0.3", tail=tail) as ours:
        (tmp_path / "broken").touch()
        dead = ours.kill(0)
        ours.process.until(lambda: len(ours.events("worker_died")) >= 4)
        for line in ours.events("worker_died")[1:4]:
            assert line["detail"] == "plugin Moody did not start: ValueError: my file is missing"
            assert (line["slot"], line["status"], line["signal"]) == (0, 0, "")
        assert get(ours.admin, "/readyz")[0] == 200
        assert ours.metrics()['popproxy_worker_up{worker="0"}'] == 0
        (tmp_path / "broken").unlink()
        ours.back(0, dead)
        assert ours.metrics()['popproxy_worker_up{worker="0"}'] == 1
        ours.end()


def test_usr1_reopens_the_log_in_all_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with program(
        tmp_path, "serve", "--config", str(config(tmp_path, log=f'file = "{log}"'))
    ) as process:
        process.until(lambda: log.exists() and lines(log, "started"))
        host, _, port = lines(log, "listening")[0]["address"].rpartition(":")
        log.rename(tmp_path / "old")
        process.signal(signal.SIGUSR1)
        process.until(log.exists)
        for _ in range(200):
            if {line.get("worker") for line in lines(log, "session")} == {0, 1}:
                break
            with WireClient((host, int(port)), timeout=PATIENCE) as client:
                client.single(b"QUIT")
        else:
            pytest.fail("a worker went on with the old file")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert lines(log)[-1]["event"] == "stopped"
    assert lines(tmp_path / "old")[-1]["event"] != "stopped"


def test_signals_to_the_workers_end_none(tmp_path: Path) -> None:
    """As a terminal and some service managers send them: to every process."""
    with workers(tmp_path) as ours:
        for pid in ours.pids().values():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                os.kill(pid, number)
        with ours.client() as client:
            assert client.greeting == b"+OK ready\r\n"
        assert not ours.events("worker_died")
        ours.end()


def asked(path: Path, method: str, target: str, body: object = None) -> tuple[int, Any]:
    """What the admin listener's Unix socket answers."""
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(str(path))
    try:
        connection.request(method, target, json.dumps(body or {}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_the_administrator_sees_all_workers_as_one(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with (
        Upstream(answering(STAT)) as upstream,
        workers(tmp_path, server=upstream.url, admin=f'["127.0.0.1:0", "unix:{path}"]') as ours,
        ExitStack() as clients,
    ):
        held: dict[int, list[WireClient]] = {}
        number = 0
        while len(held) < 2:
            client = clients.enter_context(ours.client())
            assert client.user_pass(b"user%d" % number, b"secret").startswith(b"+OK")
            (session,) = asked(path, "GET", f"/v1/sessions?user=user{number}")[1]["sessions"]
            _, one = asked(path, "GET", f"/v1/sessions/{session['id']}")
            held.setdefault(one["worker"], []).append(client)
            number += 1
            assert number < 100
        status, told = asked(path, "GET", "/v1/sessions")
        assert status == 200 and {each["user"] for each in told["sessions"]} == {f"user{n}" for n in range(number)}
        assert asked(path, "POST", f"/v1/sessions/{session['id']}/kick", {"reason": "test"})[0] == 200
        assert client.read_eof() == b""
        status, told = asked(path, "GET", "/v1/status")
        assert (status, told["state"], [each["up"] for each in told["workers"]]) == (200, "ready", [True, True])
        assert {each["worker"]: each["pid"] for each in told["workers"]} == ours.pids()
        assert asked(path, "POST", "/v1/reload")[0] == 200
        # One that hangs is named, and the others answer.
        ours.kill(1, signal.SIGSTOP)
        status, told = asked(path, "GET", "/v1/sessions")
        assert status == 200 and told["missing"] == [1]
        ours.kill(1, signal.SIGCONT)
        assert asked(path, "POST", "/v1/drain")[0] == 202
        assert ours.process.wait() == 0
    assert ours.events("stopping")[0]["signal"] == "admin" and not ours.events("internal_error")


def test_users_who_do_not_exist_look_the_same_in_all_workers(tmp_path: Path) -> None:
    """RFC 5802: the salt of a user is always the same; one that changes with the worker would say there is no user."""
    (tmp_path / "users").write_text("alice:{PLAIN}secret\n")
    tail = f'[[plugin]]\nuse = "auth_file"\npath = "{tmp_path}/users"\n'
    first = b64encode(b"n,,n=nobody,r=rOprNGfwEbeRWgbNEkqO")
    with workers(tmp_path, tail=tail) as ours:
        salts, seen = set(), set()
        for _ in range(100):
            with ours.client() as client:
                challenge = client.single(b"AUTH SCRAM-SHA-256 " + first)
                assert challenge.startswith(b"+ "), challenge
                salts.update(part for part in b64decode(challenge[2:]).split(b",") if part.startswith(b"s="))
            seen = {line["worker"] for line in ours.events("session")}
            if seen == {0, 1}:
                break
        assert seen == {0, 1} and len(salts) == 1
        ours.end()

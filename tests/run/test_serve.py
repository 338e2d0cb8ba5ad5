"""``popproxy serve`` as a process: signals, exit codes, what it says when it cannot start."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.net.test_pump import large
from tests.net.upstream import Upstream, answering
from tests.run.process import PATIENCE, Process, get, lines, program, script
from tests.wireclient import WireClient

CONFIG = """
[[listener]]
name = "main"
bind = ["127.0.0.1:{port}"]
tls = "{tls}"
auth_before_tls = "allow"
[tls]
{tls_table}
[upstream.main]
servers = ["{server}"]
[admin]
bind = "127.0.0.1:{admin}"
[log]
format = "json"
{log}
{tail}
"""
loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def config(directory: Path, **given: object) -> str:
    values = {
        "port": 0,
        "tls": "off",
        "tls_table": f'self_signed_directory = "{directory}/state"',
        "server": "pop3+clear://127.0.0.1:9",
        "admin": 0,
        "log": "",
        "tail": "",
        **given,
    }
    path = directory / "popproxy.toml"
    path.write_text(CONFIG.format(**values))
    return str(path)


def address(process: Process) -> tuple[str, int]:
    (line, *_) = process.until(lambda: process.lines("listening"))
    host, _, port = line["address"].rpartition(":")
    return host, int(port)


def admin(process: Process) -> str:
    (line, *_) = process.until(lambda: process.lines("admin_listening"))
    return str(line["address"])


def started(process: Process) -> None:
    process.until(lambda: process.lines("started"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@loops
def test_it_serves_until_a_signal_ends_it(loop: str, number: signal.Signals, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        path = config(tmp_path, server=upstream.url)
        with program(tmp_path, "serve", "--config", path, "--loop", loop) as process:
            started(process)
            where = admin(process)
            with WireClient(address(process), timeout=PATIENCE) as client:
                assert client.user_pass(b"alice", b"secret").startswith(b"+OK")
                assert client.single(b"STAT") == b"+OK 0 0\r\n"
                assert get(where, "/readyz")[0] == get(where, "/healthz")[0] == 200
                metrics = get(where, "/metrics")[1].decode()
                assert 'popproxy_connections_active{listener="main"} 1' in metrics.replace(".0\n", "\n")
                assert f'loop="{loop}' in metrics
                process.signal(number)
                assert client.read_eof() == b""
            assert process.wait() == 0
        events = [line["event"] for line in process.lines()]
        assert events[0] == "starting" and events[-1] == "stopped"
        wanted = ["starting", "admin_listening", "listening", "started", "stopping", "session", "stopped"]
        assert [event for event in events if event in wanted] == wanted
        (stopping,) = process.lines("stopping")
        assert (stopping["signal"], stopping["sessions"]) == (number.name, 1)
        assert process.lines("stopped")[0]["sessions"] == 0
        assert process.lines("starting")[0]["pid"] == process.popen.pid
        assert "secret" not in process.err.read_text() and process.out.read_text() == ""


@loops
def test_a_drain_is_seen_and_a_second_signal_hurries_it(loop: str, tmp_path: Path) -> None:
    with Upstream(large(400)) as upstream:
        path = config(tmp_path, server=upstream.url)
        with program(tmp_path, "serve", "--config", path, "--loop", loop) as process:
            started(process)
            where = admin(process)
            with WireClient(address(process), timeout=PATIENCE) as client:
                client.user_pass(b"alice", b"secret")
                client.send(b"RETR 1\r\n")
                assert client.socket.recv(1)
                process.signal(signal.SIGTERM)
                process.until(lambda: process.lines("stopping"))
                assert get(where, "/healthz")[0] == 200
                status, body = get(where, "/readyz")
                assert status == 503 and b"draining" in body
                assert process.popen.poll() is None
                began = time.monotonic()
                process.signal(signal.SIGTERM)
                assert process.wait() == 0
                assert time.monotonic() - began < 5
        (session,) = process.lines("session")
        assert session["reason"] == "shutdown"


@loops
def test_signals_without_end_do_not_take_the_exit_code(loop: str, tmp_path: Path) -> None:
    with program(tmp_path, "serve", "--config", config(tmp_path), "--loop", loop) as process:
        started(process)
        end = time.monotonic() + PATIENCE
        while process.popen.poll() is None and time.monotonic() < end:
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGINT)
            time.sleep(0.0005)
        assert process.wait() == 0
    assert [line["event"] for line in process.lines()][-1] == "stopped"


SLOW = """
import asyncio
from popproxy.api import Plugin, PluginConfig

class Slow(Plugin[PluginConfig]):
    async def start(self, services):
        services.log.info("begins")
        try:
            await asyncio.sleep(20)
        finally:
            services.log.info("cancelled")

    def stop(self):
        open("stopped", "w").close()

class Broken(Plugin[PluginConfig]):
    def start(self, services):
        raise ValueError("my file is missing")
"""


@loops
def test_a_signal_ends_a_slow_start(loop: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW)
    path = config(tmp_path, tail='[[plugin]]\nuse = "mine:Slow"\n')
    with program(tmp_path, "serve", "--config", path, "--loop", loop) as process:
        process.until(lambda: process.lines("Slow.begins"))
        assert get(admin(process), "/readyz")[0] == 503
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert (tmp_path / "stopped").exists()
    assert process.lines("Slow.cancelled") and not process.lines("started")


@pytest.mark.parametrize("file", ["", "log"])
@loops
def test_a_plugin_that_does_not_start_is_told(loop: str, file: str, tmp_path: Path) -> None:
    """In the log, and on standard error when the log is elsewhere."""
    (tmp_path / "mine.py").write_text(SLOW)
    log = f'file = "{tmp_path}/{file}"' if file else ""
    path = config(tmp_path, tail='[[plugin]]\nuse = "mine:Broken"\n', log=log)
    with program(tmp_path, "serve", "--config", path, "--loop", loop) as process:
        assert process.wait() == 69
    told = "plugin Broken did not start: ValueError: my file is missing"
    if file:
        assert process.err.read_text() == f"popproxy: {told}\n"
        assert lines(tmp_path / file, "start_failed")[0]["detail"] == told
    else:
        assert [line["detail"] for line in process.lines("start_failed")] == [told]
        assert len(process.err.read_text().splitlines()) == len(process.lines())


@pytest.mark.parametrize("which", ["port", "admin"])
def test_a_port_in_use_is_told(which: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with program(tmp_path, "serve", "--config", config(tmp_path, **{which: port})) as process:
            assert process.wait() == 69
    text = process.err.read_text()
    assert f"127.0.0.1:{port}" in text and "in use" in text and "Traceback" not in text


def test_a_place_for_the_certificate_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = config(tmp_path, tls="implicit", tls_table=f'self_signed_directory = "{tmp_path}/file/state"')
    with program(tmp_path, "serve", "--config", path) as process:
        assert process.wait() == 78
    (line,) = process.lines("start_failed")
    assert f"{tmp_path}/file/state" in line["detail"] and "Traceback" not in process.err.read_text()


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = config(tmp_path, log=f'file = "{tmp_path}/no/log"')
    with program(tmp_path, "serve", "--config", path) as process:
        assert process.wait() == 78
    text = process.err.read_text()
    assert f"{tmp_path}/no" in text and "Traceback" not in text


@loops
def test_usr1_reopens_the_log(loop: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = config(tmp_path, log=f'file = "{log}"')
    with program(tmp_path, "serve", "--config", path, "--loop", loop) as process:
        process.until(lambda: log.exists() and lines(log, "started"))
        log.rename(tmp_path / "old")
        process.signal(signal.SIGUSR1)
        process.until(log.exists)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert [line["event"] for line in lines(log)] == ["stopping", "stopped"]
    assert lines(tmp_path / "old")[-1]["event"] == "started"


def test_descriptors_up_to_the_hard_limit_may_be_used(tmp_path: Path) -> None:
    code = (
        "import resource, sys; _, hard = resource.getrlimit(resource.RLIMIT_NOFILE); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); "
        f"from popproxy.run.cli import main; sys.exit(main(['serve', '--config', {config(tmp_path)!r}]))"
    )
    with script(tmp_path, code) as process:
        started(process)
        limits = Path(f"/proc/{process.popen.pid}/limits").read_text().splitlines()
        (row,) = [line.split() for line in limits if line.startswith("Max open files")]
        assert row[3] == row[4] != "256"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


READY = """
import sys
from pathlib import Path
from popproxy.config.load import load
from popproxy.run.serve import serve

async def ready(worker, admin):
    raise BrokenPipeError("nobody reads")

try:
    serve(load(Path({path!r})).plan, {loop!r}, ready)
except BrokenPipeError:
    sys.exit(42)
"""


@loops
def test_what_ready_raises_ends_it_with_everything_closed(loop: str, tmp_path: Path) -> None:
    path = config(tmp_path, tls="starttls")
    with script(tmp_path, READY.format(path=path, loop=loop)) as process:
        assert process.wait() == 42
    events = [line["event"] for line in process.lines()]
    assert "started" in events and "internal_error" not in events


def test_the_unix_socket_is_gone_behind_it(tmp_path: Path) -> None:
    path = Path(config(tmp_path))
    path.write_text(path.read_text().replace("127.0.0.1:0", f"unix:{tmp_path}/s", 1))
    with program(tmp_path, "serve", "--config", str(path)) as process:
        started(process)
        with WireClient(tmp_path / "s", timeout=PATIENCE) as client:
            assert client.greeting.startswith(b"+OK")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not os.path.lexists(tmp_path / "s")

"""``popproxy serve`` under HUP: what a good config changes for whom, and that a bad one changes nothing."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.net.upstream import Peer, Upstream
from tests.run.process import PATIENCE, Process, get, lines, program
from tests.run.test_serve import address, admin, config, loops, started
from tests.wireclient import WireClient

PLUGIN = """
from popproxy.api import Plugin, PluginConfig

class Config(PluginConfig):
    label: str
    broken: bool = False

class Witness(Plugin[Config]):
    def start(self, services):
        self.log = services.log
        if self.config.broken:
            raise ValueError("my file is missing")
        self.log.info("starts", label=self.config.label)

    def stop(self):
        self.log.info("stops", label=self.config.label)
"""
TABLE = """[[plugin]]
use = "mine:Witness"
name = "{0}"
label = "{0}"
broken = {1}
"""


def saying(text: bytes) -> Callable[[Peer], None]:
    """Logs everybody in and answers every command with ``text``."""

    def script(peer: Peer) -> None:
        peer.login()
        while True:
            peer.line()
            peer.send(b"+OK " + text + b"\r\n")

    return script


def logged_in(where: tuple[str, int]) -> WireClient:
    client = WireClient(where, timeout=PATIENCE)
    assert client.user_pass(b"alice", b"secret").startswith(b"+OK")
    return client


def reload(process: Process, event: str = "config_loaded") -> dict[str, object]:
    """HUP, and the line that it leads to."""
    before = len(process.lines(event))
    process.signal(signal.SIGHUP)
    found = process.until(lambda: process.lines(event)[before:])
    return dict(found[0])


def gauge(where: str, name: str) -> float:
    text = get(where, "/metrics")[1].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"popproxy_{name} ")]
    return float(line.split()[1])


@loops
def test_new_sessions_go_by_the_new_config_and_old_ones_by_theirs(loop: str, tmp_path: Path) -> None:
    with Upstream(saying(b"old")) as old, Upstream(saying(b"new")) as new:
        path = config(tmp_path, server=old.url)
        with program(tmp_path, "serve", "--config", path, "--loop", loop) as process:
            started(process)
            where, http = address(process), admin(process)
            since = gauge(http, "config_last_reload_success_timestamp_seconds")
            with logged_in(where) as before:
                config(tmp_path, server=new.url, tail="[limits]\nbad_commands = 7\n")
                line = reload(process)
                assert line["config"] == path and line["hash"] != process.lines("starting")[0]["hash"]
                with logged_in(where) as after:
                    assert before.single(b"NOOP") == b"+OK old\r\n"
                    assert after.single(b"NOOP") == b"+OK new\r\n"
                assert before.single(b"NOOP") == b"+OK old\r\n"
            assert gauge(http, "config_last_reload_successful") == 1
            assert gauge(http, "config_last_reload_success_timestamp_seconds") > since
            assert f'popproxy_config_info{{hash="{line["hash"]}"}}' in get(http, "/metrics")[1].decode()
            assert len(process.lines("listening")) == 1, "the socket is the same"
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
    assert not process.lines("internal_error")


TAKEN = '[[listener]]\nname = "more"\nbind = ["127.0.0.1:{}"]\ntls = "off"\nauth_before_tls = "allow"\n'
BROKEN = {
    "syntax": ("[[[", "is not TOML", []),
    "key": ("[limits]\nbad_comands = 7\n", "unknown key", []),
    "file": ("", "cannot be read", []),
    "plugin": (TABLE.format("c", "true"), "c did not start: ValueError: my file", ["b.starts", "c.stops", "b.stops"]),
    "port": (TAKEN, "in use", []),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_bad_config_changes_nothing_and_says_why(fault: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    tail, told, tried = BROKEN[fault]
    with (
        Upstream(saying(b"old")) as old,
        Upstream(saying(b"new")) as new,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        path = Path(config(tmp_path, server=old.url, tail=TABLE.format("a", "false")))
        with program(tmp_path, "serve", "--config", str(path)) as process:
            started(process)
            where, http = address(process), admin(process)
            with logged_in(where) as before:
                bad = TABLE.format("b", "false") + tail.format(other.getsockname()[1])
                config(tmp_path, server=new.url, tail=bad)
                if fault == "file":
                    path.unlink()
                line = reload(process, "config_failed")
                assert told in str(line["problems"]) and line["config"] == str(path)
                assert gauge(http, "config_last_reload_successful") == 0
                assert get(http, "/readyz")[0] == 200
                with logged_in(where) as after:
                    assert before.single(b"NOOP") == after.single(b"NOOP") == b"+OK old\r\n"
            config(tmp_path, server=new.url, tail=TABLE.format("d", "false"))
            reload(process)
            assert gauge(http, "config_last_reload_successful") == 1
            with logged_in(where) as after:
                assert after.single(b"NOOP") == b"+OK new\r\n"
            process.until(lambda: process.lines("a.stops"))
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
    life = [line["event"] for line in process.lines() if line["event"].partition(".")[0] in ("a", "b", "c", "d")]
    assert life == ["a.starts", *tried, "d.starts", "a.stops", "d.stops"]
    assert not process.lines("internal_error") and not process.lines("plugin_error")


def test_what_cannot_change_while_it_serves_is_kept_and_told(tmp_path: Path) -> None:
    path = Path(config(tmp_path))
    with program(tmp_path, "serve", "--config", str(path)) as process:
        started(process)
        http = admin(process)
        text = path.read_text().replace('format = "json"', f'format = "json"\nfile = "{tmp_path}/log"')
        path.write_text(text.replace('[admin]\nbind = "127.0.0.1:0"', '[admin]\nbind = "[::1]:0"'))
        reload(process)
        told = [line["detail"] for line in process.lines("config_warning")]
        kept = "[admin] bind, [log] file"
        assert [text for text in told if text.startswith(f"not taken over: {kept}; all else is in force.")]
        assert get(http, "/readyz")[0] == 200 and not (tmp_path / "log").exists()


def test_a_hup_before_everything_is_open_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import asyncio\n"
        "from popproxy.api import Plugin, PluginConfig\n"
        "class Slow(Plugin[PluginConfig]):\n"
        "    async def start(self, services):\n"
        '        services.log.info("begins")\n'
        "        await asyncio.sleep(0.5)\n"
    )
    path = config(tmp_path, tail='[[plugin]]\nuse = "mine:Slow"\n')
    with program(tmp_path, "serve", "--config", path) as process:
        process.until(lambda: process.lines("Slow.begins"))
        for _ in range(5):
            process.signal(signal.SIGHUP)
        process.until(lambda: process.lines("config_loaded"))
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    events = [line["event"] for line in process.lines() if line["event"] in ("started", "config_loaded")]
    assert events == ["started", "config_loaded"], "five that wait are one"


def test_without_a_file_the_arguments_are_read_again(tmp_path: Path) -> None:
    with Upstream(saying(b"old")) as upstream:
        asked = ("--upstream", upstream.url, "--listen", "pop3+clear://127.0.0.1:0", "--admin", "off")
        with program(tmp_path, "serve", *asked) as process:
            process.until(lambda: "started" in process.err.read_text())
            process.signal(signal.SIGHUP)
            process.until(lambda: "config_loaded" in process.err.read_text())
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


def test_a_drain_takes_no_other_config_and_ends_in_its_time(tmp_path: Path) -> None:
    def endless(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(b"+OK\r\n")
        while True:
            peer.send(b"x" * 70 + b"\r\n")

    with Upstream(endless) as upstream:
        path = config(tmp_path, server=upstream.url, tail='[timeouts]\ndrain = "1s"\n')
        with program(tmp_path, "serve", "--config", path) as process:
            started(process)
            with logged_in(address(process)) as client:
                client.send(b"RETR 1\r\n")
                assert client.socket.recv(1)
                process.signal(signal.SIGTERM)
                process.until(lambda: process.lines("stopping"))
                process.signal(signal.SIGHUP)
                assert process.wait() == 0
    (stopping,), (stopped,) = process.lines("stopping"), process.lines("stopped")
    assert not process.lines("config_loaded") and not process.lines("config_failed")
    assert lines(process.err, "session")[0]["reason"] == "shutdown"
    assert stopping["time"] < stopped["time"]


def writes(path: Path) -> int | None:
    """A descriptor that writes to the FIFO, once somebody reads from it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@pytest.mark.parametrize("number", [1, 2])
def test_a_reload_that_reads_for_ever_does_not_keep_the_process(number: int, tmp_path: Path) -> None:
    path = Path(config(tmp_path))
    path.write_text(f"workers = {number}\n{path.read_text()}")
    with program(tmp_path, "serve", "--config", str(path)) as process:
        started(process)
        path.unlink()
        os.mkfifo(path)
        process.signal(signal.SIGHUP)
        writer: int = process.until(lambda: writes(path))
        try:
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            os.close(writer)
    assert not process.lines("internal_error") and "Traceback" not in process.err.read_text()

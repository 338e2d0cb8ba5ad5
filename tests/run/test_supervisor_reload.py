"""Reloads of several workers: all have the new config, or none; nobody's session ends."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.net.upstream import Upstream, answering
from tests.run.load import load
from tests.run.workers import Workers, config, workers

STAT, BYE = b"+OK 0 0\r\n", b"+OK bye\r\n"


def greetings(ours: Workers, number: int = 8) -> set[bytes]:
    """What so many new clients are greeted with."""
    found = set()
    for _ in range(number):
        with ours.client() as client:
            found.add(client.greeting)
            client.single(b"QUIT")
    return found


def reload(ours: Workers, event: str = "config_loaded") -> dict[str, object]:
    """HUP, until it has come to this: the line that says so."""
    before = len(ours.events(event))
    ours.process.signal(signal.SIGHUP)
    ours.process.until(lambda: len(ours.events(event)) > before)
    return ours.events(event)[-1]


def test_twenty_reloads_under_load_and_a_kill_behind_them(tmp_path: Path) -> None:
    with Upstream(answering(*[STAT] * 21, BYE), answering(STAT, BYE), quits=1 << 20) as upstream:
        with workers(tmp_path, server=upstream.url) as ours, ours.client() as old:
            assert old.user_pass(b"alice", b"secret").startswith(b"+OK")
            with load(ours, 2) as (served, lost, wrong):
                for number in range(20):
                    config(tmp_path, server=upstream.url, greeting=f"ready {number}")
                    reload(ours)
                    assert greetings(ours, 4) == {b"+OK ready %d\r\n" % number}
                    assert old.single(b"STAT") == STAT
                enough = len(served) + 2
                ours.process.until(lambda: len(served) >= enough or wrong)
            assert (lost, wrong) == ([], [])
            # A worker that comes later has the config in force, whatever the file says by now.
            (tmp_path / "popproxy.toml").write_text("nonsense")
            for slot in (0, 1):
                # ``old`` lives in one of them.
                ours.back(slot, ours.kill(slot))
            assert greetings(ours) == {b"+OK ready 19\r\n"}
            failed = reload(ours, "config_failed")
            assert "is not TOML" in str(failed["problems"])
            assert greetings(ours) == {b"+OK ready 19\r\n"}
            metrics = ours.metrics()
            assert metrics["popproxy_config_last_reload_successful"] == 0
            assert len([name for name in metrics if name.startswith("popproxy_config_info{")]) == 1
            ours.end()


ONCE = """
import os
from pathlib import Path
from popproxy.api import Plugin, PluginConfig

class Config(PluginConfig):
    once: bool = False

class Mine(Plugin[Config]):
    def start(self, services):
        if self.config.once:
            # The first worker can, the other one cannot.
            os.mkdir("taken")

    def stop(self):
        if self.config.once:
            Path("stopped").touch()
"""


def test_what_one_worker_cannot_prepare_none_takes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ONCE)
    plugin = '[[plugin]]\nuse = "mine:Mine"\nonce = {}\n'
    with workers(tmp_path, tail=plugin.format("false")) as ours:
        # Before [upstream.main] of the config, behind the listener.
        config(tmp_path, tail=plugin.format("true"), greeting="new")
        failed = reload(ours, "config_failed")
        assert "plugin Mine did not start: FileExistsError" in str(failed["problems"])
        assert greetings(ours) == {b"+OK ready\r\n"}
        ours.process.until((tmp_path / "stopped").exists)
        (tmp_path / "taken").rmdir()
        config(tmp_path, tail=plugin.format("false"), greeting="new")
        reload(ours)
        assert greetings(ours) == {b"+OK new\r\n"}
        ours.end()


def test_addresses_come_and_go(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = f"127.0.0.1:{taken.getsockname()[1]}"
        with workers(tmp_path) as ours:
            both = f'["127.0.0.1:0", "{other}"]'
            config(tmp_path, bind=both, greeting="both")
            failed = reload(ours, "config_failed")
            assert f"cannot listen on {other}: Address already in use" in str(failed["problems"])
            taken.close()
            reload(ours)
            there = Workers.__new__(Workers)
            there.process, there.admin = ours.process, ours.admin
            there.address = ("127.0.0.1", int(other.rpartition(":")[2]))
            assert greetings(ours) == greetings(there) == {b"+OK both\r\n"}
            # An address that overlaps the one it replaces.
            config(tmp_path, bind=both.replace(other, other.replace("127.0.0.1", "0.0.0.0")), greeting="wide")
            reload(ours)
            assert greetings(ours) == greetings(there) == {b"+OK wide\r\n"}
            config(tmp_path, greeting="one")
            reload(ours)
            assert len([name for name in ours.metrics() if name.startswith("popproxy_config_info{")]) == 1
            assert greetings(ours) == {b"+OK one\r\n"}
            with pytest.raises(ConnectionError):
                there.client()
            ours.end()

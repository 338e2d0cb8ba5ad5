"""Shedding new connections: the decision, what the system says, and a proxy whose loop is late or that is too large."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from popproxy.api import Command, Plugin, PluginConfig, SessionView
from popproxy.config.overload import Share
from popproxy.config.plan import OverloadPlan
from popproxy.metrics import WorkerMetrics
from popproxy.net import system
from popproxy.net.overload import Marks, Overload
from tests.net.running import PASSWORD, USER, Setup, both_loops, client_context, eventually, running
from tests.net.upstream import PATIENCE, Peer, Upstream, answering

OVERLOADED = b"-ERR [SYS/TEMP] Overloaded, try again later\r\n"


LETTER = b"+OK\r\nSubject: large\r\n\r\n" + (b"y" * 70 + b"\r\n") * 5000 + b".\r\n"


# The decision


def test_a_mark_is_passed_at_it_and_left_clearly_below_it() -> None:
    marks = Marks({"lag": 2.0, "memory": 1000.0})
    found = [marks.look("lag", value) for value in (0.0, 1.9, 2.0, 5.0, 1.9, 1.0, 0.9, 1.9, 2.1)]
    assert found == [None, None, True, None, None, None, False, None, True]
    assert marks.look("memory", 1000) is True
    assert marks.passed == {"lag", "memory"}
    assert marks.look("memory", 960) is None
    assert marks.look("memory", 949) is False
    assert marks.passed == {"lag"}


def test_what_has_no_mark_is_never_passed() -> None:
    marks = Marks({})
    assert marks.look("sockets", 1e9) is None
    assert not marks.passed


class Watched:
    """An Overload on a machine that the test makes up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: OverloadPlan, descriptors: int = 10) -> None:
        self.resident, self.descriptors, self.reads = 0, descriptors, 0
        monkeypatch.setattr(system, "descriptors", lambda: self.descriptors)
        monkeypatch.setattr(system, "descriptor_limit", lambda: 100)
        monkeypatch.setattr(system, "memory_limit", lambda: 1000)
        monkeypatch.setattr(system, "resident", self._read)
        self.registry = CollectorRegistry()
        self.lines: list[tuple[str, str, Any, Any]] = []
        self.it = Overload(plan, WorkerMetrics(self.registry).overload, self)
        self.it.begin()
        self.now = 0.0

    def _read(self) -> int:
        self.reads += 1
        return self.resident

    def event(self, level: str, name: str, /, **fields: object) -> None:
        self.lines.append((level, name, fields["resource"], fields["seconds"]))

    def beats(self, number: int, late: float = 0.0) -> None:
        for _ in range(number):
            self.now += 0.1 + late
            self.it.beat(self.now, late)

    def why(self) -> str:
        return self.it.refuses(self.now)

    def metric(self, name: str, resource: str) -> float | None:
        return self.registry.get_sample_value(f"popproxy_overload_{name}", {"resource": resource})


def test_lag_is_smoothed_over_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, OverloadPlan(lag=0.3, memory=None, sockets=None))
    watched.beats(10)
    watched.beats(1, 0.5)
    assert watched.why() == "", "one late beat is no overload"
    watched.beats(4, 0.5)
    assert watched.why() == "overload: lag"
    assert (watched.metric("shedding", "lag"), watched.metric("mark", "lag")) == (1, 0.3)
    assert (watched.metric("value", "lag") or 0) > 0.3
    watched.beats(3)
    assert watched.why() == "overload: lag", "it must be clearly below"
    watched.beats(30)
    assert watched.why() == ""
    assert watched.metric("shedding", "lag") == 0
    (begun, ended) = watched.lines
    assert begun == ("warning", "overload", "lag", 0.0)
    assert ended[:3] == ("info", "overload_over", "lag") and ended[3] > 0


def test_one_long_stall_is_an_overload_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, OverloadPlan())
    watched.beats(1, 10.0)
    assert watched.why() == "overload: lag"
    watched.beats(25)
    assert watched.why() == ""


def test_memory_is_a_share_of_what_there_is_and_read_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, OverloadPlan(memory=Share(0.5)))
    watched.resident = 499
    watched.beats(100)
    assert watched.why() == ""
    assert watched.reads <= 11
    watched.resident = 500
    watched.beats(11)
    assert watched.why() == "overload: memory"
    assert (watched.metric("value", "memory"), watched.metric("mark", "memory")) == (500, 500)


def test_each_client_is_counted_with_its_upstream_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two readings hundreds may come: nobody may be admitted for whom there would be no descriptor."""
    watched = Watched(monkeypatch, OverloadPlan(), descriptors=10)
    admitted = 0
    while not watched.why():
        watched.it.open += 1
        admitted += 1
    assert admitted == 39, "10 + 2 * 40 are 90"
    assert watched.why() == "overload: sockets"
    watched.it.open -= 1
    assert watched.why(), "no end of it between two readings"
    watched.beats(11)
    assert watched.why(), "10 + 2 * 38 are 86, and 85.5 is 95% of the mark"
    watched.it.open -= 1
    watched.beats(11)
    assert watched.why() == ""


def test_descriptors_of_others_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, OverloadPlan())
    watched.descriptors = 95
    watched.beats(11)
    assert watched.why() == "overload: sockets"


def test_what_is_off_never_sheds(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, OverloadPlan(None, None, None))
    watched.resident, watched.descriptors, watched.it.open = 10**9, 100, 100
    watched.beats(30, 5.0)
    assert watched.why() == "" and not watched.lines
    assert [watched.metric("mark", resource) for resource in ("lag", "memory", "sockets")] == [0, 0, 0]


# The system


def test_the_system_knows_this_process() -> None:
    before = system.descriptors()
    with socket.socket():
        assert before is not None and system.descriptors() == before + 1
    assert (system.resident() or 0) > 1 << 20
    assert (system.memory_limit() or 0) > 1 << 20


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/system.slice/popproxy.service", {"system.slice/popproxy.service/memory.max": "4096"}, 4096),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "8192"}, 8192),
        ("0::/a/b", {"a/b/memory.max": "max"}, 16 << 20),
        ("0::/../host/path", {"memory.max": "5000"}, 5000),
        ("4:cpu,memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "6000"}, 6000),
        ("4:memory:/docker/1", {"memory/memory.limit_in_bytes": "7000"}, 7000),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": str((1 << 63) - 4096)}, 16 << 20),
        ("", {}, 16 << 20),
    ],
)
def test_the_limit_of_memory(group: str, files: dict[str, str], limit: int, tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:          16384 kB\nMemFree: 1 kB\n")
    (proc / "self" / "cgroup").write_text(group + "\n" if group else "")
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")
    assert system.memory_limit(proc, groups) == limit


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert system.memory_limit(tmp_path, tmp_path) is None


# A proxy


class Sleepy(Plugin[PluginConfig]):
    """Blocks the loop at each NOOP."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())

    def on_command(self, session: SessionView, command: Command) -> None:
        if command.name == "NOOP":
            time.sleep(0.3)


def serve(peer: Peer) -> None:
    """A mailbox with one letter."""
    peer.login()
    while True:
        line = peer.line()
        peer.send(LETTER if line == b"RETR 1" else b"+OK\r\n")


@pytest.mark.parametrize("tls", ["off", "implicit"])
@both_loops
def test_a_late_loop_sheds_newcomers_and_old_sessions_end_what_they_began(
    loop: str, tls: str, tmp_path: Path
) -> None:
    implicit = client_context() if tls == "implicit" else None
    stop = threading.Event()
    with Upstream(serve, quits=1) as upstream:
        setup = Setup([upstream.url], loop, tls, plugins=[Sleepy()], deadline=PATIENCE)
        setup.tail = '[overload]\nlag = "100ms"'
        with running(setup, tmp_path) as proxy:
            old, blocker = proxy.logged_in(implicit=implicit), proxy.logged_in(implicit=implicit)

            def block() -> None:
                while not stop.is_set():
                    blocker.single(b"NOOP")

            thread = threading.Thread(target=block)
            thread.start()
            try:
                line = proxy.wait("overload")
                assert (line["resource"], line["mark"], line["level"]) == ("lag", 0.1, "warning")
                old.send(b"RETR 1\r\n")
                with socket.create_connection(proxy.address(), PATIENCE) as newcomer:
                    assert newcomer.recv(1000) == (b"" if implicit else OVERLOADED)
                refused = proxy.wait("refused")
                assert (refused["reason"], refused["detail"]) == ("overload", "overload: lag")
                assert proxy.sample("connections_rejected_total", listener="main", reason="overload") == 1
                assert proxy.sample("overload_shedding", resource="lag") == 1
                assert old.read_reply(multi=True) == LETTER
            finally:
                stop.set()
                thread.join(PATIENCE)
            assert old.single(b"QUIT").startswith(b"+OK")
            assert proxy.wait("overload_over")["seconds"] > 0
            with proxy.client(implicit=implicit) as again:
                assert again.greeting.startswith(b"+OK")
            old.close()
            blocker.close()


@both_loops
def test_too_much_memory_sheds(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, tail='[overload]\nmemory = "1MiB"'), tmp_path) as proxy:
            assert proxy.wait("overload")["resource"] == "memory"
            with socket.create_connection(proxy.address(), PATIENCE) as newcomer:
                assert newcomer.recv(1000) == OVERLOADED
            assert proxy.sample("overload_mark", resource="memory") == 1 << 20
            assert proxy.sample("overload_value", resource="memory") > 1 << 20
            assert proxy.sample("connections_active", listener="main") == 0


@both_loops
def test_a_healthy_proxy_shows_its_marks_and_sheds_nobody(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            eventually(lambda: proxy.sample("overload_value", resource="memory") > 0, "reading")
            assert proxy.sample("overload_mark", resource="lag") == 2
            assert proxy.sample("overload_mark", resource="sockets") > proxy.sample(
                "overload_value", resource="sockets"
            ) > 0
        assert proxy.total("overload_shedding") == 0

"""The benchmark's own parts are right: the stub serves, the load compares, CPU of every process is charged."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench import account, certs, mail, report
from tests.bench.blind import BLIND
from tests.bench.load import Load
from tests.bench.peers import HEAD, PEERS, PLUGINS, ROOT, Site, environment
from tests.bench.run import Child, options, takes_part
from tests.bench.scenarios import SCENARIOS, Goal, Reading
from tests.bench.wires import LoadError
from tests.ports import free_ports


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[dict[str, int]]:
    certificate = certs.make(tmp_path, "ecdsa")
    stub = Child("stub", "--cert", str(certificate.chain), "--key", str(certificate.key))
    try:
        yield stub.read()
    finally:
        stub.stop()


@pytest.fixture
def load() -> Iterator[Load]:
    generator = Load()
    generator.driver.silence = 10.0
    yield generator
    for wire, _ in generator.held:
        wire.close()
    generator.driver.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.one_of(st.integers(0, 200_000), st.integers(0, 300)))
def test_message_has_its_size_and_unstuffs_to_itself(number: int, size: int) -> None:
    text = mail.raw(number, size)
    assert len(text) == size
    stuffed = mail.wire(number, size)
    assert stuffed.endswith(b".\r\n")
    lines = stuffed[:-3].split(b"\r\n")
    assert b"." not in lines
    assert b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines) == text


def test_messages_differ_by_number_and_hold_dot_lines() -> None:
    assert mail.wire(1, 30_000) != mail.wire(2, 30_000)
    assert b"\r\n..\r\n" in mail.wire(1, 30_000)
    assert b"\r\n...\r\n" in mail.wire(1, 30_000)


@pytest.mark.parametrize("user", ["", "alice", "m1", "m1x", "m99999x1", "m1x99999999", "m1x1 "])
def test_user_that_names_no_maildrop_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match=r"m<count>x<octets>|at most"):
        mail.Maildrop.named(user)


def dialogue(port: int, *lines: bytes) -> bytes:
    """Send the lines in one write, read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"".join(line + b"\r\n" for line in lines))
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_stub_answers_each_command_in_order(ports: dict[str, int]) -> None:
    commands = (
        b"CAPA",
        b"USER m2x300",
        b"PASS x",
        b"STAT",
        b"LIST 2",
        b"UIDL 3",
        b"NOOP",
        b"retr 2",
        b"TOP 1 0",
        b"DELE 1",
        b"QUIT",
        b"NOOP",
    )
    said = dialogue(ports["plain"], *commands)
    greeting, capa, rest = said.partition(b"\r\n")[0], b"PIPELINING", said.partition(b"\r\n.\r\n")[2]
    assert greeting == b"+OK bench ready"
    assert capa in said
    assert rest == (
        b"+OK\r\n+OK maildrop ready\r\n+OK 2 600\r\n+OK 2 300\r\n-ERR no such message\r\n+OK\r\n+OK 300 octets\r\n"
        + mail.wire(2, 300)
        + b"-ERR not understood\r\n+OK marked\r\n+OK\r\n"
    )


@pytest.mark.parametrize(
    "lines", [(b"AUTH PLAIN AG0yeDMwMAB4",), (b"AUTH PLAIN", b"AG0yeDMwMAB4"), (b"auth plain", b"AG0yeDMwMAB4")]
)
def test_stub_takes_sasl_plain_in_one_line_and_two(ports: dict[str, int], lines: tuple[bytes, ...]) -> None:
    assert dialogue(ports["plain"], *lines, b"STAT", b"QUIT").endswith(b"+OK maildrop ready\r\n+OK 2 600\r\n+OK\r\n")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("script", ["login", "mailbox", "mailbox_pipelined"])
def test_whole_sessions(ports: dict[str, int], load: Load, script: str, tls: bool) -> None:
    load.do({"op": "target", "port": ports["tls" if tls else "plain"], "tls": tls})
    figures = load.do({"op": "sessions", "script": script, "user": "m7x20000", "clients": 3, "total": 5})
    assert figures["units"] == (5 if script == "login" else 35)
    assert (figures["octets"] > 35 * 20_000) == (script != "login")
    assert figures["suite"].startswith("TLSv1.3") == tls


@pytest.mark.parametrize("tls", [False, True])
def test_held_sessions_are_driven_again_and_again(ports: dict[str, int], load: Load, tls: bool) -> None:
    load.do({"op": "target", "port": ports["tls" if tls else "plain"], "tls": tls})
    load.do({"op": "open", "clients": 5, "user": "m3x150000"})
    for script, count in (("noop", 20), ("noop_pipelined", 200), ("retr", 4), ("noop_pipelined", 1)):
        figures = load.do({"op": "drive", "script": script, "count": count, "at_once": 2})
        assert figures["units"] == 5 * count
    assert load.do({"op": "close"})["units"] == 5


def test_sessions_are_resumed_when_asked(ports: dict[str, int], load: Load) -> None:
    job = {"op": "sessions", "script": "login", "user": "m1x100", "clients": 2, "total": 6}
    load.do({"op": "target", "port": ports["tls"], "tls": True})
    assert load.do(job)["resumed"] == 0
    load.do({"op": "target", "port": ports["tls"], "tls": True, "resumed": True})
    assert load.do(job)["resumed"] == 1


class Liar:
    """A server that accepts any login and answers RETR with bytes of its own."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(10)
            sock.sendall(b"+OK\r\n")
            while line := sock.recv(100):
                if line.startswith(b"RETR"):
                    sock.sendall(b"+OK\r\n" + self._body)
                    return
                sock.sendall(b"+OK\r\n")

    def stop(self) -> None:
        self._thread.join(10)
        self._listener.close()


GOOD = mail.wire(1, 100_000)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (GOOD[:70_000] + b"!" + GOOD[70_001:], "octets differ"),
        (GOOD[:70_000] + GOOD[70_001:], "octets differ|closed after"),
        (GOOD[:70_000], "closed after 70000 of"),
        (mail.wire(2, 100_000), "octets differ"),
        (GOOD[:-3] + b"..\r\n.\r\n", "octets differ"),
    ],
    ids=["one octet changed", "one octet lost", "cut short", "another message", "unstuffed end"],
)
def test_load_notices_a_wrong_body(load: Load, body: bytes, fault: str) -> None:
    liar = Liar(body)
    try:
        load.do({"op": "target", "port": liar.port, "tls": False})
        load.do({"op": "open", "clients": 1, "user": "m1x100000"})
        with pytest.raises(LoadError, match=fault):
            load.do({"op": "drive", "script": "retr", "count": 1})
    finally:
        liar.stop()


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
child = {BURN!r} + "print('ready', flush=True); input()"
living = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
input()
living.communicate(b"\\n")
"""


def test_cpu_of_living_and_reaped_children_is_charged() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert len(account.family(parent.pid)) == 2
        assert account.cpu_seconds(parent.pid) > 0.55
        assert account.pss_kib(parent.pid) > 2000
        parent.communicate(b"\n")
    assert account.cpu_seconds(parent.pid) == 0.0


def test_cpu_of_ended_threads_is_charged() -> None:
    before = account.cpu_seconds(os.getpid())
    burn = "import time\nwhile time.thread_time() < 0.2: pass\n"
    thread = threading.Thread(target=exec, args=(burn,))
    thread.start()
    thread.join()
    assert account.cpu_seconds(os.getpid()) - before > 0.15


@pytest.mark.parametrize("sent", [True, False], ids=["head sent", "head missing"])
def test_load_compares_what_the_proxy_puts_in_front(load: Load, sent: bool) -> None:
    liar = Liar((HEAD.encode() if sent else b"") + GOOD)
    try:
        load.do({"op": "target", "port": liar.port, "tls": False})
        load.do({"op": "open", "clients": 1, "user": "m1x100000"})
        job = {"op": "drive", "script": "retr", "count": 1, "head": HEAD}
        if sent:
            assert load.do(job)["octets"] > len(HEAD) + len(GOOD)
        else:
            with pytest.raises(LoadError, match="octets differ"):
                load.do(job)
    finally:
        liar.stop()


def test_report_compares_a_plugin_with_none() -> None:
    readings: dict[str, dict[str, list[Reading | None]]] = {
        "bulk-plain": {"popproxy": [Reading(100.0), Reading(200.0)], "nginx": [Reading(1.0), Reading(1.0)]},
        "headers-bulk": {"popproxy": [Reading(120.0), Reading(280.0)]},
    }
    assert report.ratio(readings, "headers-bulk", "popproxy", "bulk-plain") == pytest.approx((1.2 + 1.4) / 2)
    assert "1.30 (must 1.5, goal 1.15): must met, against bulk-plain" in report.markdown(readings, {}, [], quick=False)


def test_a_base_is_another_scenario_of_the_same_unit() -> None:
    by_name = {one.name: one for one in SCENARIOS}
    based = [one for one in SCENARIOS if one.base]
    assert {one.variant.plugin for one in based} == set(PLUGINS)
    assert {one.variant.blind for one in based} == {"", *BLIND}
    for one in based:
        assert by_name[one.base].unit == one.unit
        assert [peer for peer in PEERS if takes_part(one, peer)] == ["popproxy"]


@pytest.mark.parametrize("upstream_tls", [False, True])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_popproxy_accepts_its_configuration(plugin: str, upstream_tls: bool, tmp_path: Path) -> None:
    plain, tls, extra = free_ports(3)
    site = Site(tmp_path, plain, tls, extra, 1, upstream_tls, certs.make(tmp_path, "ecdsa"), plugin)
    *program, _, _, path = PEERS["popproxy"].write(site)
    run = subprocess.run(
        [*program, "check", "--config", path], env=environment(), capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_report_divides_within_rounds() -> None:
    table: dict[str, list[Reading | None]] = {
        "popproxy": [Reading(10.0), Reading(90.0), None],
        "nginx": [Reading(20.0), Reading(30.0), Reading(1.0)],
    }
    readings = {"login-plain": table}
    assert report.ratio(readings, "login-plain", "nginx") == pytest.approx((0.5 + 3.0) / 2)
    text = report.markdown(readings, {"dovecot": "not installed"}, ["a fault"], quick=True)
    assert "must 1.5, goal 1): **missed**" in text
    assert "Dovecot: not installed" in text
    assert "- a fault" in text


@pytest.mark.parametrize(("measured", "words"), [(0.9, "goal met"), (1.2, "must met"), (1.6, "missed")])
def test_verdict(measured: float, words: str) -> None:
    assert words in report.verdict(measured, Goal(1.5, 1.0))


def test_verdict_without_a_must() -> None:
    assert "must" not in report.verdict(0.5, Goal(math.inf, 1.0))


def test_goals_never_ask_less_than_the_must() -> None:
    for scenario in SCENARIOS:
        for goal in (*scenario.goals.values(), *([scenario.absolute] if scenario.absolute else [])):
            assert goal.goal <= goal.must, scenario.name
        assert scenario.goals or scenario.absolute or scenario.base, scenario.name


def test_what_is_left_out_is_left_out() -> None:
    for parts in BLIND:
        program = (
            f"from tests.bench.blind import blind; blind({parts!r})\n"
            "from popproxy.metrics.meters import ListenerMeter, UpstreamMeter\n"
            "from popproxy.run.logs import EventLog\n"
            "print(*(method.__name__ for method in (ListenerMeter.session_end, UpstreamMeter.dial, EventLog.event)))"
        )
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
        counts, dials, writes = (name != "_nothing" for name in said.stdout.split())
        assert counts is dials is ("metrics" not in parts)
        assert writes is ("log" not in parts)


def test_nobody_is_asked_for_what_it_cannot() -> None:
    both = next(one for one in SCENARIOS if one.name == "memory-tls-both")
    assert [peer for peer in PEERS if takes_part(both, peer)] == ["popproxy", "dovecot", "haproxy"]
    assert not takes_part(both, "direct")


def test_options_choose_scenarios_and_name_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = options(["--scenario", "bulk-*,idle*"]).chosen
    assert [one.name for one in chosen] == ["bulk-plain", "bulk-tls", "idle-cpu"]
    with pytest.raises(SystemExit):
        options(["--peers", "exim"])
    assert "unknown exim; there are popproxy" in capsys.readouterr().err


@pytest.mark.parametrize("peer", ["nginx", "nginx64k", "haproxy", "dovecot"])
def test_installed_peers_accept_their_configuration(peer: str, tmp_path: Path) -> None:
    proxy = PEERS[peer]
    if why := proxy.missing():
        pytest.skip(f"{peer}: {why}")
    plain, tls, extra = free_ports(3)
    site = Site(tmp_path, plain, tls, extra, 1, False, certs.make(tmp_path, "ecdsa"))
    command = proxy.write(site)
    check = {
        "nginx": [*command, "-t"],
        "nginx64k": [*command, "-t"],
        "haproxy": [*command, "-c"],
        "dovecot": ["doveconf", *command[2:]],
    }[peer]
    run = subprocess.run(check, capture_output=True, text=True, timeout=20)
    assert run.returncode == 0, run.stderr

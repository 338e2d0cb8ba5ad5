"""Notifications and socket activation, with a socket of the test's own in systemd's place."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from popproxy.config.load import load
from popproxy.core.limits import Timeouts
from popproxy.net.binding import BindError
from popproxy.run.fleet import Status
from popproxy.run.systemd import Notify, Reports, activated
from tests.ports import free_ports
from tests.run.process import PATIENCE, ROOT, Process
from tests.run.workers import LONG, config
from tests.wireclient import WireClient

DEPLOY = ROOT / "deploy" / "systemd"


class Manager:
    """What systemd hears. ``heard`` are pairs of the time and the message."""

    def __init__(self, path: str) -> None:
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while (message := self._socket.recv(4096)) != b"end":
            self.heard.append((time.monotonic(), message.decode()))

    def words(self) -> list[str]:
        """All messages but those of the watchdog and the status."""
        return [text for _, text in self.heard if not text.startswith(("WATCHDOG=", "STATUS="))]

    def status(self) -> str:
        """The last line for ``systemctl status``."""
        found = [text.removeprefix("STATUS=") for _, text in self.heard if text.startswith("STATUS=")]
        return found[-1] if found else ""

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(address: str) -> Iterator[Manager]:
    made = Manager(f"\0{address[1:]}" if address.startswith("@") else address)
    try:
        yield made
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", f"\0{address[1:]}" if address.startswith("@") else address)
        made.close()


@contextmanager
def service(directory: Path, command: list[str], **environment: str) -> Iterator[Process]:
    """A program as systemd would start it."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    given = {**os.environ, "PYTHONPATH": path, "HOME": str(directory), "TMPDIR": str(directory), **environment}
    process = Process(command, directory, given)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait(PATIENCE)


@pytest.mark.parametrize("several", [False, True])
def test_systemd_hears_of_start_reload_and_end(several: bool, tmp_path: Path) -> None:
    address = f"@popproxy-{os.getpid()}" if several else str(tmp_path / "notify")
    path = config(tmp_path, workers=2 if several else 1)
    command = [sys.executable, "-m", "popproxy", "serve", "--config", str(path)]
    with (
        manager(address) as heard,
        service(tmp_path, command, NOTIFY_SOCKET=address, WATCHDOG_USEC="600000") as process,
    ):
        process.until(lambda: "READY=1" in heard.words(), LONG)
        assert heard.words() == ["READY=1"]
        process.until(lambda: process.lines("started"))
        process.until(lambda: sum(text == "WATCHDOG=1" for _, text in heard.heard) >= 3)
        assert heard.status() == ("ready: 0 sessions, 2 of 2 workers" if several else "ready: 0 sessions")
        before = time.monotonic_ns() // 1000
        process.signal(signal.SIGHUP)
        process.until(lambda: len(heard.words()) == 3)
        _, reloading, ready = heard.words()
        assert ready == "READY=1" and reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert before <= int(reloading.rpartition("=")[2]) <= time.monotonic_ns() // 1000
        config(tmp_path, greeting="\\u0000")
        process.signal(signal.SIGHUP)
        # Also one that failed is over.
        process.until(lambda: process.lines("config_failed") and len(heard.words()) == 5)
        assert heard.words()[4] == "READY=1"
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert heard.words()[-1] == "STOPPING=1" and heard.status().startswith("draining: 0 sessions")
        assert not process.lines("internal_error")


def test_the_watchdog_is_fed_from_the_loop_while_a_worker_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    status = Status("ready", "1", 1, "", "", 0.0, 0.0, True, ({"sessions": 1, "up": True},))
    alive = True

    def fed() -> int:
        return sum(text == "WATCHDOG=1" for _, text in heard.heard)

    async def work() -> None:
        nonlocal alive
        reports = Reports(lambda: status, lambda: alive)
        assert "NOTIFY_SOCKET" not in os.environ and "WATCHDOG_USEC" not in os.environ, "workers do not speak for us"
        reports.ready()
        while fed() < 3:
            await asyncio.sleep(0.01)
        alive = False
        await asyncio.sleep(0.1)
        before = fed()
        await asyncio.sleep(0.2)
        assert fed() == before
        alive = True
        while fed() == before:
            await asyncio.sleep(0.01)
        reports.close()
        reports.close()

    with manager(str(tmp_path / "notify")) as heard:
        asyncio.run(asyncio.wait_for(work(), PATIENCE))
        assert heard.status() == "ready: 1 session"


def test_without_systemd_or_when_it_is_gone_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", str(tmp_path / "nobody")):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        monkeypatch.setenv("WATCHDOG_PID", "1")
        notify = Notify()
        assert notify.watchdog == 0.0 and notify.listens == bool(address)
        notify.ready()
        notify.status("x")
        notify.close()


SLOW = """
import asyncio
from popproxy.api import Plugin, PluginConfig

class Slow(Plugin[PluginConfig]):
    async def start(self, services):
        services.log.info("begins")
        await asyncio.sleep(60)

    def stop(self):
        open("stopped", "w").close()
"""


@pytest.mark.parametrize("several", [False, True])
def test_a_start_that_is_ended_was_never_ready(several: bool, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    (tmp_path / "mine.py").write_text(SLOW)
    path = config(tmp_path, workers=2 if several else 1, tail='[[plugin]]\nuse = "mine:Slow"\n')
    command = [sys.executable, "-m", "popproxy", "serve", "--config", str(path)]
    with manager(address) as heard, service(tmp_path, command, NOTIFY_SOCKET=address) as process:
        process.until(lambda: process.lines("Slow.begins"), LONG)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert "READY=1" not in heard.words() and (tmp_path / "stopped").exists()
    assert not process.lines("started") and not process.lines("worker_died")


@pytest.mark.parametrize("several", [False, True])
def test_sockets_that_systemd_opened(several: bool, tmp_path: Path) -> None:
    """The client that woke the service is served, and so are all after it; by name, whatever the config's port."""
    (port,) = free_ports(1)
    path = config(tmp_path, workers=2 if several else 1)
    program = shutil.which("systemd-socket-activate")
    assert program is not None
    command = [
        program, "-l", f"127.0.0.1:{port}", "--fdname=main", "-E", "PYTHONPATH", "-E", "HOME", "-E", "TMPDIR",
        sys.executable, "-m", "popproxy", "serve", "--config", str(path),
    ]  # fmt: skip
    with service(tmp_path, command) as process:
        process.until(lambda: "Listening on" in process.err.read_text())
        wanted, workers = {0, 1} if several else {None}, set()
        for _ in range(200):
            with WireClient(("127.0.0.1", port), timeout=LONG) as client:
                assert client.greeting == b"+OK ready\r\n"
                client.single(b"QUIT")
            workers = {line.get("worker") for line in process.lines("session")}
            if workers == wanted:
                break
        assert workers == wanted
        assert [line["address"] for line in process.lines("listening")] == [f"127.0.0.1:{port}"]
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


@contextmanager
def handed(monkeypatch: pytest.MonkeyPatch, names: str, *sockets: socket.socket) -> Iterator[int]:
    """Sockets as systemd hands them: the descriptor of the first."""
    first = 400
    for number, sock in enumerate(sockets):
        os.dup2(sock.fileno(), first + number)
    monkeypatch.setenv("LISTEN_FDS", str(len(sockets)))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDNAMES", names)
    yield first


LISTENERS = """
[[listener]]
name = "pop3s"
bind = ["127.0.0.1:{port}", "unix:{path}"]
tls = "implicit"
[[listener]]
name = "pop3"
bind = ["127.0.0.1:110"]
tls = "starttls"
[upstream.main]
servers = ["pop3s://mail.example.com"]
"""


def test_which_socket_is_for_which_bind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.1", 0)) as stranger,
        socket.socket() as deaf,
    ):
        unix.bind(str(tmp_path / "pop3"))
        unix.listen()
        deaf.bind(("127.0.0.1", 0))
        file = tmp_path / "popproxy.toml"
        file.write_text(LISTENERS.format(port=one.getsockname()[1], path=tmp_path / "pop3"))
        listeners = load(file).plan.listeners
        # By address without a name; by name whatever the address; each kind for itself.
        with handed(monkeypatch, "unknown:pop3:pop3s", one, other, unix) as first:
            found = activated(listeners, first)
            binds = [listeners[0].bind[0], listeners[1].bind[0], listeners[0].bind[1]]
            assert {where: sock.getsockname() for where, sock in found.items()} == {
                where: sock.getsockname() for where, sock in zip(binds, (one, other, unix), strict=True)
            }
            assert not any(os.get_inheritable(sock.fileno()) for sock in found.values())
            assert activated(listeners, first) == {}, "they are taken once"
            for sock in found.values():
                sock.close()
        at = stranger.getsockname()[1]
        for names, sockets, told in (
            ("web", [stranger], f"the socket 'web' on 127.0.0.1:{at}, which systemd opened, is for no listener"),
            ("pop3:pop3", [other, stranger], "is one more than listener 'pop3' has binds of its kind"),
            ("pop3", [deaf], "is not one that listens for streams"),
        ):
            with handed(monkeypatch, names, *sockets) as first, pytest.raises(BindError, match=re.escape(told)):
                activated(listeners, first)
        with handed(monkeypatch, "pop3", other) as first:
            monkeypatch.setenv("LISTEN_PID", "1")
            assert activated(listeners, first) == {}, "they are for somebody else"
            os.close(first)


def analyzed(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("activation", [False, True])
def test_the_units_are_right_and_tight(activation: bool, tmp_path: Path) -> None:
    """systemd-analyze security: 2.0 at most, the lower the better."""
    text = (DEPLOY / "popproxy.service").read_text()
    # The service of the package, with a program that is there.
    (tmp_path / "popproxy.service").write_text(text.replace("/opt/popproxy/bin/popproxy", "/bin/true"))
    shutil.copy(DEPLOY / "popproxy.socket", tmp_path)
    if activation:
        (tmp_path / "popproxy.service.d").mkdir()
        shutil.copy(DEPLOY / "popproxy-socket.conf", tmp_path / "popproxy.service.d" / "socket.conf")
    verified = analyzed(tmp_path, "verify", "./popproxy.service", "./popproxy.socket")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    threshold = "15" if activation else "20"
    security = ("security", "--offline=yes", "--no-pager", "./popproxy.service")
    secure = analyzed(tmp_path, *security, f"--threshold={threshold}")
    assert secure.returncode == 0, secure.stdout
    slack = analyzed(tmp_path, *security, "--threshold=5")
    assert slack.returncode == 1, "a threshold that nothing passes"


def test_the_unit_gives_a_drain_its_time() -> None:
    text = (DEPLOY / "popproxy.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop) > Timeouts().drain + 10
    assert "\nKillMode=mixed\n" in text and "\nType=notify\n" in text


def test_the_system_files_are_good(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    users = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(DEPLOY / "sysusers.conf")],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert users.returncode == 0, users.stderr
    assert "popproxy:" in (tmp_path / "etc" / "passwd").read_text()
    files = subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", str(DEPLOY / "tmpfiles.conf")],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert files.returncode == 0, files.stderr
    assert (tmp_path / "etc" / "popproxy").stat().st_mode & 0o777 == 0o750

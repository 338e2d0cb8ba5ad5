"""Several workers in the moments between: a reload while one starts, the fork server dead, a log that moved."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from popproxy.config.plan import Bind
from popproxy.net.sockets import Sockets
from popproxy.run.addresses import Addresses
from tests.run.process import PATIENCE, lines, program, script
from tests.run.workers import LONG, SUPERVISE, Workers, config, free, gone, workers
from tests.wireclient import WireClient

PLUGIN = """
import os
from popproxy.api import Plugin, PluginConfig

class Counted(Plugin[PluginConfig]):
    def start(self, services):
        with open("starts", "a") as file:
            print(os.getpid(), file=file)
"""


def parent(pid: int) -> int:
    """The process that it is a child of."""
    found = re.search(r"^PPid:\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_worker_takes_its_config_once_and_outlives_the_fork_server(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    tail = '[[plugin]]\nuse = "mine:Counted"\n'
    with workers(tmp_path, pace="beat=0.2, mute=3.0, settled=0.0", tail=tail) as ours:
        ours.back(1, ours.kill(1))
        # A beat later, so that whatever it does twice is done.
        assert ours.metrics()['popproxy_worker_up{worker="1"}'] == 1
        started = [line["pid"] for line in ours.events("worker_started")]
        assert sorted(map(int, (tmp_path / "starts").read_text().split())) == sorted(started)
        assert not ours.events("config_retired")
        server = parent(ours.pids()[0])
        assert parent(server) == ours.process.popen.pid
        os.kill(server, signal.SIGKILL)
        # What it would say of them is lost; they are killed all the same when they hang.
        stopped = ours.kill(0, signal.SIGSTOP)
        ours.back(0, stopped)
        assert gone(stopped)
        ours.back(0, ours.kill(0))
        with ours.client() as client:
            assert client.greeting == b"+OK ready\r\n"
        ours.end()
    assert not ours.events("internal_error")


LATE = """
import asyncio, sys
from pathlib import Path
from popproxy.config.load import load
from popproxy.run.crew import Crew, Pace
from popproxy.run.slot import Child
from popproxy.run.supervisor import supervise

launch, adopt = Child.launch, Crew._adopt

async def passed(name):
    while Path(name).exists():
        Path(name + " reached").touch()
        await asyncio.sleep(0.02)

async def launched(self):
    await launch(self)
    await passed("launch")

async def adopted(self, child, force):
    await adopt(self, child, force)
    await passed("adopt")

Child.launch, Crew._adopt = launched, adopted

def again():
    return load(Path({path!r})), ()

sys.exit(supervise(again()[0], again, "uvloop", (), Pace(settled=0.0)))
"""


TOLD = """
import sys
from pathlib import Path
from popproxy.config.load import load
from popproxy.metrics.merge import Merger
from popproxy.run.crew import Pace
from popproxy.run.supervisor import supervise

snapshot = Merger.snapshot

def taken(self, slot, blocks):
    snapshot(self, slot, blocks)
    if any(name == "popproxy_connections" and any(count for _, count in series) for _, name, *_, series in blocks):
        Path("told").touch()

Merger.snapshot = taken

def again():
    return load(Path({path!r})), ()

sys.exit(supervise(again()[0], again, "uvloop", (), Pace(settled=0.0, counts=0.1)))
"""


def test_a_worker_that_is_killed_had_told_what_it_counted(tmp_path: Path) -> None:
    """Though nobody has scraped."""
    with script(tmp_path, TOLD.format(path=str(config(tmp_path)))) as process:
        ours = Workers(process)
        with ours.client():
            process.until((tmp_path / "told").exists)
        for slot in (0, 1):
            ours.back(slot, ours.kill(slot))
        assert ours.metrics()['popproxy_connections_total{listener="main"}'] == 1
        ours.end()


def test_an_address_goes_while_a_worker_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        going = taken.getsockname()
    both = f'["127.0.0.1:0", "127.0.0.1:{going[1]}"]'
    path = config(tmp_path, bind=both)
    with script(tmp_path, LATE.format(path=str(path))) as process, ExitStack() as clients:
        ours = Workers(process)
        clients.enter_context(socket.create_connection(going))
        (tmp_path / "launch").touch()
        (tmp_path / "adopt").touch()
        dead = ours.kill(1)
        process.until((tmp_path / "launch reached").exists)
        config(tmp_path, greeting="new")
        process.signal(signal.SIGHUP)
        process.until((tmp_path / "adopt reached").exists)
        # Nobody accepts there any more: so nobody is let in to wait.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(going)
        (tmp_path / "adopt").unlink()
        process.until(lambda: process.lines("config_loaded"))
        (tmp_path / "launch").unlink()
        ours.back(1, dead)
        for _ in range(8):
            with ours.client() as client:
                assert client.greeting == b"+OK new\r\n"
        ours.end()
    assert not process.lines("internal_error") and "Traceback" not in process.err.read_text()


def test_a_worker_that_comes_later_writes_where_the_others_do(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    with program(tmp_path, "serve", "--config", str(config(tmp_path, log=f'file = "{log}"'))) as process:
        process.until(lambda: log.exists() and lines(log, "started"), LONG)
        config(tmp_path, log=f'file = "{other}"\nlevel = "error"')
        process.signal(signal.SIGHUP)
        process.until(lambda: lines(log, "config_loaded"))
        (first, *_) = [line for line in lines(log, "worker_started") if line["slot"] == 0]
        os.kill(first["pid"], signal.SIGKILL)
        # What only the first worker tells.
        process.until(lambda: len(lines(log, "listening")) == 2)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not other.exists()


def test_the_mode_of_a_unix_socket_follows_the_config(tmp_path: Path) -> None:
    path = tmp_path / "pop3"
    addresses = Addresses(2)
    for mode in (0o600, 0o666):
        where = Bind("unix", path=str(path), mode=mode)
        addresses.take([where])
        addresses.keep([where])
        assert stat.S_IMODE(path.stat().st_mode) == mode
    addresses.close()
    assert not path.exists()


MOODY = """
import os
from pathlib import Path
from popproxy.api import Plugin, PluginConfig

class Moody(Plugin[PluginConfig]):
    def start(self, services):
        if Path("broken").exists() and os.getpid() != int(Path("broken").read_text() or 0):
            raise ValueError("my file is missing")
"""


def listening(pid: int) -> int:
    """How many descriptors the process has that are sockets."""
    found = (os.readlink(each) for each in list(Path(f"/proc/{pid}/fd").iterdir()) if os.path.lexists(each))
    return len([each for each in found if each.startswith("socket:")])


def test_who_waits_at_a_worker_that_stays_away_is_served_by_another(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MOODY)
    tail = '[[plugin]]\nuse = "mine:Moody"\n'
    with workers(tmp_path, pace="beat=0.2, settled=60.0, longest=1.0", tail=tail) as ours:
        other = ours.pids()[1]
        before = listening(other)
        (tmp_path / "broken").write_text(str(other))
        dead = ours.kill(0)

        def all_served(greeting: bytes) -> None:
            with ExitStack() as clients:
                waiting = [clients.enter_context(ours.client(greet=False)) for _ in range(16)]
                for client in waiting:
                    assert client.read_line() == greeting

        all_served(b"+OK ready\r\n")
        # With the sockets of the next config, too.
        config(tmp_path, tail=tail, greeting="new")
        ours.process.signal(signal.SIGHUP)
        ours.process.until(lambda: ours.events("config_loaded"))
        all_served(b"+OK new\r\n")
        (tmp_path / "broken").unlink()
        ours.back(0, dead)
        all_served(b"+OK new\r\n")
        ours.process.until(lambda: listening(other) == before)
        (tmp_path / "broken").write_text("0")
        ours.kill(0)
        ours.process.until(lambda: listening(other) > before)
        ours.end()
    assert not ours.events("internal_error")


def test_who_waits_in_a_backlog_at_the_end_is_told(tmp_path: Path) -> None:
    """And a storm of other signals meanwhile changes nothing, not even the exit code."""
    with workers(tmp_path, bind=f'["127.0.0.1:0", "unix:{tmp_path}/pop3"]') as ours, ExitStack() as clients:
        for slot in (0, 1):
            ours.kill(slot, signal.SIGSTOP)
        waiting = [clients.enter_context(ours.client(greet=False)) for _ in range(8)]
        waiting += [clients.enter_context(WireClient(tmp_path / "pop3", timeout=PATIENCE, greet=False)) for _ in "ab"]
        ours.process.signal(signal.SIGTERM)
        ours.process.until(lambda: ours.events("stopping"))
        for slot in (0, 1):
            ours.kill(slot, signal.SIGCONT)
        for client in waiting:
            assert client.read_eof().startswith((b"-ERR [SYS/TEMP]", b"+OK ready\r\n"))
        while ours.process.popen.poll() is None:
            ours.process.signal(signal.SIGHUP)
            ours.process.signal(signal.SIGUSR1)
        assert ours.process.wait() == 0


SLOW = """
import asyncio, os
from pathlib import Path
from popproxy.api import Plugin, PluginConfig

class Slow(Plugin[PluginConfig]):
    async def start(self, services):
        while Path("slow").exists() and os.getpid() != int(Path("slow").read_text()):
            Path("starting").touch()
            await asyncio.sleep(0.02)
"""


def reloaded(ours: Workers, event: str = "config_loaded") -> None:
    """HUP, until it has come to this."""
    before = len(ours.events(event))
    ours.process.signal(signal.SIGHUP)
    ours.process.until(lambda: len(ours.events(event)) > before)


def test_an_address_goes_and_comes_again_while_a_worker_that_has_it_starts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW)
    tail = '[[plugin]]\nuse = "mine:Slow"\n'
    with socket.create_server(("127.0.0.1", 0)) as taken:
        going = taken.getsockname()
    both = f'["127.0.0.1:0", "127.0.0.1:{going[1]}"]'
    with workers(tmp_path, bind=both, tail=tail) as ours:
        (tmp_path / "slow").write_text(str(ours.pids()[0]))
        dead = ours.kill(1)
        ours.process.until((tmp_path / "starting").exists)
        config(tmp_path, tail=tail)
        reloaded(ours)
        config(tmp_path, tail=tail, bind=both, greeting="again")
        reloaded(ours)
        # And once more, wider.
        config(tmp_path, tail=tail)
        reloaded(ours)
        config(tmp_path, tail=tail, bind=both.replace(f"127.0.0.1:{going[1]}", f"0.0.0.0:{going[1]}"), greeting="wide")
        reloaded(ours)
        (tmp_path / "slow").unlink()
        ours.back(1, dead)
        for _ in range(8):
            with WireClient(going, timeout=PATIENCE, greet=False) as client:
                # Who was dealt to the one that was starting is served as it began.
                assert client.read_line() in (b"+OK wide\r\n", b"+OK ready\r\n")
        config(tmp_path, tail=tail)
        reloaded(ours)
        # Nobody holds it any more.
        with socket.create_server(going):
            ours.end()
    assert not ours.events("internal_error") and not ours.events("config_failed")


def test_a_worker_that_hangs_holds_no_reload_up_for_long_and_is_named(tmp_path: Path) -> None:
    with workers(tmp_path, pace="beat=0.2, mute=3.0, settled=0.0") as ours:
        stopped = ours.kill(1, signal.SIGSTOP)
        config(tmp_path, greeting="new")
        reloaded(ours)
        told = [line["detail"] for line in ours.events("config_warning")]
        assert told == ["worker 1 said nothing for 3 s and was killed: the next one takes the new config"]
        ours.back(1, stopped)
        ours.process.until(lambda: ours.metrics().get('popproxy_worker_up{worker="1"}') == 1)
        for slot in (0, 1):
            ours.kill(slot, signal.SIGSTOP)
        config(tmp_path, greeting="newer")
        # Nobody is there who could try it.
        reloaded(ours, "config_failed")
        (line,) = ours.events("config_failed")
        assert line["problems"] == [f"worker {slot} said nothing for 3 s and was killed: ask again" for slot in (0, 1)]
        ours.end()
    assert not ours.events("internal_error")


def test_who_waits_where_a_worker_is_away_and_an_address_goes_is_served(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MOODY)
    tail = '[[plugin]]\nuse = "mine:Moody"\n'
    with socket.create_server(("127.0.0.1", 0)) as taken:
        going = taken.getsockname()
    path = config(tmp_path, bind=f'["127.0.0.1:0", "127.0.0.1:{going[1]}"]', tail=tail)
    patient = "from popproxy.run import lending\nlending._ALONE_SECONDS = 60.0\nsys.exit"
    supervise = SUPERVISE.format(path=str(path), pace="settled=60.0, longest=60.0").replace("sys.exit", patient)
    with script(tmp_path, supervise) as process, ExitStack() as clients:
        ours = Workers(process)
        (tmp_path / "broken").write_text(str(ours.pids()[1]))
        ours.kill(0)
        process.until(lambda: process.lines("worker_died"))
        waiting = [clients.enter_context(WireClient(going, timeout=PATIENCE, greet=False)) for _ in range(16)]
        config(tmp_path, tail=tail, greeting="new")
        reloaded(ours)
        for client in waiting:
            assert client.read_line() == b"+OK ready\r\n"
        # A worker that tried to start meanwhile may have it for another moment.
        assert free(going)
        ours.end()
    assert not process.lines("internal_error")


def test_what_systemd_opened_can_leave_the_config_and_come_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        where = Bind("inet", *theirs.getsockname())
        addresses = Addresses(2, {where: theirs.dup()})
        addresses.take([where])
        addresses.keep([])
        addresses.take([where])
        assert [sock.getsockname() for sock in addresses.of(1, [where])] == [theirs.getsockname()]
        sockets = Sockets({where: theirs.dup()})
        sockets.keep([])
        with sockets.giver()(where) as given:
            assert given.getsockname() == theirs.getsockname()
        for owner in (addresses, sockets):
            owner.close()

"""At a terminal: Ctrl-C is the end at once, and a terminal that is closed takes the demo with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.net.test_pump import large
from tests.net.upstream import Upstream
from tests.run.process import PATIENCE, Process, lines, script
from tests.run.workers import LONG, config
from tests.wireclient import WireClient

TERMINAL = """
import os, pty, signal, sys, termios

child, terminal = pty.fork()
if not child:
    os.execv(sys.executable, [sys.executable, "-m", "popproxy", *{arguments!r}])
mode = termios.tcgetattr(terminal)
mode[3] &= ~termios.ECHO
termios.tcsetattr(terminal, termios.TCSANOW, mode)
signal.signal(signal.SIGUSR1, lambda *_: os.write(terminal, bytes([3])))
signal.signal(signal.SIGUSR2, lambda *_: os.close(terminal))
try:
    while shown := os.read(terminal, 4096):
        os.write(1, shown)
except OSError:
    # Closed, at this end or at the other.
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
CTRL_C, CLOSE = signal.SIGUSR1, signal.SIGUSR2


@contextmanager
def terminal(directory: Path, *arguments: str) -> Iterator[Process]:
    """popproxy in the foreground of a terminal, where CTRL_C is typed and which CLOSE closes."""
    with script(directory, TERMINAL.format(arguments=arguments)) as process:
        try:
            yield process
        finally:
            for line in lines(process.out, "starting"):
                if process.popen.poll() is None:
                    with suppress(ProcessLookupError):
                        os.kill(line["pid"], signal.SIGKILL)


@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c_waits_for_no_transfer_and_commits_nothing(number: int, tmp_path: Path) -> None:
    timeouts = "[timeouts]\ndrain = 600\n"
    # Which fails when it is told QUIT.
    with Upstream(large(400)) as upstream:
        path = config(tmp_path, server=upstream.url, workers=number, tail=timeouts)
        with terminal(tmp_path, "serve", "--config", str(path)) as process:
            process.until(lambda: lines(process.out, "started"), LONG)
            (line, *_) = process.until(lambda: lines(process.out, "listening"))
            host, _, port = line["address"].rpartition(":")
            with WireClient((host, int(port)), timeout=PATIENCE) as client:
                client.user_pass(b"alice", b"secret")
                client.send(b"RETR 1\r\n")
                assert client.socket.recv(1)
                process.signal(CTRL_C)
                assert process.wait() == 0
            (stopping,) = lines(process.out, "stopping")
            assert (stopping["signal"], stopping["grace"]) == ("SIGINT", 0)
            (session,) = lines(process.out, "session")
            assert session["reason"] == "shutdown"
            assert lines(process.out)[-1]["event"] == "stopped" and not lines(process.out, "worker_died")


@pytest.mark.parametrize("end", [CTRL_C, CLOSE])
def test_the_demo_ends_with_its_terminal(end: signal.Signals, tmp_path: Path) -> None:
    with terminal(tmp_path, "demo", "--port-base", "0") as process:
        process.until(lambda: "Ctrl-C ends it" in process.out.read_text(), LONG)
        process.signal(end)
        assert process.wait() == 0
    assert not list(tmp_path.glob("popproxy-demo-*")), "what it made is gone"

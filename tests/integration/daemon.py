"""A foreign program in the foreground, in a directory of its own, ended by its own process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START = 30.0
STOP = 15.0

SECRETS: set[bytes] = set()
"""Every password of this run, right and wrong ones: none may be found in what the proxy tells."""

RUNNING: list[Daemon] = []
"""What runs now; a failing test shows their logs."""


@dataclass(frozen=True)
class Account:
    """One maildrop of a test server."""

    user: str
    password: bytes = field(repr=False)

    def __post_init__(self) -> None:
        SECRETS.add(self.password)

    @property
    def name(self) -> bytes:
        """The user as it goes on the wire."""
        return self.user.encode()


class Daemon:
    """A running program with its log. `stop()` is SIGTERM to this very process, and SIGKILL after STOP seconds.

    Both its outputs go to `log`. It leads a process group of its own, so that what it forked ends with it.
    """

    def __init__(
        self, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        RUNNING.append(self)

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Return when `ready()` is true; AssertionError with the log when the program ends or START seconds pass."""
        end = time.monotonic() + START
        while not ready():
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code} before {what}\n{self.tail()}"
            assert time.monotonic() < end, f"{self.name}: no {what} within {START:.0f} s\n{self.tail()}"
            time.sleep(0.05)

    def tail(self, octets: int = 3000) -> str:
        """The end of the log."""
        return self.log.read_bytes()[-octets:].decode(errors="replace") if self.log.exists() else "(no log)"

    def stop(self) -> int:
        """End it; its exit code (negative: the signal)."""
        if self in RUNNING:
            RUNNING.remove(self)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait(STOP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return code


def listening(host: str, port: int) -> bool:
    """Whether somebody accepts a connection there."""
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def private_directory(name: str) -> Iterator[Path]:
    """A new short-named directory which other users may enter (Unix sockets and unprivileged daemons need both)."""
    directory = Path(tempfile.mkdtemp(prefix=f"pop-{name}-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(
    command: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, environment: Mapping[str, str] | None = None
) -> bytes:
    """Run a tool to its end; its standard output. AssertionError with everything it said if it fails.

    `environment` is added to the present one. `timeout` in seconds, raised as subprocess.TimeoutExpired.
    """
    added = os.environ | dict(environment or {})
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False, env=added)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
    return done.stdout

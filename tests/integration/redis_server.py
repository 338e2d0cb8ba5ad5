"""Redis servers of a test: one by itself, behind Sentinels, in a cluster; each in a directory of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.conftest import unavailable
from tests.integration.daemon import Daemon, private_directory, run
from tests.integration.packages import lacking, program
from tests.integration.proxy import Certificate
from tests.ports import free_ports

PASSWORD = "redis-secret-7Kq"
"""Of servers that ask for one."""


@dataclass
class Redis:
    """A redis-server that can be stopped in every way, and started again with what it has saved."""

    directory: Path
    port: int
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    program: str = "redis-server"
    tls: tuple[str, ...] = ()
    _daemon: Daemon | None = None

    @property
    def socket(self) -> Path:
        """Its Unix socket, without TLS."""
        return self.directory / "s"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.directory / "log").read_text()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [
            program(self.program), str(self.directory / "conf"),
            "--bind", "127.0.0.1", "--dir", str(self.directory), "--unixsocket", str(self.socket),
            *self._port(), *self.tls, *(() if self.program != "redis-server" else ("--save", "", "--appendonly", "no")),
            *self.options,
        ]  # fmt: skip
        (self.directory / "conf").touch()
        self._daemon = Daemon(command, self.directory / "log", environment=os.environ | dict(self.environment))
        self._daemon.wait_until(lambda: self.socket.exists() and self._answers(), "answer")

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """See Daemon."""
        assert self._daemon is not None
        self._daemon.wait_until(ready, what)

    def stop(self) -> None:
        """SIGTERM."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None
        self.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self._daemon is not None
        self._daemon.process.kill()
        self.stop()

    def hang(self) -> None:
        """SIGSTOP: connections are made, and nobody answers."""
        assert self._daemon is not None
        os.kill(self._daemon.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._daemon is not None
        os.kill(self._daemon.process.pid, signal.SIGCONT)

    def ask(self, *command: str) -> str:
        """What redis-cli prints of the reply to ``command``, sent over the Unix socket."""
        return run([program("redis-cli"), "-s", str(self.socket), *command]).decode().strip()

    async def say(self, *command: str) -> str:
        """``ask``, and the loop goes on."""
        return await asyncio.to_thread(self.ask, *command)

    def _port(self) -> tuple[str, ...]:
        return ("--port", "0", "--tls-port", str(self.port)) if self.tls else ("--port", str(self.port))

    def _answers(self) -> bool:
        try:
            return self.ask("PING") in ("PONG", "NOAUTH Authentication required.")
        except AssertionError:
            return False


@contextmanager
def server(*options: str, certificate: Certificate | None = None, ca_file: Path | None = None) -> Iterator[Redis]:
    """One server; with ``certificate`` and ``ca_file`` its port takes TLS and asks for a client's certificate."""
    for package in ("redis-server", "redis-sentinel", "redis-tools"):
        if (reason := lacking(package)) is not None:
            unavailable(f"needs the Debian package {package}: {reason}")
    tls: tuple[str, ...] = ()
    if certificate is not None:
        tls = (
            "--tls-cert-file", str(certificate.cert), "--tls-key-file", str(certificate.key),
            "--tls-ca-cert-file", str(ca_file), "--tls-auth-clients", "yes",
        )  # fmt: skip
    with private_directory("redis") as directory:
        redis = Redis(directory, free_ports(1)[0], options, tls=tls)
        redis.start()
        try:
            yield redis
        finally:
            redis.stop()


@dataclass(frozen=True)
class Watched:
    """A master, its replica, and the Sentinels that replace the one with the other."""

    first: Redis
    second: Redis
    sentinels: tuple[Redis, ...]

    @property
    def hosts(self) -> str:
        """The Sentinels, as a URL names them."""
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)


@contextmanager
def watched() -> Iterator[Watched]:
    """See Watched: three Sentinels, of which two must agree that a master is gone, after a second and a half."""
    with ExitStack() as stack:
        first = stack.enter_context(server("--repl-diskless-sync-delay", "0"))
        second = stack.enter_context(server("--replicaof", "127.0.0.1", str(first.port)))
        sentinels: list[Redis] = []
        for port in free_ports(3):
            directory = stack.enter_context(private_directory("sentinel"))
            (directory / "conf").write_text(
                f"sentinel monitor ours 127.0.0.1 {first.port} 2\nsentinel down-after-milliseconds ours 1500\n"
                "sentinel failover-timeout ours 2000\n"
            )
            sentinel = Redis(directory, port, program="redis-sentinel")
            sentinel.start()
            stack.callback(sentinel.stop)
            sentinels.append(sentinel)
        yield Watched(first, second, tuple(sentinels))


@contextmanager
def cluster(replicas: int = 0) -> Iterator[list[Redis]]:
    """Three masters that share the slots, each with so many replicas."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--cluster-replica-validity-factor", "0")
    with ExitStack() as stack:
        nodes = [stack.enter_context(server(*options, *_bus(port))) for port in free_ports(3 * (1 + replicas))]
        run(
            [program("redis-cli"), "--cluster", "create", *(f"127.0.0.1:{node.port}" for node in nodes),
             "--cluster-replicas", str(replicas), "--cluster-yes"]
        )  # fmt: skip
        for node in nodes:
            node.wait_until(lambda node=node: "cluster_state:ok" in node.ask("CLUSTER", "INFO"), "cluster")
        yield nodes


def _bus(port: int) -> tuple[str, str]:
    # By default 10,000 above the port, which may be more than there are.
    return "--cluster-port", str(port)

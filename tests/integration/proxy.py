"""popproxy itself as a daemon under test: a config in TOML, the real program, its log, its metrics, its end."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.daemon import SECRETS, Daemon, private_directory
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "popproxy")
SETTLE = 15.0
FAULTS = ("internal_error", "library", "log_dropped")
"""Events that no test provokes."""
SESSION = "session"
"""The event of the one line that a session logs when it is over."""


@dataclass(frozen=True)
class Certificate:
    """Paths of a certificate chain and its key, PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Setup:
    """What a proxy is started with.

    `server` is the URL of the upstream, `more` are URLs after it. `upstream` and `listener` are more TOML lines: of
    the upstream's table and of the listener `pop3s`. `arguments` follow `serve --config F`.
    """

    server: str
    ca_file: Path | None
    certificates: tuple[Certificate, ...]
    ipv6: bool = False
    upstream: str = ""
    listener: str = ""
    more: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass
class Proxy:
    """A running proxy. Ports of its listeners on 127.0.0.1 (`pop3s` also on [::1] when asked), and a Unix socket.

    `pop3s` is implicit TLS, `pop3` STLS before any login, `clear` STLS with clear logins allowed, `unix` implicit.
    """

    daemon: Daemon
    pop3s: int
    pop3: int
    clear: int
    admin: int
    unix: Path
    config: Path
    scraped: list[bytes] = field(default_factory=list)
    killed: bool = False

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.killed = True
        self.daemon.process.kill()
        self.daemon.process.wait()

    def get(self, path: str) -> tuple[int, bytes]:
        """GET from the admin listener: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        self.scraped.append(body)
        return response.status, body

    def metric(self, start: str) -> float:
        """The sum of all samples whose lines begin so."""
        lines = self.get("/metrics")[1].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(start))

    def events(self, name: str) -> list[dict[str, object]]:
        """The log lines of one event so far."""
        return [line for line in self.lines() if line["event"] == name]

    def lines(self) -> list[dict[str, object]]:
        """The log, one JSON object per line; AssertionError for a line that is none."""
        found = []
        for line in self.daemon.log.read_text(errors="strict").splitlines():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise AssertionError(f"no JSON in the log: {line!r}") from error
            assert isinstance(value, dict), line
            found.append(value)
        return found

    def sessions(self) -> list[dict[str, object]]:
        """The session lines so far."""
        return [line for line in self.lines() if line.get("event") == SESSION]

    def wait_for_sessions(self, at_least: int) -> list[dict[str, object]]:
        """The session lines, once there are `at_least` so many."""
        eventually(lambda: len(self.sessions()) >= at_least, f"{at_least} session lines")
        return self.sessions()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition()` holds; AssertionError after SETTLE seconds."""
    end = time.monotonic() + SETTLE
    while not condition():
        assert time.monotonic() < end, f"no {what} within {SETTLE:.0f} s"
        time.sleep(0.05)


def _toml(setup: Setup, ports: Sequence[int], base: Path) -> str:
    pop3s, pop3, clear, admin = ports
    addresses = [f"127.0.0.1:{pop3s}", *([f"[::1]:{pop3s}"] if setup.ipv6 else [])]
    certificates = ", ".join(
        f"{{ cert = {_quoted(one.cert)}, key = {_quoted(one.key)} }}" for one in setup.certificates
    )
    lines = [
        *_listener("pop3s", addresses, "implicit"),
        setup.listener,
        *_listener("pop3", [f"127.0.0.1:{pop3}"], "starttls"),
        *_listener("clear", [f"127.0.0.1:{clear}"], "starttls"),
        'auth_before_tls = "allow"',
        *_listener("unix", [f"unix:{base}/pop3s.sock"], "implicit"),
        "[tls]",
        f"certificates = [{certificates}]",
        f'self_signed_directory = {_quoted(base / "self-signed")}',
        "[upstream.main]",
        f"servers = {json.dumps([setup.server, *setup.more])}",
        *([f"ca_file = {_quoted(setup.ca_file)}"] if setup.ca_file and "+clear" not in setup.server else []),
        setup.upstream,
        "[admin]",
        f'bind = "127.0.0.1:{admin}"',
        "[log]",
        'format = "json"',
        'level = "debug"',
    ]
    return "\n".join(lines) + "\n"


def _listener(name: str, bind: Sequence[str], tls: str) -> list[str]:
    return ["[[listener]]", f"name = {_quoted(name)}", f"bind = {json.dumps(list(bind))}", f"tls = {_quoted(tls)}"]


def _quoted(value: str | Path) -> str:
    return json.dumps(str(value))


def leaks(text: bytes) -> list[bytes]:
    """The passwords of this run that `text` holds: as they are, escaped, or in base64 at any alignment."""
    return sorted(secret for secret in SECRETS if any(form in text for form in _forms(secret)))


def _forms(secret: bytes) -> Iterator[bytes]:
    latin = secret.decode("latin-1")
    yield secret
    yield latin.encode()
    yield repr(secret)[2:-1].encode()
    yield json.dumps(latin)[1:-1].encode()
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + secret)
        yield coded[(0, 2, 3)[before] : len(coded) // 4 * 4 - 4]


@contextmanager
def start(setup: Setup) -> Iterator[Proxy]:
    """The proxy, ready; ended by SIGTERM when the block is left.

    It must exit with 0 unless it was killed, have leaked no password, have logged nothing but JSON and no fault of its
    own.
    """
    with private_directory("proxy") as base:
        config = base / "popproxy.toml"
        ports = free_ports(4, "127.0.0.1", *(["::1"] if setup.ipv6 else []))
        config.write_text(_toml(setup, ports, base))
        command = [*PROGRAM, "serve", "--config", str(config), *setup.arguments]
        daemon = Daemon(command, base / "log", environment=environment(base))
        proxy = Proxy(daemon, ports[0], ports[1], ports[2], ports[3], base / "pop3s.sock", config)
        try:
            daemon.wait_until(lambda: _ready(proxy), "readiness")
            yield proxy
        finally:
            code = daemon.stop()
        assert code == (-signal.SIGKILL if proxy.killed else 0), f"the proxy exits with {code}\n{daemon.tail()}"
        told = daemon.log.read_bytes() + b"".join(proxy.scraped)
        assert not leaks(told), f"passwords in the log or the metrics: {leaks(told)}\n{daemon.tail()}"
        faults = [line for line in proxy.lines() if line["event"] in FAULTS]
        assert not faults, f"faults of the proxy itself: {faults[:5]}"


def environment(home: Path) -> dict[str, str]:
    """The environment of a proxy: this source tree, `home` for what it keeps."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "HOME": str(home)}


def _ready(proxy: Proxy) -> bool:
    try:
        return proxy.get("/readyz")[0] == 200
    except OSError:
        return False

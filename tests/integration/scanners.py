"""rspamd and SpamAssassin's spamd with their own configuration, directories and ports; no network but loopback.

Beside the rules they come with both have two of these tests: a Subject with "shaped spam" scores 8, "very bad" 20.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.daemon import Daemon, listening, private_directory, run
from tests.integration.packages import program
from tests.ports import free_ports

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""What every scanner calls spam."""

RSPAMD = """
options {{
  pidfile = "{base}/rspamd.pid";
  tempdir = "{base}";
  hs_cache_dir = "{base}";
  url_tld = "{base}/tld";
  control_socket = "{base}/control.sock mode=0600";
  filters = "regexp";
  enable_test_patterns = true;
  local_addrs = "";
  dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 0; sockets = 1; }}
}}
logging {{ type = "console"; level = "info"; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
actions {{ reject = 15; add_header = 6; greylist = 4; }}
regexp {{
  SHAPED_SPAM {{ re = "Subject=/shaped spam/iH"; score = 8.0; }}
  SHAPED_BAD {{ re = "Subject=/very bad/iH"; score = 20.0; }}
}}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 2; }}
worker "controller" {{ count = -1; enabled = false; }}
"""

PLUGINS = """
loadplugin Mail::SpamAssassin::Plugin::Check
loadplugin Mail::SpamAssassin::Plugin::BodyEval
loadplugin Mail::SpamAssassin::Plugin::HeaderEval
loadplugin Mail::SpamAssassin::Plugin::MIMEEval
loadplugin Mail::SpamAssassin::Plugin::HTMLEval
"""

RULES = """
use_bayes 0
header SHAPED_SPAM Subject =~ /shaped spam/i
score SHAPED_SPAM 8
header SHAPED_BAD Subject =~ /very bad/i
score SHAPED_BAD 20
"""


class Scanner:
    """A scanner that can be killed, stalled and started again at the same port.

    `source` and `address` are what the plugin's table calls it; `judge` asks it by its own client: the score.
    """

    def __init__(
        self, source: str, address: str, command: list[str], log: Path, port: int, judge: Callable[[bytes], float]
    ) -> None:
        self.source, self.address, self.judge = source, address, judge
        self._command, self._log, self._port = command, log, port
        self._daemon: Daemon | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._daemon = Daemon(self._command, self._log)
        self._daemon.wait_until(self._answers, "an answer")

    def _answers(self) -> bool:
        if not listening("127.0.0.1", self._port):
            return False
        if self.source == "spamd":
            with socket.create_connection(("127.0.0.1", self._port), 5) as connection:
                connection.sendall(b"PING SPAMC/1.5\r\n\r\n")
                return b"PONG" in connection.recv(100)
        with urllib.request.urlopen(f"{self.address}/ping", timeout=5) as reply:
            return bool(reply.status == 200)

    @property
    def _running(self) -> Daemon:
        assert self._daemon is not None, f"{self.source} does not run"
        return self._daemon

    def kill(self) -> None:
        """SIGKILL to it and to what it forked, by its own process group."""
        os.killpg(self._running.process.pid, signal.SIGKILL)
        self.stop()

    def stall(self) -> None:
        """It keeps its connections, accepts new ones, and does nothing."""
        os.killpg(self._running.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """The end of stall()."""
        os.killpg(self._running.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None


@contextmanager
def rspamd() -> Iterator[Scanner]:
    """rspamd, running."""
    with private_directory("rspamd") as base:
        (port,) = free_ports(1)
        (base / "tld").write_text("com\norg\nnet\n")
        config = base / "rspamd.conf"
        config.write_text(RSPAMD.format(base=base, port=port))
        client = [program("rspamc"), "--connect", f"127.0.0.1:{port}", "--json"]

        def judge(message: bytes) -> float:
            return float(json.loads(run(client, stdin=message))["score"])

        command = [program("rspamd"), "--no-fork", "--insecure", "--config", str(config)]
        yield from _running(Scanner("rspamd", f"http://127.0.0.1:{port}", command, base / "log", port, judge))


@contextmanager
def spamd() -> Iterator[Scanner]:
    """spamd, running."""
    with private_directory("spamd") as base:
        (port,) = free_ports(1)
        (base / "init.pre").write_text(PLUGINS)
        (base / "local.cf").write_text(RULES)
        home = base / "home"
        home.mkdir()
        user = ["--username=nobody"] if os.geteuid() == 0 else []
        if user:
            nobody = pwd.getpwnam("nobody")
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
        command = [program("spamd"), "--local", "--nouser-config", f"--siteconfigpath={base}"]
        command += [f"--listen=127.0.0.1:{port}", "--max-children=3", "--min-children=2"]
        command += [f"--helper-home-dir={home}", "--syslog=stderr", *user]
        client = [program("spamc"), "-d", "127.0.0.1", "-p", str(port), "--headers", "-x", "-s", "10000000"]

        def judge(message: bytes) -> float:
            answer = run(client, stdin=message)
            return float(answer.partition(b"score=")[2].split()[0])

        yield from _running(Scanner("spamd", f"127.0.0.1:{port}", command, base / "log", port, judge))


def _running(scanner: Scanner) -> Iterator[Scanner]:
    try:
        scanner.start()
        yield scanner
    finally:
        scanner.stop()

"""Promise 6: no output of popproxy has a secret in it, wherever it was said, typed, misspelt or configured.

The real program in every form of its log, at its most talkative level; every secret is another one, and every output
is searched for all of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from popproxy.run.client import UnixConnection
from tests.net.tlspeers import CERTIFICATE
from tests.run.leaking import PASSWORD, USER, Told, before_stls, coded, echo, type_everywhere
from tests.run.process import PATIENCE, ROOT, Process, get, script
from tests.wireclient import WireClient

CONFIG = """
[[listener]]
name = "clear"
bind = ["127.0.0.1:0"]
tls = "starttls"
auth_before_tls = "allow"
[[listener]]
name = "stls"
bind = ["127.0.0.1:0"]
tls = "starttls"
[tls]
certificates = [{{ cert = "{directory}/proxy.pem", key = "{directory}/proxy.key", password = "{key}" }}]
[upstream.main]
servers = ["{server}"]
[admin]
bind = ["127.0.0.1:0", "unix:{directory}/admin.sock"]
[store]
use = "redis"
url = "redis://127.0.0.1:9"
username = "popproxy"
password = "{redis}"
[log]
format = "{form}"
level = "debug"
users = "hashed"
salt = "{salt}"
[limits]
bad_commands = 100
[protocol]
decoy_secret = "{decoy}"
[[plugin]]
use = "leaky:Leaky"
secret = "{option}"
[[plugin]]
use = "leaky:Later"
name = "later"
secret = "{later}"
[[plugin]]
use = "auth_rewrite"
name = "master"
when = {{ user = ["nobody"] }}
password = "{master}"
"""

PLUGIN = """
from typing import Annotated
from pydantic import SecretStr
from popproxy.api import Plugin, PluginConfig


class Options(PluginConfig):
    secret: SecretStr


class Leaky(Plugin[Options]):
    '''Has all that it sees in what it raises and logs.'''

    config_model = Options

    async def start(self, services):
        self.log = services.log

    def on_login(self, session, credentials):
        self.log.info("seen", credentials=credentials, parts=[credentials], option=self.config.secret)
        secret = getattr(credentials, "password", None) or getattr(credentials, "token", b"")
        if session.attempt % 2:
            raise ValueError(f"{secret.decode('latin-1')} and {self.config.secret.get_secret_value()}")
        raise RuntimeError(secret, credentials)

    def on_command(self, session, command):
        raise LookupError(repr(command), command.argument)


class Later(Leaky):
    async def on_login(self, session, credentials):
        return Leaky.on_login(self, session, credentials)
"""

SERVE = """
import sys
from pathlib import Path
from popproxy.run import cli, logs
# The journal's path is the system's: here it is the test's.
logs.open_log.__defaults__ = (*logs.open_log.__defaults__[:-1], Path(sys.argv[1]))
sys.argv[1:] = []
sys.exit(cli.main(["serve", "--config", "popproxy.toml"]))
"""


class Journal:
    """Takes whatever a journal would take."""

    def __init__(self, path: Path) -> None:
        self.entries: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while entry := self._socket.recv(1 << 18):
            self.entries.append(entry)

    def find(self, event: str) -> list[dict[str, str]]:
        """The entries of one event; values of one line only."""
        texts = [entry.decode().splitlines() for entry in self.entries]
        pairs = (dict(line.split("=", 1) for line in lines if "=" in line) for lines in texts)
        return [entry for entry in pairs if entry["POPPROXY_EVENT"] == event]


def write_config(told: Told, directory: Path, server: str, form: str) -> None:
    """A config with a secret in every place where one can be."""
    places = {
        "redis": "the password of redis", "salt": "the salt", "decoy": "decoy_secret", "option": "a plugin's option",
        "later": "another plugin's option", "master": "the password of auth_rewrite", "key": "the password of a key",
    }  # fmt: skip
    given = {name: told.secret(where) for name, where in places.items()}
    text = CONFIG.format(server=server, directory=directory, form=form, **given)
    (directory / "popproxy.toml").write_text(text)
    (directory / "leaky.py").write_text(PLUGIN)
    (directory / "proxy.pem").write_bytes(b"".join(pem.bytes() for pem in CERTIFICATE.cert_chain_pems))
    key = serialization.load_pem_private_key(CERTIFICATE.private_key_pem.bytes(), None)
    (directory / "proxy.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(given["key"].encode()),
        )
    )


def ran(directory: Path, *arguments: str) -> bytes:
    """All that a command prints."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}:{directory}"}
    done = subprocess.run(
        [sys.executable, "-m", "popproxy", *arguments], cwd=directory, env=environment, capture_output=True, timeout=60
    )
    return done.stdout + done.stderr


PATHS = (
    "/metrics", "/healthz", "/readyz", "/v1/sessions", "/v1/sessions/none", "/v1/upstreams", "/v1/config", "/v1/top",
    "/v1/bans", "/v1/status", "/v1/recent", "/v1/openapi.json", "/", "/status",
)  # fmt: skip


def asked(path: Path) -> Iterator[tuple[str, bytes]]:
    """What the admin listener answers on its Unix socket; a path that is not there yet answers, too."""
    for asked in PATHS:
        connection = UnixConnection(path)
        try:
            connection.request("GET", asked, headers={"Accept": "application/openmetrics-text"})
            response = connection.getresponse()
            yield f"GET {asked}", str(response.headers).encode() + response.read()
        finally:
            connection.close()


class Tapping:
    """Looks on at all sessions, over HTTP."""

    def __init__(self, path: Path) -> None:
        self.text = bytearray()
        self._connection = UnixConnection(path)
        self._connection.request("GET", "/v1/tap?ip=127.0.0.1")
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while line := self._response.readline():
            self.text += line

    def all(self) -> bytes:
        """What was told until the process ended."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._connection.close()
        return bytes(self.text)


def where(process: Process, journal: Journal, form: str) -> list[tuple[str, int]]:
    """The listeners, and the admin listener's port last."""

    def found() -> list[str]:
        if form == "json":
            return [line["address"] for name in ("listening", "admin_listening") for line in process.lines(name)]
        if form == "journald":
            entries = [entry for name in ("listening", "admin_listening") for entry in journal.find(name)]
            return [entry["POPPROXY_ADDRESS"] for entry in entries]
        text = process.err.read_text()
        words = [line.partition(" address=")[2].split()[0] for line in text.splitlines() if " listening " in line]
        return words + [
            line.partition(" address=")[2].split()[0] for line in text.splitlines() if " admin_listening " in line
        ]

    end = time.monotonic() + 4 * PATIENCE
    while len(found()) != 4:
        assert time.monotonic() < end and process.popen.poll() is None, process.err.read_text()
        time.sleep(0.05)
    pairs = [address.rpartition(":") for address in found() if not address.startswith("unix:")]
    return [(host, int(port)) for host, _, port in pairs]


@pytest.mark.parametrize("form", ["json", "console", "journald"])
def test_no_output_has_a_secret_in_it(form: str, tmp_path: Path) -> None:
    told = Told()
    journal = Journal(tmp_path / "journal")
    with echo() as server:
        write_config(told, tmp_path, server.url, form)
        code = SERVE.replace("sys.argv[1]", repr(str(tmp_path / "journal")))
        with script(tmp_path, f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}") as process:
            clear, stls, admin = where(process, journal, form)
            tapping = Tapping(tmp_path / "admin.sock")
            type_everywhere(told, clear)
            before_stls(told, stls)
            outputs = {f"{name} during sessions": text for name, text in during(told, clear, tmp_path)}
            outputs["/metrics"] = get(f"127.0.0.1:{admin[1]}", "/metrics")[1]
            broken(told, tmp_path, process)
            process.signal(signal.SIGUSR1)
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            outputs["tap"] = tapping.all()
        outputs["standard output"] = process.out.read_bytes()
        outputs["standard error"] = process.err.read_bytes()
        outputs["the journal"] = b"".join(journal.entries)
    log = outputs["the journal"] if form == "journald" else outputs["standard error"]
    assert told.found(outputs) == []
    # It is no empty search: there are many lines, of all kinds, and a transcript.
    counts = {event: log.count(event) for event in (b"login_failed", b"plugin_error", b"session")}
    assert all(count >= 8 for count in counts.values()), counts
    assert b"master.seen" not in log and b"Leaky.seen" in log and b"Password hidden" in log
    assert outputs["tap"].count(b"<password>") > 10 and outputs["tap"].count(b"<sasl ") > 10
    assert len(told.where) > 60


def during(told: Told, address: tuple[str, int], directory: Path) -> Sequence[tuple[str, bytes]]:
    """What is answered while sessions are open, one of them with its password just typed."""
    with WireClient(address) as inside, WireClient(address) as before:
        inside.user_pass(USER, PASSWORD)
        before.single(b"USER alice")
        before.single(b"AUTH PLAIN " + coded(b"\0alice\0" + told.octets("a session that is open")))
        return list(asked(directory / "admin.sock"))


def broken(told: Told, directory: Path, process: Process) -> None:
    """A config with mistakes around secrets is read again: what is wrong is told without them."""
    path = directory / "popproxy.toml"
    good = path.read_text()
    path.write_text(good.replace('[log]\n', f'[log]\nsald = "{told.secret("an unknown key")}"\n'))
    process.signal(signal.SIGHUP)
    path.write_text(good)


MISTAKES = [
    '[log]\nusers = "hashed"\nsalt = ["{0}"]',
    '[log]\nusers = "hashed"\nsalt = {{ file = "/nowhere", env = "{0}" }}',
    '[protocol]\ndecoy_secret = {{ text = "{0}" }}',
    '[store]\nuse = "redis"\nurl = "redis://127.0.0.1:6379"\npasword = "{0}"',
    '[store]\nuse = "redis"\nurl = "redis://user:{0}@127.0.0.1:6379"',
    '[[plugin]]\nuse = "leaky:Leaky"\nsecret = ["{0}"]',
    '[[plugin]]\nuse = "leaky:Leaky"\nsekret = "{0}"',
    '[[plugin]]\nuse = "auth_http"\nurl = "http://user:{0}@127.0.0.1/auth"',
    '[[plugin]]\nuse = "auth_http"\nurls = ["http://127.0.0.1/auth"]\nsecret_header = "X-Key"\nsecret = 7{0}',
    '[upstream.other]\nservers = ["pop3s://user:{0}@mail.example.com"]',
    '[log]\nsalt = "{0}',
    '[admin]\ntoken = 12\ntokn = "{0}"',
]


def test_no_mistake_in_a_config_is_told_with_its_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from popproxy.run.cli import main

    told = Told()
    (tmp_path / "leaky.py").write_text(PLUGIN)
    sys.path.insert(0, str(tmp_path))
    outputs: dict[str, bytes] = {}
    start = '[[listener]]\nname = "a"\nbind = ["127.0.0.1:0"]\ntls = "implicit"\n[upstream.main]\nservers = ["pop3s://m"]\n'
    try:
        for number, mistake in enumerate(MISTAKES):
            path = tmp_path / f"{number}.toml"
            path.write_text(start + mistake.format(told.secret(mistake)))
            for command in (["check"], ["check", "--json"], ["explain", "--user", "alice"], ["serve"]):
                assert main([*command, "--config", str(path)]) != 0, mistake
                outputs[f"{' '.join(command)} of {mistake}"] = "".join(capfd.readouterr()).encode()
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("leaky", None)
    assert told.found(outputs) == []
    assert all(outputs.values())


def test_a_good_config_is_shown_without_its_secrets(tmp_path: Path) -> None:
    told = Told()
    write_config(told, tmp_path, "pop3+clear://127.0.0.1:9", "json")
    explain = ["explain", "--user", "alice"]
    commands = (["check"], ["check", "--json"], explain, [*explain, "--json"])
    outputs = {" ".join(command): ran(tmp_path, *command, "--config", "popproxy.toml") for command in commands}
    assert told.found(outputs) == []
    assert json.loads(outputs["check --json"])
    assert b"alice" in outputs["explain --user alice"]


def test_the_search_finds_what_it_looks_for() -> None:
    told = Told()
    secret = told.octets("here")
    for text in (secret, coded(b"a" + secret + b"bc"), secret.hex().encode(), repr(secret).encode()):
        assert told.found({"there": b"before " + text + b" behind"}) == ["'here' stands in there"]
    assert told.found({"there": b"nothing"}) == [] and told.found({"there": PASSWORD}) != []

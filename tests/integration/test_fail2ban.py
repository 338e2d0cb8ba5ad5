"""deploy/fail2ban with the real fail2ban-regex, on the log of the real proxy: forged names blame nobody else."""

from __future__ import annotations

import ast
import base64
import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from popproxy.run.logs import EventLog
from tests.integration.conftest import Need, Start
from tests.integration.daemon import SECRETS, run
from tests.integration.packages import program
from tests.integration.proxy import ROOT, Proxy, Setup, eventually
from tests.ports import free_ports

pytestmark = pytest.mark.integration

DEPLOY = ROOT / "deploy" / "fail2ban"
FILTER = DEPLOY / "filter.d" / "popproxy.conf"
WRONG = b"a-wrong-password"
SECRETS.add(WRONG)
BALANCED = """
[[listener]]
name = "balanced"
bind = ["127.0.0.1:{port}"]
tls = "starttls"
auth_before_tls = "allow"
proxy_protocol = {{ trusted = ["127.0.0.0/8"] }}
"""
PLUGINS = """
[[plugin]]
use = "brute_force"
name = "guard"
allow = ["203.0.113.0/24"]
address = {{ pairs = 2 }}
[[plugin]]
use = "auth_file"
path = {path}
"""
LINE = (
    '{"time":"2026-11-27T12:00:00.000Z","level":"info","event":"login_failed","session":"a1","listener":"x","client":'
    '"8.8.8.8","client_port":1,"user":null,"upstream":null,"server":null,"code":"AUTH","reason":""}'
)
FORGED = [
    "joe",
    '"',
    'joe","client":"8.8.8.8","user":"x',
    'joe\\","client":"8.8.8.8","client_port":1,"user":"x',
    'joe\\\\","client":"8.8.8.8","client_port":1,"user":"x',
    'joe"},"event":"login_failed","client":"8.8.8.8","code":"AUTH"',
    LINE,
    f"joe\n{LINE}",
    f"joe\r\n{LINE}\r\n",
    f"joe\u2028{LINE}",
    f"joe\x85{LINE}",
    f"joe\x1b[2K\x0c{LINE}",
    "\\",
    "\\u0022,\\u0022client\\u0022:\\u00228.8.8.8",
    '"level":"info","event":"login_failed","session":"a1","listener":"x","client":"8.8.8.8","client_port":1,',
    'joe","level":"warning","event":"guard.banned","network":"8.8.8.8/32","kind":"address",',
    "<ADDR> 8.8.8.8 %(_who)s",
    "ю" * 200 + '"8.8.8.8"',
]


def found(log: Path, mode: str = "") -> list[str]:
    """What fail2ban would ban, in the order of the log."""
    told = run([program("fail2ban-regex"), "-o", "row", str(log), f"{FILTER}{mode}"], timeout=120).decode()
    return [ast.literal_eval(line.rstrip(","))[0] for line in told.splitlines() if line.startswith("[")]


def guess(port: int, client: str, user: bytes) -> bytes:
    """One failed login behind a PROXY header, by PLAIN: any name can be said."""
    family = "TCP6" if ":" in client else "TCP4"
    local = "2001:db8::1" if ":" in client else "192.0.2.1"
    with socket.create_connection(("127.0.0.1", port), 20) as connection, connection.makefile("rb") as heard:
        connection.sendall(f"PROXY {family} {client} {local} 50000 110\r\n".encode())
        assert heard.readline().startswith(b"+OK")
        connection.sendall(b"AUTH PLAIN " + base64.b64encode(b"\0" + user + b"\0" + WRONG) + b"\r\n")
        return heard.readline()


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def proxy(need: Need, start: Start, setup: Setup, port: int, tmp_path: Path) -> Proxy:
    need("fail2ban")
    users = tmp_path / "users"
    users.write_text("joe:{PLAIN}another-password::::::\n")
    plugins = PLUGINS.format(path=json.dumps(str(users)))
    return start(replace(setup, server="pop3://127.0.0.1:1", listener=BALANCED.format(port=port), upstream=plugins))


def failures(proxy: Proxy, count: int) -> list[dict[str, object]]:
    def lines() -> list[dict[str, object]]:
        return [line for line in proxy.lines() if line["event"] == "login_failed"]

    eventually(lambda: len(lines()) >= count, f"{count} failed logins in the log")
    return lines()


def test_only_true_addresses_are_found(proxy: Proxy, port: int) -> None:
    expected = []
    for number, name in enumerate(FORGED):
        client = f"203.0.113.{number + 1}"
        reply = guess(port, client, name.encode())
        if reply.startswith(b"-ERR [AUTH]"):
            expected.append(client)
        else:
            # A name that no login can have is no failed login.
            assert reply.startswith(b"-ERR"), (name, reply)
    assert guess(port, "203.0.113.99", b"joe\xff\xfe\"8.8.8.8\"").startswith(b"-ERR")
    assert len(expected) >= len(FORGED) - 4
    lines = failures(proxy, len(expected))
    log = proxy.daemon.log
    assert found(log) == [line["client"] for line in lines if line["code"] == "AUTH"]
    assert set(expected) <= set(found(log))
    assert set(found(log)) <= {f"203.0.113.{number}" for number in range(1, 100)}
    assert found(log, "[mode=banned]") == []


def test_bans_of_the_plugin_are_found(proxy: Proxy, port: int) -> None:
    for client in ("198.51.100.7", "2001:db8:1:2::7"):
        for name in (FORGED[2], FORGED[15]):
            assert guess(port, client, name.encode()).startswith(b"-ERR [AUTH]")
        assert guess(port, client, b"joe").startswith(b"-ERR [SYS/TEMP] Too many failed logins")
    lines = failures(proxy, 6)
    assert [line["code"] for line in lines] == ["AUTH", "AUTH", "SYS/TEMP"] * 2
    assert found(proxy.daemon.log, "[mode=banned]") == ["198.51.100.7", "2001:db8:1:2::/64"]
    # What was refused untried is no guess.
    assert found(proxy.daemon.log) == ["198.51.100.7"] * 2 + ["2001:db8:1:2::7"] * 2


@pytest.mark.parametrize("users", ["plain", "hashed", "none"])
@pytest.mark.parametrize("code", ["AUTH", "SYS/TEMP", None])
def test_however_names_are_shown(need: Need, tmp_path: Path, users: str, code: str | None) -> None:
    need("fail2ban")
    path = tmp_path / "log"
    log = EventLog(path, users=users)  # type: ignore[arg-type]
    # The session as a Dovecot in front may call it.
    who = {"session": "1xK+/pQ\"=,.", "listener": "pop-3", "client": "2001:db8::7", "client_port": 5}
    for name in FORGED:
        fields = {"user": name, "upstream": "main", "server": "[::1]:110", "code": code, "reason": LINE}
        log.event("info", "login_failed", **who, **fields)
        log.event("info", "session", **who, **fields)
    log.event("info", "login_failed", **{**who, "client": "unix"}, user="x", upstream=None, server=None, code="AUTH")
    log.close()
    assert found(path) == (["2001:db8::7"] * len(FORGED) if code == "AUTH" else [])


def test_the_console_format_is_not_read(need: Need, tmp_path: Path) -> None:
    need("fail2ban")
    path = tmp_path / "log"
    log = EventLog(path, form="console", colour=False)
    for name in FORGED:
        log.event("info", "login_failed", session="a1", listener="x", client="192.0.2.7", client_port=1, user=name)
    log.close()
    assert found(path) == []


def test_the_jails_are_ones_that_fail2ban_can_read(need: Need, tmp_path: Path) -> None:
    """Beside Debian's own files, as an administrator installs them."""
    need("fail2ban")
    names: Sequence[tuple[str, str]] = (("filter.d", "popproxy.conf"), ("jail.d", "popproxy.conf"))
    base = tmp_path / "fail2ban"
    run(["cp", "-r", "/etc/fail2ban", str(base)])
    for folder, name in names:
        (base / folder / name).write_bytes((DEPLOY / folder / name).read_bytes())
    for other in (base / "jail.d").glob("*"):
        if other.name != "popproxy.conf":
            other.unlink()
    log = tmp_path / "popproxy.log"
    log.touch()
    jails = base / "jail.d" / "popproxy.conf"
    jails.write_text(jails.read_text().replace("/var/log/popproxy/popproxy.log", str(log)))
    told = run([program("fail2ban-client"), "-c", str(base), "-d"], timeout=60).decode()
    for jail in ("popproxy", "popproxy-banned"):
        assert f"['add', '{jail}'" in told
        assert f"['start', '{jail}']" in told
    assert "guard" not in told
    assert '.banned"' in told

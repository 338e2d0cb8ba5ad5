"""The admin listener as Prometheus and an orchestrator see it, after real traffic."""

from __future__ import annotations

import re
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.conftest import Need, Start
from tests.integration.daemon import SECRETS
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.packages import program
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import LEGS, connect, logged_in, url

pytestmark = pytest.mark.integration

WRONG = b"a-wrong-word-for-metrics"
SECRETS.add(WRONG)


def sample(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of `name` which have these labels."""
    total = 0.0
    for line in text.splitlines():
        found = re.match(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
        if found is None:
            continue
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
        if all(pairs.get(key) == value for key, value in labels.items()):
            total += float(found[2])
    return total


@pytest.fixture
def busy(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> Proxy:
    """A proxy that had three good sessions, a bad login, and deletions."""
    proxy = start(replace(setup, server=url(dovecot, "tls")))
    for leg in LEGS:
        account = dovecot.account(LETTERS[:3])
        with logged_in(proxy, leg, trust, account) as client:
            for command, multi in ((b"STAT", False), (b"LIST", True), (b"UIDL", True), (b"RETR 2", True)):
                assert (client.multi if multi else client.single)(command).startswith(b"+OK")
            assert client.single(b"DELE 1").startswith(b"+OK")
            assert client.single(b"RETR 9").startswith(b"-ERR")
            assert client.single(b"QUIT").startswith(b"+OK")
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(b"somebody", WRONG).startswith(b"-ERR [AUTH]")
    proxy.wait_for_sessions(4)
    return proxy


def test_promtool_accepts_them(busy: Proxy, need: Need) -> None:
    """`curl http://ADMIN/metrics | promtool check metrics`."""
    need("curl", "prometheus")
    command = [program("curl"), "-q", "-sS", "--fail", "--noproxy", "*", f"http://127.0.0.1:{busy.admin}/metrics"]
    text = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    assert checked.returncode == 0, (checked.stdout + checked.stderr).decode()
    assert checked.stderr == b""


def test_they_count_what_happened(busy: Proxy) -> None:
    status, body = busy.get("/metrics")
    assert status == 200
    text = body.decode()
    expected = {
        ("popproxy_connections_total", "pop3s"): 2,
        ("popproxy_connections_total", "pop3"): 1,
        ("popproxy_connections_total", "clear"): 1,
    }
    assert {key: sample(text, key[0], listener=key[1]) for key in expected} == expected
    assert sample(text, "popproxy_auth_attempts_total", result="ok") == 3
    assert sample(text, "popproxy_auth_attempts_total", result="bad_credentials") == 1
    assert sample(text, "popproxy_commands_total", verb="RETR", outcome="ok") == 3
    assert sample(text, "popproxy_commands_total", verb="RETR", outcome="err") == 3
    assert sample(text, "popproxy_commands_total", verb="LIST", outcome="ok") == 3
    assert sample(text, "popproxy_messages_total", verb="RETR", result="ok") == 3
    assert sample(text, "popproxy_messages_total", verb="DELE", result="ok") == 3
    assert sample(text, "popproxy_sessions_total", reason="quit") == 3
    assert sample(text, "popproxy_upstream_connections_total", upstream="main", result="ok") == 4
    assert sample(text, "popproxy_tls_handshakes_total") == 3
    assert sample(text, "popproxy_connections_active") == 0
    assert sample(text, "popproxy_upstream_connections_active") == 0


def test_active_is_what_is_open(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    proxy = start(replace(setup, server=url(dovecot, "tls")))

    def active() -> tuple[float, float]:
        text = proxy.get("/metrics")[1].decode()
        return (
            sample(text, "popproxy_sessions_active", state="transaction"),
            sample(text, "popproxy_upstream_connections_active", upstream="main"),
        )

    assert active() == (0, 0)
    with logged_in(proxy, "tls", trust, dovecot.account()):
        eventually(lambda: active() == (1, 1), "open session in the metrics")
    eventually(lambda: active() == (0, 0), "closed session in the metrics")


def test_health(busy: Proxy, tmp_path: Path) -> None:
    assert busy.get("/healthz")[0] == 200
    assert busy.get("/readyz")[0] == 200
    assert busy.get("/nothing-here")[0] == 404

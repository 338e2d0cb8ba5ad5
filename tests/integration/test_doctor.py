"""``popproxy doctor`` in front of real servers: nothing is wrong with them, and what is made wrong is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration import dovecot as dovecot_server
from tests.integration.conftest import NAMES, Need, issued
from tests.integration.courier import Courier
from tests.integration.cyrus import Cyrus
from tests.integration.daemon import Account
from tests.integration.dovecot import LETTERS, REQUIRED, Dovecot
from tests.ports import free_ports

pytestmark = pytest.mark.integration

Findings = list[dict[str, Any]]


def doctor(*arguments: str, password: bytes = b"") -> tuple[int, Findings]:
    command = [sys.executable, "-m", "popproxy", "doctor", "--json", *arguments]
    done = subprocess.run(command, input=password + b"\n", capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    if password:
        assert password not in done.stdout
    (upstream,) = json.loads(done.stdout)["upstreams"]
    return done.returncode, upstream["findings"]


def wrong(findings: Findings) -> list[str]:
    return [finding["word"] for finding in findings if finding["mark"] in ("warn", "fail")]


def text(findings: Findings, word: str) -> str:
    return next(f"{one['text']} {one.get('advice', '')}" for one in findings if one["word"] == word)


def test_dovecot_is_well(dovecot: Dovecot, reader: Account, ca_file: Path) -> None:
    before = dovecot.kept(reader)
    for url in (f"pop3s://localhost:{dovecot.port_tls}", f"pop3://localhost:{dovecot.port}"):
        trust = ["--upstream", url, "--ca-file", str(ca_file), "--user", reader.user]
        code, found = doctor(*trust, password=reader.password)
        assert (code, wrong(found)) == (0, []), found
        assert text(found, "stat").startswith(f"{len(LETTERS)} messages")
        assert text(found, "uidl").startswith("UIDL has an id of its own")
        code, found = doctor(*trust, password=b"not it")
        assert (code, wrong(found)) == (1, ["login_auth"])
        assert "[AUTH] Authentication failed" in text(found, "login_auth")
    assert dovecot.kept(reader) == before


def test_dovecot_tells_its_clock(need: Need, authority: trustme.CA, ca_file: Path) -> None:
    """And that it expects a PROXY header, on another port."""
    need("dovecot-pop3d")
    if dovecot_server.modern():
        pytest.fail("Dovecot 2.4 spells APOP and PROXY otherwise: write its config here")
    (port,) = free_ports(1, "127.0.0.1")
    more = (
        "auth_mechanisms = plain apop\nhaproxy_trusted_networks = 127.0.0.1\nservice pop3-login {\n"
        f"inet_listener proxied {{\naddress = 127.0.0.1\nport = {port}\nhaproxy = yes\n}}\n}}\n"
    )
    with dovecot_server.start(*issued(authority, *NAMES), more=more) as server:
        code, found = doctor("--upstream", f"pop3s://localhost:{server.port_tls}", "--ca-file", str(ca_file))
        assert (code, wrong(found)) == (0, []), found
        assert "agrees with the local one" in text(found, "clock")
        code, found = doctor("--upstream", f"pop3+clear://localhost:{port}", "--timeout", "1s")
        assert code == 1
        assert 'write send_proxy = "v2"' in text(found, "proxy_expected")


def test_dovecot_wants_tls(dovecot: Dovecot, reader: Account) -> None:
    url = f"pop3+clear://{REQUIRED}:{dovecot.port}"
    code, found = doctor("--upstream", url, "--user", reader.user, password=reader.password)
    assert code == 1
    assert wrong(found) == ["tls_off", "capa_stls_unused", "mechanism_none", "login_auth"]


def test_courier_and_cyrus_are_well(courier: Courier, cyrus: Cyrus, ca_file: Path) -> None:
    for server in (courier, cyrus):
        account = server.account(LETTERS[:2])
        how = ["--upstream", f"pop3://localhost:{server.port}", "--ca-file", str(ca_file), "--user", account.user]
        code, found = doctor(*how, password=account.password)
        assert code == 0, found
        assert text(found, "stat").startswith("2 messages")

"""auth_file and Dovecot: hashes that Dovecot makes are read, entries that popproxy makes are read by Dovecot, and
Dovecot's own users file is popproxy's."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from popproxy_plugins.auth_file import schemes

from popproxy.wire.sasl import Derivation, Identity, ScramClient
from tests.integration.conftest import Need, Start
from tests.integration.daemon import SECRETS, Account, run
from tests.integration.dovecot import LETTERS, OPTIONAL, Dovecot
from tests.integration.packages import program
from tests.integration.proxy import Proxy, Setup
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

PASSWORD = "s\N{LATIN SMALL LETTER E WITH ACUTE}same, open!"
SECRETS.add(PASSWORD.encode())
DOVECOTS = ["ARGON2I", "ARGON2ID", "BLF-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "SSHA", "SSHA256", "SSHA512", "SHA",
            "SHA1", "SHA256", "SHA512", "SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN", "CLEAR", "CLEARTEXT"]  # fmt: skip
ENCODED = [f"{scheme}{encoding}" for scheme in ("PLAIN", "SHA256", "SSHA512") for encoding in (".b64", ".hex")]


def doveadm(*arguments: str) -> str:
    return run([program("doveadm"), "-c", "/dev/null", "pw", *arguments]).decode().strip()


@pytest.mark.parametrize("scheme", DOVECOTS + ENCODED)
def test_a_hash_that_dovecot_makes(scheme: str, need: Need) -> None:
    need("dovecot-pop3d")
    text = doveadm("-s", scheme, "-p", PASSWORD)
    secret = schemes.parse(text, "CRYPT")
    assert secret.proven(PASSWORD.encode())
    assert not secret.proven(PASSWORD.encode() + b"!")


@pytest.mark.parametrize("scheme", schemes.MADE)
def test_an_entry_of_ours_lets_somebody_into_dovecot(scheme: str, dovecot: Dovecot) -> None:
    account = Account(f"passwd-{scheme.lower()}", PASSWORD.encode())
    command = [sys.executable, "-m", "popproxy", "passwd", account.user, "--scheme", scheme]
    made = subprocess.run(command, input=account.password + b"\n", capture_output=True, check=True)
    assert account.password not in made.stdout + made.stderr
    dovecot.maildir(account)
    with (dovecot.base / "users").open("ab") as users:
        users.write(made.stdout.rstrip() + b"::::::\n")

    def lets_in() -> bool:
        with WireClient((OPTIONAL, dovecot.port)) as client:
            return client.user_pass(account.name, account.password).startswith(b"+OK")

    dovecot.daemon.wait_until(lets_in, f"login with {scheme}")
    with WireClient((OPTIONAL, dovecot.port)) as client:
        assert client.user_pass(account.name, b"wrong").startswith(b"-ERR")


def proxy_with(setup: Setup, start: Start, dovecot: Dovecot, path: Path, *more: str) -> Proxy:
    plugin = "\n".join(["", "[[plugin]]", 'use = "auth_file"', f"path = {json.dumps(str(path))}", *more])
    return start(replace(setup, server=f"pop3://localhost:{dovecot.port}", upstream=plugin))


def test_dovecots_own_file_works(setup: Setup, start: Start, dovecot: Dovecot) -> None:
    account = dovecot.account(LETTERS[:2])
    proxy = proxy_with(setup, start, dovecot, dovecot.base / "users", 'scheme = "plain"')
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        assert client.single(b"STAT").startswith(b"+OK 2 ")
    before = dovecot.log().count("auth failed")
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert client.user_pass(account.name, b"wrong") == b"-ERR [AUTH] Authentication failed\r\n"
        assert client.user_pass(b"nobody", b"wrong") == b"-ERR [AUTH] Authentication failed\r\n"
    assert dovecot.log().count("auth failed") == before


def scram(client: WireClient, user: str, password: str) -> bytes:
    """AUTH SCRAM-SHA-256 to its last reply."""
    sasl = ScramClient("SCRAM-SHA-256", Identity(user, secret=password.encode()), b"nonce")
    reply = client.single(b"AUTH SCRAM-SHA-256 " + base64.b64encode(sasl.initial()))
    while reply.startswith(b"+ "):
        answer = sasl.respond(base64.b64decode(reply[2:]))
        if isinstance(answer, Derivation):
            answer = sasl.derived(answer.compute())
        reply = client.single(base64.b64encode(answer))
    return reply


def test_every_scheme_and_field_end_to_end(setup: Setup, start: Start, dovecot: Dovecot, tmp_path: Path) -> None:
    account = dovecot.account(LETTERS[:1])
    path = tmp_path / "users"
    master = f"destuser={account.user} pass={account.password.decode()}"
    lines = [f"u-{s}:{schemes.make(s, PASSWORD.encode(), 4 if s == 'BLF-CRYPT' else None)}::::::{master}"
             for s in schemes.MADE]  # fmt: skip
    lines.append(f"elsewhere:{{PLAIN}}x::::::{master} allow_nets=192.0.2.0/24")
    lines.append(f"off:{{PLAIN}}x::::::{master} nologin")
    lines.append(f"host:{{PLAIN}}x::::::{master} host=localhost port={dovecot.port_tls} ssl=yes")
    path.write_text("\n".join(lines) + "\n")
    proxy = proxy_with(setup, start, dovecot, path)
    for scheme in schemes.MADE:
        with WireClient(("127.0.0.1", proxy.clear)) as client:
            assert client.user_pass(f"U-{scheme}".encode(), b"wrong").startswith(b"-ERR [AUTH]"), scheme
            assert client.user_pass(f"U-{scheme}".encode(), PASSWORD.encode()).startswith(b"+OK"), scheme
            assert client.single(b"STAT").startswith(b"+OK 1 ")
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert {b"SCRAM-SHA-256", b"SCRAM-SHA-1"} <= set(client.multi(b"CAPA").split())
        assert scram(client, "u-SCRAM-SHA-256", "wrong one").startswith(b"-ERR [AUTH]")
        assert scram(client, "nobody", PASSWORD).startswith(b"-ERR [AUTH]")
        assert scram(client, "u-SCRAM-SHA-256", PASSWORD).startswith(b"+OK")
        assert client.single(b"STAT").startswith(b"+OK 1 ")
    for user, reply in ((b"elsewhere", b"-ERR [SYS/PERM]"), (b"off", b"-ERR [SYS/PERM]"), (b"host", b"+OK")):
        with WireClient(("127.0.0.1", proxy.clear)) as client:
            assert client.user_pass(user, b"x").startswith(reply), user
    lines = [line for line in lines if line.startswith("host:")]
    path.with_suffix(".new").write_text("\n".join([*lines, "broken"]) + "\n")
    path.with_suffix(".new").rename(path)
    broken = "auth_file.file_broken"
    proxy.daemon.wait_until(lambda: any(line["event"] == broken for line in proxy.lines()), "word of it")
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert client.user_pass(b"u-SSHA256", PASSWORD.encode()).startswith(b"+OK")

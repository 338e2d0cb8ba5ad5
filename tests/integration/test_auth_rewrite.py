"""auth_rewrite before a real Dovecot: other names, its master user in each form, an alias file that changes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.daemon import SECRETS, Account, run
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.packages import program
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import connect, url
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

OWN = b"known-to-the-proxy-only"
WRONG = b"not-the-password-at-all"
SECRETS.update({OWN, WRONG})

CHECKER = """
from popproxy.api import Code, Password, Plugin, PluginConfig, Refuse

class Checker(Plugin[PluginConfig]):
    def on_login(self, session, credentials):
        match credentials:
            case Password(password=password) if password == b"known-to-the-proxy-only":
                return None
        return Refuse("Authentication failed", Code.AUTH)
"""
CHECKED = '[[plugin]]\nuse = "checker:Checker"\nfail = "closed"\n'

Rewritten = Callable[[str], Proxy]


@pytest.fixture
def rewritten(
    dovecot: Dovecot, setup: Setup, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Rewritten:
    """A proxy before Dovecot with these plugin tables."""
    (tmp_path / "checker.py").write_text(CHECKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda tables: start(replace(setup, server=url(dovecot, "tls"), upstream=tables))


@pytest.fixture(scope="module")
def account(dovecot: Dovecot) -> Account:
    return dovecot.account(LETTERS[:3])


def rewrite(rules: str = "[]", **options: object) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(['[[plugin]]', 'use = "auth_rewrite"', f"rules = {rules}", *lines, ""])


def reads(client: WireClient, letters: int) -> None:
    assert client.single(b"STAT").startswith(b"+OK %d " % letters)
    assert client.multi(b"RETR 1").startswith(b"+OK")
    assert client.single(b"QUIT").startswith(b"+OK")


def mastered(tmp_path: Path, dovecot: Dovecot, **options: object) -> str:
    """Behind the checker: Dovecot's master user, its password in a file."""
    secret = tmp_path / "master.pass"
    secret.write_bytes(dovecot.master.password + b"\n")
    table = rewrite('[{ lower = "all" }, { strip_domain = "*" }]', master=dovecot.master.user, **options)
    return CHECKED + table + f'password = {{ file = "{secret}" }}\n'


def test_names_are_rewritten_and_secrets_are_not(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext
) -> None:
    rules = r"""[
      { trim = true },
      { match = '(?P<box>[^@]+)@OLD\.example', template = "{box}" },
      { lower = "all" },
    ]"""
    proxy = rewritten(rewrite(rules))
    given = account.user.upper() + "@OLD.example"
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(given.encode(), account.password).startswith(b"+OK")
        reads(client, 3)
    with connect(proxy, "tls", trust) as client:
        assert client.auth_plain(given.encode(), account.password).startswith(b"+OK")
        reads(client, 3)
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(b"J\xf6rg", WRONG) == b"-ERR [AUTH] The user name is not UTF-8\r\n"
        assert client.user_pass(given.encode(), WRONG).startswith(b"-ERR [AUTH]")
    (first, *_) = proxy.wait_for_sessions(3)
    assert (first["user"], first["login"]) == (given, account.user)


@pytest.mark.parametrize("form", ["{user}*{master}", "authzid"])
def test_the_proxy_goes_as_the_master_with_the_masters_password(
    dovecot: Dovecot,
    account: Account,
    rewritten: Rewritten,
    trust: ssl.SSLContext,
    tmp_path: Path,
    form: str,
) -> None:
    before = dovecot.logins(account)
    proxy = rewritten(mastered(tmp_path, dovecot, master_form=form, password_for=["password"]))
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(account.name.upper() + b"@example.com", OWN).startswith(b"+OK")
        reads(client, 3)
    assert dovecot.logins(account) == before + 1
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(account.name, WRONG).startswith(b"-ERR [AUTH]")
        assert client.user_pass(account.name, account.password).startswith(b"-ERR [AUTH]"), "the proxy judges here"
    assert dovecot.logins(account) == before + 1


def test_a_password_that_nobody_checked_does_not_open_other_mailboxes(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    before = dovecot.logins(account)
    proxy = rewritten(mastered(tmp_path, dovecot))
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(account.name, OWN).startswith(b"-ERR [AUTH]")
    assert dovecot.logins(account) == before


def test_a_client_that_chooses_a_master_is_refused(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    proxy = rewritten(mastered(tmp_path, dovecot, password_for=["password"]))
    chosen = account.name + b"*" + dovecot.master.name
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(chosen, OWN) == b"-ERR [AUTH] Authentication failed\r\n"


def test_a_master_of_the_client_logs_in_with_its_own_password(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext
) -> None:
    before = dovecot.logins(account)
    proxy = rewritten(rewrite('[{ strip_domain = "*" }]', client_master="*"))
    chosen = account.name + b"@example.com*" + dovecot.master.name
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(chosen, account.password).startswith(b"-ERR [AUTH]")
        assert client.user_pass(chosen, dovecot.master.password).startswith(b"+OK")
        reads(client, 3)
    assert dovecot.logins(account) == before + 1


def test_an_authorization_identity_goes_through_the_rules(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext
) -> None:
    proxy = rewritten(rewrite('[{ lower = "all" }]'))
    identity = b"\0".join((account.name.upper(), dovecot.master.name.upper(), dovecot.master.password))
    with connect(proxy, "tls", trust) as client:
        assert client.single(b"AUTH PLAIN " + base64.b64encode(identity)).startswith(b"+OK")
        reads(client, 3)


def scram(client: WireClient, user: bytes, password: bytes) -> bytes:
    """AUTH SCRAM-SHA-256 as RFC 5802 has it; the last line."""
    first = b"n=" + user + b",r=" + base64.b64encode(os.urandom(18))
    line = client.single(b"AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,," + first))
    assert line.startswith(b"+ "), line
    server = base64.b64decode(line[2:])
    said = dict(part.split(b"=", 1) for part in server.split(b","))
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(said[b"s"]), int(said[b"i"]))
    key, final = hmac.digest(salted, b"Client Key", "sha256"), b"c=biws,r=" + said[b"r"]
    signature = hmac.digest(hashlib.sha256(key).digest(), b",".join((first, server, final)), "sha256")
    proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
    line = client.single(base64.b64encode(final + b",p=" + base64.b64encode(proof)))
    return client.single(b"") if line.startswith(b"+ ") else line


def test_a_scram_client_of_a_users_file_goes_as_the_master(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    """The name is rewritten before the file is asked, the login behind it; Dovecot itself made the entry."""
    doveadm = [program("doveadm"), "-c", str(dovecot.base / "dovecot.conf")]
    entry = run([*doveadm, "pw", "-s", "SCRAM-SHA-256", "-p", OWN.decode()])
    users = tmp_path / "users"
    users.write_bytes(account.name + b":" + entry.strip() + b"\n")
    (tmp_path / "master.pass").write_bytes(dovecot.master.password + b"\n")
    tables = [
        rewrite('[{ lower = "all" }, { strip_domain = "*" }]', name="names"),
        f'[[plugin]]\nuse = "auth_file"\npath = "{users}"\npasswords_behind = true\n',
        rewrite(master=dovecot.master.user, password_for=["verified", "password"], name="overseer"),
        f'password = {{ file = "{tmp_path}/master.pass" }}\n',
    ]
    before = dovecot.logins(account)
    proxy = rewritten("".join(tables))
    given = account.name.upper() + b"@example.com"
    with connect(proxy, "tls", trust) as client:
        assert b"SCRAM-SHA-256" in client.multi(b"CAPA")
        assert scram(client, given, WRONG).startswith(b"-ERR [AUTH]")
        assert scram(client, b"nobody", OWN).startswith(b"-ERR [AUTH]")
        assert scram(client, given, OWN).startswith(b"+OK")
        reads(client, 3)
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(given, WRONG).startswith(b"-ERR [AUTH]")
        assert client.user_pass(given, OWN).startswith(b"+OK")
        reads(client, 3)
    assert dovecot.logins(account) == before + 2


def test_an_alias_file_is_read_again_while_the_proxy_runs(
    dovecot: Dovecot, account: Account, rewritten: Rewritten, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    aliases = tmp_path / "aliases"
    aliases.write_text("someone nobody-at-all\n")
    proxy = rewritten(rewrite(f'[{{ alias = "{aliases}" }}]'))

    def logs_in() -> bool:
        with connect(proxy, "tls", trust) as client:
            reply = client.user_pass(b"someone", account.password)
        assert reply.startswith((b"+OK", b"-ERR [AUTH]")), reply
        return reply.startswith(b"+OK")

    assert not logs_in()
    fresh = tmp_path / "aliases.new"
    fresh.write_text(f"someone {account.user}\n")
    fresh.rename(aliases)
    eventually(logs_in, "login by the new map")
    aliases.write_text(f"someone {account.user}\nbroken\n")
    eventually(lambda: "file_broken" in str(proxy.lines()), "a word about the broken line")
    assert logs_in()
    (line,) = [line for line in proxy.lines() if "file_broken" in str(line)]
    assert f"{aliases}:2" in str(line)

"""policy before a real Dovecot: real clients at a read-only mailbox and at others with rules."""

from __future__ import annotations

import json
import poplib
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients import CLIENTS, Client, Mailbox
from tests.integration.conftest import Need, Start
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import connect, logged_in, url
from tests.letters import as_sent
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

PLAIN = [pair for pair in LETTERS if pair[0] in ("empty_body", "utf8_body")]
LARGE = [pair for pair in LETTERS if pair[0] == "five_megabytes_of_base64"]
FEW = [*PLAIN, *LARGE]
USE = 'use = "policy"'

Ruled = Callable[..., Proxy]


def tables(*rules: dict[str, Any], **options: Any) -> str:
    """TOML: the plugin with these rules."""
    lines = ["", "[[plugin]]", USE, *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
    for number, rule in enumerate(rules):
        lines += ["[[plugin.rules]]", f'name = "r{number}"']
        lines += [f"{key} = {_toml(value)}" for key, value in rule.items()]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture
def ruled(dovecot: Dovecot, setup: Setup, start: Start) -> Ruled:
    """A proxy before Dovecot with these rules."""
    return lambda *rules, **options: start(
        replace(setup, server=url(dovecot, "tls"), upstream=tables(*rules, **options))
    )


def dated(days: float, text: str) -> tuple[str, bytes]:
    """A letter that arrived so many days ago."""
    date = format_datetime(datetime.now(UTC) - timedelta(days=days))
    return text, f"Received: from a by b; {date}\r\nSubject: {text}\r\nDate: {date}\r\n\r\n{text}\r\n".encode()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_every_client_empties_an_archive_and_nothing_is_gone(
    client: Client, dovecot: Dovecot, ruled: Ruled, need: Need, ca_file: Path, tmp_path: Path
) -> None:
    """DELE is accepted and dropped: the client is content, and the maildrop is what it was."""
    need(*([client.package] if client.package else []))
    proxy = ruled({"dele": "keep"})
    account = dovecot.account(PLAIN)
    before = dovecot.kept(account)
    delivered = client.fetch(Mailbox(proxy.pop3s, "tls", account, ca_file), tmp_path, False)
    assert len(delivered) == len(PLAIN)
    eventually(lambda: len(dovecot.endings(account)) == dovecot.logins(account) > 0, "end of every session")
    assert dovecot.kept(account) == before
    assert proxy.metric('popproxy_policy_decisions_total{action="rewrite"') == len(PLAIN)


def test_an_archive_that_says_so(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    proxy = ruled({"dele": "refuse", "text": "This is an archive"})
    account = dovecot.account(PLAIN)
    client = poplib.POP3_SSL("localhost", proxy.pop3s, timeout=20, context=trust)
    client.user(account.user)
    client.pass_(account.password.decode())
    with pytest.raises(poplib.error_proto, match=r"SYS/PERM\] This is an archive"):
        client.dele(1)
    assert len(client.retr(1)[1]) > 1
    client.quit()
    assert len(dovecot.kept(account)) == len(PLAIN)
    proxy.wait_for_sessions(1)
    told = [line for line in proxy.lines() if line["event"] == "policy.denied"]
    assert [(line["rule"], line["point"], line["user"]) for line in told] == [("r0", "dele", account.user)]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_letters_stay_until_they_are_old_enough(
    client: Client, dovecot: Dovecot, ruled: Ruled, need: Need, ca_file: Path, tmp_path: Path
) -> None:
    need(*([client.package] if client.package else []))
    proxy = ruled({"leave_on_server": {"days": 14, "dele": "keep"}})
    letters = [dated(20, "old"), dated(1, "new"), dated(14.1, "older"), dated(13.9, "newer")]
    account = dovecot.account(letters)
    assert len(client.fetch(Mailbox(proxy.pop3s, "tls", account, ca_file), tmp_path, False)) == 4
    eventually(lambda: len(dovecot.endings(account)) == dovecot.logins(account) > 0, "end of every session")
    # curl deletes the first letter of each of its sessions: a kept one stands in the way of those behind it.
    left = [b"new", b"newer"] if client.name != "curl" else [b"new", b"newer", b"older"]
    assert sorted(letter.rsplit(b"\n", 2)[1].strip() for letter in dovecot.kept(account)) == left


def test_who_polls_again_costs_no_top(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    proxy = ruled({"hide_older": 30})
    account = dovecot.account([dated(40, "old"), dated(20, "new"), dated(10, "newer")])
    for _ in range(3):
        with logged_in(proxy, "tls", trust, account) as client:
            listing = client.multi(b"LIST")
            assert listing.count(b"\r\n") == 4
            assert client.single(b"STAT").startswith(b"+OK 2 ")
            assert client.multi(b"UIDL").count(b"\r\n") == 4
            assert b"Subject: new\r\n" in client.multi(b"RETR 1")
            assert client.single(b"RETR 3").startswith(b"-ERR")
            client.single(b"QUIT")
    eventually(lambda: len(dovecot.endings(account)) == 3, "end of every session")
    tops = [int(line.partition("top=")[2].partition("/")[0]) for line in dovecot.endings(account)]
    assert sorted(tops) == [0, 0, 3]


def test_large_letters_are_not_there(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    proxy = ruled({"hide_larger": "1MiB"})
    account = dovecot.account(FEW)
    small = [as_sent(letter) for _, letter in FEW if len(letter) <= 1 << 20]
    with logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"STAT") == b"+OK %d %d\r\n" % (len(small), sum(map(len, small)))
        for number in range(1, len(small) + 1):
            assert client.multi(b"RETR %d" % number).startswith(b"+OK")
            assert client.single(b"DELE %d" % number).startswith(b"+OK")
        assert client.single(b"DELE %d" % (len(small) + 1)).startswith(b"-ERR")
        client.single(b"QUIT")
    eventually(lambda: len(dovecot.kept(account)) == len(FEW) - len(small), "the large letter alone")


def test_where_and_how_one_may_log_in(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    proxy = ruled(
        {"when": {"network": ["127.0.0.1"]}, "tls": True},
        {"unless": {"network": ["127.0.0.0/8"]}, "login": "deny"},
        {"when": {"network": ["127.0.0.2"]}, "login": "deny", "text": "Not from there"},
    )
    account = dovecot.account(PLAIN)
    with connect(proxy, "clear", trust) as client:
        capabilities = client.multi(b"CAPA").split(b"\r\n")
        assert b"USER" not in capabilities
        assert not [line for line in capabilities if line.startswith(b"SASL")]
        assert client.user_pass(account.name, account.password).startswith(b"-ERR [SYS/PERM] Login needs TLS")
    assert dovecot.logins(account) == 0
    with logged_in(proxy, "stls", trust, account):
        pass
    with WireClient(("127.0.0.1", proxy.clear), source="127.0.0.2") as client:
        assert client.greeting == b"-ERR [SYS/PERM] Not from there\r\n"
        assert client.read_eof() == b""


def test_time_between_logins_is_announced_and_kept(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    proxy = ruled({"login_delay": "1h", "expire": 30})
    account, other = dovecot.account(PLAIN), dovecot.account(PLAIN)
    with logged_in(proxy, "tls", trust, account) as client:
        lines = client.multi(b"CAPA").split(b"\r\n")
        assert {b"LOGIN-DELAY 3600", b"EXPIRE 30"} <= {*lines}
        client.single(b"QUIT")
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(account.name, account.password).startswith(b"-ERR [LOGIN-DELAY] ")
        assert client.user_pass(other.name, other.password).startswith(b"+OK")
    assert proxy.metric('popproxy_auth_attempts_total{listener="pop3s",mechanism="USER",result="rate_limited"') == 1


def test_a_session_at_its_pace(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    """Slower, and not one octet otherwise."""
    proxy = ruled({"rate": "4MiB", "user_rate": "8MiB"})
    account = dovecot.account(FEW)
    with logged_in(proxy, "tls", trust, account) as slow, WireClient(("127.0.0.1", dovecot.port)) as direct:
        assert direct.user_pass(account.name, account.password).startswith(b"+OK")
        for number in range(1, len(FEW) + 1):
            assert slow.multi(b"RETR %d" % number) == direct.multi(b"RETR %d" % number)


def test_in_audit_mode_nothing_is_refused(dovecot: Dovecot, ruled: Ruled, trust: ssl.SSLContext) -> None:
    proxy = ruled({"sessions_per_user": 1, "dele": "refuse"}, mode="audit")
    account = dovecot.account(PLAIN)
    with logged_in(proxy, "tls", trust, account), logged_in(proxy, "tls", trust, account) as client:
        assert client.single(b"DELE 1").startswith(b"+OK")
        client.single(b"QUIT")
    proxy.wait_for_sessions(2)
    told = [line for line in proxy.lines() if line["event"] == "policy.audit"]
    assert [(line["point"], line["code"]) for line in told] == [("sessions_per_user", "IN-USE"), ("dele", "SYS/PERM")]
    eventually(lambda: len(dovecot.kept(account)) == 1, "the deletion")

"""The log of the real program: one JSON line per session with what an administrator asks, and no password in any."""

from __future__ import annotations

import base64
import ssl
from dataclasses import replace

import pytest

from tests.integration.conftest import Start
from tests.integration.daemon import SECRETS
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Setup, leaks
from tests.integration.reading import LEGS, connect, logged_in, url
from tests.letters import as_sent

pytestmark = pytest.mark.integration

STRAY = b"a-password-in-the-wrong-place"
SECRETS.add(STRAY)


def test_one_line_per_session(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    proxy = start(replace(setup, server=url(dovecot, "tls")))
    account = dovecot.account(LETTERS[:3])
    size = len(as_sent(LETTERS[1][1]))
    for leg in LEGS:
        with logged_in(proxy, leg, trust, account) as client:
            asked = [(b"STAT", False), (b"RETR 2", True), (b"DELE 3", False), (b"RSET", False)]
            assert all(reply.startswith(b"+OK") for reply in client.run(asked))
            assert client.single(b"QUIT").startswith(b"+OK")
    with logged_in(proxy, "tls", trust, account):
        pass
    lines = proxy.wait_for_sessions(4)
    assert len(lines) == 4
    assert [line["reason"] for line in lines[:3]] == ["quit"] * 3
    assert lines[3]["reason"] in ("client_eof", "client_reset")
    assert [line["listener"] for line in lines] == ["clear", "pop3", "pop3s", "pop3s"]
    assert [bool(line["tls"]) for line in lines] == [False, True, True, True]
    assert len({line["session"] for line in lines}) == 4
    for line in lines:
        assert line["user"] == account.user
        assert line["mechanism"] == "USER"
        assert line["upstream"] == "main"
        assert str(dovecot.port_tls) in str(line["server"])
        assert line["client"] == "127.0.0.1"
        assert isinstance(line["seconds"], float)
    for line in lines[:3]:
        commands = line["commands"]
        assert isinstance(commands, dict)
        assert {"USER": 1, "PASS": 1, "STAT": 1, "RETR": 1, "DELE": 1, "RSET": 1, "QUIT": 1}.items() <= commands.items()
        assert line["retrieved"] == 1
        assert line["deleted"] == 1
        assert isinstance(line["octets_out"], int)
        assert line["octets_out"] >= size


def test_no_password_in_any_output(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """At the most talkative level: every way to log in, right, wrong, misplaced and malformed."""
    proxy = start(replace(setup, server=url(dovecot, "tls")))
    account = dovecot.account()
    coded = base64.b64encode(b"\0" + account.name + b"\0" + STRAY)
    with connect(proxy, "tls", trust) as client:
        for line in (
            b"PASS " + STRAY,
            b"PAS " + STRAY,
            b"pass\t" + STRAY,
            b"PASS" + STRAY,
            b"AUTH PLAIN " + coded + b"!",
            b"AUTH PLAIN  " + coded,
            b"AUTH NOSUCH " + coded,
            b"AUTH " + coded,
            b"APOP " + account.name + b" " + STRAY,
            b"XPASS " + STRAY,
        ):
            assert client.single(line).startswith(b"-ERR"), line
    with connect(proxy, "tls", trust) as client:
        assert client.auth_plain(account.name, STRAY).startswith(b"-ERR [AUTH]")
        assert client.auth_login(account.name, STRAY).startswith(b"-ERR [AUTH]")
        assert client.single(b"AUTH LOGIN").startswith(b"+ ")
        assert client.single(base64.b64encode(STRAY) + b"*").startswith(b"-ERR")
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        assert client.single(b"PASS " + STRAY).startswith(b"-ERR")
        assert client.single(b"NOOP " + STRAY)
    proxy.wait_for_sessions(2)
    proxy.get("/metrics")
    told = proxy.daemon.log.read_bytes() + b"".join(proxy.scraped)
    assert leaks(told) == []


def test_the_search_for_passwords_finds_them() -> None:
    """The check that every proxy of these tests goes through at its end is no empty one."""
    for text in (
        STRAY,
        b'{"detail": "PASS %s"}' % STRAY,
        base64.b64encode(b"\0user\0" + STRAY),
        base64.b64encode(b"\0users\0" + STRAY),
        base64.b64encode(b"\0user12\0" + STRAY),
        base64.b64encode(STRAY),
    ):
        assert leaks(b"before " + text + b" behind") == [STRAY]
    assert leaks(b'{"event": "session", "user": "reader1"}') == []

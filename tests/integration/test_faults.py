"""Trouble upstream: the client hears [SYS/TEMP] (RFC 3206 section 4), the log says why, the proxy lives on."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tests.integration import dovecot as dovecot_server
from tests.integration.conftest import NAMES, Need, Start, issued
from tests.integration.dovecot import CLEAR, LETTERS, REQUIRED, Dovecot
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import connect, logged_in, url
from tests.ports import free_ports

pytestmark = pytest.mark.integration

TEMPORARY = b"-ERR [SYS/TEMP] "


def failures(proxy: Proxy) -> list[dict[str, object]]:
    """The log lines about trouble upstream."""
    return [line for line in proxy.lines() if line["event"] == "upstream_failed"]


def refused_login(proxy: Proxy, dovecot: Dovecot, trust: ssl.SSLContext) -> dict[str, object]:
    """Log in with the right password, be told [SYS/TEMP]; the log line about it."""
    account = dovecot.account()
    for login in ("USER", "PLAIN"):
        with connect(proxy, "tls", trust) as client:
            use = client.user_pass if login == "USER" else client.auth_plain
            reply = use(account.name, account.password)
            assert reply.startswith(TEMPORARY), reply
    eventually(lambda: len(failures(proxy)) >= 2, "two upstream_failed lines")
    assert proxy.get("/healthz")[0] == 200
    assert f"user=<{account.user}>" not in dovecot.log(), "credentials were sent to the server"
    assert all(line["user"] == account.user for line in failures(proxy))
    return failures(proxy)[0]


def test_certificate_not_trusted(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """No ca_file: the system's store does not know the authority of these tests."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), ca_file=None))
    line = refused_login(proxy, dovecot, trust)
    assert line["kind"] == "tls"
    assert "certificate" in str(line["detail"]).lower(), line


def test_stls_certificate_not_trusted(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext, tmp_path: Path
) -> None:
    """Another authority's file; the leg begins with STLS."""
    other = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    proxy = start(replace(setup, server=url(dovecot, "stls"), ca_file=other))
    line = refused_login(proxy, dovecot, trust)
    assert line["kind"] == "tls"
    assert "certificate" in str(line["detail"]).lower(), line


def test_certificate_of_another_host(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream='server_name = "mail.example.org"'))
    line = refused_login(proxy, dovecot, trust)
    assert line["kind"] == "tls"
    assert "mail.example.org" in str(line["detail"]), line


def test_verification_switched_off(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """`verify = false` is what lets such a certificate pass, nothing else."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), ca_file=None, upstream="verify = false"))
    with logged_in(proxy, "tls", trust, dovecot.account()) as client:
        assert client.single(b"STAT").startswith(b"+OK 0 0")


def test_server_without_stls(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """`pop3://` means STLS is required: no TLS, no password."""
    proxy = start(replace(setup, server=f"pop3://{CLEAR}:{dovecot.port}"))
    assert refused_login(proxy, dovecot, trust)["kind"] == "no_stls"


def test_server_that_requires_stls(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    proxy = start(replace(setup, server=f"pop3://{REQUIRED}:{dovecot.port}"))
    with logged_in(proxy, "tls", trust, dovecot.account(LETTERS[:1])) as client:
        assert client.single(b"STAT").startswith(b"+OK 1 ")


def test_nobody_listens(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    proxy = start(replace(setup, server=f"pop3s://localhost:{free_ports(1)[0]}"))
    line = refused_login(proxy, dovecot, trust)
    assert line["kind"] == "refused"


def test_unknown_host(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """.invalid never resolves (RFC 6761)."""
    proxy = start(replace(setup, server="pop3s://mail.invalid:995"))
    assert refused_login(proxy, dovecot, trust)["kind"] == "dns"


def test_tls_on_a_clear_port(dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext) -> None:
    """The operator wrote pop3s:// for a port that speaks first."""
    proxy = start(replace(setup, server=f"pop3s://localhost:{dovecot.port}"))
    assert refused_login(proxy, dovecot, trust)["kind"] == "tls"


def test_second_server_when_the_first_is_down(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    """Servers are tried in order."""
    down = f"pop3s://localhost:{free_ports(1)[0]}"
    proxy = start(replace(setup, server=down, more=(url(dovecot, "tls"),)))
    with logged_in(proxy, "tls", trust, dovecot.account(LETTERS[:1])) as client:
        assert client.single(b"STAT").startswith(b"+OK 1 ")


def test_server_stops_in_a_session(
    need: Need, authority: trustme.CA, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    """The session ends, with nothing deleted and nothing made up; the next login hears [SYS/TEMP]."""
    need("dovecot-pop3d")
    with dovecot_server.start(*issued(authority, *NAMES)) as dovecot:
        account = dovecot.account(LETTERS[:3])
        proxy = start(replace(setup, server=url(dovecot, "tls")))
        with logged_in(proxy, "tls", trust, account) as client:
            assert client.single(b"DELE 1").startswith(b"+OK")
            dovecot.daemon.stop()
            rest = client.read_eof()
            assert rest == b"" or (rest.startswith(b"-ERR") and rest.count(b"\r\n") == 1), rest
        assert len(dovecot.kept(account)) == 3
        with connect(proxy, "tls", trust) as client:
            assert client.user_pass(account.name, account.password).startswith(TEMPORARY)
        assert proxy.wait_for_sessions(1)[0]["reason"] in ("upstream_eof", "upstream_error")
        assert proxy.get("/healthz")[0] == 200

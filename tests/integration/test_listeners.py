"""The front side: IPv6 and Unix sockets, certificates by name, ALPN, STLS, PROXY headers from a real balancer."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from tests.integration.clients import Mailbox, curl, curl_url
from tests.integration.conftest import Need, ProxyTo, Start, stored
from tests.integration.daemon import Account, Daemon, listening, private_directory
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.packages import program
from tests.integration.proxy import PROGRAM, Certificate, Proxy, Setup, environment
from tests.integration.reading import connect, url
from tests.letters import as_sent
from tests.ports import free_ports
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

TWO = [pair for pair in LETTERS if pair[0] in ("empty_body", "utf8_body")]


@pytest.fixture(scope="module")
def proxy(dovecot: Dovecot, proxy_to: ProxyTo) -> Proxy:
    """A proxy which speaks TLS with Dovecot."""
    return proxy_to(url(dovecot, "tls"))


@pytest.fixture(scope="module")
def account(dovecot: Dovecot) -> Account:
    return dovecot.account(TWO)


def read_all(client: WireClient, account: Account) -> None:
    """Log in, count, read one letter, QUIT."""
    assert client.user_pass(account.name, account.password).startswith(b"+OK")
    assert client.single(b"STAT").startswith(b"+OK 2 ")
    assert as_sent(TWO[0][1]) in client.multi(b"RETR 1")
    assert client.single(b"QUIT").startswith(b"+OK")


@pytest.mark.usefixtures("ipv6")
def test_ipv6(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext, account: Account, need: Need, ca_file: Path
) -> None:
    """One listener on 127.0.0.1 and [::1]; the log names the client's address."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), ipv6=True))
    for host in ("127.0.0.1", "::1"):
        with WireClient((host, proxy.pop3s), implicit=trust) as client:
            read_all(client, account)
    assert [line["client"] for line in proxy.wait_for_sessions(2)] == ["127.0.0.1", "::1"]
    need("curl")
    there = curl_url(Mailbox(proxy.pop3s, "tls", account, ca_file)).replace("localhost", "[::1]")
    assert len(curl(Mailbox(proxy.pop3s, "tls", account, ca_file), there).splitlines()) == 2


def test_unix_socket(proxy: Proxy, trust: ssl.SSLContext, account: Account) -> None:
    with WireClient(proxy.unix, implicit=trust) as client:
        read_all(client, account)


@contextmanager
def s_client(proxy: Proxy, *arguments: str) -> Iterator[str]:
    """What `openssl s_client` tells about a connection to the implicit listener."""
    command = ["openssl", "s_client", "-ign_eof", "-connect", f"127.0.0.1:{proxy.pop3s}", *arguments]
    done = subprocess.run(command, input=b"quit\r\n", capture_output=True, timeout=30, check=False)  # Q is its own
    yield (done.stdout + done.stderr).decode(errors="replace")


@pytest.fixture(scope="module")
def two_names(authority: trustme.CA, files: Path) -> tuple[Certificate, Certificate]:
    return stored(authority, files, "one.example.org"), stored(authority, files, "two.example.org", "*.two.example.org")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("one.example.org", "one.example.org"),
        ("two.example.org", "two.example.org"),
        ("TWO.example.org", "two.example.org"),
        ("pop.two.example.org", "two.example.org"),
        ("three.example.org", "one.example.org"),
        (None, "one.example.org"),
    ],
)
def test_certificate_by_name(
    dovecot: Dovecot,
    start: Start,
    setup: Setup,
    need: Need,
    two_names: tuple[Certificate, Certificate],
    asked: str | None,
    shown: str,
) -> None:
    """SNI (RFC 6066 section 3); the first certificate is for everybody else."""
    need("openssl")
    proxy = start(replace(setup, server=url(dovecot, "tls"), certificates=two_names))
    with s_client(proxy, *(["-servername", asked] if asked else ["-noservername"])) as text:
        subject = re.search(r"CN ?= ?(\S+?),? *$", text, re.MULTILINE)
        assert subject is not None, text
        assert subject[1] == shown
        assert "+OK" in text


def test_stls_certificate_by_name(
    dovecot: Dovecot,
    start: Start,
    setup: Setup,
    authority: trustme.CA,
    account: Account,
    two_names: tuple[Certificate, Certificate],
) -> None:
    """The same after STLS, and the client checks the name."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), certificates=two_names))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    for name in ("one.example.org", "two.example.org", "a.two.example.org"):
        with WireClient(("127.0.0.1", proxy.pop3), name=name) as client:
            client.stls(context)
            read_all(client, account)


def test_alpn(proxy: Proxy, need: Need) -> None:
    """`pop3` is agreed on (RFC 7301, IANA); a client that speaks something else is not answered (ALPACA)."""
    need("openssl")
    with s_client(proxy, "-alpn", "pop3") as text:
        assert "ALPN protocol: pop3" in text
    with s_client(proxy, "-alpn", "http/1.1") as text:
        assert "ALPN protocol: http" not in text
        assert "+OK" not in text


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_tls_is_refused(proxy: Proxy, need: Need, version: str) -> None:
    need("openssl")
    with s_client(proxy, version, "-cipher", "ALL:@SECLEVEL=0") as text:
        assert "+OK" not in text


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_new_tls_is_taken(proxy: Proxy, need: Need, version: str) -> None:
    need("openssl")
    with s_client(proxy, version) as text:
        assert "+OK" in text


def test_no_login_before_stls(proxy: Proxy, account: Account, trust: ssl.SSLContext) -> None:
    """Each way to log in is refused on the clear leg; after STLS it works."""
    coded = base64.b64encode(b"\0" + account.name + b"\0" + account.password)
    with WireClient(("127.0.0.1", proxy.pop3)) as client:
        for command in (
            b"USER " + account.name,
            b"PASS " + account.password,
            b"APOP " + account.name + b" " + b"0" * 32,
            b"AUTH PLAIN " + coded,
            b"AUTH PLAIN",
            b"AUTH LOGIN",
        ):
            reply = client.single(command)
            assert reply.startswith(b"-ERR "), f"{command!r}: {reply!r}"
            assert not reply.startswith(b"-ERR [AUTH]"), "a client would ask its user for another password"
        client.stls(trust)
        read_all(client, account)


def test_nothing_crosses_stls(proxy: Proxy, account: Account, trust: ssl.SSLContext) -> None:
    """Commands behind STLS in the same packet are not executed, inside TLS or out of it (CVE-2011-0411)."""
    context = trust
    with socket.create_connection(("127.0.0.1", proxy.pop3), 20) as raw:
        assert raw.recv(4096).startswith(b"+OK")
        raw.sendall(b"STLS\r\nCAPA\r\nUSER " + account.name + b"\r\n")
        reply = raw.recv(4096)
        assert reply.startswith(b"+OK"), reply
        assert reply.count(b"\r\n") == 1, reply
        try:
            with context.wrap_socket(raw, server_hostname="localhost") as secured:
                secured.sendall(b"NOOP\r\n")
                answer = secured.recv(4096)
        except (ssl.SSLError, ConnectionResetError):
            return
        assert b"CAPA" not in answer
        assert answer.count(b"\r\n") <= 1, answer


def test_self_signed_on_first_start(dovecot: Dovecot, start: Start, setup: Setup, account: Account) -> None:
    """No certificate is configured: one is made, and the log warns and says what to do."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), certificates=()))
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with WireClient(("127.0.0.1", proxy.pop3s), implicit=anybody) as client:
        read_all(client, account)
    # The log is written a moment later, in order.
    proxy.wait_for_sessions(1)
    (line,) = [line for line in proxy.lines() if line["event"] == "self_signed"]
    assert line["level"] == "warning"
    assert line["advice"]
    made = (proxy.config.parent / "self-signed").iterdir()
    key_files = [path for path in made if b"PRIVATE KEY" in path.read_bytes()]
    assert key_files
    assert all(path.stat().st_mode & 0o077 == 0 for path in key_files)


HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen front
  bind 127.0.0.1:{front}
  server proxy 127.0.0.1:{back} {send}
"""


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_behind_haproxy(
    dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext, account: Account, need: Need, send: str
) -> None:
    """PROXY v1 and v2 as HAProxy writes them: the log has the client's address, TLS still ends at the proxy."""
    need("haproxy")
    trusted = 'proxy_protocol = { trusted = ["127.0.0.1/32"] }'
    proxy = start(replace(setup, server=url(dovecot, "tls"), listener=trusted))
    with private_directory("haproxy") as base:
        (front,) = free_ports(1)
        (base / "haproxy.cfg").write_text(HAPROXY.format(front=front, back=proxy.pop3s, send=send))
        daemon = Daemon([program("haproxy"), "-db", "-f", str(base / "haproxy.cfg")], base / "log")
        try:
            daemon.wait_until(lambda: listening("127.0.0.1", front), "HAProxy's port")
            with WireClient(("127.0.0.1", front), implicit=trust, source="127.0.0.9") as client:
                read_all(client, account)
        finally:
            daemon.stop()
    assert "127.0.0.9" in {line["client"] for line in proxy.wait_for_sessions(1) if line["user"] == account.user}
    with pytest.raises((EOFError, ssl.SSLError, ConnectionResetError)):
        connect(proxy, "tls", trust)


def test_without_a_config_file(dovecot: Dovecot, account: Account) -> None:
    """`serve --upstream URL --listen URL`: no file at all."""
    with private_directory("bare") as base:
        port, admin = free_ports(2)
        command = [*PROGRAM, "serve", "--upstream", url(dovecot, "clear"), "--listen", f"pop3+clear://127.0.0.1:{port}"]
        command += ["--admin", f"127.0.0.1:{admin}"]
        daemon = Daemon(command, base / "log", environment=environment(base))
        try:
            daemon.wait_until(lambda: listening("127.0.0.1", port), "its port")
            with WireClient(("127.0.0.1", port)) as client:
                read_all(client, account)
        finally:
            assert daemon.stop() == 0, daemon.tail()

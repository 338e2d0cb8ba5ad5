"""auth_http beside a real nginx: the same back end is asked the same by both, octet for octet, and its answers have the
same effects for clients. Then from a client through popproxy to a real Dovecot."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

from tests.integration import nginx as nginx_server
from tests.integration.backend import Asked, Backend, User, backend
from tests.integration.conftest import Need, Start
from tests.integration.daemon import SECRETS
from tests.integration.dovecot import LETTERS, OPTIONAL, Dovecot
from tests.integration.nginx import Nginx
from tests.integration.proxy import Certificate, Proxy, Setup
from tests.integration.proxy import start as start_proxy
from tests.ports import free_ports
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

PLUGIN = """
[[plugin]]
use = "auth_http"
servers = ["{url}"]
headers = {{ "X-Auth-Key" = "secret string" }}
pass_client_cert = true
mechanisms = ["APOP", "CRAM-MD5"]
"""
PROXIED = """
[[listener]]
name = "proxied"
bind = ["127.0.0.1:{port}"]
tls = "off"
auth_before_tls = "allow"
proxy_protocol = {{ trusted = ["127.0.0.0/8"] }}
"""
DEAD = "pop3+clear://127.0.0.1:1"
DIFFICULT = "a b%c+&=?/\"~\N{LATIN SMALL LETTER A WITH DIAERESIS}\N{EURO SIGN}".encode()
SECRETS.add(DIFFICULT)


@dataclass
class Both:
    """One back end, and the two that ask it."""

    backend: Backend
    nginx: Nginx
    proxy: Proxy
    proxied: int

    def addresses(self, kind: str) -> list[tuple[str, int]]:
        """Where nginx and popproxy do ``kind``: ``clear``, ``tls``, ``proxied``."""
        ours = {"clear": self.proxy.clear, "tls": self.proxy.pop3s, "proxied": self.proxied}
        theirs = {"clear": self.nginx.port, "tls": self.nginx.port_tls, "proxied": self.nginx.proxied}
        return [("127.0.0.1", theirs[kind]), ("127.0.0.1", ours[kind])]


@pytest.fixture(scope="module")
def both(need: Need, setup: Setup, served: Certificate, ca_file: Path) -> Iterator[Both]:
    need("nginx", "libnginx-mod-mail")
    with ExitStack() as running:
        asked = running.enter_context(backend())
        theirs = running.enter_context(nginx_server.start(asked.url, served, ca_file))
        (port,) = free_ports(1)
        ours = running.enter_context(
            start_proxy(
                replace(
                    setup,
                    server=DEAD,
                    listener=f'verify_client = "optional"\nclient_ca_file = {json.dumps(str(ca_file))}',
                    upstream=PLUGIN.format(url=asked.url) + PROXIED.format(port=port),
                )
            )
        )
        yield Both(asked, theirs, ours, port)


def told(asked: Asked) -> list[tuple[str, bytes]]:
    """What both must say alike. Host has the port (RFC 9110 section 7.2), which nginx leaves out; salts are random."""
    assert asked.line.startswith(b"GET /auth?from=mail HTTP/1.")
    headers = [(name, value) for name, value in asked.headers if name != "Host"]
    return [(name, b"<salt>" if name == "Auth-Salt" and value[:1] == b"<" else value) for name, value in headers]


Scene = Callable[[tuple[str, int]], None]


def compared(both: Both, kind: str, scene: Scene) -> list[list[tuple[str, bytes]]]:
    """The requests of ``scene``, which are those of nginx and those of popproxy."""
    seen = []
    for address in both.addresses(kind):
        both.backend.asked.clear()
        scene(address)
        seen.append([told(asked) for asked in both.backend.asked])
    assert seen[0] == seen[1]
    assert seen[0]
    return seen[0]


def context(authority: trustme.CA, issued: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """A client that leaves the servers no choice."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    authority.configure_trust(made)
    if issued is not None:
        issued.configure_cert(made)
    return made


def test_a_login_with_difficult_octets(both: Both) -> None:
    user = b"j%oe+ \xc3\xa4"

    def scene(address: tuple[str, int]) -> None:
        with WireClient(address) as client:
            assert client.user_pass(user, DIFFICULT).startswith(b"-ERR")

    (headers,) = compared(both, "clear", scene)
    assert [name for name, _ in headers] == [
        "Auth-Method", "Auth-User", "Auth-Pass", "Auth-Protocol", "Auth-Login-Attempt", "Client-IP", "X-Auth-Key",
    ]  # fmt: skip


def test_octets_that_are_no_utf_8_are_the_same_when_decoded(both: Both) -> None:
    decoded = []
    for address in both.addresses("clear"):
        both.backend.asked.clear()
        with WireClient(address) as client:
            client.user_pass(b"j\xff", b"x\xff\xfe")
        (asked,) = both.backend.asked
        decoded.append((asked.text("Auth-User"), asked.text("Auth-Pass")))
    assert decoded == [(b"j\xff", b"x\xff\xfe")] * 2


def test_several_attempts(both: Both) -> None:
    def scene(address: tuple[str, int]) -> None:
        with WireClient(address) as client:
            for number in (1, 2):
                assert client.user_pass(b"joe", b"wrong %d" % number).endswith(b"Invalid login or password\r\n")

    requests = compared(both, "clear", scene)
    assert [dict(headers)["Auth-Login-Attempt"] for headers in requests] == [b"1", b"2"]


def test_sasl(both: Both) -> None:
    def scene(address: tuple[str, int]) -> None:
        with WireClient(address) as client:
            assert client.auth_plain(b"joe", b"a b").startswith(b"-ERR")
            assert client.auth_plain(b"joe", b"c d", initial=False).startswith(b"-ERR")
            assert client.auth_login(b"joe", b"e f").startswith(b"-ERR")

    assert len(compared(both, "clear", scene)) == 3


def test_digests(both: Both) -> None:
    def scene(address: tuple[str, int]) -> None:
        with WireClient(address) as client:
            assert client.single(b"APOP joe " + b"a" * 32).startswith(b"-ERR")
            assert client.single(b"AUTH CRAM-MD5").startswith(b"+ ")
            assert client.single(base64.b64encode(b"joe " + b"b" * 32)).startswith(b"-ERR")

    requests = compared(both, "clear", scene)
    assert [dict(headers)["Auth-Method"] for headers in requests] == [b"apop", b"cram-md5"]


def test_stls(both: Both, authority: trustme.CA) -> None:
    """popproxy says Auth-SSL-Verify where it asks for certificates; this listener of its does not."""
    seen = []
    for address in both.addresses("clear"):
        both.backend.asked.clear()
        with WireClient(address) as client:
            client.stls(context(authority))
            assert client.user_pass(b"joe", b"x y").startswith(b"-ERR")
        seen.append([header for header in told(both.backend.asked[0]) if header != ("Auth-SSL-Verify", b"NONE")])
    assert seen[0] == seen[1]
    assert ("Auth-SSL", b"on") in seen[0]


def test_tls_without_a_certificate(both: Both, authority: trustme.CA) -> None:
    def scene(address: tuple[str, int]) -> None:
        with WireClient(address, implicit=context(authority)) as client:
            assert client.user_pass(b"joe", b"x y").startswith(b"-ERR")

    (headers,) = compared(both, "tls", scene)
    assert ("Auth-SSL-Verify", b"NONE") in headers


def test_tls_with_a_certificate(both: Both, authority: trustme.CA) -> None:
    name = 'Joe, "U" #+<S\N{LATIN SMALL LETTER SHARP S}>'
    issued = authority.issue_cert("joe@example.com", common_name=name, organization_name=" \N{EURO SIGN};=")

    def scene(address: tuple[str, int]) -> None:
        with WireClient(address, implicit=context(authority, issued)) as client:
            assert client.user_pass(b"joe", b"x y").startswith(b"-ERR")

    (headers,) = compared(both, "tls", scene)
    given = dict(headers)
    assert given["Auth-SSL-Verify"] == b"SUCCESS"
    assert given["Auth-SSL-Subject"].startswith(b"CN=Joe\\, ")
    assert {"Auth-SSL-Issuer", "Auth-SSL-Serial", "Auth-SSL-Fingerprint", "Auth-SSL-Cert"} <= set(given)


def test_a_certificate_of_a_stranger_ends_the_connection(both: Both, authority: trustme.CA) -> None:
    """popproxy fails the handshake; nginx ends it well and says so in an error."""
    stranger = trustme.CA().issue_cert("eve@example.com")
    theirs, ours = both.addresses("tls")
    both.backend.asked.clear()
    with WireClient(theirs, implicit=context(authority, stranger)) as client:
        assert client.greeting == b"-ERR SSL certificate error\r\n"
    with pytest.raises(ssl.SSLError):
        WireClient(ours, implicit=context(authority, stranger))
    assert not both.backend.asked


def test_behind_a_proxy_header(both: Both) -> None:
    def scene(address: tuple[str, int]) -> None:
        with socket.create_connection(address, timeout=20) as plain, plain.makefile("rb") as replies:
            plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.110 50000 110\r\n")
            for line in (b"", b"USER joe\r\n", b"PASS x y\r\n"):
                plain.sendall(line)
                assert replies.readline()

    (headers,) = compared(both, "proxied", scene)
    given = dict(headers)
    assert (given["Client-IP"], given["Proxy-Protocol-Server-Port"]) == (b"192.0.2.7", b"110")


# What clients hear

ANSWERS: list[tuple[dict[str, str], bytes, bool]] = [
    ({"Auth-Status": "Invalid login or password", "Auth-Wait": "1"}, b"Invalid login or password", True),
    ({"Auth-Status": "Locked"}, b"Locked", False),
    ({"Auth-Status": "Locked", "Auth-Wait": "no"}, b"Locked", False),
    ({"Auth-Status": "Locked", "Auth-Wait": "0"}, b"Locked", False),
    ({"Auth-Status": "ok", "Auth-Wait": "1"}, b"ok", True),
    ({"Auth-Status": "[IN-USE] Busy", "Auth-Wait": "1"}, b"[IN-USE] Busy", True),
]


@pytest.mark.parametrize(("answer", "words", "again"), ANSWERS)
def test_an_error_is_heard_alike(both: Both, answer: dict[str, str], words: bytes, again: bool) -> None:
    both.backend.answer = lambda asked: answer
    try:
        for address in both.addresses("clear"):
            with WireClient(address) as client:
                reply = client.user_pass(b"joe", b"x y")
                assert reply.startswith(b"-ERR ") and reply.endswith(words + b"\r\n")
                if again:
                    assert client.single(b"USER joe").startswith(b"+OK")
                else:
                    assert client.read_eof() == b""
    finally:
        both.backend.answer = both.backend.judge


def test_wait_is_asked_again_alike(both: Both) -> None:
    def answer(asked: Asked) -> dict[str, str]:
        if len(both.backend.asked) < 3:
            return {"Auth-Status": "WAIT", "Auth-Wait": "1"}
        return {"Auth-Status": "No", "Auth-Wait": "1"}

    both.backend.answer = answer
    try:
        requests = compared(both, "clear", lambda address: refused(address, b"joe"))
    finally:
        both.backend.answer = both.backend.judge
    assert [dict(headers)["Auth-Login-Attempt"] for headers in requests] == [b"1"] * 3


def refused(address: tuple[str, int], user: bytes) -> None:
    with WireClient(address) as client:
        assert client.user_pass(user, b"x y").startswith(b"-ERR")


WRONG: list[dict[str, str]] = [
    {"Auth-Status": "OK"},
    {"Auth-Status": "OK", "Auth-Server": "127.0.0.1"},
    {"Auth-Status": "OK", "Auth-Server": "127.0.0.1", "Auth-Port": "0"},
    {"Auth-Status": "OK", "Auth-Server": "no host", "Auth-Port": "110"},
    {"Auth-Status": "OK", "Auth-Server": "127.0.0.1", "Auth-Port": "1"},
]


@pytest.mark.parametrize("answer", WRONG)
def test_promise_8_a_wrong_answer_is_trouble(both: Both, answer: dict[str, str]) -> None:
    """nginx has no codes: it says "internal server error" to each of these."""
    both.backend.answer = lambda asked: answer
    theirs, ours = both.addresses("clear")
    try:
        with WireClient(theirs) as client:
            assert client.user_pass(b"joe", b"x y") == b"-ERR internal server error\r\n"
        with WireClient(ours) as client:
            assert client.user_pass(b"joe", b"x y").startswith(b"-ERR [SYS/TEMP] ")
    finally:
        both.backend.answer = both.backend.judge


# To a real Dovecot


@pytest.fixture
def judged() -> Iterator[Backend]:
    with backend() as made:
        yield made


def mailbox(client: WireClient) -> tuple[bytes, int]:
    """What STAT says, and the octets of all messages."""
    stat = client.single(b"STAT")
    count = int(stat.split()[1])
    octets = sum(len(client.multi(b"RETR %d" % number)) for number in range(1, count + 1))
    assert client.single(b"QUIT").startswith(b"+OK")
    return stat, octets


def test_both_lead_to_the_same_mailbox(both: Both, dovecot: Dovecot) -> None:
    account = dovecot.account(LETTERS)
    both.backend.users[b"joe"] = User(DIFFICULT, OPTIONAL, dovecot.port, {
        "Auth-User": account.user, "Auth-Pass": account.password.decode(),
    })  # fmt: skip
    seen = []
    for address in both.addresses("clear"):
        with WireClient(address) as client:
            assert client.user_pass(b"joe", DIFFICULT).startswith(b"+OK")
            seen.append(mailbox(client))
    assert seen[0] == seen[1]
    assert seen[0][0].split()[1] == b"%d" % len(LETTERS)


def test_a_host_name_and_tls_which_nginx_does_not_have(
    judged: Backend, setup: Setup, start: Start, dovecot: Dovecot, trust: ssl.SSLContext
) -> None:
    account = dovecot.account(LETTERS[:3])
    judged.users[account.name] = User(account.password, "localhost", dovecot.port)
    plugin = PLUGIN.format(url=judged.url)
    proxy = start(replace(setup, server="pop3://127.0.0.1:1", upstream=plugin))
    with WireClient(("127.0.0.1", proxy.pop3s), implicit=trust) as client:
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        assert mailbox(client)[0].startswith(b"+OK 3 ")
    with WireClient(("127.0.0.1", proxy.pop3s), implicit=trust) as client:
        assert client.user_pass(account.name, b"x y").startswith(b"-ERR [AUTH] Invalid login")
    (line, _) = proxy.wait_for_sessions(2)
    assert line["server"] == f"localhost:{dovecot.port}"
    # Kept: both questions came over one connection.
    assert judged.connections == 1


@pytest.mark.parametrize("mechanism", ["APOP", "CRAM-MD5"])
def test_a_digest_becomes_a_login(
    mechanism: str, judged: Backend, setup: Setup, start: Start, dovecot: Dovecot
) -> None:
    account = dovecot.account(LETTERS[:1])
    extra = {"Auth-Pass": account.password.decode()}
    judged.users[account.name] = User(account.password, OPTIONAL, dovecot.port, extra)
    proxy = start(replace(setup, server=DEAD, upstream=PLUGIN.format(url=judged.url)))
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        if mechanism == "APOP":
            stamp = client.greeting[client.greeting.index(b"<") : client.greeting.index(b">") + 1]
            digest = hashlib.md5(stamp + account.password).hexdigest().encode()
            reply = client.single(b"APOP %b %b" % (account.name, digest))
        else:
            challenge = base64.b64decode(client.single(b"AUTH CRAM-MD5")[2:])
            digest = hmac.new(account.password, challenge, "md5").hexdigest().encode()
            reply = client.single(base64.b64encode(account.name + b" " + digest))
        assert reply.startswith(b"+OK")
        assert mailbox(client)[0].startswith(b"+OK 1 ")


def test_the_second_server_of_the_back_end(judged: Backend, setup: Setup, start: Start, dovecot: Dovecot) -> None:
    account = dovecot.account(LETTERS[:1])
    judged.users[account.name] = User(account.password, OPTIONAL, dovecot.port)
    plugin = PLUGIN.format(url=judged.url).replace("servers = [", 'servers = ["http://127.0.0.1:1/", ')
    proxy = start(replace(setup, server=DEAD, upstream=plugin))
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        client.single(b"QUIT")
    judged.close()
    with WireClient(("127.0.0.1", proxy.clear)) as client:
        assert client.user_pass(account.name, account.password).startswith(b"-ERR [SYS/TEMP] ")

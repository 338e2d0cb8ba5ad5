"""Mechanisms with independent peers: Dovecot as upstream, mpop (GNU SASL), curl and poplib as clients."""

from __future__ import annotations

import base64
import json
import poplib
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trustme

from popproxy.wire.sasl import CLIENT_MECHANISMS, Derivation, Identity, Secret
from tests.integration import dovecot as dovecot_server
from tests.integration import proxy as proxies
from tests.integration.clients import Mailbox, curl, curl_url, fetch_mpop
from tests.integration.conftest import NAMES, Need, Start, issued, unavailable
from tests.integration.daemon import SECRETS, Account
from tests.integration.dovecot import Dovecot
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import connect, url
from tests.integration.test_clients import SMALL
from tests.integration.tokens import Issuer, issuing
from tests.letters import as_sent
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

WRONG = b"not-this-one-at-all"
SECRETS.add(WRONG)
PASSWORDS = ("user", "plain", "login", "scram-sha-256")
TOKENS = ("oauthbearer", "xoauth2")
STEPS = {"one line": "", "two steps": 'initial_response = "never"', "one line always": 'initial_response = "always"'}


@dataclass(frozen=True)
class Place:
    """A Dovecot that speaks everything, an account of it, and a token of that account."""

    dovecot: Dovecot
    issuer: Issuer
    account: Account
    token: bytes = field(repr=False)
    short: bytes = field(repr=False)
    """Another one, for who cannot hold that."""

    def methods(self) -> list[str]:
        """How its sessions got in, as Dovecot says it."""
        about = f"Login: user=<{self.account.user}>, method="
        return [line.partition(about)[2].partition(",")[0] for line in self.dovecot.log().splitlines() if about in line]


@pytest.fixture(scope="module")
def place(need: Need, authority: trustme.CA) -> Iterator[Place]:
    need("dovecot-pop3d")
    if dovecot_server.modern():
        unavailable("the configuration of OAuth is that of Dovecot 2.3")
    with issuing() as issuer, dovecot_server.start(*issued(authority, *NAMES), introspection=issuer.url) as server:
        account = server.account(SMALL)
        yield Place(server, issuer, account, issuer.issue(account.user), issuer.issue(account.user, 200))


def by_token(client: WireClient, name: str, user: str, token: bytes, steps: int = 1) -> tuple[bytes, list[bytes]]:
    """Log in by a token: the last line, and the error documents before it."""
    mechanism = CLIENT_MECHANISMS[name.upper().encode()](Identity(user, "", token, Secret.TOKEN), b"c")
    message = base64.b64encode(mechanism.initial() or b"")
    reply = client.single(b"AUTH " + mechanism.name + (b" " + message if steps == 1 else b""))
    if steps == 2:
        reply = client.single(message)
    told: list[bytes] = []
    while reply.startswith(b"+ "):
        told.append(base64.b64decode(reply[2:]))
        answer = mechanism.respond(told[-1])
        assert not isinstance(answer, Derivation)
        reply = client.single(base64.b64encode(answer))
    return reply, told


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("mechanism", PASSWORDS)
def test_a_password_upstream(
    place: Place, start: Start, setup: Setup, trust: ssl.SSLContext, mechanism: str, steps: str
) -> None:
    server = url(place.dovecot, "tls")
    proxy = start(replace(setup, server=server, upstream=f'mechanism = "{mechanism}"\n{STEPS[steps]}'))
    before = len(place.methods())
    with connect(proxy, "tls", trust) as client:
        assert client.user_pass(place.account.name, WRONG) == b"-ERR [AUTH] Authentication failed\r\n"
        assert client.user_pass(place.account.name, place.account.password).startswith(b"+OK")
        assert client.single(b"STAT").startswith(b"+OK %d " % len(SMALL))
    eventually(lambda: len(place.methods()) > before, "line of Dovecot's")
    # USER and PASS are PLAIN to Dovecot.
    assert place.methods()[before:] == ["PLAIN" if mechanism == "user" else mechanism.upper()]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("upstream", TOKENS)
def test_a_token_upstream(
    place: Place, start: Start, setup: Setup, trust: ssl.SSLContext, upstream: str, steps: str
) -> None:
    server = url(place.dovecot, "tls")
    proxy = start(replace(setup, server=server, upstream=f'mechanism = "{upstream}"\n{STEPS[steps]}'))
    before = len(place.methods())
    user = place.account.user
    for number, name in enumerate(TOKENS, 1):
        with connect(proxy, "tls", trust) as client:
            reply, told = by_token(client, name, user, WRONG, number)
            assert reply == b"-ERR [AUTH] Authentication failed\r\n"
            assert [set(json.loads(document)) >= {"status"} for document in told] == [True]
            reply, told = by_token(client, name, user, place.token, number)
            assert reply.startswith(b"+OK") and not told
            assert client.single(b"STAT").startswith(b"+OK %d " % len(SMALL))
    eventually(lambda: len(place.methods()) == before + 2, "two lines of Dovecot's")
    assert place.methods()[before:] == [upstream.upper()] * 2


def test_what_is_announced_before_dovecot(place: Place, plain: Proxy, trust: ssl.SSLContext) -> None:
    """Its digests and its SCRAM are not ours to offer."""
    with connect(plain, "tls", trust) as client:
        assert b"<" not in client.greeting
        capabilities = client.multi(b"CAPA").splitlines()
        assert b"SASL OAUTHBEARER XOAUTH2 PLAIN LOGIN" in capabilities and b"USER" in capabilities
        for name in (b"SCRAM-SHA-256", b"SCRAM-SHA-1", b"CRAM-MD5"):
            assert client.single(b"AUTH " + name) == b"-ERR [SYS/PERM] " + name + b" is not offered here\r\n"
        assert by_token(client, "xoauth2", place.account.user, place.token)[0].startswith(b"+OK")
        after = client.multi(b"CAPA").splitlines()
        assert b"SASL OAUTHBEARER XOAUTH2 PLAIN LOGIN" in after and b"USER" in after


@pytest.fixture(scope="module")
def proving(place: Place, setup: Setup) -> Iterator[dict[str, Proxy]]:
    """Proxies whose plugin makes everything possible, by mechanism upstream."""
    with ExitStack() as running:
        found = {}
        for mechanism in ("user", "scram-sha-256", "xoauth2"):
            plugin = (
                f'mechanism = "{mechanism}"\n[[plugin]]\nuse = "tests.integration.proving:Proving"\n'
                f"user = {json.dumps(place.account.user)}\npassword = {json.dumps(place.account.password.decode())}\n"
                f"token = {json.dumps(place.short.decode())}\nupstream_token = {str(mechanism == 'xoauth2').lower()}"
            )
            made = replace(setup, server=url(place.dovecot, "tls"), upstream=plugin)
            found[mechanism] = running.enter_context(proxies.start(made))
        yield found


METHODS = {"user": "USER", "plain": "PLAIN", "login": "LOGIN", "apop": "APOP", "cram-md5": "CRAM-MD5"}
METHODS |= {name: name.upper() for name in ("scram-sha-1", "scram-sha-256", "oauthbearer", "xoauth2")}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("upstream", ["user", "scram-sha-256", "xoauth2"])
def test_mpop_with_dovecot(
    place: Place, proving: dict[str, Proxy], need: Need, ca_file: Path, tmp_path: Path, upstream: str, method: str
) -> None:
    need("mpop")
    proxy = proving[upstream]
    before = len(proxy.sessions())
    secret = place.short if method in TOKENS else place.account.password
    account = replace(place.account, password=secret)
    mailbox = Mailbox(proxy.pop3s, "tls", account, ca_file)
    letters = fetch_mpop(mailbox, tmp_path, True, auth=method)
    assert len(letters) == len(SMALL)
    line = proxy.wait_for_sessions(before + 1)[before]
    assert (line["mechanism"], line["user"]) == (METHODS[method], place.account.user)


@pytest.mark.parametrize("method", METHODS)
def test_mpop_with_a_wrong_secret(
    place: Place, proving: dict[str, Proxy], need: Need, ca_file: Path, tmp_path: Path, method: str
) -> None:
    need("mpop")
    mailbox = Mailbox(proving["user"].pop3s, "tls", replace(place.account, password=WRONG), ca_file)
    with pytest.raises(AssertionError, match="ended with"):
        fetch_mpop(mailbox, tmp_path, True, auth=method)

    def failed() -> list[object]:
        return [line["code"] for line in proving["user"].lines() if line["event"] == "login_failed"
                and line["mechanism"] == METHODS[method]]  # fmt: skip

    eventually(lambda: failed() != [], "line about a login that failed")
    assert set(failed()) == {"AUTH"}


def test_poplib_by_apop(place: Place, proving: dict[str, Proxy], trust: ssl.SSLContext) -> None:
    client = poplib.POP3_SSL("localhost", proving["scram-sha-256"].pop3s, context=trust, timeout=30)
    try:
        assert client.apop(place.account.user, place.account.password.decode()).startswith(b"+OK")
        assert client.stat()[0] == len(SMALL)
    finally:
        client.quit()


@pytest.fixture(scope="module")
def plain(place: Place, setup: Setup) -> Iterator[Proxy]:
    """A proxy without plugins: tokens go through to Dovecot."""
    with proxies.start(replace(setup, server=url(place.dovecot, "tls"))) as running:
        yield running


def test_curl_by_token(place: Place, plain: Proxy, need: Need, ca_file: Path) -> None:
    """curl takes OAUTHBEARER where it is offered, whatever it is told."""
    need("curl")
    before = len(plain.sessions())
    mailbox = Mailbox(plain.pop3s, "tls", replace(place.account, password=b"unused"), ca_file)
    assert curl(mailbox, "--oauth2-bearer", place.token.decode(), curl_url(mailbox, "1")) == as_sent(SMALL[0][1])
    with pytest.raises(AssertionError, match="ended with 67"):
        curl(mailbox, "--oauth2-bearer", WRONG.decode(), curl_url(mailbox))
    lines = plain.wait_for_sessions(before + 2)[before:]
    assert {line["mechanism"] for line in lines} == {"OAUTHBEARER"}


@pytest.mark.parametrize("method", TOKENS)
def test_mpop_by_token(
    place: Place, plain: Proxy, need: Need, ca_file: Path, tmp_path: Path, method: str
) -> None:
    need("mpop")
    mailbox = Mailbox(plain.pop3s, "tls", replace(place.account, password=place.short), ca_file)
    assert len(fetch_mpop(mailbox, tmp_path, True, auth=method)) == len(SMALL)
    wrong = replace(mailbox, account=replace(place.account, password=WRONG))
    with pytest.raises(AssertionError, match="ended with"):
        fetch_mpop(wrong, tmp_path / "wrong", True, auth=method)

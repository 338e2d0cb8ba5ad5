"""Every mechanism of clients with every mechanism of upstreams, over real sockets: what works is announced and works,
what cannot work is not announced and is refused with the right code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import (
    Bearer,
    Credentials,
    Digest,
    Password,
    Plugin,
    PluginConfig,
    Refuse,
    Route,
    SessionView,
    Verified,
    Verifier,
)
from popproxy.api.verdicts import Code
from popproxy.wire.sasl import CLIENT_MECHANISMS, ClientMechanism, Derivation, Identity, ScramClient, Secret
from tests.net.running import PASSWORD, USER, Proxy, Setup, both_loops, forms, running, sample
from tests.net.test_pump import SMALL, url
from tests.net.tlspeers import LOOPS
from tests.net.upstream import CAPABILITIES, PATIENCE, Peer, Upstream
from tests.wireclient import WireClient

NAME = USER.decode()
TOKEN = b"ya29.a0AfH6SMBx-" + b"e" * 600
SPOKEN = ("SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN")
CLIENTS = (
    "USER", "PLAIN", "PLAIN as", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256 as", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2",
    "CRAM-MD5", "APOP",
)  # fmt: skip
UPSTREAMS = ("auto", "user", "plain", "login", "scram-sha-256", "oauthbearer", "xoauth2")
PASSWORDS = {"USER", "PLAIN", "LOGIN"}
TOKENS = {"OAUTHBEARER", "XOAUTH2"}
PROVEN = {"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP"}


class Everything(Plugin[PluginConfig]):
    """Knows alice's password, judges what can be judged, and has what the upstream wants."""

    mechanisms = frozenset({"USER", *TOKENS, *PROVEN})
    wants = "password"

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier | None:
        return Verifier.derive(mechanism, PASSWORD.decode(), b"0123456789abcdef") if user == NAME else None

    def on_login(self, session: SessionView, credentials: Credentials) -> Route | Refuse:
        match credentials:
            case Password(user=user, password=secret):
                good = (user, secret) == (NAME, PASSWORD)
            case Bearer(token=token):
                good = token == TOKEN
            case Digest(mechanism="APOP", challenge=challenge, response=response):
                good = hashlib.md5(challenge + PASSWORD).hexdigest().encode() == response
            case Digest(challenge=challenge, response=response):
                good = hmac.new(PASSWORD, challenge, "md5").hexdigest().encode() == response
            case _:
                good = isinstance(credentials, Verified)
        if not good:
            return Refuse("Authentication failed", Code.AUTH, "wrong")
        authzid = getattr(credentials, "authzid", "")
        if self.wants == "token":
            return Route(None, Bearer(NAME, TOKEN, authzid))
        return Route(None, Password(NAME, PASSWORD, authzid))


class Names(Plugin[PluginConfig]):
    """Makes mechanisms possible, and nothing of what comes of them."""

    mechanisms = frozenset(PROVEN)

    def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier:
        return Verifier.derive(mechanism, PASSWORD.decode(), b"0123456789abcdef")


def say(client: WireClient, row: str, secret: bytes, steps: int) -> bytes:
    """Log in by the mechanism of this row; the last line, behind an answer to an error document."""
    name, _, other = row.partition(" ")
    if name == "USER":
        return client.user_pass(USER, secret)
    if name == "APOP":
        stamp = client.greeting[client.greeting.find(b"<") :].strip() if b"<" in client.greeting else b"<none>"
        return client.single(b"APOP " + USER + b" " + hashlib.md5(stamp + secret).hexdigest().encode())
    if name == "CRAM-MD5":
        reply = client.single(b"AUTH CRAM-MD5")
        if not reply.startswith(b"+ "):
            return reply
        answer = hmac.new(secret, base64.b64decode(reply[2:]), "md5").hexdigest().encode()
        return client.single(base64.b64encode(USER + b" " + answer))
    kind = Secret.TOKEN if name in TOKENS else Secret.PASSWORD
    identity = Identity(NAME, NAME if other else "", secret, kind)
    if name.startswith("SCRAM"):
        return exchange(client, ScramClient(name, identity, b"client"), steps)
    return exchange(client, CLIENT_MECHANISMS[name.encode()](identity, b"client"), steps)


def exchange(client: WireClient, mechanism: ClientMechanism, steps: int) -> bytes:
    initial = mechanism.initial()
    command = b"AUTH " + mechanism.name
    if initial is not None and steps == 1:
        reply = client.single(command + b" " + base64.b64encode(initial))
    else:
        reply = client.single(command)
        if initial is not None and reply.startswith(b"+ "):
            reply = client.single(base64.b64encode(initial))
    while reply.startswith(b"+ "):
        answer = mechanism.respond(base64.b64decode(reply[2:]))
        if isinstance(answer, Derivation):
            answer = mechanism.derived(answer.compute())
        reply = client.single(base64.b64encode(answer))
    return reply


def secret_of(row: str) -> bytes:
    return TOKEN if row in TOKENS else PASSWORD


def announced(client: WireClient) -> set[str]:
    """What CAPA and bare AUTH say, which is the same, and the greeting."""
    capabilities = client.multi(b"CAPA").decode().splitlines()
    sasl = [line for line in capabilities if line.startswith("SASL ")]
    names = set(sasl[0].split()[1:]) if sasl else set[str]()
    assert set(client.multi(b"AUTH").decode().splitlines()[1:-1]) == names
    if "USER" in capabilities:
        names.add("USER")
    if b"<" in client.greeting:
        names.add("APOP")
    return names


def start(directory: Path, upstream: str, steps: int, plugins: Sequence[Plugin[Any]], port: str, loop: str) -> Setup:
    initial = 'initial_response = "never"' if steps == 2 else ""
    return Setup([port], loop, upstream=f'mechanism = "{upstream}"\n{initial}', plugins=plugins)


def expected(row: str, upstream: str, plugin: str) -> bytes:
    """How the reply begins."""
    name, _, other = row.partition(" ")
    takes = {"auto": PASSWORDS | TOKENS, "oauthbearer": TOKENS, "xoauth2": TOKENS}.get(upstream, PASSWORDS)
    carried = not other or upstream in ("auto", "plain", "scram-sha-256", "oauthbearer")
    if plugin == "everything":
        return b"+OK" if carried else b"-ERR [SYS/PERM] "
    if name in PROVEN or name not in takes:
        return b"-ERR [SYS/PERM] "
    return b"+OK" if carried else b"-ERR [SYS/PERM] "


@pytest.mark.parametrize("plugin", ["none", "names", "everything"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_every_mechanism_with_every_other(upstream: str, steps: int, plugin: str, tmp_path: Path) -> None:
    everything = Everything(PluginConfig())
    everything.wants = "token" if upstream in ("oauthbearer", "xoauth2") else "password"
    plugins: dict[str, list[Plugin[Any]]] = {
        "none": [], "names": [Names(PluginConfig())], "everything": [everything]
    }  # fmt: skip
    offers = {"auto": PASSWORDS | TOKENS, "oauthbearer": TOKENS, "xoauth2": TOKENS}.get(upstream, PASSWORDS)
    offers = offers | {"none": set(), "names": PROVEN, "everything": PASSWORDS | TOKENS | PROVEN}[plugin]
    loop = sorted(LOOPS)[steps - 1]
    with sample(tmp_path, SMALL, mechanisms=SPOKEN, tokens={NAME: TOKEN.decode()}) as server:
        setup = start(tmp_path, upstream, steps, plugins[plugin], url(server), loop)
        with running(setup, tmp_path) as proxy:
            with proxy.client() as client:
                assert announced(client) == offers
            for row in CLIENTS:
                with proxy.client() as client:
                    reply = say(client, row, secret_of(row), steps)
                    assert reply.startswith(expected(row, upstream, plugin)), (row, reply)
                    if reply.startswith(b"+OK"):
                        assert row.partition(" ")[0] in offers, f"{row} works and is not announced"
                        assert client.multi(b"RETR 1").startswith(b"+OK")
                    elif row.partition(" ")[0] not in offers:
                        # Nothing of it was taken: the same session may go on with what is offered.
                        good = "XOAUTH2" if "XOAUTH2" in offers else "PLAIN"
                        assert say(client, good, secret_of(good), steps).startswith(b"+OK")
            check(proxy, tmp_path)


@both_loops
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_wrong_secret_is_bad_credentials_everywhere(upstream: str, loop: str, tmp_path: Path) -> None:
    everything = Everything(PluginConfig())
    everything.wants = "token" if upstream in ("oauthbearer", "xoauth2") else "password"
    with sample(tmp_path, SMALL, mechanisms=SPOKEN, tokens={NAME: TOKEN.decode()}) as server:
        for plugins in ([], [everything]):
            setup = start(tmp_path, upstream, 1, plugins, url(server), loop)
            with running(setup, tmp_path) as proxy:
                with proxy.client() as client:
                    offers = announced(client)
                for row in CLIENTS:
                    if row in offers:
                        with proxy.client() as client:
                            assert say(client, row, b"wrong", 1) == b"-ERR [AUTH] Authentication failed\r\n", row
                            # The next attempt is as good as the first.
                            assert say(client, row, secret_of(row), 1).startswith(b"+OK"), row
                        sample_of = {"listener": "main", "mechanism": row, "result": "bad_credentials"}
                        assert proxy.sample("auth_attempts_total", **sample_of) == 1, row
                check(proxy, tmp_path)


def check(proxy: Proxy, directory: Path) -> None:
    """No token is in the log."""
    text = (directory / "log.json").read_bytes()
    assert not [form for form in forms(TOKEN) if form in text], "the token is in the log"


class Demanding:
    """An upstream that asks for as many iterations as it may. ``met`` when it has asked."""

    def __init__(self) -> None:
        self.met = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.send(b"+OK ready\r\n")
        while True:
            line = peer.line()
            if line == b"CAPA":
                peer.send(CAPABILITIES)
            elif line.startswith(b"AUTH SCRAM-SHA-256 "):
                nonce = base64.b64decode(line.split()[2]).rpartition(b"r=")[2]
                peer.send(b"+ " + base64.b64encode(b"r=" + nonce + b"x,s=AAAA,i=1000000") + b"\r\n")
                self.met.set()
            else:
                peer.send(b"-ERR [AUTH] no\r\n")


@both_loops
def test_the_slow_step_of_scram_holds_nobody_up(loop: str, tmp_path: Path) -> None:
    demanding = Demanding()
    with Upstream(demanding) as upstream:
        setup = Setup([upstream.url], loop, upstream='mechanism = "scram-sha-256"')
        with running(setup, tmp_path) as proxy, proxy.client() as client, proxy.client() as other:
            client.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\n")
            assert demanding.met.wait(PATIENCE)
            assert other.single(b"QUIT").startswith(b"+OK")
            assert client.read_line() == b"+OK\r\n"
            assert client.read_line() == b"-ERR [AUTH] Authentication failed\r\n"


@both_loops
def test_who_goes_while_it_is_computed_leaves_nothing_behind(loop: str, tmp_path: Path) -> None:
    demanding = Demanding()
    with Upstream(demanding) as upstream:
        setup = Setup([upstream.url], loop, upstream='mechanism = "scram-sha-256"')
        with running(setup, tmp_path) as proxy:
            with proxy.client() as client:
                client.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\n")
                assert demanding.met.wait(PATIENCE)
            # Gone, or only half gone and then refused.
            assert proxy.session()["state"] in ("logging_in", "authorization")

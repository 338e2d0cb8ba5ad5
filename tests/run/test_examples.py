"""The configs of deploy/examples at work: real sockets, TLS on both legs, the sample server behind them."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.backend import Backend, User
from tests.run.examples import HOST, NAMES, Site, mail_server
from tests.run.process import Process, program
from tests.wireclient import WireClient

LETTER = b"From: sue@example.org\r\nSubject: hello\r\n\r\nHello.\r\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def running(site: Site) -> Iterator[ExitStack]:
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


def served(running: ExitStack, site: Site, config: Path) -> Process:
    process = running.enter_context(program(site.directory, "serve", "--config", str(config)))
    process.until(lambda: process.lines("started"))
    return process


def ended(process: Process) -> str:
    """Its log, once it has ended well."""
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    log = process.err.read_text()
    assert "internal_error" not in log and "plugin_error" not in log and "Traceback" not in log, log
    return log


def letters(client: WireClient) -> list[bytes]:
    """All letters of the maildrop, each as large as LIST says (promise 9)."""
    sizes = [int(line.split()[1]) for line in client.multi(b"LIST").split(b"\r\n")[1:-2]]
    found = []
    for number, octets in enumerate(sizes, 1):
        letter = client.multi(b"RETR %d" % number)
        assert letter.startswith(b"+OK")
        found.append(letter.partition(b"\r\n")[2].removesuffix(b".\r\n"))
        assert len(found[-1]) == octets
    return found


def test_every_example_is_driven_here() -> None:
    text = Path(__file__).read_text("utf-8")
    assert set(re.findall(r'site\.installed\(\s*"([\w.-]+)"', text)) == set(NAMES)


# hosting.toml

USERS = {f"user{number}@example.com": f"secret of {number}" for number in range(30)}


def test_hosting(running: ExitStack, site: Site) -> None:
    changes = {}
    ends = {}
    for server in ("shared1", "shared2", "business", "old"):
        letter = LETTER.replace(b"hello", server.encode())
        ends[server.encode()] = running.enter_context(ExitStack())
        home_of = mail_server(site.directory / server, USERS, {"one": letter}, site.server_tls)
        changes[f"{server}.example.com"] = f"{HOST}:{ends[server.encode()].enter_context(home_of)}"
    process = served(running, site, site.installed("hosting.toml", changes))

    def home(user: str) -> bytes:
        """The server that holds the mail of ``user``."""
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(user.encode(), USERS[user.strip().lower()].encode()).startswith(b"+OK"), user
            (letter,) = letters(client)
            assert client.single(b"QUIT").startswith(b"+OK")
        return letter.split(b"Subject: ")[1].split(b"\r\n")[0]

    homes = {user: home(user) for user in USERS}
    assert set(homes.values()) == {b"shared1", b"shared2"}
    assert homes == {user: home(f" {user.upper()}") for user in USERS}
    ends[b"shared1"].close()
    assert {home(user) for user in USERS} == {b"shared2"}
    ended(process)


# nginx-mail.toml


def test_nginx_mail(running: ExitStack, site: Site) -> None:
    users = {"ann": "an apple", "bob": "a bean"}
    backend = Backend()
    running.callback(backend.close)
    for user, password in users.items():
        maildrops = mail_server(site.directory / user, {f"{user}@inside": password}, {"one": LETTER}, None)
        inside = {"Auth-User": f"{user}@inside"}
        backend.users[user.encode()] = User(password.encode(), port=running.enter_context(maildrops), extra=inside)
    backend.users[b"bob"].extra = {"Auth-User": "bob@inside", "Auth-Pass": "a bean"}
    changes = {
        "127.0.0.1:1110": f"127.0.0.1:{backend.users[b'ann'].port}",
        "http://127.0.0.1:9000/auth": backend.url,
    }
    process = served(running, site, site.installed("nginx-mail.toml", changes))
    for user, password in users.items():
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(user.encode(), password.encode()).startswith(b"+OK")
            assert letters(client) == [LETTER]
            assert client.single(b"QUIT").startswith(b"+OK")
    with site.connect(process, "pop3") as client:
        assert client.user_pass(b"ann", b"an apple").startswith(b"-ERR"), "nothing in clear"
        client.stls(site.client_tls)
        stamp = re.search(rb"<[^>]+>", client.greeting)
        assert stamp is not None
        digest = hashlib.md5(stamp[0] + b"a bean").hexdigest().encode()
        assert client.single(b"APOP bob " + digest).startswith(b"+OK"), "the back end knows the password"
        assert letters(client) == [LETTER]
    with site.connect(process, "pop3s") as client:
        assert client.user_pass(b"ann", b"a bean") == b"-ERR [AUTH] Invalid login or password\r\n"
        assert client.user_pass(b"ann", b"an apple").startswith(b"+OK")
    asked = backend.asked[-1]
    assert (asked.get("Auth-Method"), asked.text("Auth-User")) == (b"plain", b"ann")
    assert asked.get("Auth-Login-Attempt") == b"2"
    assert (asked.get("Client-IP"), asked.get("X-Auth-Key")) == (b"127.0.0.1", b"shared with the back end")
    assert "apple" not in ended(process)

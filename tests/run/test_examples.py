"""The configs of deploy/examples at work: real sockets, TLS on both legs, the sample server behind them."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.integration import redis_server
from tests.integration.backend import Backend, User
from tests.integration.proxy import Certificate
from tests.run.examples import HOST, NAMES, PASSWORD_AT_REDIS, ROOT, Site, mail_server
from tests.run.process import PATIENCE, Process, program
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

SHARED = [f"user{number}@example.com" for number in range(30)]
PASSWORD = "the same for all"


def test_hosting(running: ExitStack, site: Site) -> None:
    users = {
        **dict.fromkeys(("shared1", "shared2"), SHARED),
        "business": ["boss@example.com", "ann@business.example"],
        "old": ["bob%old.example"],
    }
    changes = {}
    ends = {server: running.enter_context(ExitStack()) for server in users}
    for server, names in users.items():
        letter = LETTER.replace(b"hello", server.encode())
        passwords = dict.fromkeys(names, PASSWORD)
        maildrops = mail_server(site.directory / server, passwords, {"one": letter}, site.server_tls)
        changes[f"{server}.example.com"] = f"{HOST}:{ends[server].enter_context(maildrops)}"
    process = served(running, site, site.installed("hosting.toml", changes))

    def home(user: str) -> str:
        """The server that holds the mail of ``user``."""
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(user.encode(), PASSWORD.encode()).startswith(b"+OK"), user
            (letter,) = letters(client)
            assert client.single(b"QUIT").startswith(b"+OK")
        return letter.split(b"Subject: ")[1].split(b"\r\n")[0].decode()

    homes = {user: home(user) for user in SHARED}
    assert set(homes.values()) == {"shared1", "shared2"}
    assert homes == {user: home(" " + user.upper().removesuffix("@EXAMPLE.COM")) for user in SHARED}
    assert (home("Boss"), home("ann@Business.example"), home("bob@old.example")) == ("business", "business", "old")
    with site.connect(process, "pop3s") as client:
        assert client.user_pass(b"ann@example.com", PASSWORD.encode()).startswith(b"-ERR [AUTH]")
    ends["shared1"].close()
    assert {home(user) for user in SHARED} == {"shared2"}
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


# tagging.toml

HAM = b"X-Spam-Status: No, score=0.2 required=5.0\r\n" + LETTER
SPAM = b"X-Spam-Status: Yes, score=7.5 required=5.0\r\n" + LETTER
FORGED = b"X-Spam-Status: Yes, score=6.1 required=5.0\r\nX-Spam-Status: No, score=-9\r\n" + LETTER
AWFUL = b"X-Spam-Status: Yes, score=22.0 required=5.0\r\n" + LETTER.replace(b"Hello.", b"Buy this.\r\n" * 40)


def test_tagging(running: ExitStack, site: Site) -> None:
    sent = {"1.ham": HAM, "2.spam": SPAM, "3.forged": FORGED, "4.awful": AWFUL, "5.none": LETTER}
    maildrops = mail_server(site.directory / "mail", {"ann": "secret"}, sent, site.server_tls)
    changes = {"mail.example.com": f"{HOST}:{running.enter_context(maildrops)}"}
    process = served(running, site, site.installed("tagging.toml", changes))
    with site.connect(process, "pop3") as client:
        client.stls(site.client_tls)
        assert client.user_pass(b"ann", b"secret").startswith(b"+OK")
        ham, spam, forged, awful, none = letters(client)
        assert client.single(b"STAT") == b"+OK 5 %d\r\n" % sum(map(len, (ham, spam, forged, awful, none)))
        for letter in (spam, forged):
            assert b"\r\nSubject: [SPAM] hello\r\n" in letter and b"\r\nX-Spam-Flag: YES\r\n" in letter
        for letter in (ham, none):
            assert b"\r\nSubject: hello\r\n" in letter
        assert b"\r\nX-Spam-Flag: NO\r\n" in ham
        assert b"Buy this." not in awful and b"found to be spam" in awful
        assert all(letter.endswith(b"\r\n\r\nHello.\r\n") for letter in (ham, spam, forged, none))
        assert client.multi(b"TOP 2 0").count(b"[SPAM] ") == 1
        assert client.single(b"QUIT").startswith(b"+OK")
    ended(process)


# archive.toml


def test_archive(running: ExitStack, site: Site) -> None:
    users = {"old@archive.example.com": "secret", "ann@example.com": "secret"}
    maildrops = mail_server(site.directory / "mail", users, {"1": LETTER, "2": LETTER + b"Two.\r\n"}, site.server_tls)
    changes = {"mail.example.com": f"{HOST}:{running.enter_context(maildrops)}"}
    process = served(running, site, site.installed("archive.toml", changes))

    def deleted(user: bytes) -> bytes:
        """What is left for the next session when one has deleted its first message."""
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(user, b"secret").startswith(b"+OK")
            assert client.single(b"DELE 1").startswith(b"+OK")
            assert client.single(b"STAT").startswith(b"+OK 1 ")
            assert client.single(b"RETR 1").startswith(b"-ERR")
            assert client.single(b"QUIT").startswith(b"+OK")
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(user, b"secret").startswith(b"+OK")
            assert b"\r\nEXPIRE NEVER\r\n" in client.multi(b"CAPA")
            stat = client.single(b"STAT")
            assert client.single(b"QUIT").startswith(b"+OK")
        return stat

    assert deleted(b"old@archive.example.com") == b"+OK 2 %d\r\n" % (2 * len(LETTER) + 6)
    assert deleted(b"ann@example.com").startswith(b"+OK 1 ")
    ended(process)


# office.toml


@pytest.mark.parametrize("office", ["192.0.2.0/24", "127.0.0.0/8"])
def test_office(running: ExitStack, site: Site, office: str) -> None:
    users = dict.fromkeys(("ann@example.com", "boss@example.com", "bob@sales.example.com"), "secret")
    maildrops = mail_server(site.directory / "mail", users, {"1": LETTER}, site.server_tls)
    changes = {"mail.example.com": f"{HOST}:{running.enter_context(maildrops)}", "192.0.2.0/24": office}
    process = served(running, site, site.installed("office.toml", changes))
    for user in users:
        with site.connect(process, "pop3s") as client:
            answer = client.user_pass(user.encode(), b"secret")
            if user == "ann@example.com" and office != "127.0.0.0/8":
                assert answer == b"-ERR [SYS/PERM] POP only from the office\r\n"
                assert client.user_pass(user.encode(), b"wrong") == answer, "nobody looks at the password"
            else:
                assert answer.startswith(b"+OK")
                assert letters(client) == [LETTER]
            assert client.single(b"QUIT").startswith(b"+OK")
    ended(process)


# app-passwords.toml


def test_app_passwords(running: ExitStack, site: Site) -> None:
    users = {"ann@example.com": "of-the-account"}
    maildrops = mail_server(site.directory / "mail", users, {"1": LETTER}, site.server_tls)
    changes = {"mail.example.com": f"{HOST}:{running.enter_context(maildrops)}"}
    process = served(running, site, site.installed("app-passwords.toml", changes))
    told = {
        (b"ann@example.com", b"of-the-account"): b"-ERR [SYS/PERM] Log in with an app password\r\n",
        (b"ann@example.com", b"of the phone"): b"-ERR [SYS/PERM] Log in with an app password\r\n",
        (b"ann+phone@example.com", b"of-the-account"): b"-ERR [AUTH] Authentication failed\r\n",
        (b"ann+tablet@example.com", b"of the phone"): b"-ERR [AUTH] Authentication failed\r\n",
    }
    for (user, password), answer in told.items():
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(user, password) == answer
            assert client.single(b"QUIT").startswith(b"+OK")
    with site.connect(process, "pop3s") as client:
        assert client.user_pass(b"ann+phone@example.com", b"of the phone").startswith(b"+OK")
        assert letters(client) == [LETTER]
        assert client.single(b"QUIT").startswith(b"+OK")
    log = ended(process)
    assert "of-the-account" not in log and "of the phone" not in log


# sunset.toml


def test_sunset(running: ExitStack, site: Site) -> None:
    users = dict.fromkeys(("ann@example.com", "bob@first.example.com"), "secret")
    maildrops = mail_server(site.directory / "mail", users, {"1": LETTER}, site.server_tls)
    changes = {"mail.example.com": f"{HOST}:{running.enter_context(maildrops)}"}
    process = served(running, site, site.installed("sunset.toml", changes))
    for _ in range(2):
        with site.connect(process, "pop3s") as client:
            assert client.user_pass(b"ann@example.com", b"secret").startswith(b"+OK")
            assert letters(client) == [LETTER]
            assert client.single(b"QUIT").startswith(b"+OK")
    with site.connect(process, "pop3s") as client:
        answer = client.user_pass(b"bob@first.example.com", b"secret")
        assert answer == b"-ERR [SYS/PERM] POP has been switched off, please use IMAP\r\n"
    (line,) = process.until(lambda: process.lines("admin_listening"))
    with urlopen(f"http://{line['address']}/metrics", timeout=PATIENCE) as reply:
        metrics = reply.read().decode()
    counted = re.findall(r"^popproxy_policy_decisions_total\{(.*)\} ([1-9].*)$", metrics, re.MULTILINE)
    found = {frozenset(re.findall(r'(\w+)="(\w+)"', labels)): float(number) for labels, number in counted}
    plugin = ("plugin", "policy")
    assert found == {
        frozenset({plugin, ("rule", "pop_is_over"), ("action", "audit")}): 2,
        frozenset({plugin, ("rule", "pop_is_over_for_some"), ("action", "deny")}): 1,
    }, metrics
    tried = process.lines("policy.audit")
    assert [(line["user"], line["rule"], line["client"]) for line in tried] == [
        ("ann@example.com", "pop_is_over", "127.0.0.1")
    ] * 2
    ended(process)


# spray.toml


def test_spray(running: ExitStack, site: Site) -> None:
    users = {"ann@example.com": "of ann", "bob@example.com": "of bob"}
    maildrops = mail_server(site.directory / "mail", users, {"1": LETTER}, site.server_tls)
    changes = {
        "mail.example.com": f"{HOST}:{running.enter_context(maildrops)}",
        '["2s", "4s", "8s", "15s"]': '["10ms"]',
    }
    process = served(running, site, site.installed("spray.toml", changes))

    def answer(user: str, password: str, source: str) -> bytes:
        with site.connect(process, "pop3s", source) as client:
            told = client.user_pass(user.encode(), password.encode())
            assert client.single(b"QUIT").startswith(b"+OK")
        return told

    refused = b"-ERR [SYS/TEMP] Too many failed logins, try again later\r\n"
    assert answer("ann@example.com", "of ann", "127.0.0.1").startswith(b"+OK")
    for _ in range(20):
        assert answer("bob@example.com", "an old one", "127.0.0.3").startswith(b"-ERR [AUTH]"), "a phone is no attack"
    for number in range(8):
        assert answer(f"user{number}@example.com", "Summer2026", "127.0.0.2").startswith(b"-ERR [AUTH]")
    assert answer("bob@example.com", "of bob", "127.0.0.2") == refused
    assert answer("bob@example.com", "wrong", "127.0.0.2") == refused
    assert answer("ann@example.com", "of ann", "127.0.0.1").startswith(b"+OK")
    assert answer("bob@example.com", "of bob", "127.0.0.3").startswith(b"+OK")
    (ban,) = process.lines("brute_force.banned")
    assert (ban["client"], ban["names"]) == ("127.0.0.2", 8)
    log = ended(process)
    assert "Summer2026" not in log and "of bob" not in log


# fleet.toml

RIGHTS = re.search(r"ACL SETUSER popproxy on >PASSWORD ([^`]*)```", (ROOT / "docs" / "redis.md").read_text("utf-8"))


@pytest.mark.integration
def test_fleet(running: ExitStack, site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert RIGHTS is not None
    account = ("--user", "popproxy", "on", f">{PASSWORD_AT_REDIS}", *RIGHTS[1].split())
    shown = Certificate(site.directory / "mail.pem", site.directory / "mail.key")
    redis = running.enter_context(
        redis_server.server("--tls-auth-clients", "no", *account, certificate=shown, ca_file=site.ca_file)
    )
    users = {"ann@example.com": "of ann", "bob@example.com": "of bob"}
    machines = []
    for name in ("one", "two"):
        # Each has mail of its own: the sample server has no room for two sessions of a user.
        maildrops = mail_server(site.directory / name, users, {"1": LETTER}, site.server_tls)
        changes = {
            "mail.example.com": f"{HOST}:{running.enter_context(maildrops)}",
            "store.example.com": f"{HOST}:{redis.port}",
            "10.0.0.0/24": "127.0.0.0/8",
            '["2s", "4s", "8s", "15s"]': '["10ms"]',
            "sessions_per_user = 10": "sessions_per_user = 1",
        }
        config = site.installed("fleet.toml", changes)
        machine = running.enter_context(program(tmp_path_factory.mktemp(name), "serve", "--config", str(config)))
        machine.until(lambda machine=machine: machine.lines("started"))
        machines.append(machine)
    one, two = machines

    def session(machine: Process, user: str, password: str, client: str) -> tuple[WireClient, bytes]:
        header = f"PROXY TCP4 {client} 192.0.2.1 50000 995\r\n".encode()
        made = running.enter_context(site.connect(machine, "pop3s", header=header))
        return made, made.user_pass(user.encode(), password.encode())

    def answer(machine: Process, user: str, password: str, client: str) -> bytes:
        made, reply = session(machine, user, password, client)
        assert made.single(b"QUIT").startswith(b"+OK")
        return reply

    full = b"-ERR [IN-USE] Too many sessions at once\r\n"
    for here, there in ((one, two), (two, one)):
        client, reply = session(here, "ann@example.com", "of ann", "192.0.2.7")
        assert reply.startswith(b"+OK")
        assert answer(there, "ann@example.com", "of ann", "192.0.2.8") == full
        assert letters(client) == [LETTER]
        assert client.single(b"QUIT").startswith(b"+OK")
        there.until(lambda there=there: answer(there, "ann@example.com", "of ann", "192.0.2.8") != full)
    for number in range(8):
        user = f"user{number}@example.com"
        assert answer(machines[number % 2], user, "Summer2026", "192.0.2.66").startswith(b"-ERR [AUTH]")
    for machine in machines:
        told = answer(machine, "bob@example.com", "of bob", "192.0.2.66")
        assert told == b"-ERR [SYS/TEMP] Too many failed logins, try again later\r\n"
    assert answer(one, "bob@example.com", "of bob", "192.0.2.9").startswith(b"+OK")
    for machine in machines:
        log = ended(machine)
        assert "Summer2026" not in log and PASSWORD_AT_REDIS not in log and "store_down" not in log

"""spam with real scanners, a real Dovecot and real clients: verdicts, sizes, and a scanner that comes and goes."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.marks import Marks

from popproxy.api import Header
from tests.integration import scanners
from tests.integration.clients import CLIENTS, Client, Mailbox
from tests.integration.conftest import Need, Start
from tests.integration.daemon import Account
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import Server, logged_in, url
from tests.integration.scanners import GTUBE, Scanner
from tests.integration.test_servers import SOME
from tests.integration.test_sizes import Reading, message_of, octets_of, parts, read
from tests.letters import as_sent
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

HEAD = b"From: Robin <robin@example.com>\nTo: Alice <alice@example.com>\nDate: Fri, 27 Nov 2026 10:00:00 +0000\n"
PLAIN = HEAD + b"Message-ID: <%d@example.com>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
PARTS = HEAD + b'MIME-Version: 1.0\nMessage-ID: <%d@example.com>\nContent-Type: multipart/mixed; boundary="b"\n'
WORDS = b"The minutes of the last meeting are in the archive, as always.\n"


def shape(number: int, head: bytes, subject: bytes, body: bytes) -> bytes:
    return head % number + b"Subject: " + subject + b"\n\n" + body


BODIES = {
    "plain": (PLAIN, WORDS),
    "multipart": (PARTS, b"--b\n\n" + WORDS + b"--b\nContent-Type: text/html\n\n<p>x</p>\n--b--\n"),
    "eight_bit": (PLAIN, "Grüße aus Köln\n".encode() + b"\xff\xfe octets\n"),
    "large": (PLAIN, WORDS * 5_000),
    "one_line": (PLAIN, b"x" * 100_000 + b"\n"),
    "empty_body": (PLAIN, b""),
    "dot_lines": (PLAIN, b".\n..\n.x\n" + WORDS),
    "no_end": (PLAIN, b"no end of line"),
}
SHAPES = [
    (f"{kind}_{name}", shape(number, head, subject, body))
    for number, ((kind, subject), (name, (head, body))) in enumerate(
        (
            (subject, item)
            for subject in (("ham", b"minutes"), ("spam", b"some shaped spam"), ("bad", "very bad grüße".encode()))
            for item in BODIES.items()
        ),
        1,
    )
]
SHAPES.append(("gtube", shape(99, PLAIN, b"test", GTUBE + b"\n")))
SHAPES.append(("forged", b"X-Spam-Flag: NO\nX-Spam-Score: -50\n" + shape(98, PLAIN, b"shaped spam, forged", WORDS)))
SHAPES.append(("tagged", shape(97, PLAIN, b"Re: [SPAM] shaped spam", WORDS)))
NAMES = [name for name, _ in SHAPES]
SPAM = {name for name in NAMES if not name.startswith("ham")}

VERDICT = b"X-Spam-Status: Yes, score=%d required=6.0\n"
JUDGED = [(name, (VERDICT % (20 if "bad" in name else 8) if name in SPAM else b"") + letter) for name, letter in SHAPES]
"""The same as a server with a filter of its own has them."""

TAG = [{"at": 6, "tag": "[SPAM] "}]
ACTIONS: dict[str, list[dict[str, Any]]] = {
    "mark": [{"at": 6}],
    "tag": [{"at": 6, "tag": "[Müll] "}],
    "replace": [{"at": 6, "tag": "[SPAM] ", "replace": True}],
    "refuse": [{"at": 6}, {"at": 15, "refuse": True}],
}


@pytest.fixture(scope="module")
def rspamd(need: Need) -> Iterator[Scanner]:
    need("rspamd")
    with scanners.rspamd() as scanner:
        yield scanner


@pytest.fixture(scope="module")
def spamd(need: Need) -> Iterator[Scanner]:
    need("spamassassin", "spamc", "spamd")
    with scanners.spamd() as scanner:
        yield scanner


@pytest.fixture(scope="module", params=["rspamd", "spamd"])
def scanner(request: pytest.FixtureRequest) -> Scanner:
    found: Scanner = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def shapes(dovecot: Dovecot) -> Account:
    """The account with SHAPES. Nobody deletes one."""
    return dovecot.account(SHAPES)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def table(scanner: Scanner | None, **options: Any) -> str:
    given = {"deadline": "20s", **options}
    if scanner is not None:
        given |= {"source": scanner.source, "servers": [scanner.address]}
    return "\n".join(["", "[[plugin]]", 'use = "spam"', *(f"{key} = {toml(one)}" for key, one in given.items()), ""])


def growth(**options: Any) -> int:
    return Marks(SpamConfig.model_validate(options)).growth


def retrieved(client: WireClient, number: int) -> bytes:
    return message_of(client.multi(b"RETR %d" % number))


def status_of(message: bytes) -> str:
    return ", ".join(Header(message).get_all("X-Spam-Status"))


# Verdicts


def test_every_shape_has_the_score_that_the_scanners_own_client_sees(
    scanner: Scanner, dovecot: Dovecot, shapes: Account, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream=table(scanner, actions=TAG)))
    with WireClient(("127.0.0.1", dovecot.port)) as direct, logged_in(proxy, "tls", trust, shapes) as client:
        assert direct.user_pass(shapes.name, shapes.password).startswith(b"+OK")
        for number, name in enumerate(NAMES, 1):
            original, message = retrieved(direct, number), retrieved(client, number)
            header = Header(message)
            (score,) = map(float, header.get_all("X-Spam-Score"))
            # spamd shows one digit behind the point.
            assert score == pytest.approx(scanner.judge(original), abs=0.06), name
            assert header.get_all("X-Spam-Flag") == ["YES" if score >= 6 else "NO"], name
            assert (score >= 6) == (name in SPAM), (name, score)
            assert header.get_all("Subject")[0].count("[SPAM]") == (1 if name in SPAM else 0), name
            assert parts(message)[1] == parts(original)[1], name
            assert "tests=" in status_of(message)


def test_the_upstreams_verdict(
    scanner: Scanner, dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    """What one popproxy with a scanner has written, another one reads: as behind any mail system with a filter."""
    judged = dovecot.account(SHAPES)
    proxy = start(replace(setup, server=url(dovecot, "clear"), upstream=table(scanner)))
    with logged_in(proxy, "clear", trust, judged) as client:
        written = [(name, retrieved(client, number)) for number, name in enumerate(NAMES, 1)]
    second = dovecot.account((name, message.replace(b"\r\n", b"\n")) for name, message in written)
    reading = start(replace(setup, server=url(dovecot, "clear"), upstream=table(None, actions=TAG)))
    with logged_in(reading, "clear", trust, second) as client:
        for number, (name, message) in enumerate(written, 1):
            again = Header(retrieved(client, number))
            assert again.get_all("X-Spam-Score") == Header(message).get_all("X-Spam-Score"), name
            assert again.get_all("X-Spam-Flag") == ["YES" if name in SPAM else "NO"], name


def test_thresholds_of_users(
    rspamd: Scanner, dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    strict, mild = dovecot.account(SHAPES), dovecot.account(SHAPES)
    both = table(rspamd, name="strict", when={"user": [strict.user]}, actions=[{"at": 6, "refuse": True}])
    both += table(rspamd, name="mild", when={"user": [mild.user]}, actions=[{"at": 100}])
    proxy = start(replace(setup, server=url(dovecot, "clear"), upstream=both))
    number = NAMES.index("spam_plain") + 1
    with logged_in(proxy, "clear", trust, strict) as client:
        assert client.single(b"RETR %d" % number) == b"-ERR [SYS/PERM] Message refused as spam\r\n"
    with logged_in(proxy, "clear", trust, mild) as client:
        assert status_of(retrieved(client, number)).startswith("No, score=")
        assert " required=100.00 " in status_of(retrieved(client, number))


# True sizes


@pytest.mark.parametrize("source", ["headers", "rspamd", "spamd"])
@pytest.mark.parametrize("action", ACTIONS)
def test_promise_9_sizes_are_larger_by_one_number(
    request: pytest.FixtureRequest,
    source: str,
    action: str,
    dovecot: Dovecot,
    start: Start,
    setup: Setup,
    trust: ssl.SSLContext,
) -> None:
    """The difficult letters, too; those that are long only where a scanner is quick."""
    scanner = None if source == "headers" else request.getfixturevalue(source)
    letters = (JUDGED if source == "headers" else SHAPES) + (SOME[::3] if source == "spamd" else LETTERS)
    account = request.getfixturevalue("sized")(source, letters)
    direct: Reading = request.getfixturevalue("directly")(dovecot, account)
    proxy = start(replace(setup, server=url(dovecot, "clear"), upstream=table(scanner, actions=ACTIONS[action])))
    grown = growth(actions=ACTIONS[action])
    with logged_in(proxy, "clear", trust, account) as client:
        if action == "refuse":
            check_refused(client, direct, grown)
            return
        found = read(client)
        assert client.single(b"QUIT").startswith(b"+OK")
    assert found.count == direct.count
    assert found.octets == direct.octets + grown * direct.count == sum(found.listed.values())
    assert found.listed == found.one == {number: size + grown for number, size in direct.listed.items()}
    for number, reply in direct.retr.items():
        whole, mine = message_of(reply), message_of(found.retr[number])
        assert len(mine) == len(whole) + grown, letters[number - 1][0]
        if b"is not shown" in mine[:4000]:
            # Dovecot's TOP of all lines is not always what its RETR is.
            if source != "headers" or octets_of(direct.tops[number, 100000]) == len(whole):
                assert message_of(found.tops[number, 100000]) == mine, letters[number - 1][0]
            continue
        assert mine.endswith(parts(whole)[1]), number
        for (_, lines), top in ((key, top) for key, top in direct.tops.items() if key[0] == number):
            assert octets_of(found.tops[number, lines]) == octets_of(top) + grown, (letters[number - 1][0], lines)
    notices = {name for number, (name, _) in enumerate(letters, 1) if b"is not shown" in found.retr[number][:4000]}
    # Some of the difficult letters look like spam to rspamd.
    assert notices & set(NAMES) == (SPAM if action == "replace" else set())


def check_refused(client: WireClient, direct: Reading, grown: int) -> None:
    """What is refused stays in the listing with its size; everything else is what it was, and larger."""
    rows = [row.split() for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
    assert {int(row[0]): int(row[1]) for row in rows} == {n: size + grown for n, size in direct.listed.items()}
    for number, reply in direct.retr.items():
        client.send(b"RETR %d\r\n" % number)
        line = client.read_line()
        if line.startswith(b"-ERR"):
            assert line == b"-ERR [SYS/PERM] Message refused as spam\r\n"
            continue
        rest = client._read_until(b"\r\n.\r\n", 0)
        assert octets_of(line + rest) == octets_of(reply) + grown


@pytest.fixture(scope="module")
def sized(dovecot: Dovecot) -> Callable[[str, list[tuple[str, bytes]]], Account]:
    """An account with these letters, one for each source."""
    made: dict[str, Account] = {}

    def account(source: str, letters: list[tuple[str, bytes]]) -> Account:
        if source not in made:
            made[source] = dovecot.account(letters)
        return made[source]

    return account


@pytest.fixture(scope="module")
def directly() -> Callable[[Server, Account], Reading]:
    """What the server itself says of an account."""
    known: dict[str, Reading] = {}

    def reading(server: Server, account: Account) -> Reading:
        if account.user not in known:
            with WireClient(("127.0.0.1", server.port)) as client:
                assert client.user_pass(account.name, account.password).startswith(b"+OK")
                known[account.user] = read(client)
        return known[account.user]

    return reading


# Real clients


@pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)
def test_a_real_client_gets_every_message_once_and_marked(
    kind: Client, rspamd: Scanner, dovecot: Dovecot, start: Start, setup: Setup, need: Need, tmp_path: Path
) -> None:
    if kind.package is not None:
        need(kind.package)
    letters = [(name, letter) for name, letter in SHAPES if len(letter) < 50_000]
    account = dovecot.account(letters)
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream=table(rspamd, actions=TAG)))
    assert setup.ca_file is not None
    fetched = kind.fetch(Mailbox(proxy.pop3s, "tls", account, setup.ca_file), tmp_path, False)
    assert len(fetched) == len(letters)
    marked = {}
    for message in fetched:
        header = Header(message)
        (identity,) = header.get_all("Message-ID")
        marked[identity] = (header.get_all("X-Spam-Flag"), header.get_all("Subject")[0].count("[SPAM]"))
    assert len(marked) == len(letters)
    for name, letter in letters:
        (identity,) = Header(as_sent(letter)).get_all("Message-ID")
        assert marked[identity] == (["YES"], 1) if name in SPAM else (["NO"], 0), name
    eventually(lambda: dovecot.kept(account) == [], "an empty maildrop")


def test_top_and_retr_agree_on_octets(
    scanner: Scanner, dovecot: Dovecot, shapes: Account, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    """TOP first: nothing is known then."""
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream=table(scanner, actions=TAG)))
    with logged_in(proxy, "tls", trust, shapes) as client:
        client.single(b"STAT")
        tops = [message_of(client.multi(b"TOP %d 3" % number)) for number in range(1, 9)]
        again = [message_of(client.multi(b"TOP %d 3" % number)) for number in range(1, 9)]
        messages = [retrieved(client, number) for number in range(1, 9)]
    assert tops == again
    assert all(message.startswith(top) for message, top in zip(messages, tops, strict=True))
    # Dovecot's own TOP, and the one that is cut out of a RETR, are the same.
    assert scans(proxy) == 8


def scans(proxy: Proxy) -> float:
    """Scans that ended well."""
    text = proxy.get("/metrics")[1].decode()
    rows = re.findall(r'^popproxy_plugin_spam_scans_total\{.*result="(?:ham|spam)".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, rows))


def test_a_second_session_costs_no_scan(
    scanner: Scanner, dovecot: Dovecot, shapes: Account, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    proxy = start(replace(setup, server=url(dovecot, "clear"), upstream=table(scanner)))
    seen = []
    for _ in range(2):
        with logged_in(proxy, "clear", trust, shapes) as client:
            client.single(b"STAT")
            seen.append([retrieved(client, number) for number in range(1, len(SHAPES) + 1)])
    assert seen[0] == seen[1]
    assert scans(proxy) == len(SHAPES)


# A scanner that comes and goes

FLEET = [(f"fleet{n}", shape(n, PLAIN, b"%d shaped spam" % n if n % 2 else b"%d" % n, WORDS * n)) for n in range(1, 61)]


def killed(scanner: Scanner) -> None:
    scanner.kill()
    time.sleep(0.3)
    scanner.start()


def stalled(scanner: Scanner) -> None:
    """For longer than a scan may take."""
    scanner.stall()
    time.sleep(2.5)
    scanner.resume()


@pytest.mark.parametrize("trouble", [killed, stalled])
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_in_the_middle_of_a_fleet_nothing_is_lost_cut_or_doubled(
    trouble: Callable[[Scanner], None],
    fail: str,
    scanner: Scanner,
    dovecot: Dovecot,
    start: Start,
    setup: Setup,
    trust: ssl.SSLContext,
) -> None:
    account = dovecot.account(FLEET)
    upstream = table(scanner, actions=TAG, deadline="1500ms", fail=fail, cache=0)
    proxy = start(replace(setup, server=url(dovecot, "clear"), upstream=upstream))
    done = threading.Event()

    def work() -> None:
        for _ in range(2):
            trouble(scanner)
            time.sleep(1.0)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    kinds: dict[str, int] = {"Yes": 0, "No,": 0, "Unk": 0, "-ERR": 0}
    rounds = 0
    try:
        with logged_in(proxy, "clear", trust, account) as client:
            rows = [row.split() for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
            sizes = {int(row[0]): int(row[1]) for row in rows}
            assert len(sizes) == len(FLEET)
            # Until there was trouble twice, and then until the scanner is used again.
            used = False
            while not (done.is_set() and used):
                rounds += 1
                used = False
                for number in sizes:
                    client.send(b"RETR %d\r\n" % number)
                for number, size in sizes.items():
                    line = client.read_line()
                    if line.startswith(b"-ERR"):
                        assert fail == "closed"
                        assert line.startswith(b"-ERR [SYS/TEMP] "), line
                        kinds["-ERR"] += 1
                        continue
                    message = message_of(line + client._read_until(b"\r\n.\r\n", 0))
                    assert len(message) == size
                    assert parts(message)[1] == as_sent(WORDS * number)
                    kinds[status_of(message)[:3]] += 1
                    used = status_of(message)[:3] != "Unk"
                    flags = Header(message).get_all("X-Spam-Flag")
                    assert flags == ([] if status_of(message).startswith("Unk") else ["YES" if number % 2 else "NO"])
                time.sleep(0.1)
            assert client.single(b"QUIT").startswith(b"+OK")
    finally:
        thread.join()
    assert kinds["Unk" if fail == "open" else "-ERR"] > 0
    assert kinds["-ERR" if fail == "open" else "Unk"] == 0
    assert sum(kinds.values()) == rounds * len(FLEET)
    assert len(dovecot.kept(account)) == len(FLEET)


def test_a_scanner_that_is_restarted_is_used_again(
    scanner: Scanner, dovecot: Dovecot, start: Start, setup: Setup, trust: ssl.SSLContext
) -> None:
    account = dovecot.account(SHAPES[:3])
    proxy = start(replace(setup, server=url(dovecot, "clear"), upstream=table(scanner, cache=0)))
    with logged_in(proxy, "clear", trust, account) as client:
        assert status_of(retrieved(client, 1)).startswith("No, ")
        scanner.kill()
        try:
            assert status_of(retrieved(client, 1)) == "Unknown, not scanned: the scanner could not be reached"
        finally:
            scanner.start()
        eventually(lambda: status_of(retrieved(client, 1)).startswith("No, "), "scan")
    events = [line["event"] for line in proxy.lines() if line["event"] in ("spam.scanner_failed", "spam.not_scanned")]
    assert events[:2] == ["spam.scanner_failed", "spam.not_scanned"]

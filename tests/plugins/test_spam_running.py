"""spam in a running proxy: true sizes for every source and action, scanners that fail, one scan per message."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.spam import Spam, SpamConfig

from popproxy.api import Command, Fail, Header, HeaderFilter, Hide, MaildropView, Plugin, PluginConfig, SessionView
from tests.letters import as_sent
from tests.net.running import Proxy, Setup, eventually, reset, running, sample
from tests.net.test_pump import url
from tests.net.upstream import Peer, Upstream
from tests.plugins.scanners import Scanner, babbles, closes, floods, halves, resets, sleeps
from tests.wireclient import WireClient

SPAM = b"X-Score: 9.5\nX-Spam-Status: Yes, score=9.5 required=6.0 tests=A_B\n"
HAM = b"X-Score: -1.0\nX-Spam-Status: No, score=-1.0 required=6.0\n"
FROM = b"From: a@example.com\nTo: alice@example.com\n"
LETTERS = [
    ("ham", FROM + HAM + b"Subject: hi\n\nhello\n"),
    ("spam", FROM + SPAM + b"Subject: buy\n\nbuy now\n"),
    ("dots", FROM + SPAM + b"Subject: dots\n\n.\n..\n.x\nend\n"),
    ("no_end", FROM + HAM + b"Subject: two\n\nbody"),
    ("no_header", b"\nonly a body\n"),
    ("no_fields", b"This is no header at all\nnor is this\n"),
    ("mbox", b"From robin Tue Nov 14 22:13:20 2023\n" + SPAM + b"\nFrom here\n"),
    ("fold_first", b" folded into nothing\n" + SPAM + b"Subject: fold first\n\ntext\n"),
    ("eight_bit", FROM + SPAM + b"Subject: gr\xc3\xbc\xdfe\n\nb\xc3\xa4\xff\n"),
    ("encoded", FROM + SPAM + b"Subject: =?utf-8?q?gr=C3=BC?=\n =?utf-8?q?=C3=9Fe?=\n\ntext\n"),
    ("tagged", FROM + SPAM + b"Subject: Re: [SPAM] again\n\ntext\n"),
    ("no_subject", FROM + SPAM + b"\ntext\n"),
    ("empty_body", FROM + SPAM + b"Subject: empty\n\n"),
    ("header_only", FROM + SPAM + b"Subject: no body\n"),
    ("one_line", FROM + SPAM + b"Subject: one line\n\n" + b"x" * 20_000),
    ("forged", FROM + SPAM + b"X-Spam-Flag: NO\nX-Spam-Score: -99\nSubject: forged\n\ntext\n"),
    ("parts", FROM + SPAM + b'Content-Type: multipart/mixed; boundary="b"\n\n--b\n\none\n--b\n\ntwo\n--b--\n'),
    ("large", FROM + SPAM + b"Subject: large\n\n" + (b"y" * 70 + b"\n") * 5000),
    ("tiny", b"a\n"),
    ("spammy_tiny", b"X-Score: 9\nX-Spam: Yes\n\n"),
]
NAMES = [name for name, _ in LETTERS]
ACTIONS: dict[str, list[dict[str, Any]]] = {
    "mark": [{"at": 5}],
    "tag": [{"at": 5, "tag": "[SPAM] "}],
    "tag_beyond_ascii": [{"at": "spam", "tag": "[Müll] "}],
    "replace": [{"at": 5, "tag": "[SPAM] ", "replace": True}],
    "refuse": [{"at": 5, "refuse": "Spam", "code": "SYS/TEMP"}],
}


@contextmanager
def stage(
    directory: Path,
    source: str = "rspamd",
    letters: list[tuple[str, bytes]] = LETTERS,
    *,
    plugins: tuple[Plugin[Any], ...] = (),
    setup: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[tuple[Proxy, Scanner]]:
    """A proxy with the plugin, before a sample maildrop, and an honest scanner."""
    with ExitStack() as stack:
        scanner = stack.enter_context(Scanner("rspamd" if source == "headers" else source))
        upstream = stack.enter_context(sample(directory, letters, international=False))
        if source != "headers":
            options = {"servers": [scanner.address], **options}
        plugin = Spam(SpamConfig.model_validate({"source": source, **options}))
        given = {"deadline": 10.0, **(setup or {})}
        made = Setup([url(upstream)], plugins=[*plugins, plugin], **given)
        yield stack.enter_context(running(made, directory)), scanner


def unstuffed(reply: bytes) -> bytes:
    """The message in a reply."""
    head, _, body = reply.partition(b"\r\n")
    assert head.startswith(b"+OK"), head
    return re.sub(rb"(?m)^\.(?!\r\n\Z)", b"", body)[:-3]


def body_of(message: bytes) -> bytes:
    """What stands behind the header, as the proxy finds it."""
    found = re.search(rb"(?:\A|\n)\r?\n", message)
    return message[found.end() :] if found else b""


def told(proxy: Proxy) -> list[dict[str, Any]]:
    """What the plugin logged."""
    return [line for line in proxy.lines() if line["event"].startswith("spam.")]


def status_of(message: bytes) -> str:
    return ", ".join(Header(message).get_all("X-Spam-Status"))


def retr(client: WireClient, number: int) -> bytes:
    return unstuffed(client.multi(b"RETR %d" % number))


# True sizes


@pytest.mark.parametrize("source", ["headers", "rspamd", "spamd"])
@pytest.mark.parametrize("action", ACTIONS)
def test_promise_9_what_is_announced_is_what_is_sent(source: str, action: str, tmp_path: Path) -> None:
    with stage(tmp_path, source, actions=ACTIONS[action]) as (proxy, scanner), proxy.logged_in() as client:
        count, octets = map(int, client.single(b"STAT").split()[1:3])
        sizes = [int(row.split()[1]) for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
        assert (count, octets) == (len(LETTERS), sum(sizes))
        growth = {size - len(as_sent(letter)) for size, (_, letter) in zip(sizes, LETTERS, strict=True)}
        assert len(growth) == 1
        for number, (name, letter) in enumerate(LETTERS, 1):
            size = sizes[number - 1]
            assert client.single(b"LIST %d" % number).split()[2] == b"%d" % size
            spam = b"X-Score: 9" in letter or b"X-Spam: Yes" in letter
            if action == "refuse" and spam:
                assert client.single(b"RETR %d" % number) == b"-ERR [SYS/TEMP] Spam\r\n", name
                assert client.single(b"TOP %d 0" % number) == b"-ERR [SYS/TEMP] Spam\r\n", name
                continue
            message = retr(client, number)
            assert len(message) == size, name
            assert retr(client, number) == message, name
            if action == "replace" and spam:
                assert b"is not shown" in message or name in ("tiny", "spammy_tiny"), name
                assert b"X-Score" not in message
            else:
                assert body_of(message) == body_of(as_sent(letter)), name
            assert unstuffed(client.multi(b"TOP %d 99999" % number)) == message, name
            for lines in (0, 1, 3, 30):
                top = unstuffed(client.multi(b"TOP %d %d" % (number, lines)))
                assert message.startswith(top), name
                assert body_of(top).count(b"\n") <= lines, name
        assert len(scanner.scanned) == (0 if source == "headers" else len(LETTERS))
        assert scanner.scanned == ([] if source == "headers" else [as_sent(letter) for _, letter in LETTERS])


@pytest.mark.parametrize("action", ["mark", "tag", "replace"])
def test_two_tables_and_another_plugin_add_up(action: str, tmp_path: Path) -> None:
    class Grows(Plugin[PluginConfig]):
        """Grows by 60."""

        def growth(self, session: SessionView) -> int:
            return 60

        def open_body(self, session: SessionView, command: Command) -> HeaderFilter:
            return HeaderFilter(lambda header: header.add("X-A", "1"), growth=60)

    class Second(Spam):
        """Named after its class."""

    more = Second(SpamConfig.model_validate({"actions": [{"at": 5, "tag": "[JUNK] "}], "fields": {"flag": "X-Junk"}}))
    with (
        stage(tmp_path, actions=ACTIONS[action], plugins=(Grows(PluginConfig()), more)) as (proxy, _),
        proxy.logged_in() as client,
    ):
        sizes = [int(row.split()[1]) for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
        for number, (name, _) in enumerate(LETTERS, 1):
            assert len(retr(client, number)) == sizes[number - 1], name


def test_a_message_is_marked_as_it_was_judged(tmp_path: Path) -> None:
    with stage(tmp_path, actions=[{"at": 5, "tag": "[SPAM] "}]) as (proxy, _), proxy.logged_in() as client:
        messages = {name: Header(retr(client, number)) for number, name in enumerate(NAMES, 1)}
    assert messages["ham"].get_all("X-Spam-Flag") == ["NO"]
    assert messages["ham"].get_all("X-Spam-Score") == ["-1.00"]
    assert messages["ham"].get_all("Subject") == ["hi"]
    assert messages["spam"].get_all("X-Spam-Flag") == ["YES"]
    assert messages["spam"].get_all("X-Spam-Status") == ["Yes, score=9.50 required=5.00 tests=A_B, CD"]
    assert messages["spam"].get_all("Subject") == ["[SPAM] buy"]
    assert messages["forged"].get_all("X-Spam-Flag") == ["YES"]
    assert messages["forged"].get_all("X-Spam-Score") == ["9.50"]
    assert messages["tagged"].get_all("Subject") == ["Re: [SPAM] again"]
    assert messages["no_subject"].get_all("Subject") == ["[SPAM]"]
    assert messages["encoded"].get_all("Subject") == ["[SPAM] =?utf-8?q?gr=C3=BC?= =?utf-8?q?=C3=9Fe?="]


# One scan per message


@pytest.mark.parametrize("source", ["rspamd", "spamd"])
def test_a_second_session_costs_no_second_scan(source: str, tmp_path: Path) -> None:
    with stage(tmp_path, source, letters=LETTERS[:3]) as (proxy, scanner):
        seen = []
        for _ in range(2):
            with proxy.logged_in() as client:
                client.single(b"STAT")
                seen.append([retr(client, number) for number in (1, 2, 3)])
        assert seen[0] == seen[1]
        assert len(scanner.scanned) == 3
        assert proxy.sample("plugin_spam_known_total", by="uid") == 3
        assert proxy.sample("plugin_spam_scans_total", result="spam") == 2
        assert proxy.sample("plugin_spam_scans_total", result="ham") == 1
        assert proxy.sample("plugin_spam_messages_total", outcome="spam") == 4


def test_the_same_content_in_another_place_costs_no_second_scan(tmp_path: Path) -> None:
    letters = [("one", LETTERS[1][1]), ("two", LETTERS[1][1])]
    with stage(tmp_path, letters=letters) as (proxy, scanner), proxy.logged_in() as client:
        assert retr(client, 1) == retr(client, 2)
        assert len(scanner.scanned) == 1
        assert proxy.sample("plugin_spam_known_total", by="content") == 1


def test_without_a_cache_every_message_is_scanned_each_time(tmp_path: Path) -> None:
    with stage(tmp_path, letters=LETTERS[:1], cache=0) as (proxy, scanner), proxy.logged_in() as client:
        assert retr(client, 1) == retr(client, 1)
        assert len(scanner.scanned) == 2


@pytest.mark.parametrize("first", [b"TOP 2 0", b"RETR 2"])
@pytest.mark.parametrize("stat", [True, False])
def test_top_and_retr_agree(first: bytes, stat: bool, tmp_path: Path) -> None:
    with stage(tmp_path, letters=LETTERS[:3]) as (proxy, scanner), proxy.logged_in() as client:
        if stat:
            client.single(b"STAT")
        whole = client.multi(first)
        top = unstuffed(client.multi(b"TOP 2 0"))
        assert retr(client, 2).startswith(top)
        assert unstuffed(whole).startswith(top)
        assert status_of(top).startswith("Yes, score=9.50")
        assert len(scanner.scanned) == 1
        # A part of a message is never taken for the message.
        assert scanner.scanned[0] == as_sent(LETTERS[1][1])


def test_top_unscanned_shows_a_part_and_says_so(tmp_path: Path) -> None:
    with stage(tmp_path, letters=LETTERS[:3], top="unscanned") as (proxy, scanner), proxy.logged_in() as client:
        assert status_of(unstuffed(client.multi(b"TOP 2 0"))) == "Unknown, not scanned: only a part was retrieved"
        assert not scanner.scanned
        assert status_of(retr(client, 2)).startswith("Yes")
        assert status_of(unstuffed(client.multi(b"TOP 2 0"))).startswith("Yes")


def test_top_of_a_closed_plugin_is_scanned_in_any_case(tmp_path: Path) -> None:
    setup = {"fail": Fail.CLOSED}
    with stage(tmp_path, letters=LETTERS[:3], top="unscanned", setup=setup) as (proxy, _), proxy.logged_in() as client:
        assert status_of(unstuffed(client.multi(b"TOP 2 0"))).startswith("Yes")


def test_a_pipeline_of_both_is_answered_in_order(tmp_path: Path) -> None:
    with stage(tmp_path, letters=LETTERS[:3]) as (proxy, scanner), proxy.logged_in() as client:
        commands = [b"TOP 1 0", b"RETR 2", b"TOP 2 1", b"RETR 1", b"TOP 3 9999", b"RETR 3"]
        replies = client.run([(command, True) for command in commands], window=6)
        tops, messages = [unstuffed(reply) for reply in replies[::2]], [unstuffed(reply) for reply in replies[1::2]]
        assert messages[1].startswith(tops[0])
        assert messages[0].startswith(tops[1])
        assert messages[2] == tops[2]
        assert len(scanner.scanned) == 3


def test_numbers_that_another_plugin_shifts_name_the_right_message(tmp_path: Path) -> None:
    class HidesFirst(Plugin[PluginConfig]):
        """The upstream's first message is not shown."""

        def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> Hide:
            return Hide(frozenset({1}))

    hides = HidesFirst(PluginConfig())
    with stage(tmp_path, letters=LETTERS[:3], plugins=(hides,)) as (proxy, scanner):
        for _ in range(2):
            with proxy.logged_in() as client:
                client.single(b"STAT")
                assert status_of(retr(client, 1)).startswith("Yes")
                assert client.single(b"DELE 1").startswith(b"+OK")
                assert body_of(retr(client, 2)) == body_of(as_sent(LETTERS[2][1]))
        assert len(scanner.scanned) == 2


def test_what_the_scanner_is_told(tmp_path: Path) -> None:
    letters = [("one", b"Return-Path: <robin@example.com>\n" + LETTERS[0][1])]
    with stage(tmp_path, letters=letters, password="geheim") as (proxy, scanner), proxy.logged_in() as client:
        retr(client, 1)
    (head,) = scanner.heads
    assert head[b""] == b"POST /checkv2 HTTP/1.1"
    assert head[b"from"] == b"robin@example.com"
    assert head[b"deliver-to"] == b"alice"
    assert head[b"password"] == b"geheim"
    assert b"rcpt" not in head
    assert b"user" not in head
    assert b"ip" not in head


# Scanners that fail

FAULTS: dict[str, Callable[[Scanner], Any]] = {
    "closes": lambda scanner: closes,
    "resets": lambda scanner: resets,
    "babbles": lambda scanner: babbles,
    "halves": halves,
    "floods": lambda scanner: floods,
    "sleeps": lambda scanner: sleeps,
}


@pytest.mark.parametrize("source", ["rspamd", "spamd"])
@pytest.mark.parametrize("fault", FAULTS)
def test_open_no_message_is_lost_cut_or_doubled(source: str, fault: str, tmp_path: Path) -> None:
    letters = LETTERS[:3]
    setup = {"deadline": 1.5}
    with stage(tmp_path, source, letters, setup=setup) as (proxy, scanner), proxy.logged_in() as client:
        scanner.fault = FAULTS[fault](scanner)
        sizes = [int(row.split()[1]) for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
        for number, (name, letter) in enumerate(letters, 1):
            message = retr(client, number)
            assert len(message) == sizes[number - 1], name
            assert body_of(message) == body_of(as_sent(letter)), name
            assert status_of(message).startswith("Unknown, not scanned: the scanner"), name
        scanner.fault = None

        def works() -> bool:
            return status_of(retr(client, 2)).startswith("Yes")

        eventually(works, "scan after the scanner works again")
        assert proxy.sample("plugin_spam_messages_total", outcome="unscanned") >= 3
        assert proxy.total("plugin_errors_total") == 0


@pytest.mark.parametrize("source", ["rspamd", "spamd"])
@pytest.mark.parametrize("fault", FAULTS)
def test_closed_nothing_goes_out_unscanned(source: str, fault: str, tmp_path: Path) -> None:
    setup = {"deadline": 1.0, "fail": Fail.CLOSED}
    with stage(tmp_path, source, LETTERS[:3], setup=setup) as (proxy, scanner), proxy.logged_in() as client:
        scanner.fault = FAULTS[fault](scanner)
        refused = b"-ERR [SYS/TEMP] Message could not be checked for spam, try again later\r\n"
        assert client.single(b"RETR 1") == refused
        assert client.single(b"TOP 1 0") == refused
        scanner.fault = None
        eventually(lambda: client.single(b"NOOP") == b"+OK\r\n" or True, "answer")

        def works() -> bool:
            client.send(b"RETR 2\r\n")
            if client.read_line().startswith(b"-ERR"):
                return False
            return b"X-Spam-Flag: YES" in client._read_until(b"\r\n.\r\n", 0)

        eventually(works, "scan after the scanner works again")
        assert proxy.total("plugin_errors_total") == 0


@pytest.mark.parametrize("source", ["rspamd", "spamd"])
def test_a_scanner_that_never_answers_rests(source: str, tmp_path: Path) -> None:
    setup = {"deadline": 1.0}
    with stage(tmp_path, source, LETTERS[:3], setup=setup) as (proxy, scanner), proxy.logged_in() as client:
        scanner.go.clear()
        late = "Unknown, not scanned: the scanner did not answer in time"
        assert [status_of(retr(client, number)) for number in (1, 2, 3)] == [late] * 3
        assert len(scanner.scanned) == 2
        eventually(lambda: len([line for line in told(proxy) if "server" in line]) == 2, "two log lines")


def test_the_next_server_takes_over(tmp_path: Path) -> None:
    with Scanner("rspamd", fault=resets) as broken:
        with stage(tmp_path, letters=LETTERS[:3]) as (_, honest):
            address = honest.address
            options = {"servers": [broken.address, address]}
            second = tmp_path / "second"
            second.mkdir()
            with stage(second, letters=LETTERS[:3], **options) as (proxy, _), proxy.logged_in() as client:
                assert [status_of(retr(client, number))[:3] for number in (1, 2, 3)] == ["No,", "Yes", "Yes"]
                assert len(broken.scanned) == 1
                assert len(honest.scanned) == 3
                eventually(lambda: len(told(proxy)) == 1, "log line")
                assert told(proxy)[0]["server"] == broken.address


@pytest.mark.parametrize("source", ["headers", "rspamd"])
@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_a_header_that_is_too_large_to_be_edited_hides_no_verdict(source: str, fail: Fail, tmp_path: Path) -> None:
    letters = [("padded", SPAM + b"Subject: buy\nX-Spam-Flag: NO\n" + b"X-A: b\n" * 40_000 + b"\nbuy now\n")]
    actions = [{"at": 5, "tag": "[SPAM] "}]
    with (
        stage(tmp_path, source, letters, setup={"fail": fail}, actions=actions) as (proxy, _),
        proxy.logged_in() as client,
    ):
        size = int(client.single(b"LIST 1").split()[2])
        if fail is Fail.CLOSED:
            assert client.single(b"RETR 1").startswith(b"-ERR [SYS/TEMP]")
            return
        message = retr(client, 1)
        assert len(message) == size
        assert message.endswith(as_sent(letters[0][1]))
        header = Header(message)
        if source == "headers":
            assert header.get_all("X-Spam-Status")[0] == "Unknown, not scanned: its header is too large"
        else:
            assert header.get_all("X-Spam-Flag")[0] == "YES"
        assert header.get_all("Subject") == ["buy"]


def test_a_message_that_is_too_large_is_not_sent_to_the_scanner(tmp_path: Path) -> None:
    letters = [LETTERS[1], ("large", FROM + SPAM + b"\n" + b"x" * 5000)]
    for fail in (Fail.OPEN, Fail.CLOSED):
        setup = {"fail": fail}
        with stage(tmp_path, letters=letters, max_size=4000, setup=setup) as (proxy, scanner):
            for listing in (True, False):
                with proxy.logged_in() as client:
                    if listing:
                        client.single(b"STAT")
                    if fail is Fail.CLOSED:
                        answer = b"-ERR [SYS/PERM] Message is too large to be checked for spam\r\n"
                        assert client.single(b"RETR 2") == answer
                        assert client.single(b"TOP 2 0") == answer
                    else:
                        why = "Unknown, not scanned: the message is too large"
                        assert status_of(retr(client, 2)) == why
                        assert status_of(unstuffed(client.multi(b"TOP 2 0"))) == why
            assert not scanner.scanned


def many(peer: Peer) -> None:
    """A server whose maildrop any number of sessions may open: message 1 is ham, all others are spam."""
    peer.login()
    while line := peer.line():
        number = int(line.split()[1]) if b" " in line else 0
        if line == b"LIST":
            peer.send(b"+OK\r\n", *(b"%d 100\r\n" % n for n in range(1, 9)), b".\r\n")
        elif line == b"UIDL":
            peer.send(b"+OK\r\n", *(b"%d uid%d\r\n" % (n, n) for n in range(1, 9)), b".\r\n")
        elif line.startswith(b"RETR"):
            peer.send(b"+OK\r\nX-Number: %d\r\nX-Score: %d\r\n\r\nbody\r\n.\r\n" % (number, 0 if number == 1 else 9))
        else:
            peer.send(b"-ERR not here\r\n")


def test_scans_are_bounded_and_what_finds_no_place_is_passed_or_refused(tmp_path: Path) -> None:
    with Scanner("rspamd") as scanner, Upstream(many) as upstream, ExitStack() as stack:
        options = {"source": "rspamd", "servers": [scanner.address], "scans": 2, "queue": 1}
        plugin = Spam(SpamConfig.model_validate(options))
        proxy = stack.enter_context(running(Setup([upstream.url], plugins=[plugin], deadline=10.0), tmp_path))
        scanner.go.clear()
        clients = [proxy.logged_in() for _ in range(5)]
        for number, client in enumerate(clients, 1):
            client.send(b"RETR %d\r\n" % number)
            if number <= 2:
                eventually(lambda number=number: len(scanner.scanned) == number, "scan")  # type: ignore[misc]
            else:
                # One after the other: three, who waits, and four and five, who do not.
                time.sleep(0.1)
        late = [status_of(unstuffed(client.read_reply(True))) for client in clients[3:]]
        assert late == ["Unknown, not scanned: too many messages wait for the scanner"] * 2
        scanner.go.set()
        first = [status_of(unstuffed(client.read_reply(True))) for client in clients[:3]]
        assert [status[:3] for status in first] == ["No,", "Yes", "Yes"]
        assert scanner.most == 2
        assert proxy.sample("plugin_spam_scans_total", result="busy") == 2
        for client in clients:
            client.close()


def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path) -> None:
    with stage(tmp_path, letters=LETTERS[:3], scans=1, queue=0) as (proxy, scanner):
        scanner.fault = sleeps
        client = proxy.logged_in()
        client.send(b"RETR 1\r\n")
        eventually(lambda: len(scanner.scanned) == 1, "scan")
        reset(client)
        proxy.session()
        scanner.fault = None
        with proxy.logged_in() as client:
            assert status_of(retr(client, 2)).startswith("Yes")


# A client that waits


def test_the_client_is_kept_alive_while_the_scanner_thinks(tmp_path: Path) -> None:
    setup = {"timeouts": {"keepalive": 0.05}}
    with stage(tmp_path, letters=LETTERS[:3], setup=setup) as (proxy, scanner), proxy.logged_in() as client:
        size = int(client.single(b"LIST 2").split()[2])
        scanner.go.clear()
        client.send(b"RETR 2\r\n")
        client.read_line()
        early = bytes(client._buffer)
        client._buffer.clear()
        while len(early) < 24:
            early += client.socket.recv(1)
        scanner.go.set()
        message = (early + client._read_until(b"\r\n.\r\n", 0))[:-3]
        assert early.startswith(b"X-Popproxy-Padding: ---")
        assert len(message) == size
        assert status_of(message).startswith("Yes")


@pytest.mark.parametrize(
    ("fail", "actions"),
    [
        (Fail.CLOSED, [{"at": 5}]),
        (Fail.OPEN, [{"at": 5}, {"at": 50, "refuse": True}]),
        (Fail.OPEN, [{"at": 5}, {"at": 50, "replace": True}]),
    ],
)
def test_nothing_goes_out_early_when_something_else_may_follow(
    fail: Fail, actions: list[dict[str, Any]], tmp_path: Path
) -> None:
    class Pads(Plugin[PluginConfig]):
        """Another plugin, whose filter would let its padding go."""

        def growth(self, session: SessionView) -> int:
            return 60

    setup = {"timeouts": {"keepalive": 0.02}, "fail": fail}
    pads = Pads(PluginConfig())
    with (
        stage(tmp_path, letters=LETTERS[:3], setup=setup, plugins=(pads,), actions=actions) as (proxy, scanner),
        proxy.logged_in() as client,
    ):
        scanner.go.clear()
        client.send(b"RETR 2\r\n")
        eventually(lambda: len(scanner.scanned) == 1, "scan")
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(20)
        scanner.go.set()
        assert status_of(unstuffed(client.read_reply(True))).startswith("Yes")


# What an administrator reads



def test_the_log_tells_why_and_nothing_of_the_message(tmp_path: Path) -> None:
    setup = {"deadline": 1.0}
    with stage(tmp_path, letters=[LETTERS[1]], setup=setup, password="geheim") as (proxy, scanner):
        scanner.fault = babbles
        with proxy.logged_in() as client:
            assert status_of(retr(client, 1)) == "Unknown, not scanned: the scanner gave no valid answer"
        eventually(lambda: len(told(proxy)) == 2, "log lines")
        down, line = told(proxy)
        assert (down["detail"], down["server"]) == (line["detail"], scanner.address)
        assert line["why"] == "the scanner gave no valid answer"
        assert line["detail"].startswith("garbage: 127.0.0.1:")
        text = proxy._log_path.read_text()
        assert "buy" not in text
        assert "geheim" not in text


def test_refusals_are_logged_with_the_score(tmp_path: Path) -> None:
    actions = [{"at": 5, "refuse": True}]
    with stage(tmp_path, letters=LETTERS[:3], actions=actions) as (proxy, scanner), proxy.logged_in() as client:
        for _ in range(2):
            assert client.single(b"RETR 2") == b"-ERR [SYS/PERM] Message refused as spam\r\n"
        assert len(scanner.scanned) == 1
        assert proxy.sample("plugin_spam_messages_total", outcome="refused") == 2
        assert retr(client, 1)


def test_a_fleet_of_messages_arrives_while_the_scanner_comes_and_goes(tmp_path: Path) -> None:
    judged = [SPAM if number % 3 == 0 else HAM for number in range(120)]
    letters = [(f"m{n}", FROM + head + b"Subject: %d\n\n" % n + b"line\n" * n) for n, head in enumerate(judged)]
    setup = {"deadline": 2.0}
    with stage(tmp_path, letters=letters, setup=setup, actions=ACTIONS["tag"]) as (proxy, scanner):
        stop = threading.Event()

        def trouble() -> None:
            faults = [closes, None, babbles, None, resets, halves(scanner), None]
            turn = 0
            while not stop.wait(0.02):
                scanner.fault = faults[turn % len(faults)]
                turn += 1

        thread = threading.Thread(target=trouble)
        thread.start()
        try:
            with proxy.logged_in() as client:
                sizes = [int(row.split()[1]) for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
                commands = [(b"RETR %d" % number, True) for number in range(1, 121)]
                messages = [unstuffed(reply) for reply in client.run(commands, window=20)]
        finally:
            stop.set()
            thread.join()
        assert [len(message) for message in messages] == sizes
        assert [body_of(message) for message in messages] == [body_of(as_sent(letter)) for _, letter in letters]
        kinds = {status_of(message)[:3] for message in messages}
        assert kinds <= {"Yes", "No,", "Unk"}
        assert "Unk" in kinds
        for number, message in enumerate(messages):
            flag = Header(message).get_all("X-Spam-Flag")
            assert flag in ([], ["YES"] if number % 3 == 0 else ["NO"])

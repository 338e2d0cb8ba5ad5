"""spam as a plugin: conversations, which hooks it needs, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.spam import Spam, SpamConfig

from popproxy.api import Fail, HttpFailed, HttpReply, MaildropEntry, MaildropView, SessionView, parse
from popproxy.api.fakes import FakeClock, FakeServices, HttpRequest, World
from popproxy.api.played import Played
from popproxy.api.plugin import HOOKS, subscribes
from popproxy.api.testing import play
from tests.plugins.test_spam_rspamd import Message


def spam(**options: Any) -> Spam:
    return Spam(SpamConfig.model_validate(options))


def hooks(plugin: Spam) -> list[str]:
    return [hook for hook in HOOKS if subscribes(plugin, hook)]


def scored(score: float, action: str = "no action") -> HttpReply:
    return HttpReply(200, (), json.dumps({"score": score, "action": action}).encode())


def conversation(script: str, *, http: Any = None, fail: str = "", **options: Any) -> Played:
    given = {"fields": {"flag": "X-Flag", "score": "", "status": "X-Status"}, **options}
    return play(spam(**given), script, http=http, run=asyncio.run, logged_in=True, fail=fail)


# Hooks


def test_it_subscribes_to_what_its_options_need() -> None:
    """on_maildrop costs a LIST and a UIDL, on_message a spool: reading a header needs neither."""
    assert hooks(spam()) == ["growth", "open_body"]
    assert hooks(spam(actions=[{"at": 5, "replace": True}])) == ["growth", "wants_message", "open_body", "on_message"]
    everything = ["growth", "on_maildrop", "on_command", "wants_message", "open_body", "on_message"]
    assert hooks(spam(source="rspamd")) == hooks(spam(source="spamd")) == everything


def test_it_fails_open() -> None:
    assert Spam.fail is Fail.OPEN
    assert Spam.config_model is SpamConfig


def test_it_is_registered_as_a_strangers_would_be() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    entries = tomllib.loads(project.read_text())["project"]["entry-points"]["popproxy.plugins"]
    assert EntryPoint("spam", entries["spam"], "popproxy.plugins").load() is Spam


# Conversations

PADDED = "S~ X-Popproxy-Padding: -+\n"
"""The padding is one line when it is short."""


def padding(lines: int) -> str:
    return PADDED + "S~  -+\n" * (lines - 1)


def test_the_upstreams_verdict() -> None:
    played = conversation(f"""
C: STAT
U> STAT
U< +OK 1 120
S~ \\+OK 1 [0-9]+
C: RETR 1
U> RETR 1
U< +OK 120 octets
U< Subject: hi
U< X-Spam-Status: Yes, score=7.0 required=5.0
U<
U< ..dot
U< .
S~ \\+OK [0-9]+ octets
{padding(2)}S: X-Flag: YES
S: X-Status: Yes, score=7.00 required=5.00
S: Subject: [SPAM] hi
S: X-Spam-Status: Yes, score=7.0 required=5.0
S:
S: ..dot
S: .
""", actions=[{"at": "spam", "tag": "[SPAM]"}], symbols=0)
    assert played.counters["messages", "spam"] == 1


def test_a_notice_by_the_upstreams_verdict() -> None:
    conversation(f"""
C: RETR 1
U> RETR 1
U< +OK
U< Subject: hi
U< X-Spam-Flag: YES
U<
U< body
U< .
S: +OK
S: X-Flag: YES
S: X-Status: Yes, score=5.00
S: MIME-Version: 1.0
S: Content-Type: text/plain; charset=utf-8
S: Content-Transfer-Encoding: 8bit
S: Subject: hi
S:
S: hi is gone
{"S~ [ ]*" + chr(10)}S~ [ ]*
S: .
C: RETR 1
U> RETR 1
U< +OK
U< Subject: hi
U<
U< body
U< .
S: +OK
{padding(3)}S: X-Status: Unknown, not scanned: the header holds no verdict
S: Subject: hi
S:
S: body
S: .
""", actions=[{"at": "spam", "replace": "{subject} is gone"}], symbols=0)


LISTED = """
C: STAT
U> LIST
U< +OK
U< 1 50
U< 2 50
U< .
U> UIDL
U< +OK
U< 1 a
U< 2 b
U< .
S~ \\+OK 2 [0-9]+
"""


def test_rspamd_is_asked_once_for_top_and_retr() -> None:
    asked: list[HttpRequest] = []

    def http(request: HttpRequest) -> HttpReply:
        asked.append(request)
        return scored(9.0, "add header")

    played = conversation(f"""
{LISTED}
C: TOP 1 0
U> RETR 1
U< +OK
U< Subject: hi
U<
U< one
U< two
U< .
S: +OK
{padding(2)}S: X-Flag: YES
S: X-Status: Yes, score=9.00
S: Subject: hi
S:
S: .
C: RETR 1
U> RETR 1
U< +OK
U< Subject: hi
U<
U< one
U< two
U< .
S: +OK
{padding(2)}S: X-Flag: YES
S: X-Status: Yes, score=9.00
S: Subject: hi
S:
S: one
S: two
S: .
# known by now: TOP is TOP
C: TOP 1 1
U> TOP 1 1
U< +OK
U< Subject: hi
U<
U< one
U< .
S: +OK
{padding(2)}S: X-Flag: YES
S: X-Status: Yes, score=9.00
S: Subject: hi
S:
S: one
S: .
""", http=http, source="rspamd", symbols=0)
    (request,) = asked
    assert request.body == b"Subject: hi\r\n\r\none\r\ntwo\r\n"
    assert request.header("Deliver-To") == "joe"
    assert played.counters["scans", "spam"] == 1
    assert played.counters["known", "uid"] == 1
    assert {result: n for (_, result), n in played.scanned.items() if n} == {"spam": 1, "skipped": 2}
    assert {scanner for scanner, _ in played.scanned} == {"rspamd"}


def test_a_message_that_was_refused_is_not_even_retrieved_again() -> None:
    played = conversation(f"""
{LISTED}
C: RETR 2
U> RETR 2
U< +OK
U< body
U< .
S: -ERR [SYS/PERM] Message refused as spam
C: RETR 2
S: -ERR [SYS/PERM] Message refused as spam
C: TOP 2 0
S: -ERR [SYS/PERM] Message refused as spam
""", http=lambda request: scored(20.0, "reject"), source="rspamd", actions=[{"at": "spam", "refuse": True}])
    assert played.counters["messages", "refused"] == 3


def down(request: HttpRequest) -> HttpReply:
    raise HttpFailed("refused", "127.0.0.1:11333: connection refused")


def test_a_scanner_that_is_down_open_and_closed() -> None:
    retrieve = f"""
{LISTED}
C: RETR 1
U> RETR 1
U< +OK
U< Subject: hi
U<
U< one
U< .
"""
    played = conversation(retrieve + f"""
S: +OK
{padding(1)}S: X-Status: Unknown, not scanned: the scanner could not be reached
S: Subject: hi
S:
S: one
S: .
""", http=down, source="rspamd", symbols=0)
    assert played.counters["scans", "away"] == 1
    assert played.scanned["rspamd", "error"] == 1
    assert played.counters["messages", "unscanned"] == 1
    assert [(line.level, line.event) for line in played.log] == [
        ("warning", "scanner_failed"), ("warning", "not_scanned")
    ]  # fmt: skip
    refused = "S: -ERR [SYS/TEMP] Message could not be checked for spam, try again later\n"
    played = conversation(retrieve + refused, http=down, source="rspamd", fail="closed")
    assert played.counters["messages", "refused_unscanned"] == 1


def test_a_message_that_is_too_large_is_counted_once() -> None:
    played = conversation("""
C: UIDL
U> LIST
U< +OK
U< 1 4000
U< .
U> UIDL
U< +OK
U< 1 a
U< .
S: +OK
S: 1 a
S: .
C: RETR 1
S: -ERR [SYS/PERM] Message is too large to be checked for spam
""", source="rspamd", fail="closed", max_size=1024)
    assert {result: n for (_, result), n in played.scanned.items() if n} == {"too_big": 1}


def test_a_maildrop_without_unique_ids_goes_by_content() -> None:
    asked: list[HttpRequest] = []

    def http(request: HttpRequest) -> HttpReply:
        asked.append(request)
        return scored(1.0)

    once = f"""
U< +OK
U< one
U< .
S: +OK
{padding(2)}S: X-Flag: NO
S: X-Status: No, score=1.00
S: one
S: .
"""
    conversation(f"""
C: STAT
U> LIST
U< +OK
U< 1 5
U< .
U> UIDL
U< -ERR what is that?
S~ \\+OK 1 [0-9]+
C: TOP 1 0
U> RETR 1{once}C: RETR 1
U> RETR 1{once}""", http=http, source="rspamd", symbols=0)
    assert len(asked) == 1


def opened(*rows: tuple[int, bytes | None], server: str = "a:110", login: str = "joe") -> SessionView:
    """A session with a maildrop of messages by size and unique id."""
    entries = {number: MaildropEntry(number, *row) for number, row in enumerate(rows, 1)}
    return SessionView("1", "pop3", login=login, server=server, maildrop=entries)


def known(before: SessionView, after: SessionView) -> bool:
    """Whether message 1 of a session is judged by what was found out about message 1 of another one."""
    plugin = spam(source="rspamd")
    plugin.start(FakeServices(FakeClock(), World(http=lambda request: scored(1.0))))
    command = parse(b"RETR 1")
    plugin.on_maildrop(before, MaildropView(before.maildrop))
    plugin.open_body(before, command)
    asyncio.run(plugin.on_message(before, command, Message()))
    plugin.on_maildrop(after, MaildropView(after.maildrop))
    return not plugin.wants_message(after, command)


def test_a_verdict_is_known_by_server_login_unique_id_and_size() -> None:
    first = opened((100, b"u"), (100, b"v"))
    assert known(first, first)
    assert known(first, opened((100, b"u")))
    assert not known(first, opened((100, b"v")))
    assert not known(first, opened((101, b"u")))
    assert not known(first, opened((100, b"u"), server="b:110"))
    assert not known(first, opened((100, b"u"), login="jim"))


@pytest.mark.parametrize(
    "view",
    [
        opened((100, None)),
        opened((100, b"u"), (100, b"u")),
        opened((100, b"u" * 256)),
        # A token may tell the upstream who it is and nobody else.
        opened((100, b"u"), login=""),
    ],
)
def test_what_names_no_single_message_is_no_name(view: SessionView) -> None:
    assert not known(view, view)


def test_a_deadline_that_the_proxy_sets_is_kept() -> None:
    """The plugin answers a little earlier, so that the client reads why."""
    seconds: list[float] = []

    class Slow:
        async def scan(self, server: str, given: float, *_: object) -> Any:
            seconds.append(given)
            await asyncio.sleep(given + 5)

    async def work(deadline: float) -> Any:
        plugin: Any = spam(source="rspamd")
        plugin.start(FakeServices(FakeClock(), World(), deadline=deadline))
        plugin._scanner = Slow()
        view = SessionView("1", "pop3", login="joe")
        command = parse(b"RETR 1")
        plugin.open_body(view, command)
        async with asyncio.timeout(deadline):
            return await plugin.on_message(view, command, Message())

    assert asyncio.run(work(0.2)) is None
    assert seconds == [pytest.approx(0.16)]


# What it says of itself


def told(**options: Any) -> Sequence[str]:
    explained = spam(**options).explain(SessionView("1", "pop3"), "joe")
    return explained.steps


def test_explain() -> None:
    first, *more = told(read=["X-Spam-Flag", "X-Spam-Score"], trust=2)
    assert first == (
        "verdicts: the worst of what the upstream wrote into X-Spam-Flag, X-Spam-Score; the first 2 of each name"
    )
    assert more[0] == "called spam by the scanner: flagged as spam"
    assert more[1].startswith("every message grows by ")
    actions = [
        {"at": 5, "tag": "[SPAM] "},
        {"at": 10, "replace": True},
        {"at": 15.5, "refuse": True, "code": "SYS/TEMP", "add_headers": False},
    ]
    servers = ["http://a.example.com:11333", "unix:/run/rspamd.sock"]
    steps = told(source="rspamd", servers=servers, actions=actions, password="geheim")
    assert steps[:4] == (
        "verdicts: rspamd at http://a.example.com:11333, unix:/run/rspamd.sock, told from and rcpt and deliver_to; "
        "up to 4194304 octets; TOP is scanned",
        "from score 5 on: flagged as spam, tagged '[SPAM]'",
        "from score 10 on: flagged as spam, replaced by a notice",
        "from score 15.5 on: refused with [SYS/TEMP]",
    )
    assert "geheim" not in "".join(steps)
    assert told(source="spamd", top="unscanned")[0] == (
        "verdicts: spamd at 127.0.0.1:783; up to 4194304 octets; TOP is not scanned"
    )

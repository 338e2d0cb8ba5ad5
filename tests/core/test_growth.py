"""True sizes: what STAT, LIST and the status line of RETR say is what is sent, whoever fails."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import BodyFilter, Edit, Fail, Grow, Header, HeaderFilter, Hide, MaildropView, Refuse, Replace, Sizes
from popproxy.core.growth import Growth, Listing, list_line, listing_line, retr_line, stat_line
from tests.core.rig import BROKEN, Rig, pieces, plugin

MAIL = b"a: b\r\nx-spam: 1\r\n\r\n..x\r\nlast\r\n"
SIZE = len(MAIL) - 1
RETR = b"+OK %d octets\r\n" % SIZE + MAIL + b".\r\n"
LIST = b"+OK 2 messages (%d octets)\r\n1 %d\r\n2 30\r\n.\r\n" % (SIZE + 30, SIZE)
UIDL = b"+OK\r\n1 a\r\n2 b\r\n.\r\n"
STAT = b"+OK 2 %d\r\n" % (SIZE + 30)


def grows(octets: int) -> Any:
    return lambda session: octets


def tags(growth: int) -> Any:
    return lambda session, command: HeaderFilter(lambda header: header.add("X-Tag", "1"), growth=growth)


def octets_of(reply: bytes) -> int:
    """The size of the message that a reply brought, stuffing and terminator taken off."""
    head, _, body = reply.partition(b"\r\n")
    assert head.startswith(b"+OK") and body.endswith(b"\r\n.\r\n"), reply
    return len(re.sub(rb"(?m)^\.", b"", body[:-3]))


def sizes(rig: Rig) -> tuple[int, int, int, int]:
    """What STAT (less message 2), LIST 1, the status line of RETR 1 and RETR 1 itself say of message 1."""
    view = bool(rig.plan.chain["on_maildrop"])
    rig.client(b"STAT\r\n")
    if view:
        rig.upstream(LIST).upstream(UIDL)
    else:
        rig.upstream(STAT)
    stat = rig.said()
    rig.client(b"LIST\r\n").upstream(b"" if view else LIST)
    listing = rig.said()
    rig.client(b"LIST 1\r\n").upstream(b"" if view else b"+OK 1 %d more words\r\n" % SIZE)
    one = rig.said()
    rig.client(b"RETR 1\r\n").upstream(RETR)
    retr = rig.said()
    found = re.fullmatch(rb"\+OK[^\r]*\r\n1 (\d+)\r\n2 (\d+)\r\n\.\r\n", listing)
    assert found is not None, listing
    assert one.startswith(b"+OK 1 %b" % found[1]) and (view or one.endswith(b" more words\r\n"))
    said = re.match(rb"\+OK (\d+) octets\r\n", retr)
    assert said is not None, retr
    total = int(stat.split()[2])
    assert b"octets" not in listing
    return total - int(found[2]), int(found[1]), int(said[1]), octets_of(retr)


def agree(rig: Rig, growth: int) -> None:
    assert sizes(rig.login()) == (SIZE + growth,) * 4
    rig.s.client_gone()


ACTIONS: dict[str, dict[str, Any]] = {
    "a filter": {"open_body": tags(100)},
    "no filter": {"open_body": lambda *_: None},
    "no hook": {},
    "a filter that fails": {"open_body": lambda *_: HeaderFilter(lambda header: header.add("\0", ""), growth=100)},
    "a filter with another growth": {"open_body": tags(64)},
    "a filter without growth": {"open_body": lambda *_: BodyFilter()},
    "a filter that adds too much": {
        "open_body": lambda *_: HeaderFilter(lambda header: header.add("X", "y" * 60), growth=100)
    },
    "a filter that removes": {
        "open_body": lambda *_: HeaderFilter(lambda header: header.remove("*") and None, growth=100)
    },
    "open_body fails": {"open_body": lambda *_: 1 // 0},
    "an edit": {"on_message": lambda *_: Edit([("X-Tag", "1")], ["x-spam"])},
    "an edit of its filter's header": {"on_message": lambda *_: Edit([("X-Tag", "1")]), "open_body": tags(100)},
    "an edit that adds too much": {"on_message": lambda *_: Edit([("X-Tag", "1" * 60)])},
    "an edit that its filter cannot make up for": {
        "on_message": lambda *_: Edit([("X-Tag", "1")]), "open_body": lambda *_: BodyFilter(),
    },
    "no edit": {"on_message": lambda *_: None},
    "on_message fails": {"on_message": lambda *_: 1 // 0},
    "on_message is not wanted": {"on_message": lambda *_: Edit([("X", "y")]), "wants_message": lambda *_: False},
    "wants_message fails": {"on_message": lambda *_: Edit([("X", "y")]), "wants_message": lambda *_: 1 // 0},
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_promise_9_sizes_agree_whatever_a_plugin_does(action: str) -> None:
    agree(Rig(plugin(growth=grows(100), **ACTIONS[action])), 100)
    agree(Rig(plugin(on_maildrop=lambda *_: Grow(100), **ACTIONS[action])), 100)


@pytest.mark.parametrize("action", ACTIONS)
def test_promise_9_several_plugins_add_up(action: str) -> None:
    others = [plugin(growth=grows(64), open_body=tags(64)), plugin(growth=grows(200))]
    agree(Rig(others[0], plugin(growth=grows(100), **ACTIONS[action]), others[1]), 364)
    drop = plugin(on_maildrop=lambda *_: Grow(50))
    agree(Rig(drop, plugin(growth=grows(100), **ACTIONS[action])), 150)


def test_promise_9_nothing_is_announced_and_nothing_changes() -> None:
    rig = Rig(plugin(growth=grows(0))).login()
    assert rig.s._stage.plain  # type: ignore[attr-defined]
    agree_none = sizes_untouched(rig)
    assert agree_none == STAT + LIST + RETR


def sizes_untouched(rig: Rig) -> bytes:
    rig.client(b"STAT\r\nLIST\r\nRETR 1\r\n").upstream(STAT + LIST + RETR)
    return rig.said()


def test_promise_9_a_maildrop_view_of_nothing_but_hidden_messages_leaves_the_words_of_retr() -> None:
    rig = Rig(plugin(on_maildrop=lambda *_: Hide(frozenset({2})))).login()
    rig.client(b"RETR 1\r\n").upstream(LIST).upstream(UIDL).upstream(b"+OK 7 octets\r\n.\r\n")
    assert rig.said() == b"+OK 7 octets\r\n.\r\n"


def test_promise_9_sizes_of_a_plugin_are_what_retr_says() -> None:
    rig = Rig(plugin(on_maildrop=lambda *_: Sizes({1: 77}), on_reply=lambda *_: None)).login()
    rig.client(b"RETR 1\r\n").upstream(LIST).upstream(UIDL).upstream(b"+OK 7 octets\r\n.\r\n")
    assert rig.said() == b"+OK 77 octets\r\n.\r\n"


def test_what_a_later_plugin_sees() -> None:
    seen: list[dict[int, int]] = []

    def look(session: object, maildrop: MaildropView) -> None:
        seen.append({number: entry.octets for number, entry in maildrop.entries.items()})

    rig = Rig(
        plugin(on_maildrop=look, growth=grows(100)),
        plugin(on_maildrop=lambda *_: Grow(50)),
        plugin(on_maildrop=look),
        plugin(on_maildrop=lambda *_: Sizes({1: 7})),
        plugin(on_maildrop=lambda *_: Hide(frozenset({2}))),
        plugin(on_maildrop=look),
    ).login()
    rig.client(b"LIST\r\n").upstream(LIST).upstream(UIDL)
    assert seen == [{1: SIZE + 100, 2: 130}, {1: SIZE + 150, 2: 180}, {1: 7}]
    assert rig.said() == b"+OK\r\n1 7\r\n.\r\n"


def test_a_view_is_for_reading() -> None:
    def spoil(session: object, maildrop: MaildropView) -> None:
        maildrop.entries.clear()  # type: ignore[attr-defined]

    rig = Rig(plugin(on_maildrop=spoil)).login()
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK 2 %d\r\n" % (SIZE + 30)
    assert rig.meter.errors == [("p1", "on_maildrop", "fail_open")]


def test_another_maildrop_is_asked_for_again() -> None:
    growths = iter([100, 60])
    two = plugin(on_maildrop=lambda *_: Grow(next(growths))), plugin(growth=grows(50))
    rig = Rig(*two, opened=frozenset({b"XTND ARCHIVE"})).login()
    rig.client(b"LIST 2\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK 2 180\r\n"
    rig.client(b"XTND ARCHIVE a\r\n").upstream(b"+OK\r\n").client(b"LIST 2\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK\r\n+OK 2 140\r\n"
    rig.client(b"RETR 2\r\n").upstream(b"+OK\r\n.\r\n")
    assert octets_of(rig.said()) == 110


# Failures


@pytest.mark.parametrize("wrong", [-1, 5, "64", None, True, 6.5])
def test_promise_7_a_growth_that_cannot_be(wrong: Any) -> None:
    rig = Rig(plugin(growth=grows(wrong))).login()
    assert rig.meter.errors == [("p1", "growth", "fail_open")]
    assert sizes_untouched(rig) == STAT + LIST + RETR


def test_promise_9_who_failed_to_tell_its_growth_makes_nothing_grow() -> None:
    rig = Rig(plugin(growth=lambda session: 1 // 0, open_body=tags(64))).login()
    assert rig.meter.errors == [("p1", "growth", "fail_open")]
    assert sizes_untouched(rig) == STAT + LIST + RETR


def test_promise_7_growth_fails_and_the_plugin_is_closed() -> None:
    rig = Rig(plugin(Fail.CLOSED, growth=lambda session: 1 // 0)).start()
    rig.client(b"USER joe\r\nPASS x\r\nSTAT\r\n").connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    rig.ended("policy")
    assert rig.asked().endswith(b"PASS x\r\n")
    assert rig.s.detail == "a plugin failed to tell its growth"


@pytest.mark.parametrize("hook", ["open_body", "wants_message", "edit"])
def test_promise_7_a_closed_plugin_that_fails_refuses_the_message(hook: str) -> None:
    hooks: dict[str, Any] = {"on_message": lambda *_: None, hook: lambda *_: 1 // 0}
    if hook == "edit":
        hooks = {"open_body": lambda *_: HeaderFilter(lambda header: header.add("X", "y" * 60), growth=100)}
    rig = Rig(plugin(Fail.CLOSED, growth=grows(100), **hooks)).login()
    rig.client(b"RETR 1\r\nNOOP\r\n").upstream(RETR + b"+OK noop\r\n")
    assert rig.said() == BROKEN + b"+OK noop\r\n"
    assert rig.meter.errors == [("p1", "open_body" if hook == "edit" else hook, "fail_closed")]


def test_a_lie_about_the_growth_is_told_in_the_log() -> None:
    rig = Rig(plugin(growth=grows(100), open_body=tags(64))).login()
    rig.client(b"RETR 1\r\n").upstream(RETR)
    assert "growth=64, but the plugin announced 100" in str(rig.notes("plugin_error")[0]["detail"])


def test_wants_message_must_say_yes_or_no() -> None:
    rig = Rig(plugin(on_message=lambda *_: Refuse("no"), wants_message=lambda *_: 0)).login()
    rig.client(b"RETR 1\r\n").upstream(RETR)
    assert rig.said() == b"-ERR [SYS/PERM] no\r\n"
    assert rig.meter.errors == [("p1", "wants_message", "fail_open")]


@pytest.mark.parametrize("command", [b"RETR 1", b"TOP 1 5"])
def test_who_wants_the_message_is_asked_for_each(command: bytes) -> None:
    asked: list[str] = []

    def wants(session: object, command: Any) -> bool:
        asked.append(command.line.decode())
        return len(asked) % 2 == 0

    spools: list[int] = []

    def spool(memory: int) -> Any:
        from popproxy.core.spool import MemorySpool

        spools.append(memory)
        return MemorySpool(memory)

    rig = Rig(plugin(on_message=lambda *_: Edit([("X", "y")]), wants_message=wants), spool=spool).login()
    rig.client(command + b"\r\n" + command + b"\r\n").upstream(RETR + RETR)
    assert rig.said() == RETR + RETR.replace(b"\r\na: b", b"\r\nX: y\r\na: b")
    assert asked == [command.decode() + "\r\n"] * 2
    assert len(spools) == 1, "a message that nobody wants is not spooled"


def test_promise_9_a_replacement_grows_as_the_message_would_have() -> None:
    whole = MAIL.replace(b"..", b".")
    rig = Rig(
        plugin(growth=grows(100), on_message=lambda *_: Edit([("X-Tag", "1")])),
        plugin(growth=grows(64), on_message=lambda *_: Replace(b"z" * (len(whole) - 2))),
    )
    agree(rig, 164)


# What is said of sizes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"+OK 2 320\r\n", b"+OK 2 520\r\n"),
        (b"+OK 2 320 and more 5\r\n", b"+OK 2 520 and more 5\r\n"),
        (b"+OK  2  320\r\n", b"+OK  2  520\r\n"),
        (b"+OK 0 0\r\n", b"+OK 0 0\r\n"),
        (b"+OK two 320\r\n", b"+OK two 320\r\n"),
        (b"+OK 2 -320\r\n", b"+OK 2 -320\r\n"),
        (b"+OK 2\r\n", b"+OK 2\r\n"),
        (b"+OK\r\n", b"+OK\r\n"),
        (b"+OK 2 320x\r\n", b"+OK 2 320x\r\n"),
    ],
)
def test_stat(line: bytes, expected: bytes) -> None:
    assert stat_line(line, 100) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"+OK 2 320\r\n", b"+OK 2 420\r\n"),
        (b"+OK 2 320 octets\r\n", b"+OK 2 420 octets\r\n"),
        (b"+OK 2\r\n", b"+OK 2\r\n"),
        (b"+OK\r\n", b"+OK\r\n"),
    ],
)
def test_list_of_one(line: bytes, expected: bytes) -> None:
    assert list_line(line, 100) == expected


def test_the_first_line_of_a_list_tells_no_sum() -> None:
    assert listing_line(b"+OK 2 messages (320 octets)\r\n") == b"+OK\r\n"
    assert listing_line(b"+OK 2 messages:\r\n") == b"+OK 2 messages:\r\n"


@pytest.mark.parametrize(
    ("line", "grown", "announced"),
    [
        (b"+OK 120 octets\r\n", b"+OK 220 octets\r\n", b"+OK 7 octets\r\n"),
        (b"+OK mail (120 Octets)\r\n", b"+OK mail (220 Octets)\r\n", b"+OK mail (7 Octets)\r\n"),
        (b"+OK 1 octet\r\n", b"+OK 101 octet\r\n", b"+OK 7 octet\r\n"),
        (b"+OK message 120 follows\r\n", b"+OK message 120 follows\r\n", b"+OK message 120 follows\r\n"),
        (b"+OK a120 octets\r\n", b"+OK a120 octets\r\n", b"+OK a120 octets\r\n"),
        (b"+OK\r\n", b"+OK\r\n", b"+OK\r\n"),
    ],
)  # fmt: skip
def test_the_status_line_of_retr(line: bytes, grown: bytes, announced: bytes) -> None:
    assert retr_line(line, 100, None) == grown
    assert retr_line(line, 100, 7) == announced


def grown(listing: bytes, size: int, growth: int = 100) -> bytes:
    sink = Listing(growth)
    out = b""
    for piece in pieces(listing, size):
        out += sink.feed(piece)
        assert len(sink._rest) <= 64
    return out + sink.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_the_rows_of_a_list(size: int) -> None:
    odd = b"3\r\n4 x\r\n..5 1\r\n" + b"6 1" + b"0" * 80 + b"\r\n" + b"y" * 300 + b"\r\n"
    odd += b"7" + b" " * 31 + b"1\r\n8" + b" " * 90 + b"1\r\n"
    words = b" more 9" * 20 + b"\r\n"
    rows = b"1 120\r\n2  200" + words + odd + b"9 1\r\n1234567890" + b" " * 30 + b"123456789012345678" + words
    after = b"1 220\r\n2  300" + words + odd + b"9 101\r\n1234567890" + b" " * 30 + b"123456789012345778" + words
    assert grown(rows, size) == after + b".\r\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10**9), max_size=30), st.integers(1, 40), st.integers(0, 10**6))
def test_promise_9_stat_is_the_sum_of_list(octets: list[int], size: int, growth: int) -> None:
    listing = b"".join(b"%d %d\r\n" % row for row in enumerate(octets, 1))
    rows = [line.split() for line in grown(listing, size, growth).split(b"\r\n")[:-2]]
    assert [int(row[1]) for row in rows] == [number + growth for number in octets]
    stat = stat_line(b"+OK %d %d\r\n" % (len(octets), sum(octets)), growth)
    assert stat == b"+OK %d %d\r\n" % (len(rows), sum(int(row[1]) for row in rows))


def test_a_listing_of_a_million_messages_is_not_held() -> None:
    sink = Listing(100)
    count = 0
    for start in range(0, 1_000_000, 4000):
        chunk = b"".join(b"%d 1000\r\n" % number for number in range(start + 1, start + 4001))
        count += sink.feed(chunk).count(b" 1100\r\n")
        assert len(sink._rest) <= 64
    assert count == 1_000_000


def test_growths_by_plugin() -> None:
    growth = Growth()
    growth.fixed("a", 100)
    growth.announced("a", 50)
    growth.announced("b", 60)
    assert (growth.total, growth.of("a"), growth.of("b"), growth.of("c")) == (210, 150, 60, 0)
    growth.forget()
    assert (growth.total, growth.of("a"), growth.of("b")) == (100, 100, 0)


def test_a_header_that_only_shrinks_is_padded() -> None:
    def only(header: Header) -> None:
        header.remove("*")

    rig = Rig(plugin(growth=grows(48), open_body=lambda *_: HeaderFilter(only, growth=48)))
    agree(rig, 48)

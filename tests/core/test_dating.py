"""Dates: headers are asked for while the client waits, and the hook is called again."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from popproxy.api import Command, Dates, Fail, Hide, Keep, MaildropEntry, MaildropView, Refuse, SessionView
from popproxy.core.dating import _TRIES, _WINDOW
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import HEADER, Limits, Timeouts
from tests.core.rig import BROKEN, LOST, Rig, pieces, plugin
from tests.core.test_numbering import LIST, UIDL

NOW = 1_767_268_800.0  # noon, 2026-01-01 UTC
DAY = 86_400.0
OLD, NEW = b"Thu, 01 Jan 2025 12:00:00 +0000", b"Thu, 01 Jan 2026 11:00:00 +0000"
FIRST, SECOND, THIRD = (b"TOP %d 0\r\n" % number for number in (1, 2, 3))
MISSING = b"-ERR No such message\r\n"


def header(date: bytes) -> bytes:
    return b"+OK\r\nReceived: from a by b; " + date + b"\r\nSubject: x\r\n\r\n.\r\n"


def hides_old(days: float = 30) -> Callable[..., Any]:
    """Hides what is older, and what has no date stays."""

    def on_maildrop(session: SessionView, maildrop: MaildropView) -> Any:
        undated = frozenset(entry.number for entry in maildrop.entries.values() if not entry.dated)
        if undated:
            return Dates(undated)
        return Hide(
            frozenset(n for n, entry in maildrop.entries.items() if (entry.arrived or inf) < NOW - days * DAY)
        )

    return on_maildrop


def keeps_new(days: float = 30) -> Callable[..., Any]:
    """DELE of what is younger, or has no date, deletes nothing."""

    def on_command(session: SessionView, command: Command) -> Any:
        if command.name != "DELE":
            return None
        number = command.message or 0
        entry = session.maildrop.get(number)
        if entry is None and session.maildrop:
            return None
        if entry is None or not entry.dated:
            return Dates(frozenset({number}))
        return Keep("kept") if (entry.arrived or inf) > NOW - days * DAY else None

    return on_command


def nothing(*_: object) -> None:
    return None


def rig_with(*plugins: Any, **given: Any) -> Rig:
    return Rig(*plugins, wall=lambda: NOW, **given).login()


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("known", [[], [b"PIPELINING"]])
def test_on_maildrop_is_asked_again_when_all_are_dated(size: int, known: list[bytes]) -> None:
    rig = rig_with(plugin(on_maildrop=hides_old()), known=known).client(b"STAT\r\nUIDL\r\nRETR 1\r\n")
    for listing in (LIST, UIDL):
        for piece in pieces(listing, size):
            rig.upstream(piece)
    asked = rig.asked()
    assert asked == b"LIST\r\nUIDL\r\n" + (FIRST + SECOND + THIRD if known else FIRST)
    for reply in (header(OLD), header(NEW), b"-ERR gone\r\n"):
        assert rig.said() == b"", "the client waits"
        for piece in pieces(reply, size):
            rig.upstream(piece)
    assert rig.said() == b"+OK 2 50\r\n+OK\r\n1 b\r\n2 c\r\n.\r\n"
    assert (asked + rig.asked()).endswith(b"TOP 3 0\r\nRETR 2\r\n")
    shown = rig.s.view.maildrop.values()
    assert [(entry.arrived, entry.dated) for entry in shown] == [(NOW - 3600, True), (None, True)]
    assert rig.meter.messages == [], "nobody retrieved anything yet"
    assert "TOP" not in {verb for verb, _ in rig.meter.outcomes()}


def test_on_command_is_asked_again_with_the_view() -> None:
    rig = rig_with(plugin(on_maildrop=nothing, on_command=keeps_new())).client(b"DELE 2\r\nDELE 3\r\nSTAT\r\n")
    rig.upstream(LIST).upstream(UIDL)
    assert rig.asked() == b"LIST\r\nUIDL\r\n" + SECOND
    rig.upstream(header(NEW))
    assert rig.said() == b"+OK kept\r\n"
    assert rig.asked() == THIRD
    rig.upstream(header(OLD))
    assert rig.asked() == b"DELE 3\r\n"
    rig.upstream(b"+OK gone\r\n")
    assert rig.said() == b"+OK gone\r\n+OK 1 10\r\n"
    rig.client(b"RSET\r\nDELE 2\r\n").upstream(b"+OK\r\n")
    assert rig.said() == b"+OK\r\n+OK kept\r\n", "it is dated for the whole session"
    assert rig.asked() == b"RSET\r\n"


def test_numbers_that_are_not_there() -> None:
    rig = rig_with(plugin(on_maildrop=nothing, on_command=keeps_new())).client(b"DELE 9\r\nNOOP\r\n")
    rig.upstream(LIST).upstream(UIDL)
    assert rig.said() == MISSING
    assert rig.asked() == b"LIST\r\nUIDL\r\nNOOP\r\n"
    assert rig.meter.errors == []


def test_hidden_messages_are_not_asked_for() -> None:
    rig = rig_with(
        plugin(on_maildrop=lambda *_: Hide(frozenset({1}))), plugin(on_maildrop=hides_old(), on_command=keeps_new())
    ).client(b"DELE 1\r\n")
    rig.upstream(LIST).upstream(UIDL)
    assert rig.asked() == b"LIST\r\nUIDL\r\n" + SECOND + THIRD
    rig.upstream(header(NEW) + header(OLD))
    assert rig.said() == b"+OK kept\r\n"


@pytest.mark.parametrize("fail", list(Fail))
def test_an_empty_maildrop_is_no_lie(fail: Fail) -> None:
    """Until there is a view, and where it is empty, a plugin sees the same."""
    rig = rig_with(plugin(fail, on_maildrop=nothing, on_command=keeps_new())).client(b"DELE 1\r\nDELE 1\r\nNOOP\r\n")
    rig.upstream(b"+OK\r\n.\r\n").upstream(b"+OK\r\n.\r\n")
    assert rig.said() == MISSING * 2
    assert rig.asked() == b"LIST\r\nUIDL\r\nNOOP\r\n"
    assert rig.meter.errors == []


def test_an_upstream_without_top_is_asked_a_few_times() -> None:
    """Servers hang up on who goes on saying what they do not know."""
    rig = rig_with(plugin(on_maildrop=hides_old())).client(b"STAT\r\n")
    rig.upstream(b"+OK\r\n" + b"".join(b"%d 10\r\n" % n for n in range(1, 101)) + b".\r\n").upstream(b"-ERR\r\n")
    asked = rig.asked().count(b"TOP")
    for _ in range(100):
        if rig.said():
            break
        rig.upstream(b"-ERR Unknown command\r\n")
        asked += rig.asked().count(b"TOP")
    assert asked == _TRIES
    assert all(entry.dated and entry.arrived is None for entry in rig.s.view.maildrop.values())


def test_deletions_without_top_are_asked_about_a_few_times() -> None:
    rig = rig_with(plugin(on_maildrop=nothing, on_command=keeps_new())).client(b"NOOP\r\n").upstream(b"+OK\r\n")
    rig.client(b"STAT\r\n").upstream(b"+OK\r\n" + b"".join(b"%d 10\r\n" % n for n in range(1, 31)) + b".\r\n")
    rig.upstream(b"-ERR\r\n")
    rig.said(), rig.asked()
    rig.client(b"".join(b"DELE %d\r\n" % n for n in range(1, 31)))
    for _ in range(_TRIES):
        rig.upstream(b"-ERR Unknown command\r\n")
    assert rig.asked().count(b"TOP") == _TRIES
    assert rig.said() == b"+OK kept\r\n" * 30, "an unknown date is a new one here"


def test_messages_that_are_gone_do_not_hide_the_others() -> None:
    """The first header shows that there is a TOP: from then on refusals count no more."""
    total = 4 * _TRIES
    rig = rig_with(plugin(on_maildrop=hides_old())).client(b"STAT\r\n")
    rig.upstream(b"+OK\r\n" + b"".join(b"%d 10\r\n" % n for n in range(1, total + 1)) + b".\r\n")
    rig.upstream(b"-ERR\r\n").upstream(b"-ERR gone\r\n" * (_TRIES - 1) + header(OLD))
    rig.upstream(b"-ERR gone\r\n" * (2 * _TRIES)).upstream(header(OLD) * _TRIES)
    assert rig.said() == b"+OK %d %d\r\n" % (total - _TRIES - 1, 10 * (total - _TRIES - 1))


def test_what_was_sent_before_is_answered_before() -> None:
    rig = rig_with(plugin(on_maildrop=nothing, on_command=keeps_new())).client(b"STAT\r\n")
    rig.upstream(LIST).upstream(UIDL)
    rig.said(), rig.asked()
    rig.client(b"RETR 1\r\nDELE 1\r\nRETR 2\r\n")
    assert rig.asked() == b"RETR 1\r\n" + FIRST
    rig.upstream(b"+OK\r\nx\r\n.\r\n" + header(OLD))
    assert rig.said() == b"+OK\r\nx\r\n.\r\n"
    assert rig.asked() == b"DELE 1\r\nRETR 2\r\n"


def test_a_bounded_number_is_under_way_and_all_are_asked() -> None:
    total = 3 * _WINDOW + 5
    rig = rig_with(plugin(on_maildrop=hides_old())).client(b"STAT\r\n")
    rig.upstream(b"+OK\r\n" + b"".join(b"%d 10\r\n" % n for n in range(1, total + 1)) + b".\r\n").upstream(b"-ERR\r\n")
    asked = rig.asked().split(b"UIDL\r\n")[1].count(b"TOP")
    assert asked == _TRIES, "until it is known that there is a TOP"
    rig.upstream(header(NEW))
    answered = 1
    asked += rig.asked().count(b"TOP")
    assert asked == _WINDOW + 1
    while answered < total:
        rig.upstream(header(NEW))
        answered += 1
        asked += rig.asked().count(b"TOP")
        assert asked == min(total, answered + _WINDOW)
    assert rig.said() == b"+OK %d %d\r\n" % (total, 10 * total)


def test_a_small_pipeline_is_obeyed() -> None:
    rig = rig_with(plugin(on_maildrop=hides_old()), limits=Limits(pipeline=2)).client(b"STAT\r\n")
    rig.upstream(LIST).upstream(UIDL)
    assert rig.asked() == b"LIST\r\nUIDL\r\n" + FIRST + SECOND


def test_of_a_long_header_only_the_beginning_is_kept() -> None:
    rig = rig_with(plugin(on_maildrop=hides_old())).client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    late = b"+OK\r\nX: " + b"x" * HEADER + b"\r\nDate: " + OLD + b"\r\n\r\n" + b"and more\r\n" * 100_000 + b".\r\n"
    early = b"+OK\r\nDate: " + OLD + b"\r\nX: " + b"x" * HEADER + b"\r\n\r\n.\r\n"
    body = b"+OK\r\nA: b\r\n\r\nDate: " + OLD + b"\r\n.\r\n"
    for piece in pieces(late + early + body, 4096):
        rig.upstream(piece)
    assert [entry.uid for entry in rig.s.view.maildrop.values()] == [b"a", b"c"]
    assert rig.said() == b"+OK 2 40\r\n"


def test_a_refused_listing_is_the_answer() -> None:
    rig = rig_with(plugin(on_maildrop=nothing, on_command=keeps_new())).client(b"DELE 1\r\nNOOP\r\n")
    rig.upstream(b"-ERR no\r\n")
    assert rig.said() == b"-ERR no\r\n"
    assert rig.asked() == b"LIST\r\nNOOP\r\n"


def test_a_lost_upstream_is_told() -> None:
    for break_it in (
        lambda rig: rig.lost(Failure(Kind.LOST, "x")),
        lambda rig: rig.wait(200.0),
        lambda rig: rig.upstream(b"+OK\r\nDate: x\r\n").lost(Failure(Kind.LOST, "x")),
        lambda rig: rig.upstream(b"what\r\n"),
    ):
        rig = rig_with(plugin(on_maildrop=hides_old()), timeouts=Timeouts(command=100.0)).client(b"STAT\r\n")
        rig.upstream(LIST).upstream(UIDL)
        break_it(rig)
        assert rig.said() == LOST
        assert rig.closed


def test_an_upstream_that_answers_has_its_time_again() -> None:
    rig = rig_with(plugin(on_maildrop=hides_old()), timeouts=Timeouts(command=100.0)).client(b"STAT\r\n")
    rig.upstream(LIST).upstream(UIDL)
    for _ in range(3):
        rig.wait(90.0).upstream(header(NEW))
    assert rig.said() == b"+OK 3 60\r\n"


async def waits_maildrop(session: SessionView, maildrop: MaildropView) -> Any: ...


async def waits_command(session: SessionView, command: Command) -> Any: ...


@pytest.mark.parametrize("known", [[], [b"PIPELINING"]])
def test_async_hooks(known: list[bytes]) -> None:
    rig = rig_with(plugin(on_maildrop=waits_maildrop), known=known, timeouts=Timeouts(command=100.0))
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL).returned(Dates(frozenset({2, 3, 99})))
    assert rig.s.deadline == rig.now + 100.0
    rig.upstream(header(NEW)).upstream(header(OLD))
    assert rig.said() == b""
    rig.returned(Dates(frozenset({1}))).upstream(header(OLD)).returned(Hide(frozenset({1})))
    assert rig.said() == b"+OK 2 50\r\n"
    rig = rig_with(
        plugin(on_maildrop=nothing, on_command=waits_command), known=known, timeouts=Timeouts(command=100.0)
    )
    rig.client(b"DELE 2\r\nNOOP\r\n").returned(Dates(frozenset({2})))
    assert rig.s.deadline == rig.now + 100.0, "the listing has its time"
    rig.upstream(LIST).upstream(UIDL)
    assert rig.asked() == b"LIST\r\nUIDL\r\n" + SECOND
    rig.upstream(header(NEW)).returned(Refuse("no"))
    assert rig.said() == b"-ERR [SYS/PERM] no\r\n"
    rig.returned()
    assert rig.asked() == b"NOOP\r\n"


def test_plugins_before_are_not_asked_again_and_those_behind_see_the_dates() -> None:
    calls: list[str] = []
    seen: list[dict[int, MaildropEntry]] = []

    def first(session: SessionView, maildrop: MaildropView) -> None:
        calls.append("first")

    def last(session: SessionView, maildrop: MaildropView) -> None:
        seen.append(dict(maildrop.entries))

    rig = rig_with(plugin(on_maildrop=first), plugin(on_maildrop=hides_old(1e6)), plugin(on_maildrop=last))
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL).upstream(header(NEW) + header(OLD) + b"-ERR\r\n")
    assert calls == ["first"]
    assert len(seen) == 1 and all(entry.dated for entry in seen[0].values())
    assert seen[0][1].arrived == NOW - 3600


def always(*_: object) -> Dates:
    return Dates(frozenset({1, 2, 3}))


@pytest.mark.parametrize("fail", list(Fail))
def test_to_ask_for_what_is_dated_is_a_lie(fail: Fail) -> None:
    rig = rig_with(plugin(fail, on_maildrop=always)).client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    rig.upstream(header(NEW) * 3)
    assert rig.meter.errors == [("p1", "on_maildrop", f"fail_{fail.value}")]
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else b"+OK 3 60\r\n")
    rig = rig_with(plugin(fail, on_maildrop=nothing, on_command=always)).client(b"NOOP\r\n")
    rig.upstream(LIST).upstream(UIDL)
    rig.upstream(header(NEW) * 3).upstream(b"+OK\r\n" if fail is Fail.OPEN else b"")
    assert rig.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else b"+OK\r\n")


@pytest.mark.parametrize("fail", list(Fail))
def test_where_it_cannot_stand_the_plugin_has_failed(fail: Fail) -> None:
    for hooks, line in (({}, b"NOOP\r\n"), ({"on_maildrop": nothing}, b"QUIT\r\n")):
        rig = rig_with(plugin(fail, on_command=always, **hooks)).client(line)
        assert rig.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]
        assert rig.said() == (BROKEN if fail is Fail.CLOSED and line != b"QUIT\r\n" else b"")


def test_a_client_that_leaves_meanwhile() -> None:
    rig = rig_with(plugin(on_maildrop=hides_old())).client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    rig.eof().upstream(header(NEW) * 3)
    assert rig.said() == b"+OK 3 60\r\n", "what it asked for is still answered"
    rig.ended("client_eof")


def test_another_maildrop_is_dated_anew() -> None:
    rig = rig_with(plugin(on_maildrop=hides_old()), opened=frozenset({b"XTND ARCHIVE"}))
    for _ in range(2):
        rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL).upstream(header(NEW) * 3)
        assert rig.said() == b"+OK 3 60\r\n"
        rig.client(b"XTND ARCHIVE a\r\n").upstream(b"+OK\r\n")
        rig.said()

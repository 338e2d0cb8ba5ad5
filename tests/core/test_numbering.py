"""on_maildrop: the client's numbers and the upstream's, and the commands that tell them."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from popproxy.api import Answer, Command, Fail, Hide, MaildropView, SessionView, Sizes
from popproxy.core.limits import Limits, Timeouts
from popproxy.wire.commands import VERBS
from tests.core.rig import BROKEN, LOST, Rig, pieces, plugin

LIST = b"+OK 3 messages\r\n1 10\r\n2 20\r\n3 30\r\n.\r\n"
UIDL = b"+OK\r\n1 a\r\n2 b\r\n3 c\r\n.\r\n"
OPEN = frozenset(name for name, verb in VERBS.items() if verb.fenced)


async def waits(session: SessionView, maildrop: MaildropView) -> Any: ...


def hides(*numbers: int) -> Any:
    return lambda session, maildrop: Hide(frozenset(numbers))


def rig_with(*plugins: Any, **given: Any) -> Rig:
    return Rig(*plugins, **given).login()


def loaded(*plugins: Any, **given: Any) -> Rig:
    """Messages 1 and 3 are shown, unless ``plugins`` say otherwise."""
    rig = rig_with(*(plugins or (plugin(on_maildrop=hides(2)),)), **given)
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    rig.said()
    rig.asked()
    return rig


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("known", [[], [b"PIPELINING"]])
def test_the_view_is_made_before_the_first_command_that_needs_it(size: int, known: list[bytes]) -> None:
    rig = rig_with(plugin(on_maildrop=hides(2)), known=known).client(b"NOOP\r\nSTAT\r\nLIST\r\nUIDL 2\r\nNOOP\r\n")
    assert rig.asked() == b"NOOP\r\n" + (b"LIST\r\n" if known else b"")
    rig.upstream(b"+OK noop\r\n")
    assert rig.said() == b"+OK noop\r\n"
    for piece in pieces(LIST, size):
        rig.upstream(piece)
    for piece in pieces(UIDL, size):
        rig.upstream(piece)
    rig.upstream(b"+OK noop\r\n")
    assert rig.said() == b"+OK 2 40\r\n+OK\r\n1 10\r\n2 30\r\n.\r\n+OK 2 c\r\n+OK noop\r\n"
    assert rig.asked() == (b"" if known else b"LIST\r\n") + b"UIDL\r\nNOOP\r\n"
    assert rig.meter.outcomes() == {
        ("USER", "ok"): 1, ("PASS", "ok"): 1, ("NOOP", "ok"): 2, ("STAT", "ok"): 1, ("LIST", "ok"): 1, ("UIDL", "ok"): 1
    }  # fmt: skip


def test_what_is_answered_here_has_a_latency_with_the_making_of_the_view_in_it() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2)))
    rig.meter.latencies.clear()
    rig.client(b"STAT\r\nRETR 9\r\n")
    rig.now += 2
    rig.upstream(LIST)
    rig.now += 1
    rig.upstream(UIDL)
    assert rig.said() == b"+OK 2 40\r\n-ERR No such message\r\n"
    assert rig.meter.latencies == [("STAT", 3.0, 1), ("RETR", 0.0, 1)]


def test_the_session_knows_its_messages_by_the_clients_numbers() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2)), opened=OPEN)
    assert dict(rig.s.view.maildrop) == {}
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    shown = rig.s.view.maildrop
    assert [(number, entry.number, entry.uid) for number, entry in shown.items()] == [(1, 1, b"a"), (2, 3, b"c")]
    rig.client(b"XTND ARCHIVE x\r\n").upstream(b"+OK\r\n")
    assert dict(rig.s.view.maildrop) == {}


def test_commands_go_upstream_with_the_upstreams_numbers() -> None:
    rig = loaded().client(b"RETR 2\r\nTOP 2 5\r\nDELE 2\r\nRETR 3\r\nLIST 3\r\nXSENDER 1\r\n")
    assert rig.asked() == b"RETR 3\r\nTOP 3 5\r\nDELE 3\r\n"
    assert rig.said() == b""
    rig.upstream(b"+OK\r\n.\r\n+OK\r\n.\r\n+OK\r\n")
    missing, fenced = b"-ERR No such message\r\n", b"-ERR [SYS/PERM] XSENDER is not served here\r\n"
    assert rig.said() == b"+OK\r\n.\r\n+OK\r\n.\r\n+OK\r\n" + missing * 2 + fenced
    assert rig.meter.outcomes()["RETR", "err"] == 1
    rig = loaded(opened=OPEN).client(b"XSENDER 2\r\n")
    assert rig.asked() == b"XSENDER 3\r\n"


def test_deletions_are_counted_when_the_upstream_took_them() -> None:
    rig = loaded().client(b"DELE 2\r\nSTAT\r\nDELE 1\r\nSTAT\r\nLIST 2\r\nRSET\r\nSTAT\r\n")
    rig.upstream(b"+OK\r\n-ERR\r\n+OK\r\n")
    assert rig.said() == (
        b"+OK\r\n+OK 1 10\r\n-ERR\r\n+OK 1 10\r\n-ERR No such message\r\n+OK\r\n+OK 2 40\r\n"
    )
    assert rig.asked() == b"DELE 3\r\nDELE 1\r\nRSET\r\n"


def test_rset_before_anything_else_costs_nothing() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2))).client(b"RSET\r\n").upstream(b"-ERR\r\n").client(b"RSET\r\n")
    assert rig.upstream(b"+OK\r\n").said() == b"-ERR\r\n+OK\r\n"
    assert rig.asked() == b"RSET\r\n" * 2


def test_a_refused_rset_changes_nothing() -> None:
    rig = loaded().client(b"DELE 2\r\nRSET\r\nSTAT\r\n").upstream(b"+OK\r\n-ERR\r\n")
    assert rig.said() == b"+OK\r\n-ERR\r\n+OK 1 10\r\n"


def test_sizes_and_what_all_plugins_say() -> None:
    seen: list[MaildropView] = []
    rig = loaded(
        plugin(on_maildrop=lambda session, maildrop: seen.append(maildrop)),
        plugin(on_maildrop=lambda *_: Sizes({1: 15, 3: 35})),
        plugin(on_maildrop=hides(1)),
    )
    rig.client(b"LIST\r\n")
    assert rig.said() == b"+OK\r\n1 20\r\n2 35\r\n.\r\n"
    assert (seen[0].octets, len(seen[0].entries)) == (55, 2), "it is a live view of what all said"


def test_commands_that_tell_other_numbers_are_not_served() -> None:
    rig = loaded(opened=OPEN).client(b"LAST\r\nXTND XLST Subject\r\n")
    assert rig.asked() == b""
    assert rig.said() == (
        b"-ERR [SYS/PERM] LAST is not served in this session\r\n"
        b"-ERR [SYS/PERM] XTND XLST is not served in this session\r\n"
    )


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("line", [b"XTND ARCHIVE a", b"XTND BBOARDS a", b"XTND X-BBOARDS a"])
def test_another_maildrop_has_other_numbers(line: bytes, good: bool) -> None:
    rig = loaded(opened=OPEN).client(line + b"\r\nRETR 2\r\n")
    assert rig.asked() == line + b"\r\n", "its numbers are not known yet"
    rig.upstream(b"+OK\r\n" if good else b"-ERR\r\n")
    assert rig.asked() == (b"LIST\r\n" if good else b"RETR 3\r\n")
    if good:
        rig.upstream(b"+OK\r\n1 1\r\n2 2\r\n.\r\n").upstream(b"-ERR\r\n")
        assert rig.said() == b"+OK\r\n-ERR No such message\r\n"


def test_a_list_of_maildrops_concerns_nobody() -> None:
    rig = loaded(opened=OPEN).client(b"XTND BBOARDS\r\n").upstream(b"+OK\r\ngeneral 5\r\n.\r\n")
    assert rig.said() == b"+OK\r\ngeneral 5\r\n.\r\n"


def test_without_uidl() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2))).client(b"UIDL\r\nLIST\r\n").upstream(LIST).upstream(b"-ERR\r\n")
    assert rig.said() == b"-ERR UIDL is not available\r\n+OK\r\n1 10\r\n2 30\r\n.\r\n"
    assert rig.meter.outcomes()["UIDL", "err"] == 1


def test_a_list_that_is_refused_is_not_an_empty_maildrop() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2))).client(b"STAT\r\nNOOP\r\n").upstream(b"-ERR [SYS/TEMP] busy\r\n")
    assert rig.said() == b"-ERR [SYS/TEMP] busy\r\n"
    assert rig.asked() == b"LIST\r\nNOOP\r\n"
    rig.upstream(b"+OK\r\n").client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK\r\n+OK 2 40\r\n"


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("how", ["raise", "lie", "sizes", "late", "async lie"])
def test_promise_7_on_maildrop_fails(fail: Fail, how: str) -> None:
    def sync(session: SessionView, maildrop: MaildropView) -> Any:
        if how == "raise":
            raise ValueError("no")
        return Sizes({1: -5}) if how == "sizes" else Answer(True)

    waiting = how in ("late", "async lie")
    rig = rig_with(plugin(fail, on_maildrop=waits if waiting else sync)).client(b"STAT\r\nNOOP\r\n")
    rig.upstream(LIST).upstream(UIDL)
    if waiting:
        assert rig.said() == b""
        assert rig.s.deadline == inf
        if how == "late":
            rig.raised(TimeoutError())
        else:
            rig.returned(5)
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else b"+OK 3 60\r\n")
    assert rig.meter.errors == [("p1", "on_maildrop", f"fail_{fail.value}")]
    assert rig.asked() == b"LIST\r\nUIDL\r\nNOOP\r\n"
    rig.upstream(b"+OK\r\n").client(b"STAT\r\n")
    assert rig.asked() == (b"LIST\r\n" if fail is Fail.CLOSED else b""), "a closed plugin is asked again"


def test_an_async_hook_holds_only_what_comes_behind() -> None:
    rig = rig_with(plugin(on_maildrop=waits)).client(b"STAT\r\nNOOP\r\n").upstream(LIST).upstream(UIDL)
    rig.client(b"RETR 2\r\n")
    assert rig.asked() == b"LIST\r\nUIDL\r\n"
    rig.returned(Hide(frozenset({2})))
    assert rig.said() == b"+OK 2 40\r\n"
    assert rig.asked() == b"NOOP\r\nRETR 3\r\n"


def test_on_command_comes_first_and_sees_the_clients_numbers() -> None:
    seen: list[bytes] = []

    async def on_command(session: SessionView, command: Command) -> None: ...

    rig = rig_with(
        plugin(on_command=lambda session, command: seen.append(command.argument)),
        plugin(on_command=on_command, on_maildrop=hides(2)),
    )
    rig.client(b"RETR 2\r\n").returned()
    rig.upstream(LIST).upstream(UIDL)
    assert seen == [b"2"]
    assert rig.asked() == b"LIST\r\nUIDL\r\nRETR 3\r\n"


def test_what_nobody_asked_for_is_not_taken_for_the_listing() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2))).client(b"STAT\r\n").upstream(LIST + UIDL)
    assert rig.asked() == b"LIST\r\n"
    assert rig.said() == LOST
    rig.ended("upstream_error")


@pytest.mark.parametrize("answers", [[], [LIST[:20]], [LIST], [LIST, UIDL[:9]]])
def test_the_upstream_is_lost_meanwhile(answers: list[bytes]) -> None:
    rig = rig_with(plugin(on_maildrop=waits)).client(b"STAT\r\n")
    for answer in answers:
        rig.upstream(answer)
    assert rig.lost().said() == LOST
    rig.ended("upstream_eof")


def test_the_upstream_is_lost_while_the_hook_decides() -> None:
    rig = rig_with(plugin(on_maildrop=waits)).client(b"STAT\r\n").upstream(LIST).upstream(UIDL).lost()
    assert rig.said() == LOST
    rig.returned()
    assert rig.said() == b""


def test_listings_are_bounded_and_timed() -> None:
    rig = rig_with(plugin(on_maildrop=hides(2)), limits=Limits(listing=1)).client(b"STAT\r\n")
    rig.upstream(b"+OK\r\n1 1\r\n2 1\r\n3 1\r\n")
    assert not rig.closed
    assert rig.upstream(b"4 1\r\n").said() == LOST
    rig = rig_with(plugin(on_maildrop=hides(2)), timeouts=Timeouts(command=5)).client(b"STAT\r\n").upstream(LIST)
    assert rig.s.deadline == rig.now + 5
    assert rig.wait(5).said() == LOST

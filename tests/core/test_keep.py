"""Keep: the client has deleted a message, and the upstream never hears of it."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Command, Fail, Keep, Rewrite, SessionView, parse
from tests.core.rig import BROKEN, Rig, plugin
from tests.core.test_numbering import LIST, UIDL, hides

MISSING = b"-ERR No such message\r\n"


def keeps(*numbers: int) -> Any:
    """Keeps these, by the client's numbers; all without any."""

    def on_command(session: SessionView, command: Command) -> Any:
        return Keep("kept") if command.name == "DELE" and (not numbers or command.message in numbers) else None

    return on_command


def keeping(*numbers: int, **given: Any) -> Rig:
    """Of three messages 1 and 3 are shown, as 1 and 2."""
    rig = Rig(plugin(on_maildrop=hides(2), on_command=keeps(*numbers)), **given).login()
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK 2 40\r\n"
    rig.asked()
    return rig


@pytest.mark.parametrize("known", [[], [b"PIPELINING"]])
def test_the_upstream_never_hears_of_it(known: list[bytes]) -> None:
    rig = keeping(known=known)
    rig.client(b"DELE 2\r\nSTAT\r\nLIST\r\nUIDL\r\nLIST 2\r\nUIDL 2\r\nRETR 2\r\nTOP 2 0\r\nDELE 2\r\n")
    assert rig.asked() == b""
    assert rig.said() == b"+OK kept\r\n+OK 1 10\r\n+OK\r\n1 10\r\n.\r\n+OK\r\n1 a\r\n.\r\n" + MISSING * 5
    rig.client(b"RETR 1\r\nQUIT\r\n").upstream(b"+OK\r\n.\r\n").upstream(b"+OK bye\r\n")
    assert rig.all_upstream.endswith(b"RETR 1\r\nQUIT\r\n") and b"DELE" not in rig.all_upstream
    rig.ended("quit")


def test_rset_brings_it_back_and_goes_upstream() -> None:
    rig = keeping().client(b"DELE 2\r\nRSET\r\nRETR 2\r\nSTAT\r\n")
    assert rig.asked() == b"RSET\r\n", "nobody knows yet whether there is a message 2"
    rig.upstream(b"+OK\r\n")
    assert rig.asked() == b"RETR 3\r\n"
    rig.upstream(b"+OK\r\n.\r\n")
    assert rig.said() == b"+OK kept\r\n+OK\r\n+OK\r\n.\r\n+OK 2 40\r\n"


def test_a_refused_rset_brings_nothing_back() -> None:
    rig = keeping().client(b"DELE 2\r\nRSET\r\nRETR 2\r\n").upstream(b"-ERR\r\n")
    assert rig.said() == b"+OK kept\r\n-ERR\r\n" + MISSING


def test_what_was_asked_before_it_is_answered_as_before_it() -> None:
    rig = keeping().client(b"RETR 2\r\nSTAT\r\nDELE 2\r\nSTAT\r\nRETR 2\r\n")
    assert rig.asked() == b"RETR 3\r\n"
    rig.upstream(b"+OK\r\n.\r\n")
    assert rig.said() == b"+OK\r\n.\r\n+OK 2 40\r\n+OK kept\r\n+OK 1 10\r\n" + MISSING


def test_kept_and_deleted_messages_side_by_side() -> None:
    rig = keeping(1).client(b"DELE 1\r\nDELE 2\r\nDELE 1\r\nSTAT\r\n")
    assert rig.asked() == b"DELE 3\r\n"
    rig.upstream(b"+OK gone\r\n")
    assert rig.said() == b"+OK kept\r\n+OK gone\r\n" + MISSING + b"+OK 0 0\r\n"
    summary = rig.s.summary()
    assert (summary.deleted, summary.commands["DELE"]) == (1, 3), "kept is answered +OK and is not deleted"
    assert rig.meter.outcomes()["DELE", "ok"] == 2
    assert rig.meter.messages == [("DELE", True)]


def test_a_message_that_is_deleted_already_cannot_be_kept() -> None:
    answers = iter([None, Keep("kept")])
    rig = Rig(plugin(on_maildrop=hides(), on_command=lambda *_: next(answers))).login()
    rig.client(b"DELE 1\r\nDELE 1\r\n").upstream(LIST).upstream(UIDL).upstream(b"+OK\r\n")
    assert rig.said() == b"+OK\r\n" + MISSING
    assert rig.s.summary().deleted == 1


def test_as_the_first_command_it_waits_for_the_listing() -> None:
    rig = Rig(plugin(on_maildrop=hides(2), on_command=keeps())).login().client(b"DELE 2\r\nDELE 3\r\nSTAT\r\n")
    rig.upstream(LIST).upstream(UIDL)
    assert rig.asked() == b"LIST\r\nUIDL\r\n"
    assert rig.said() == b"+OK kept\r\n" + MISSING + b"+OK 1 10\r\n"
    rig = Rig(plugin(on_maildrop=hides(2), on_command=keeps())).login().client(b"DELE 2\r\n").upstream(b"-ERR no\r\n")
    assert rig.said() == b"-ERR no\r\n"


async def later(session: SessionView, command: Command) -> Any: ...


def test_an_async_hook_may_keep() -> None:
    rig = Rig(plugin(on_maildrop=hides(2)), plugin(on_command=later)).login().client(b"DELE 1\r\nNOOP\r\n")
    rig.returned(Keep()).upstream(LIST).upstream(UIDL)
    assert rig.asked() == b"LIST\r\nUIDL\r\n"
    assert rig.said() == b"+OK\r\n"
    rig.returned()
    assert rig.asked() == b"NOOP\r\n"


def test_another_dele_may_be_meant() -> None:
    rewrites = plugin(on_maildrop=hides(), on_command=lambda *_: Rewrite(parse(b"DELE 2")))
    rig = Rig(rewrites, plugin(on_command=keeps(2))).login().client(b"DELE 1\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK kept\r\n"
    assert list(rig.s.view.maildrop) == [1, 2, 3]


@pytest.mark.parametrize("fail", list(Fail))
@pytest.mark.parametrize(
    ("line", "hooks"),
    [(b"NOOP\r\n", {"on_maildrop": hides()}), (b"RETR 1\r\n", {"on_maildrop": hides()}), (b"DELE 1\r\n", {})],
)
def test_where_it_cannot_stand_the_plugin_has_failed(fail: Fail, line: bytes, hooks: dict[str, Any]) -> None:
    rig = Rig(plugin(fail, on_command=lambda *_: Keep(), **hooks)).login().client(line)
    assert rig.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else b"")


def test_where_on_maildrop_is_not_needed_nothing_can_be_kept() -> None:
    made = plugin(unneeded=lambda _: frozenset({"on_maildrop"}), on_maildrop=hides(), on_command=lambda *_: Keep())
    rig = Rig(made).login().client(b"DELE 1\r\n")
    assert rig.asked() == b"DELE 1\r\n"
    assert rig.meter.errors == [("p1", "on_command", "fail_open")]


def test_another_maildrop_begins_anew() -> None:
    rig = keeping(opened=frozenset({b"XTND ARCHIVE"})).client(b"DELE 1\r\nXTND ARCHIVE a\r\n").upstream(b"+OK\r\n")
    rig.client(b"STAT\r\n").upstream(LIST).upstream(UIDL)
    assert rig.said() == b"+OK kept\r\n+OK\r\n+OK 2 40\r\n"

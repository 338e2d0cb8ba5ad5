"""on_command: what each verdict does, and what no plugin may do."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Answer, Code, Command, Fail, Hangup, Refuse, Rewrite, SessionView, parse
from popproxy.wire.commands import VERBS, Framing, Verb, Where
from tests.core.rig import BROKEN, Rig, plugin


def on(name: str, verdict: Any) -> Any:
    """A plugin that returns ``verdict`` for one command."""

    def on_command(session: SessionView, command: Command) -> Any:
        return verdict if command.name == name else None

    return on_command


async def waits(session: SessionView, command: Command) -> Any: ...


def judged(name: str, verdict: Any, line: bytes, fail: Fail = Fail.OPEN, **given: Any) -> Rig:
    return Rig(plugin(fail, on_command=on(name, verdict)), **given).login().client(line + b"\r\n")


def test_refuse() -> None:
    rig = judged("DELE", Refuse("Read-only", Code.SYS_PERM, "archive"), b"DELE 1")
    assert rig.said() == b"-ERR [SYS/PERM] Read-only\r\n"
    assert rig.asked() == b""
    assert rig.meter.outcomes()["DELE", "denied"] == 1
    assert judged("DELE", Refuse("Read\r\nonly", None), b"DELE 1").said() == b"-ERR Read??only\r\n"


@pytest.mark.parametrize(
    ("line", "verdict", "reply"),
    [
        (b"NOOP", Answer(True), b"+OK\r\n"),
        (b"NOOP", Answer(True, "hi", body=b"dropped"), b"+OK hi\r\n"),
        (b"NOOP", Answer(False, "no", Code.SYS_TEMP), b"-ERR [SYS/TEMP] no\r\n"),
        (b"NOOP", Answer(False), b"-ERR \r\n"),
        (b"LIST", Answer(True, "two", body=b"1 2\r\n.x\r\n"), b"+OK two\r\n1 2\r\n..x\r\n.\r\n"),
        (b"LIST", Answer(True, body=b""), b"+OK\r\n.\r\n"),
        (b"LIST", Answer(True, body=b"1 2"), b"+OK\r\n1 2\r\n.\r\n"),
        (b"LIST 1", Answer(True, "1 2"), b"+OK 1 2\r\n"),
        (b"RETR 1", Answer(False, "no"), b"-ERR no\r\n"),
        (b"CAPA", Answer(True, body=b"TOP\r\n"), b"+OK\r\nTOP\r\n.\r\n"),
    ],
)
def test_answer(line: bytes, verdict: Answer, reply: bytes) -> None:
    rig = judged(line.split()[0].decode(), verdict, line)
    assert rig.said() == reply
    assert rig.asked() == b""
    outcome = "ok" if verdict.ok else "denied"
    assert rig.meter.outcomes()[line.split()[0].decode(), outcome] == 1


def test_hangup() -> None:
    rig = judged("NOOP", Hangup("enough"), b"NOOP")
    rig.ended("policy")
    assert rig.s.detail == "enough"
    assert (rig.said(), rig.asked()) == (b"", b"")
    assert judged("NOOP", Hangup(), b"NOOP").s.detail == "hung up by a plugin"


def test_rewrite_is_seen_by_the_plugins_behind() -> None:
    seen: list[Command] = []
    rig = Rig(
        plugin(on_command=on("TOP", Rewrite(parse(b"TOP 1 0")))),
        plugin(on_command=lambda session, command: seen.append(command)),
    ).login()
    rig.client(b"TOP 1 9999\r\n").upstream(b"+OK\r\nx\r\n.\r\n")
    assert seen == [parse(b"TOP 1 0")]
    assert rig.asked() == b"TOP 1 0\r\n"
    assert rig.said() == b"+OK\r\nx\r\n.\r\n"


@pytest.mark.parametrize("line", [b"RETR 1", b"TOP 1 0", b"LIST", b"CAPA"])
def test_rewrite_within_one_framing(line: bytes) -> None:
    rig = judged("UIDL", Rewrite(parse(line)), b"UIDL")
    assert rig.asked() == line + b"\r\n"
    assert rig.meter.errors == []


def verb(name: bytes, **given: Any) -> Verb:
    return Verb(**{"index": 9999, "name": name, "where": Where.BOTH, "least": 0, "most": 9, **given})


FORGED = [
    Command(VERBS[b"NOOP"], b"x\r\nQUIT"),
    Command(VERBS[b"RETR"], b"1\r\nQUIT"),
    Command(VERBS[b"RETR"], b"x"),
    Command(VERBS[b"LIST"], b"\0"),
    Command(verb(b"NOOP\r\nQUIT")),
    Command(verb(b"QUIT")),
    Command(verb(b"QUIT", framing=Framing.MULTI)),
    Command(verb(b"UNKNOWN")),
    Command(verb(b"NOOP", framing=Framing.MULTI)),
    parse(b"QUIT"),
    parse(b"STLS"),
    parse(b"PASS x"),
    parse(b"LAST"),
    parse(b"XTND XLST a"),
    parse(b"XTND XMIT"),
    parse(b"LIST"),
    parse(b"RETR 1"),
]


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("command", FORGED, ids=lambda command: repr(command.line))
def test_promise_1_what_may_not_be_sent_for_another(command: Command, fail: Fail) -> None:
    rig = judged("STAT", Rewrite(command), b"STAT", fail)
    assert rig.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]
    if fail is Fail.CLOSED:
        assert (rig.asked(), rig.said()) == (b"", BROKEN)
    else:
        assert (rig.asked(), rig.said()) == (b"STAT\r\n", b"")


def test_a_fenced_verb_that_is_opened_may_be_sent() -> None:
    rig = judged("STAT", Rewrite(parse(b"LAST")), b"STAT", opened=frozenset({b"LAST"}))
    assert rig.asked() == b"LAST\r\n"


def test_an_upload_is_an_upload() -> None:
    given: Any = {"opened": frozenset({b"XTND XMIT"})}
    rig = judged("STAT", Rewrite(parse(b"XTND XMIT")), b"STAT", **given)
    assert rig.asked() == b"STAT\r\n"
    rig = judged("XTND XMIT", Rewrite(parse(b"STAT")), b"XTND XMIT", **given)
    assert rig.asked() == b"XTND XMIT\r\n"
    rig = judged("XTND XMIT", Rewrite(parse(b"XTND XMIT a")), b"XTND XMIT", **given)
    assert rig.asked() == b"XTND XMIT a\r\n"


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize("verdict", [Refuse(), Answer(True), Rewrite(parse(b"NOOP"))])
def test_promise_1_quit_is_the_clients(verdict: Any, fail: Fail) -> None:
    rig = judged("QUIT", verdict, b"QUIT", fail)
    assert rig.asked() == b"QUIT\r\n"
    rig.upstream(b"+OK bye\r\n").ended("quit")
    assert rig.said() == b"+OK bye\r\n"
    assert rig.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]


def test_only_a_hangup_stops_quit() -> None:
    rig = judged("QUIT", Hangup(), b"QUIT")
    rig.ended("policy")
    assert rig.asked() == b""


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_promise_7_an_answer_without_the_body_it_needs(fail: Fail) -> None:
    rig = judged("LIST", Answer(True), b"LIST", fail)
    assert (rig.asked(), rig.said()) == ((b"LIST\r\n", b"") if fail is Fail.OPEN else (b"", BROKEN))


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize(("waiting", "how"), [(False, "raise"), (True, "raise"), (True, "late"), (True, "lie")])
@pytest.mark.parametrize("line", [b"NOOP\r\n", b"QUIT\r\n"])
def test_promise_7_on_command_fails(fail: Fail, waiting: bool, how: str, line: bytes) -> None:
    def sync(session: SessionView, command: Command) -> None:
        raise ValueError("no")

    rig = Rig(plugin(fail, on_command=waits if waiting else sync)).login().client(line)
    if waiting:
        if how == "lie":
            rig.returned(5)
        else:
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
    assert rig.meter.errors == [("p1", "on_command", f"fail_{fail.value}")]
    if fail is Fail.CLOSED and line != b"QUIT\r\n":
        assert (rig.asked(), rig.said()) == (b"", BROKEN)
    else:
        assert (rig.asked(), rig.said()) == (line, b"")


@pytest.mark.parametrize(
    ("verdict", "asked", "said"),
    [
        (None, b"STAT\r\nNOOP\r\n", b""),
        (Refuse("no", None), b"STAT\r\nNOOP\r\n", b""),
        (Answer(True, "hi"), b"STAT\r\nNOOP\r\n", b""),
        (Rewrite(parse(b"RSET")), b"STAT\r\nRSET\r\nNOOP\r\n", b""),
    ],
)
def test_async_verdicts_keep_the_order(verdict: Any, asked: bytes, said: bytes) -> None:
    async def on_command(session: SessionView, command: Command) -> Any: ...

    rig = Rig(plugin(on_command=on_command)).login().client(b"STAT\r\nDELE 1\r\nNOOP\r\n")
    rig.returned().returned(verdict).returned()
    if verdict is None:
        asked = b"STAT\r\nDELE 1\r\nNOOP\r\n"
    assert rig.asked() == asked
    rig.upstream(b"+OK stat\r\n")
    local = {Refuse: b"-ERR no\r\n", Answer: b"+OK hi\r\n"}.get(type(verdict), b"")
    assert rig.said() == b"+OK stat\r\n" + local
    rig.upstream(b"+OK\r\n" * (asked.count(b"\r\n") - 1))
    assert not rig.closed


def test_an_async_hangup() -> None:
    rig = Rig(plugin(on_command=waits)).login().client(b"NOOP\r\nQUIT\r\n").returned(Hangup("bye"))
    rig.ended("policy")
    assert rig.asked() == b""

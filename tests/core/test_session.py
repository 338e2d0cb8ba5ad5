"""The session as its pump sees it: ends, reasons, totals, and that nobody is left waiting for ever."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from popproxy.api import Code, Command, Fail, Hangup, Refuse, SessionSummary, SessionView, TlsView
from popproxy.core.effects import Await, CloseClient, CloseUpstream, Dial, Dialed, SecureClient
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.phases import REASONS, Phase
from tests.core.rig import AWAY, LOST, SENTINEL, Rig, plugin


def hang_on_command() -> Rig:
    async def on_command(session: object, command: object) -> None: ...

    return Rig(plugin(on_command=on_command)).login()


def test_the_greeting_comes_with_start() -> None:
    rig = Rig(greeting="hello")
    assert rig.said() == b""
    rig.start()
    assert rig.said() == b"+OK hello\r\n"
    assert rig.s.phase is Phase.AUTHORIZATION
    assert rig.view.phase == "authorization"


def test_octets_before_the_greeting_wait_for_it() -> None:
    async def on_connect(session: object) -> None: ...

    rig = Rig(plugin(on_connect=on_connect)).start()
    rig.client(b"QUIT\r\n")
    assert rig.said() == b""
    assert rig.s.deadline == inf
    rig.returned()
    assert rig.said() == b"+OK POP3 ready\r\n+OK Bye\r\n"
    rig.ended("quit")


@pytest.mark.parametrize("reason", ["client_reset", "client_eof"])
def test_promise_1_client_gone_commits_nothing(reason: str) -> None:
    rig = Rig().login().client(b"DELE 1\r\n").upstream(b"+OK\r\n")
    rig.s.client_gone(reason)
    rig.drain().ended(reason)
    assert b"QUIT" not in rig.all_upstream


ONE_BY_ONE = (b"TOP",)
"""Capabilities of an upstream that gets one command at a time: QUIT waits when the client is gone."""


@pytest.mark.parametrize("reason", ["client_reset", "client_eof"])
def test_a_client_that_is_gone_behind_its_quit_has_quit(reason: str) -> None:
    rig = Rig(known=ONE_BY_ONE).login().client(b"UIDL\r\nDELE 1\r\nNOPE\r\nCAPA\r\nQUIT\r\n")
    rig.s.client_gone(reason)
    assert not rig.drain().closed
    rig.upstream(b"+OK\r\n1 a\r\n.\r\n").upstream(b"+OK\r\n").upstream(b"+OK\r\n.\r\n")
    assert rig.asked() == b"UIDL\r\nDELE 1\r\nCAPA\r\nQUIT\r\n"
    rig.upstream(b"+OK bye\r\n").ended("quit")


@pytest.mark.parametrize("lines", [b"RETR 1\r\nDELE 1\r\nQUIT\r\n", b"TOP 1 9\r\nQUIT\r\n", b"DELE 1\r\nQUIT"])
def test_promise_1_a_client_that_is_gone_and_is_owed_a_message_commits_nothing(lines: bytes) -> None:
    rig = Rig(known=ONE_BY_ONE).login().client(lines)
    rig.s.client_gone()
    rig.drain().ended("client_reset")
    assert b"QUIT" not in rig.all_upstream


def test_promise_1_a_client_that_did_not_take_its_message_commits_nothing() -> None:
    rig = Rig(known=ONE_BY_ONE).login().client(b"RETR 1\r\nDELE 1\r\n").upstream(b"+OK\r\ntext\r\n.\r\n")
    rig.client(b"QUIT\r\n").blocked(True)
    rig.s.client_gone()
    rig.drain().ended("client_reset")
    assert b"QUIT" not in rig.all_upstream


def test_an_upstream_that_does_not_answer_the_quit_of_a_client_that_is_gone() -> None:
    rig = Rig(known=ONE_BY_ONE).login().client(b"DELE 1\r\nQUIT\r\n")
    rig.s.client_gone()
    rig.drain().wait(120.0).ended("client_reset")
    assert b"QUIT" not in rig.all_upstream


def test_promise_1_stop_commits_nothing_and_says_nothing() -> None:
    rig = Rig().login().client(b"DELE 1\r\n").upstream(b"+OK\r\n")
    rig.said()
    rig.stop().ended("shutdown")
    assert rig.said() == b""
    assert b"QUIT" not in rig.all_upstream


def test_stop_lets_a_reply_come_to_its_end_and_hears_no_more() -> None:
    rig = Rig().login().client(b"RETR 1\r\n").upstream(b"+OK\r\nhalf")
    rig.stop()
    assert not rig.closed
    rig.client(b"DELE 1\r\nQUIT\r\n")
    assert rig.asked() == b"RETR 1\r\n"
    rig.upstream(b" whole\r\n.\r\n").ended("shutdown")
    assert rig.said() == b"+OK\r\nhalf whole\r\n.\r\n"


def test_stop_while_a_hook_decides() -> None:
    rig = hang_on_command().client(b"NOOP\r\nQUIT\r\n").stop()
    assert not rig.closed
    rig.returned()
    assert rig.asked() == b"NOOP\r\n"
    rig.upstream(b"+OK\r\n").ended("shutdown")


def test_stop_before_the_login() -> None:
    rig = Rig().start()
    rig.said()
    rig.client(b"USER joe\r\n").stop().ended("shutdown")
    assert rig.s.state_at_end == "authorization"


def test_stop_while_logging_in_ends_behind_its_reply() -> None:
    rig = Rig().start().client(b"USER joe\r\nPASS x\r\n").stop()
    assert not rig.closed
    rig.connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n").ended("shutdown")
    assert rig.said().endswith(b"+OK in\r\n")


def test_who_is_stopped_is_not_heard_before_the_login_either() -> None:
    rig = Rig().start().client(b"USER joe\r\nPASS x\r\n").stop().client(b"DELE 1\r\n")
    rig.done(Failure(Kind.REFUSED)).ended("shutdown")
    assert rig.said().endswith(AWAY)


def test_stop_in_an_upload_waits_for_it() -> None:
    rig = Rig(opened=frozenset({b"XTND XMIT"})).login().client(b"XTND XMIT\r\n").upstream(b"+OK\r\n").stop()
    assert not rig.closed
    rig.client(b"text\r\n.\r\n").upstream(b"+OK sent\r\n").ended("shutdown")
    assert rig.asked() == b"XTND XMIT\r\ntext\r\n.\r\n"


def test_the_first_reason_counts() -> None:
    rig = Rig().login().client(b"RETR 1\r\n").upstream(b"+OK\r\n").eof()
    rig.lost().ended("client_eof")
    rig.s.end("quit")
    rig.s.leave("shutdown")
    assert rig.s.reason == "client_eof"
    for later in (Rig.eof, Rig.stop):
        rig = Rig().start().client(b"QUIT\r\n")
        later(rig).ended("quit")


def test_nothing_counts_behind_the_end() -> None:
    rig = Rig().login()
    rig.s.client_gone()
    rig.drain()
    before = (rig.all_client, rig.all_upstream, len(rig.effects))
    rig.client(b"NOOP\r\n").upstream(b"+OK\r\n").eof().lost().blocked(True).blocked(False).stop().wait(1e9)
    rig.s.drained()
    rig.s.done(1, SENTINEL)
    rig.s.client_gone()
    rig.drain()
    assert (rig.all_client, rig.all_upstream, len(rig.effects)) == before
    assert rig.s.octets_in == len(b"USER joe\r\nPASS sesame\r\n")


def test_outcomes_behind_the_end_are_dropped() -> None:
    rig = Rig().start().client(b"USER joe\r\nPASS x\r\n")
    rig.s.client_gone()
    rig.drain().done(Dialed("late:110", False))
    assert rig.asked() == b""
    assert rig.s.deadline == inf


def test_an_outcome_counts_once() -> None:
    rig = Rig().start().client(b"USER joe\r\nPASS x\r\n")
    dial = rig.pending(Dial)[0]
    rig.s.done(dial.id, Failure(Kind.REFUSED))
    rig.s.done(dial.id, Dialed("x:110", False))
    rig.drain()
    assert rig.said().endswith(AWAY)
    assert not rig.s.upstream_open


def test_upstream_octets_count_only_while_it_is_there() -> None:
    rig = Rig().start()
    rig.said()
    rig.upstream(b"+OK out of nowhere\r\n").lost()
    assert not rig.closed
    assert rig.said() == b""


def test_tick_before_the_deadline_is_nothing() -> None:
    rig = Rig(timeouts=Timeouts(pre_auth=5)).start()
    rig.wait(4.9)
    assert not rig.closed
    rig.wait(0.1).ended("login_timeout")


def test_a_way_that_is_not_in_the_table_is_refused() -> None:
    rig = Rig().start()
    with pytest.raises(RuntimeError, match="no way from authorization to update"):
        rig.s.enter(Phase.UPDATE)


def test_too_many_bad_commands_end_the_session_behind_their_replies() -> None:
    rig = Rig(limits=Limits(bad_commands=2)).login().client(b"NOOP\r\nFOO\r\nBAR\r\nQUIT\r\n")
    assert not rig.closed
    rig.upstream(b"+OK\r\n").ended("protocol_error")
    assert rig.said() == b"+OK\r\n-ERR Unknown command\r\n-ERR Unknown command\r\n"
    assert rig.asked() == b"NOOP\r\n"
    assert rig.s.detail == "too many bad commands"


def test_policy_refusals_are_no_bad_commands() -> None:
    rig = Rig(limits=Limits(bad_commands=1)).login().client(b"LAST\r\n")
    assert rig.said() == b"-ERR [SYS/PERM] LAST is not served here\r\n"
    assert not rig.closed
    assert rig.meter.outcomes()["LAST", "denied"] == 1


def test_totals() -> None:
    summaries: list[SessionSummary] = []
    rig = Rig(plugin(on_close=lambda session, summary: summaries.append(summary))).login()
    rig.now += 2.5
    rig.client(b"RETR 1\r\nRETR 2\r\nDELE 1\r\nDELE 9\r\nTOP 1 0\r\nFOO\r\nQUIT\r\n")
    rig.upstream(b"+OK\r\na\r\n.\r\n+OK\r\n.\r\n+OK\r\n-ERR\r\n+OK\r\n.\r\n+OK\r\n").ended("quit")
    rig.s.octets_out = 77
    summary = rig.s.summary()
    assert summaries == [summary]
    assert summary.commands == {"USER": 1, "PASS": 1, "RETR": 2, "DELE": 2, "TOP": 1, "_other": 1, "QUIT": 1}
    assert (summary.retrieved, summary.deleted, summary.seconds) == (2, 1, 2.5)
    assert (summary.reason, summary.phase) == ("quit", "update")
    assert (summary.octets_received, summary.octets_sent) == (rig.s.octets_in, 77)
    assert rig.view.messages == 2
    assert rig.meter.messages == [("RETR", True), ("RETR", True), ("DELE", True), ("DELE", False), ("TOP", True)]
    assert rig.meter.transfers == [("RETR", 0.0, 6), ("RETR", 0.0, 3), ("TOP", 0.0, 3)]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_promise_7_on_close_that_raises_is_noted(error: BaseException) -> None:
    def on_close(session: object, summary: object) -> None:
        raise error

    seen: list[str] = []
    rig = Rig(
        plugin(on_close=lambda session, summary: seen.append(session.phase)), plugin(on_close=on_close)
    ).start()
    rig.s.client_gone()
    rig.s.summary()
    rig.drain()
    assert rig.meter.errors == [("p2", "on_close", "fail_open")]
    assert rig.notes("plugin_error")[0]["error"] == type(error).__name__
    assert seen == ["closed"]


def test_promise_7_what_a_plugin_writes_into_the_view_decides_nothing() -> None:
    def lie(session: SessionView, *_: object) -> None:
        session.tls = TlsView("TLSv1.3")
        session.phase = "transaction"
        session.user = "root"
        session.messages = "many"  # type: ignore[assignment]

    rig = Rig(plugin(on_connect=lie), auth_before_tls=False).start()
    rig.client(b"USER joe\r\n")
    assert rig.said().endswith(b"-ERR [SYS/PERM] No login on a connection without TLS\r\n")
    rig = Rig(plugin(on_command=lie)).login().client(b"RETR 1\r\n").upstream(b"+OK\r\n.\r\n")
    assert rig.said() == b"+OK\r\n.\r\n"
    assert rig.view.messages == 1


# Who is blocked, and who waits


def test_who_takes_nothing_is_not_heard() -> None:
    rig = Rig().login().client(b"RETR 1\r\n").upstream(b"+OK\r\npart").blocked(True)
    rig.client(b"NOOP\r\n")
    assert rig.asked() == b"RETR 1\r\n"
    assert not rig.s.want_client
    rig.upstream(b"\r\n.\r\n")
    assert rig.said() == b"+OK\r\npart\r\n.\r\n"
    rig.blocked(False)
    assert rig.asked() == b"NOOP\r\n"
    assert rig.s.want_client


def test_who_takes_nothing_is_not_heard_before_the_login_either() -> None:
    rig = Rig().start().blocked(True)
    rig.said()
    rig.client(b"USER joe\r\n" * 200)
    assert rig.said() == b""
    assert not rig.s.want_client
    rig.blocked(False)
    assert rig.said() == b"+OK\r\n" * 200
    assert rig.s.want_client


def test_a_client_that_takes_nothing_ends_as_stalled_not_the_upstream() -> None:
    times = Timeouts(idle=50, command=10)
    rig = Rig(timeouts=times).login().client(b"RETR 1\r\n").upstream(b"+OK\r\n").blocked(True)
    assert rig.s.deadline == rig.now + 50
    rig.wait(49)
    assert not rig.closed
    rig.wait(1).ended("client_stalled")
    rig = Rig(timeouts=times).login().client(b"RETR 1\r\n").upstream(b"+OK\r\n").blocked(True).wait(40).blocked(False)
    assert rig.s.deadline == rig.now + 10
    rig.wait(10).ended("upstream_timeout")


def test_half_close_with_lines_that_wait_for_a_blocked_client() -> None:
    rig = Rig().login().blocked(True).client(b"NOOP\r\n").eof()
    assert not rig.closed
    rig.blocked(False)
    assert rig.asked() == b"NOOP\r\n"
    rig.upstream(b"+OK\r\n").ended("client_eof")


def test_half_close_before_the_login_with_lines_that_wait() -> None:
    rig = Rig().start().blocked(True).client(b"USER joe\r\n").eof()
    assert not rig.closed
    rig.blocked(False).ended("client_eof")
    assert rig.said().endswith(b"+OK\r\n")


def test_half_close_with_half_a_line_that_waits() -> None:
    rig = Rig().start().blocked(True).client(b"USER jo").eof()
    rig.blocked(False).ended("client_eof")


def test_half_close_in_a_handshake_ends_behind_it() -> None:
    rig = Rig(tls="starttls").start().client(b"STLS\r\n").eof()
    assert not rig.closed
    rig.done(TlsView("TLSv1.3"), SecureClient).ended("client_eof")


def test_login_timeout_of_a_half_closed_client_ends_at_once() -> None:
    rig = Rig(timeouts=Timeouts(login=5)).start().client(b"USER joe\r\nPASS x\r\n").connected().eof()
    assert not rig.closed
    rig.wait(5).ended("client_eof")
    assert rig.said().endswith(AWAY)


def test_deadlines_follow_who_is_to_move() -> None:
    times = Timeouts(pre_auth=1, greeting=2, login=3, idle=50, command=5, update=60)
    rig = Rig(timeouts=times).start()
    assert rig.s.deadline == rig.now + 1
    rig.client(b"USER joe\r\nPASS x\r\n")
    assert rig.s.deadline == inf, "the pump watches a dial"
    rig.done(Dialed("x:110", False))
    assert rig.s.deadline == rig.now + 2
    rig.upstream(b"+OK\r\n")
    assert rig.s.deadline == rig.now + 3
    rig.upstream(b"+OK\r\n").upstream(b"+OK\r\n")
    assert rig.s.deadline == rig.now + 50
    rig.now += 10
    rig.client(b"NO")
    assert rig.s.deadline == rig.now + 40, "half a line is no command"
    rig.client(b"OP\r\n")
    assert rig.s.deadline == rig.now + 5
    rig.now += 1
    rig.client(b"NOOP\r\n")
    assert rig.s.deadline == rig.now + 4, "more commands give the upstream no more time"
    rig.upstream(b"+O")
    assert rig.s.deadline == rig.now + 5
    rig.upstream(b"K\r\n+OK\r\n")
    assert rig.s.deadline == rig.now + 50
    rig.client(b"FOO\r\n")
    assert rig.s.deadline == rig.now + 50, "nobody upstream was asked"
    rig.client(b"QUIT\r\n")
    assert rig.s.deadline == rig.now + 60
    assert rig.s.phase is Phase.UPDATE
    rig.upstream(b"+OK\r\n")
    assert rig.s.deadline == inf


def test_a_hook_is_watched_by_the_pump_and_the_upstream_by_the_session() -> None:
    rig = hang_on_command().client(b"NOOP\r\n")
    assert rig.s.deadline == inf
    rig.returned()
    assert rig.s.deadline == rig.now + rig.plan.timeouts.command
    rig.client(b"NOOP\r\n")
    assert rig.pending(Await)
    assert rig.s.deadline < inf, "the upstream owes the first reply"
    rig.upstream(b"+OK\r\n")
    assert rig.s.deadline == inf
    rig.returned().upstream(b"+OK\r\n")
    assert rig.s.deadline == rig.now + rig.plan.timeouts.idle


def test_upstream_lost_while_a_hook_is_awaited() -> None:
    rig = hang_on_command().client(b"NOOP\r\n").lost()
    rig.ended("upstream_eof")
    assert rig.said() == LOST
    rig.returned()
    assert rig.asked() == b""


def test_hangup_sends_nothing_that_stands_behind_it() -> None:
    def on_command(session: object, command: Command) -> Hangup | None:
        return Hangup() if command.name == "NOOP" else None

    rig = Rig(plugin(on_command=on_command)).login().client(b"NOOP\r\nDELE 1\r\nQUIT\r\n")
    rig.ended("policy")
    assert rig.asked() == b""
    assert rig.said() == b""


def test_close_effects_come_last_and_once() -> None:
    rig = Rig().login().client(b"QUIT\r\n").upstream(b"+OK\r\n")
    assert [type(effect) for effect in rig.effects[-2:]] == [CloseUpstream, CloseClient]
    assert len(rig.pending(CloseClient)) == 1


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_refused_on_connect(fail: Fail) -> None:
    rig = Rig(plugin(on_connect=lambda session: Refuse("no", Code.SYS_TEMP, "grumpy")), fail=fail).start()
    assert rig.said() == b"-ERR [SYS/TEMP] no\r\n"
    rig.ended("policy")
    assert rig.s.detail == "grumpy"


def test_every_reason_is_known() -> None:
    used: list[Callable[[], Rig]] = [
        lambda: Rig().start().client(b"QUIT\r\n"),
        lambda: Rig().start().eof(),
        lambda: Rig().start().stop(),
        lambda: Rig().start().wait(1e6),
        lambda: Rig().login().wait(1e6),
        lambda: Rig().login().lost(),
        lambda: Rig().login().upstream(b"x"),
        lambda: Rig().login().blocked(True).wait(1e6),
        lambda: Rig().login().client(b"NOOP\r\n").wait(1e6),
        lambda: Rig().start().client(b"x" * 2000),
    ]
    reasons = [make().s.reason for make in used]
    assert reasons == [
        "quit", "client_eof", "shutdown", "login_timeout", "idle_timeout", "upstream_eof", "upstream_error",
        "client_stalled", "upstream_timeout", "protocol_error",
    ]  # fmt: skip
    assert set(reasons) <= set(REASONS)


def test_a_failed_handshake_ends_the_session() -> None:
    rig = Rig(tls="starttls").start().client(b"STLS\r\n").done(Failure(Kind.TLS, "no shared cipher"), SecureClient)
    rig.ended("tls")
    assert rig.s.detail == "no shared cipher"

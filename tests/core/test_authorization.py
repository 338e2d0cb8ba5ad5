"""The AUTHORIZATION stage by hand: what the transcripts in tests/scripts do not show."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from popproxy.api import Capabilities, Fail, SessionView, TlsView
from popproxy.core.conditions import condition
from popproxy.core.effects import Await, Dial, Dialed, SecureClient
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import BURST, Limits, Timeouts
from popproxy.core.phases import Phase
from popproxy.wire.commands import VERBS, Framing, Where, declared
from tests.core.rig import AWAY, BROKEN, Rig, pieces, plugin

CAPA_REPLY = b"+OK Capability list follows\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nUSER\r\nSASL PLAIN LOGIN\r\n.\r\n"


def ways(*hows: str) -> list[tuple[bool, str]]:
    return [(waits, how) for waits in (False, True) for how in hows]


def begun(*plugins: Any, **given: Any) -> Rig:
    rig = Rig(*plugins, **given).start()
    rig.said()
    return rig


def test_every_verb_of_the_state_is_answered() -> None:
    for verb in VERBS.values():
        rig = begun(opened=frozenset(name for name, other in VERBS.items() if other.fenced), known=None)
        rig.client(verb.name + b" a b"[: 2 * verb.least] + b"\r\n")
        waits = bool(rig.pending(Dial))
        assert rig.said() or waits, verb.name
        if Where.AUTHORIZATION not in verb.where:
            assert not waits


def test_a_flood_of_cheap_commands_does_not_nest() -> None:
    rig = begun(known=[])
    rig.client(b"CAPA\r\n" * 20_000)
    assert rig.said() == CAPA_REPLY * 20_000


def test_a_flood_waits_for_the_client_to_take_the_replies() -> None:
    rig = begun(known=[], eager=False).client(b"CAPA\r\n" * 20_000)
    assert rig.s.pulling
    assert not rig.s.want_client
    assert BURST < len(rig.said()) < BURST + 2 * len(CAPA_REPLY)
    rig.s.drained()
    rig.drain()
    assert BURST < len(rig.said()) < BURST + 2 * len(CAPA_REPLY)


def test_what_waits_is_bounded() -> None:
    rig = begun(known=None).client(b"CAPA\r\n")
    assert rig.s.want_client, "a little may come while an outcome is awaited"
    rig.client(b"NOOP\r\n" * 300)
    assert not rig.s.want_client
    rig.done(Failure(Kind.REFUSED))
    assert rig.s.want_client or rig.closed


def test_half_close_behind_a_flood() -> None:
    rig = begun(known=[], eager=False).client(b"CAPA\r\n" * 200).eof()
    assert not rig.closed
    rig.eager = True
    rig.drain().ended("client_eof")
    assert rig.said() == CAPA_REPLY * 200


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("line", "ends"),
    [
        (b"USER " + b"x" * 43 + b"\r\n", False),
        (b"USER " + b"x" * 44 + b"\r\n", True),
        (b"USER " + b"x" * 500, True),
        (b"AUTH PLAIN " + b"x" * 87 + b"\r\n", False),
        (b"auth plain " + b"x" * 88 + b"\r\n", True),
        (b"\0" * 51, True),
    ],
)
def test_overlong_is_the_same_however_it_is_cut(line: bytes, ends: bool, size: int) -> None:
    rig = begun(limits=Limits(line=50, auth_line=100))
    for piece in pieces(line, size):
        rig.client(piece)
    assert rig.closed is ends
    assert (b"-ERR Line longer than" in rig.said()) is ends
    assert (("client", "overlong") in rig.meter.violations) is ends


def test_a_bare_line_feed_is_none() -> None:
    rig = begun().client(b"QUIT\n")
    assert rig.said() == b"-ERR End command lines with CRLF\r\n"
    rig = begun(bare_lf=True).client(b"QUIT\n")
    rig.ended("quit")


def test_octets_before_start_wait() -> None:
    rig = Rig().client(b"QUIT\r\n")
    assert rig.said() == b""
    assert rig.start().said() == b"+OK POP3 ready\r\n+OK Bye\r\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"RPOP joe", b"-ERR [SYS/PERM] RPOP is not served here\r\n"),
        (b"PASS x", b"-ERR Send USER first\r\n"),
        (b"APOP joe abc", b"-ERR [SYS/PERM] APOP is not offered; use USER and PASS, or AUTH\r\n"),
        (b"STLS", b"-ERR [SYS/PERM] STLS is not offered\r\n"),
        (b"XCLIENT A=b", b"+OK Not from a trusted address, ignored\r\n"),
        (b"STAT", b"-ERR Log in first\r\n"),
        (b"FOO", b"-ERR Unknown command\r\n"),
    ],
)
def test_what_needs_nobody_else(line: bytes, reply: bytes) -> None:
    rig = begun().client(line + b"\r\n")
    assert rig.said() == reply
    assert not rig.pending(Dial)


def test_stls_twice_and_on_implicit_tls() -> None:
    rig = begun(tls="starttls", view_tls=TlsView()).client(b"STLS\r\n")
    assert rig.said() == b"-ERR [SYS/PERM] TLS is on already\r\n"


def test_no_stls_behind_utf8() -> None:
    rig = begun(tls="starttls").client(b"UTF8\r\n").connected().upstream(b"+OK\r\n")
    rig.said()
    rig.client(b"STLS\r\n")
    assert rig.said() == b"-ERR No STLS behind UTF8\r\n"
    assert rig.meter.violations == [("client", "phase")]


def test_too_many_failed_logins() -> None:
    rig = begun(limits=Limits(auth_attempts=1)).client(b"USER a\r\nPASS b\r\n").done(Failure(Kind.REFUSED))
    rig.ended("policy")
    assert rig.s.detail == "too many failed logins"


def test_the_deadline_runs_however_slowly_credentials_drip_in() -> None:
    rig = begun(timeouts=Timeouts(pre_auth=10))
    for octet in pieces(b"USER joe\r", 1):
        rig.client(octet).wait(1)
    assert not rig.closed
    rig.wait(1).ended("login_timeout")
    assert rig.said() == b""


def test_a_failed_login_begins_the_deadline_anew() -> None:
    rig = begun(timeouts=Timeouts(pre_auth=10)).wait(9).client(b"USER a\r\nPASS b\r\n")
    assert rig.s.deadline == inf
    rig.now += 100
    rig.done(Failure(Kind.DNS))
    assert rig.said() == b"+OK\r\n" + AWAY
    assert rig.s.deadline == rig.now + 10


def test_the_last_name_stays_for_the_log() -> None:
    rig = begun().client(b"USER a\r\nPASS b\r\n").done(Failure(Kind.DNS))
    assert rig.view.user == "a"
    assert rig.meter.logins == [("USER", "tempfail", 0.0)]
    assert rig.notes("login_failed") == [
        {"code": "SYS/TEMP", "reason": "", "mechanism": "USER"},
    ]


@pytest.mark.parametrize("verb", [b"USER a", b"PASS b", b"APOP a b", b"AUTH PLAIN", b"AUTH", b"RPOP a"])
def test_promise_5_no_credentials_on_a_clear_leg(verb: bytes) -> None:
    rig = begun(auth_before_tls=False, tls="starttls", opened=frozenset({b"RPOP"})).client(verb + b"\r\n")
    assert rig.said() == b"-ERR [SYS/PERM] Send STLS first\r\n"
    assert rig.meter.logins[0][1] == "tls_required"
    assert not rig.closed


def test_tls_of_a_trusted_proxy_counts() -> None:
    rig = begun(auth_before_tls=False, view_tls=TlsView(by_proxy=True)).client(b"USER a\r\n")
    assert rig.said() == b"+OK\r\n"


@pytest.mark.parametrize("behind", [b"U", b"USER a\r\n", b"\r\n", b"\x16\x03\x01\x02\0"])
def test_promise_3_octets_behind_stls(behind: bytes) -> None:
    for split in (False, True):
        rig = begun(tls="starttls")
        for piece in (b"STLS\r\n", behind) if split else (b"STLS\r\n" + behind,):
            rig.client(piece)
        rig.ended("protocol_error")
        assert rig.said() == b"+OK Begin TLS\r\n"
        assert rig.meter.violations == [("client", "after_stls")]


def test_promise_3_commands_in_front_of_stls_are_answered_in_front_of_it() -> None:
    rig = begun(tls="starttls").client(b"USER a\r\nSTLS\r\n")
    assert rig.said() == b"+OK\r\n+OK Begin TLS\r\n"
    assert rig.view.user is None
    rig.done(TlsView("TLSv1.3", "X"), SecureClient)
    assert rig.view.tls == TlsView("TLSv1.3", "X")
    rig.client(b"PASS b\r\n")
    assert rig.said() == b"-ERR Send USER first\r\n"


def test_promise_3_octets_behind_an_awaited_capa_and_stls() -> None:
    rig = begun(tls="starttls", known=None).client(b"CAPA\r\nSTLS\r\nUSER a\r\n")
    assert rig.said() == b""
    rig.done(Failure(Kind.REFUSED)).ended("protocol_error")


def test_stls_counts_under_a_condition() -> None:
    seen: list[str] = []

    def on_capabilities(session: SessionView, capabilities: Capabilities) -> None:
        seen.append("asked")

    rig = begun(plugin(on_capabilities=on_capabilities), tls="starttls", known=[], when=condition(tls=True))
    rig.client(b"CAPA\r\nSTLS\r\n").done(TlsView(), SecureClient)
    assert seen == []
    rig.client(b"CAPA\r\n")
    assert seen == ["asked"]


# on_connect and on_capabilities


def test_a_plugin_may_change_the_list() -> None:
    rig = begun(plugin(on_capabilities=lambda session, capabilities: capabilities.without(b"SASL")), known=[])
    rig.client(b"CAPA\r\n")
    assert rig.said() == CAPA_REPLY.replace(b"SASL PLAIN LOGIN\r\n", b"")


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize(("waits", "how"), [*ways("raise", "lie", "inject"), (True, "late")])
def test_promise_7_on_capabilities_fails(fail: Fail, how: str, waits: bool) -> None:
    inject = Capabilities([(b"X", ())])
    inject._items = {b"X\r\nY": ()}

    def sync(session: SessionView, capabilities: Capabilities) -> Any:
        if how == "raise":
            raise ValueError("no")
        return inject if how == "inject" else "a lie"

    async def on_capabilities(session: SessionView, capabilities: Capabilities) -> Any: ...

    rig = begun(plugin(fail, on_capabilities=on_capabilities if waits else sync), known=[]).client(b"CAPA\r\n")
    if waits:
        assert rig.said() == b""
        assert rig.s.deadline == inf
        if how in ("raise", "late"):
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
        else:
            rig.returned(inject if how == "inject" else "a lie")
    assert rig.said() == (BROKEN if fail is Fail.CLOSED else CAPA_REPLY)
    assert rig.meter.errors == [("p1", "on_capabilities", f"fail_{fail.value}")]
    rig.client(b"QUIT\r\n").ended("quit")


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize(("waits", "how"), [*ways("raise", "lie"), (True, "late")])
def test_promise_7_on_connect_fails(fail: Fail, how: str, waits: bool) -> None:
    def sync(session: SessionView) -> Any:
        if how == "raise":
            raise ValueError("no")
        return 5

    async def on_connect(session: SessionView) -> Any: ...

    rig = Rig(plugin(fail, on_connect=on_connect if waits else sync)).start()
    if waits:
        assert rig.pending(Await)
        if how == "lie":
            rig.returned(5)
        else:
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
    if fail is Fail.CLOSED:
        assert rig.said() == BROKEN
        rig.ended("policy")
    else:
        assert rig.said() == b"+OK POP3 ready\r\n"
    assert rig.meter.errors == [("p1", "on_connect", f"fail_{fail.value}")]


def test_a_client_that_is_gone_before_on_connect_returns() -> None:
    async def on_connect(session: SessionView) -> None: ...

    rig = Rig(plugin(on_connect=on_connect)).start()
    rig.s.client_gone()
    rig.drain().returned()
    assert rig.said() == b""
    rig.ended("client_reset")
    assert rig.s.state_at_end == "greeting"


# What is asked of the upstream before the login


def test_a_declared_verb_of_this_state_is_relayed() -> None:
    verb = declared(b"XHELO", Framing.MULTI, Where.AUTHORIZATION)
    rig = begun(verbs={b"XHELO": verb}).client(b"xhelo me\r\n").connected()
    assert rig.asked() == b"XHELO me\r\n"
    rig.upstream(b"+OK\r\na\r\n.\r\n")
    assert rig.said() == b"+OK\r\na\r\n.\r\n"
    assert rig.s.want_client


def test_unasked_octets_on_an_idle_leg_end_the_leg_only() -> None:
    rig = begun(known=None).client(b"CAPA\r\n").connected().upstream(b"-ERR\r\n")
    rig.said()
    rig.upstream(b"+OK surprise\r\n")
    assert not rig.s.upstream_open
    assert rig.said() == b""
    rig.client(b"USER joe\r\nPASS x\r\n").connected()
    assert rig.asked() == b"CAPA\r\nUSER joe\r\n"


@pytest.mark.parametrize("command", [b"CAPA", b"UTF8", b"LANG"])
def test_an_early_command_when_the_upstream_is_lost(command: bytes) -> None:
    rig = begun(known=None).client(command + b"\r\n").done(Dialed("x:110", False)).lost()
    assert rig.said() == (CAPA_REPLY if command == b"CAPA" else AWAY)
    assert rig.s.phase is Phase.AUTHORIZATION
    assert rig.s.deadline < inf
    assert rig.notes("upstream_failed")[0]["kind"] == "lost"


def test_an_early_command_that_is_not_answered() -> None:
    rig = begun(timeouts=Timeouts(login=3)).client(b"LANG en\r\n").connected().wait(3)
    assert rig.said() == AWAY
    assert rig.notes("upstream_failed")[0]["kind"] == "login_timeout"


def test_stls_is_refused_behind_utf8_only() -> None:
    rig = begun(tls="starttls").client(b"UTF8\r\n").connected().upstream(b"-ERR\r\n")
    rig.said()
    rig.client(b"STLS\r\n")
    assert rig.said() == b"+OK Begin TLS\r\n"
    assert not rig.s.upstream_open, "the leg that was opened for a clear client is not kept"

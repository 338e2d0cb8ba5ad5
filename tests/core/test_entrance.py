"""The way from complete credentials to a logged-in upstream, by hand."""

from __future__ import annotations

import gc
from math import inf
from typing import Any, cast

import pytest

from popproxy.api import (
    Answer,
    Bearer,
    Code,
    Credentials,
    Fail,
    LoginResult,
    Password,
    Refuse,
    Route,
    ServerAddress,
    SessionView,
)
from popproxy.core.effects import Await, CloseUpstream, Dial, Dialed, SecureUpstream
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Timeouts
from popproxy.core.phases import Phase
from popproxy.core.plan import LegTls, UpstreamPolicy
from popproxy.core.target import Target
from popproxy.wire.capabilities import Capabilities
from tests.core.rig import AWAY, BROKEN, LOST, Rig, plugin

USER_PASS = b"USER joe\r\nPASS sesame\r\n"
FAILED = b"-ERR [AUTH] Authentication failed\r\n"


def asked(*plugins: Any, **given: Any) -> Rig:
    """Credentials are complete."""
    rig = Rig(*plugins, **given).start().client(b"USER joe\r\n")
    rig.said()
    return rig.client(b"PASS sesame\r\n")


def ways(*hows: str) -> list[tuple[bool, str]]:
    return [*((waits, how) for waits in (False, True) for how in hows), (True, "late")]


async def waiting(*_: object) -> Any: ...


def test_a_login_that_needs_no_nonce_draws_none() -> None:
    drawn: list[int] = []

    def nonce() -> bytes:
        drawn.append(1)
        return b"nonce"

    asked(nonce=nonce).connected().upstream(b"+OK\r\n").upstream(b"+OK\r\n")
    assert not drawn
    rig = asked(nonce=nonce, known=[b"SASL SCRAM-SHA-256"]).connected()
    assert rig.asked().startswith(b"AUTH SCRAM-SHA-256 ") and drawn == [1]


@pytest.mark.parametrize("hooks", [{}, {"on_login": lambda *_: None, "on_login_result": lambda *_: None}])
@pytest.mark.parametrize("reply", [b"+OK in\r\n", b"-ERR no\r\n"])
def test_promise_6_no_password_outlives_its_login(hooks: dict[str, Any], reply: bytes) -> None:
    """Not until the garbage collector comes by, either: of a session that lasts that may be hours."""
    secret = b"not to be kept"
    gc.collect()
    gc.disable()
    try:
        rig = Rig(*([plugin(**hooks)] if hooks else [])).start()
        rig.client(b"USER joe\r\nPASS " + secret + b"\r\n").connected().upstream(b"+OK\r\n").upstream(reply)
        assert rig.asked().endswith(b"PASS " + secret + b"\r\n")
        assert (rig.s.phase is Phase.TRANSACTION) is reply.startswith(b"+OK")
        assert not [one for one in gc.get_objects() if isinstance(one, Password) and one.password == secret]
    finally:
        gc.enable()


# on_login


def test_on_login_sees_the_credentials_and_decides_where() -> None:
    seen: list[Credentials] = []

    def on_login(session: SessionView, credentials: Credentials) -> Route:
        seen.append(credentials)
        return Route("other", Password(f"{credentials.user}@new", b"new one"))

    rig = asked(plugin(on_login=on_login), plugin(on_login=on_login))
    assert seen == [Password("joe", b"sesame"), Password("joe@new", b"new one")]
    assert rig.pending(Dial)[0].target.upstream == "other"
    rig.connected().upstream(b"+OK\r\n").upstream(b"+OK\r\n")
    assert rig.asked() == b"USER joe@new@new\r\nPASS new one\r\n"
    assert (rig.view.user, rig.view.login, rig.view.upstream) == ("joe", "joe@new@new", "other")
    assert rig.view.server == "mail.example.com:110"


def test_a_route_may_keep_either_half() -> None:
    rig = asked(plugin(on_login=lambda session, credentials: Route("other")), plugin(on_login=lambda *_: Route()))
    assert rig.pending(Dial)[0].target.upstream == "other"
    rig = asked(plugin(on_login=lambda *_: Route(None, Password("ann", b"x"))))
    assert rig.pending(Dial)[0].target.upstream == "main"
    assert rig.connected().asked() == b"USER ann\r\n"


def test_a_route_may_name_a_server_and_a_key() -> None:
    server = ServerAddress("192.0.2.7", 1110)
    rig = asked(plugin(on_login=lambda *_: Route("other", server=server, key="shelf 7")))
    assert rig.pending(Dial)[0].target == Target("other", server, "shelf 7")
    # Nobody knows yet what that server can do, whatever the upstream's own servers can.
    rig.connected()
    assert rig.asked() == b"CAPA\r\n"
    rig.upstream(b"+OK\r\n.\r\n").upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    assert rig.view.upstream == "other"
    assert rig.knowledge.get("other") == Capabilities.parse([b"TOP", b"UIDL", b"PIPELINING"])


def test_the_key_is_the_name_used_upstream_without_case() -> None:
    assert asked().pending(Dial)[0].target == Target("main", None, "joe")
    rig = asked(plugin(on_login=lambda *_: Route(None, Password("Ann@Example.COM", b"x"))))
    assert rig.pending(Dial)[0].target.key == "ann@example.com"


def test_a_later_route_forgets_the_server_only_when_it_names_an_upstream() -> None:
    first = plugin(on_login=lambda *_: Route("other", server=ServerAddress("a.example"), key="k"))
    seen: list[str | None] = []

    def second(session: SessionView, credentials: Credentials) -> Route:
        seen.append(session.upstream)
        return Route(None, Password("ann", b"x"))

    rig = asked(first, plugin(on_login=second))
    assert rig.pending(Dial)[0].target == Target("other", ServerAddress("a.example"), "k")
    assert seen == ["other"]
    rig = asked(first, plugin(on_login=lambda *_: Route("main")))
    assert rig.pending(Dial)[0].target == Target("main", None, "k")


def test_what_a_server_can_do_is_known_by_server() -> None:
    server = ServerAddress("192.0.2.7")
    rig = asked(plugin(on_login=lambda *_: Route(server=server)), known=(b"PIPELINING",))
    rig.connected().upstream(b"-ERR\r\n").upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    rig.asked()
    # It announced no PIPELINING: one command at a time.
    rig.client(b"NOOP\r\nNOOP\r\n")
    assert rig.asked() == b"NOOP\r\n"


@pytest.mark.parametrize(
    ("server", "policy", "told"),
    [
        (ServerAddress(""), "off", "no host name"),
        (ServerAddress("a b"), "off", "no host name"),
        (ServerAddress("a..b"), "off", "no host name"),
        (ServerAddress("-a.example"), "off", "no host name"),
        (ServerAddress("1.2.3"), "off", "no host name"),
        (ServerAddress("a\n"), "off", "no host name"),
        (ServerAddress("[::1]"), "off", "no host name"),
        (ServerAddress("x" * 64), "off", "no host name"),
        (ServerAddress("a", 0), "off", "port"),
        (ServerAddress("a", 65536), "off", "port"),
        (ServerAddress("a", 1, cast(Any, "ssl")), "off", "tls of the server"),
        (ServerAddress("a", 1, "off"), "starttls", "without TLS"),
        (ServerAddress("a", 1, "off"), "implicit", "without TLS"),
    ],
)
@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_a_server_that_cannot_be_meant_is_a_lie(
    server: ServerAddress, policy: LegTls, told: str, fail: Fail
) -> None:
    """Promises 5 and 7: whatever the fail mode, the credentials go nowhere."""
    rig = asked(plugin(on_login=lambda *_: Route(server=server)), fail=fail, policy=UpstreamPolicy("main", policy))
    assert not rig.pending(Dial)
    assert rig.said() == BROKEN
    assert told in rig.notes("plugin_error")[0]["detail"]


@pytest.mark.parametrize("host", ["a", "A.Example", "mail-1.example.com.", "192.0.2.1", "::1", "x_y.example", "x" * 63])
def test_hosts_that_can_be_meant(host: str) -> None:
    rig = asked(plugin(on_login=lambda *_: Route(server=ServerAddress(host))))
    assert rig.pending(Dial)[0].target.server == ServerAddress(host)


@pytest.mark.parametrize(
    ("policy", "tls", "secure", "first"),
    [
        ("off", "starttls", False, b"STLS\r\n"),
        ("off", "implicit", True, b"USER joe\r\n"),
        ("off", None, False, b"USER joe\r\n"),
        ("implicit", "starttls", False, b"STLS\r\n"),
        ("starttls", None, False, b"STLS\r\n"),
        ("starttls", "implicit", True, b"USER joe\r\n"),
    ],
)
def test_tls_to_a_named_server(policy: LegTls, tls: LegTls | None, secure: bool, first: bytes) -> None:
    rig = asked(
        plugin(on_login=lambda *_: Route(server=ServerAddress("a", 1, tls))), policy=UpstreamPolicy("main", policy)
    )
    rig.knowledge.learn(rig.pending(Dial)[0].target.place, None, rig.now)
    rig.connected(secure)
    assert rig.asked() == first


def test_a_leg_that_was_opened_early_leads_elsewhere() -> None:
    rig = Rig(plugin(on_login=lambda *_: Route(server=ServerAddress("a"))), known=None).start()
    rig.client(b"CAPA\r\n").connected().upstream(b"-ERR\r\n")
    rig.client(b"USER joe\r\nPASS sesame\r\n")
    assert [type(effect) for effect in rig.effects[-2:]] == [CloseUpstream, Dial]
    assert rig.pending(Dial)[0].target.server == ServerAddress("a")


def test_on_login_refuses_and_nobody_is_dialed() -> None:
    later: list[str] = []
    refuse = plugin(on_login=lambda *_: Refuse("Not today", Code.SYS_PERM, "holiday"))
    rig = asked(refuse, plugin(on_login=lambda *_: later.append("asked")))
    assert rig.said() == b"-ERR [SYS/PERM] Not today\r\n"
    assert not rig.pending(Dial)
    assert later == []
    assert rig.meter.logins == [("USER", "policy", 0.0)]
    assert rig.notes("login_failed")[0]["reason"] == "holiday"
    assert rig.meter.outcomes()["PASS", "denied"] == 1
    assert rig.s.phase is Phase.AUTHORIZATION


def test_a_refusal_without_a_code_is_policy() -> None:
    rig = asked(plugin(on_login=lambda *_: Refuse("no", None)))
    assert rig.said() == b"-ERR no\r\n"
    assert rig.meter.logins == [("USER", "policy", 0.0)]


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize(("waits", "how"), ways("raise", "lie", "inject"))
def test_promise_7_on_login_fails(fail: Fail, waits: bool, how: str) -> None:
    lies: dict[str, Any] = {"lie": Answer(True), "inject": Route(None, Password("a\r\nQUIT", b"x"))}

    def sync(session: SessionView, credentials: Credentials) -> Any:
        if how == "raise":
            raise ValueError("no")
        return lies[how]

    rig = asked(plugin(fail, on_login=waiting if waits else sync))
    if waits:
        assert rig.s.deadline == inf
        if how in lies:
            rig.returned(lies[how])
        else:
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
    assert rig.meter.errors == [("p1", "on_login", f"fail_{fail.value}")]
    if fail is Fail.CLOSED:
        assert rig.said() == BROKEN
        assert not rig.pending(Dial)
    else:
        rig.connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
        assert rig.asked() == USER_PASS


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_promise_5_a_route_to_nowhere_sends_the_credentials_nowhere(fail: Fail) -> None:
    rig = asked(plugin(fail, on_login=lambda *_: Route("nowhere")))
    assert rig.said() == BROKEN
    assert not rig.pending(Dial)
    assert rig.meter.errors == [("p1", "on_login", f"fail_{fail.value}")]


def test_credentials_the_upstream_cannot_take() -> None:
    rig = asked(plugin(on_login=lambda *_: Route(None, Bearer("joe", b"ya29.a0")))).connected()
    assert rig.said() == b"-ERR [SYS/PERM] Login is not possible\r\n"
    assert not rig.s.upstream_open
    assert rig.asked() == b""
    assert "ya29" not in repr(rig.effects)


# on_login_result


def test_on_login_result_may_change_the_words() -> None:
    seen: list[LoginResult] = []

    def on_login_result(session: SessionView, result: LoginResult) -> Answer:
        seen.append(result)
        return Answer(result.ok, f"words {len(seen)}", None if result.ok else Code.SYS_TEMP)

    rig = asked(plugin(on_login_result=on_login_result), plugin(on_login_result=on_login_result)).connected()
    rig.upstream(b"+OK\r\n").upstream(b"+OK [X] in\r\n")
    assert rig.said() == b"+OK words 2\r\n"
    assert seen[0] == LoginResult(True, None, "[X] in", "", "main")
    seen.clear()
    rig = asked(plugin(on_login_result=on_login_result)).connected().upstream(b"-ERR no joe here\r\n")
    assert rig.said() == b"-ERR [SYS/TEMP] words 1\r\n"
    assert seen == [LoginResult(False, "AUTH", "Authentication failed", "upstream: no joe here", "main")]


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
def test_promise_4_on_login_result_cannot_change_the_outcome(good: bool, fail: Fail) -> None:
    rig = asked(plugin(fail, on_login_result=lambda session, result: Answer(not result.ok, "turned"))).connected()
    rig.upstream(b"+OK\r\n").upstream(b"+OK in\r\n" if good else b"-ERR no\r\n")
    assert rig.meter.errors == [("p1", "on_login_result", f"fail_{fail.value}")]
    assert rig.said() == ((b"+OK in\r\n" if fail is Fail.OPEN else BROKEN) if good else FAILED)
    assert (rig.s.phase is Phase.TRANSACTION) is (good and fail is Fail.OPEN)
    assert rig.s.upstream_open is (good and fail is Fail.OPEN)


@pytest.mark.parametrize("fail", [Fail.OPEN, Fail.CLOSED])
@pytest.mark.parametrize(("waits", "how"), ways("raise", "lie"))
def test_promise_7_on_login_result_fails(fail: Fail, waits: bool, how: str) -> None:
    def sync(session: SessionView, result: LoginResult) -> Any:
        if how == "raise":
            raise ValueError("no")
        return "a lie"

    rig = asked(plugin(fail, on_login_result=waiting if waits else sync)).connected()
    rig.upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    if waits:
        assert rig.said() == b""
        assert rig.s.deadline == inf
        if how == "lie":
            rig.returned("a lie")
        else:
            rig.raised(TimeoutError() if how == "late" else ValueError("no"))
    assert rig.said() == (b"+OK in\r\n" if fail is Fail.OPEN else BROKEN)
    assert rig.s.upstream_open is (fail is Fail.OPEN), "promise 4: nothing stays connected behind a failed login"
    assert rig.meter.errors == [("p1", "on_login_result", f"fail_{fail.value}")]


def test_promise_4_a_refused_login_leaves_no_leg_while_on_login_result_decides() -> None:
    rig = asked(plugin(on_login_result=waiting)).connected().upstream(b"-ERR no\r\n")
    assert not rig.s.upstream_open
    assert rig.said() == b""
    assert rig.returned().said() == FAILED


@pytest.mark.parametrize("event", ["lost", "unasked"])
def test_promise_4_the_upstream_breaks_while_on_login_result_decides(event: str) -> None:
    rig = asked(plugin(on_login_result=waiting)).connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    if event == "lost":
        rig.lost()
    else:
        rig.upstream(b"+OK and more\r\n")
    assert rig.said() == b""
    assert not rig.s.upstream_open
    rig.returned()
    assert rig.said() == AWAY
    assert rig.s.phase is Phase.AUTHORIZATION


# The leg


def test_promise_4_unasked_octets_behind_the_login() -> None:
    rig = asked().connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n+OK more\r\n")
    assert rig.said() == AWAY
    assert not rig.s.upstream_open
    assert rig.notes("upstream_failed")[0]["kind"] == "unasked"


def test_promise_4_a_line_too_many_never_answers_for_the_password() -> None:
    rig = asked().done(Dialed("x:110", False)).upstream(b"+OK\r\n+OK\r\n+OK\r\n")
    assert rig.said() == AWAY
    assert b"PASS" not in rig.asked()


@pytest.mark.parametrize("kind", Kind)
def test_promise_8_every_fault_while_dialing(kind: Kind) -> None:
    rig = asked().done(Failure(kind, "why"))
    reply = b"-ERR [SYS/PERM] Login is not possible\r\n" if kind is Kind.CREDENTIALS else AWAY
    assert rig.said() == reply
    assert rig.notes("upstream_failed") == [{"kind": kind.value, "detail": "why"}]
    rig.client(b"QUIT\r\n").ended("quit")


def test_promise_4_the_leg_is_closed_behind_a_failed_login_and_dialed_anew() -> None:
    rig = asked().connected().upstream(b"-ERR\r\n")
    assert rig.said() == FAILED
    assert [type(effect) for effect in rig.effects if isinstance(effect, (Dial, CloseUpstream))] == [CloseUpstream]
    rig.client(USER_PASS).connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    assert rig.said() == b"+OK\r\n+OK in\r\n"


def test_an_early_leg_is_used_for_the_login() -> None:
    rig = Rig(known=None).start().client(b"CAPA\r\n").connected().upstream(b"+OK\r\nPIPELINING\r\n.\r\n")
    rig.asked()
    rig.client(USER_PASS)
    assert not rig.pending(Dial)
    assert rig.asked() == b"USER joe\r\n"


def test_an_early_leg_that_leads_elsewhere_is_closed() -> None:
    rig = Rig(plugin(on_login=lambda *_: Route("other"))).start().client(b"LANG en\r\n").connected()
    rig.upstream(b"+OK\r\n").client(USER_PASS)
    assert [type(effect) for effect in rig.effects[-2:]] == [CloseUpstream, Dial]
    rig.asked()
    assert rig.connected().asked() == b"LANG en\r\n", "what the client was promised holds on the new leg"
    rig.upstream(b"+OK\r\n")
    assert rig.asked() == b"USER joe\r\n"


def test_the_last_of_equal_early_commands_counts() -> None:
    rig = Rig().start().client(b"LANG en\r\n").connected().upstream(b"+OK\r\n")
    rig.client(b"UTF8\r\nLANG de\r\n").upstream(b"+OK\r\n").upstream(b"+OK\r\n").lost()
    rig.asked()
    rig.client(USER_PASS).connected()
    assert rig.asked() == b"UTF8\r\n"
    rig.upstream(b"+OK\r\n")
    assert rig.asked() == b"LANG de\r\n"


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.RESET])
def test_an_upstream_that_hangs_up_on_capa_is_asked_once(kind: Kind) -> None:
    rig = asked(known=None).connected()
    assert rig.asked() == b"CAPA\r\n"
    rig.lost(Failure(kind))
    assert rig.said() == b""
    rig.connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    assert rig.asked() == USER_PASS
    assert rig.said() == b"+OK in\r\n"
    assert rig.knowledge.fresh("main", rig.now)
    assert rig.knowledge.get("main") is None


def test_an_upstream_that_hangs_up_whatever_it_is_asked() -> None:
    rig = asked(known=None).connected().lost().done(Dialed("x:110", False)).lost()
    assert rig.said() == AWAY
    assert not rig.pending(Dial)
    assert not rig.knowledge.fresh("main", rig.now)


def starttls(**given: Any) -> Rig:
    return asked(policy=UpstreamPolicy("main", "starttls"), **given).connected().upstream(b"+OK\r\n")


def test_stls_upstream() -> None:
    rig = starttls(timeouts=Timeouts(login=7))
    assert rig.asked() == b"STLS\r\n"
    assert rig.s.deadline == inf, "the pump watches a handshake"
    rig.done(None, SecureUpstream)
    assert rig.asked() == b"USER joe\r\n"
    assert rig.s.deadline == rig.now + 7


def test_stls_upstream_that_fails_is_heard_once() -> None:
    rig = starttls().lost(Failure(Kind.RESET))
    assert rig.said() == AWAY
    rig.client(USER_PASS).done(Dialed("x:110", False))
    old = rig.pending(SecureUpstream)[0]
    rig.s.done(old.id, Failure(Kind.TLS, "late news of the first leg"))
    rig.drain().upstream(b"+OK\r\n")
    assert rig.asked() == b"STLS\r\nSTLS\r\n", "the second leg goes on"


def test_stls_upstream_failed_handshake() -> None:
    rig = starttls().done(Failure(Kind.TLS, "wrong name"), SecureUpstream)
    assert rig.said() == AWAY
    assert rig.notes("upstream_failed") == [{"kind": "tls", "detail": "wrong name"}]
    assert not rig.s.upstream_open


def test_promise_3_octets_in_the_clear_while_tls_begins() -> None:
    rig = starttls().upstream(b"+OK injected\r\n")
    assert rig.said() == AWAY
    assert not rig.s.upstream_open
    rig.done(None, SecureUpstream)
    assert rig.asked() == b"STLS\r\n"


def test_promise_5_implicit_tls_that_is_not_there() -> None:
    rig = asked(policy=UpstreamPolicy("main", "implicit")).done(Dialed("x:995", False))
    assert rig.said() == AWAY
    assert rig.asked() == b""


def test_time_outs_on_the_way() -> None:
    times = Timeouts(greeting=2, login=3)
    rig = asked(timeouts=times).done(Dialed("x:110", False)).wait(2)
    assert rig.said() == AWAY
    assert rig.notes("upstream_failed")[0]["kind"] == "greeting_timeout"
    rig = asked(timeouts=times).connected().upstream(b"+O").wait(3)
    assert rig.said() == AWAY
    assert rig.notes("upstream_failed")[0]["kind"] == "login_timeout"
    assert not rig.s.upstream_open


def test_promise_6_what_an_upstream_repeats_is_not_logged() -> None:
    rig = asked().connected().upstream(b"+OK\r\n").upstream(b"PASS sesame: what?\r\n")
    assert rig.said() == AWAY
    rig.client(USER_PASS).connected().upstream(b"+OK\r\n").upstream(b"-ERR unknown: PASS sesame\r\n")
    assert "sesame" not in repr(rig.effects)


def test_a_name_that_is_no_utf8_is_shown_as_escapes() -> None:
    rig = Rig().start().client(b"USER j\xf6e\r\nPASS x\r\n").connected().upstream(b"+OK\r\n").upstream(b"+OK\r\n")
    assert (rig.view.user, rig.view.login) == ("j\\xf6e", "j\\xf6e")
    assert rig.asked() == b"USER j\xf6e\r\nPASS x\r\n"


@pytest.mark.parametrize("moment", range(5))
def test_the_client_leaves_while_logging_in(moment: int) -> None:
    steps: list[Any] = [
        lambda rig: rig.done(Dialed("x:110", False)),
        lambda rig: rig.upstream(b"+OK\r\n"),
        lambda rig: rig.upstream(b"+OK\r\n"),
        lambda rig: rig.upstream(b"+OK"),
    ]
    rig = asked()
    for step in steps[:moment]:
        step(rig)
    rig.s.client_gone()
    rig.drain().ended("client_reset")
    assert b"QUIT" not in rig.all_upstream


def test_pipelining_upstream_needs_its_word_and_the_operators() -> None:
    for known, pipelining, sent in (
        ([b"PIPELINING"], True, 2),
        ([b"TOP"], True, 1),
        ([], True, 1),
        ([b"PIPELINING"], False, 1),
    ):
        rig = Rig(known=known, pipelining=pipelining).login().client(b"NOOP\r\nNOOP\r\n")
        assert rig.asked() == b"NOOP\r\n" * sent


def test_the_lost_upstream_of_the_transaction_is_another_matter() -> None:
    rig = Rig().login().client(b"NOOP\r\n").lost()
    assert rig.said() == LOST
    rig.ended("upstream_eof")
    assert not rig.pending(Await)


def test_news_of_a_leg_that_is_not_there() -> None:
    rig = Rig().start()
    entrance = rig.s._stage._entrance  # type: ignore[attr-defined]
    entrance.data(b"+OK\r\n")
    entrance.lost(Failure(Kind.LOST))
    assert rig.drain().effects == []

"""Hold in on_login, and Refuse in on_login_result: logins that wait, and those refused although they went well."""

from __future__ import annotations

from base64 import b64encode
from math import inf, nan
from typing import Any

import pytest

from popproxy.api import (
    Answer,
    Code,
    Credentials,
    Fail,
    Hold,
    LoginResult,
    Refuse,
    Route,
    SessionSummary,
    SessionView,
    Verifier,
)
from popproxy.core.effects import Await, CloseUpstream, Dial, Judge, LoginTook
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.phases import Phase
from tests.core.rig import AWAY, BROKEN, Rig, plugin

LOGIN = b"USER joe\r\nPASS sesame\r\n"
FAILED = b"-ERR [AUTH] Authentication failed\r\n"
SCRAM = b"AUTH SCRAM-SHA-1 biwsbj1qb2Uscj1j\r\n"
ALIVE = [Fail.OPEN, Fail.CLOSED]


async def waiting(*_: object) -> Any: ...


def asked(*plugins: Any, **given: Any) -> Rig:
    """Credentials are complete."""
    rig = Rig(*plugins, **given).start().client(b"USER joe\r\n")
    rig.said()
    return rig.client(b"PASS sesame\r\n")


def answered(rig: Rig, line: bytes = b"+OK in\r\n") -> Rig:
    """The upstream has answered the login."""
    return rig.connected().upstream(b"+OK\r\n").upstream(line)


# Hold


def test_the_login_goes_on_later() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(3, "slowly")))
    assert rig.s.phase is Phase.LOGGING_IN
    rig.wait(2.9)
    assert not rig.pending(Dial) and not rig.pending(Await) and rig.said() == b""
    rig.wait(0.1)
    assert answered(rig).said() == b"+OK in\r\n"
    assert rig.notes("login_held") == [{"seconds": 3, "reason": "slowly", "mechanism": "USER"}]
    assert rig.meter.logins == [("USER", "ok", 0.0)], "the wait is no work"


def test_the_longest_counts_and_the_others_are_asked_at_once() -> None:
    seen: list[float] = []

    def on_login(session: SessionView, credentials: Credentials) -> Hold:
        seen.append(rig.now)
        return Hold([2, 7, 4][len(seen) - 1])

    rig = Rig(plugin(on_login=on_login), plugin(on_login=on_login), plugin(on_login=on_login)).start()
    rig.client(LOGIN)
    assert seen == [1000.0] * 3
    rig.wait(6.9)
    assert not rig.pending(Dial)
    assert rig.wait(0.1).pending(Dial)


def test_no_time_is_no_hold() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(0)))
    assert rig.pending(Dial) and not rig.notes("login_held")


def test_a_later_refusal_counts_more_and_waits_as_it_says() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(9)), plugin(on_login=lambda *_: Refuse("No", delay=2)))
    rig.wait(2)
    assert rig.said() == b"-ERR [SYS/PERM] No\r\n"
    rig.wait(60)
    assert not rig.pending(Dial)


def test_routes_of_the_others_hold() -> None:
    rig = asked(
        plugin(on_login=lambda *_: Route("other")), plugin(on_login=lambda *_: Hold(1)),
        plugin(on_login=lambda *_: Route(key="k")),
    )  # fmt: skip
    target = rig.wait(1).pending(Dial)[0].target
    assert (target.upstream, target.key) == ("other", "k")


def test_it_is_bounded_by_the_time_a_client_has_for_its_login() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(1e9)), timeouts=Timeouts(pre_auth=20))
    assert rig.notes("login_held")[0]["seconds"] == 20
    assert not rig.wait(19.9).pending(Dial)
    assert rig.wait(0.1).pending(Dial)


def test_an_async_plugin_may_hold() -> None:
    rig = asked(plugin(on_login=waiting)).returned(Hold(2))
    assert not rig.wait(1.9).pending(Dial)
    assert rig.wait(0.1).pending(Dial)


def test_what_the_client_sends_meanwhile_waits() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(3))).client(b"NOOP\r\nQUIT\r\n")
    assert rig.said() == b""
    answered(rig.wait(3))
    assert rig.said() == b"+OK in\r\n"
    assert rig.asked() == LOGIN + b"NOOP\r\nQUIT\r\n"


def test_a_client_that_is_gone_meanwhile_leaves_nothing() -> None:
    told: list[str | None] = []

    def on_close(session: SessionView, summary: SessionSummary) -> None:
        told.append(session.user)

    rig = asked(plugin(on_login=lambda *_: Hold(3), on_close=on_close))
    rig.s.client_gone()
    rig.drain().ended("client_reset")
    rig.s.summary()
    assert rig.s.deadline == inf
    assert not rig.wait(100).pending(Dial)
    assert told == ["joe"]


def test_half_closing_does_not_end_it() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(3))).eof()
    assert not rig.closed
    answered(rig.wait(3))
    assert rig.said() == b"+OK in\r\n"
    rig.ended("client_eof")


@pytest.mark.parametrize("first", [True, False])
def test_a_shutdown_ends_it(first: bool) -> None:
    results: list[LoginResult] = []
    held = plugin(on_login=waiting, on_login_result=lambda session, result: results.append(result))
    rig = asked(held)
    rig = rig.stop().returned(Hold(3)) if first else rig.returned(Hold(3)).stop()
    assert rig.said() == AWAY
    rig.ended("shutdown")
    assert [result.ok for result in results] == [False], "who took something at on_login hears of it"
    assert not rig.wait(60).pending(Dial)


def test_promise_1_an_early_leg_is_closed_without_quit() -> None:
    rig = Rig(plugin(on_login=lambda *_: Hold(3))).start().client(b"LANG en\r\n").connected().upstream(b"+OK\r\n")
    rig.client(LOGIN)
    assert isinstance(rig.effects[-2], CloseUpstream) and not rig.s.upstream_open
    rig.wait(3).connected()
    assert rig.all_upstream == b"LANG en\r\nLANG en\r\n"


def test_the_next_attempt_may_be_held_again() -> None:
    rig = asked(plugin(on_login=lambda *_: Hold(3)))
    for _ in range(2):
        assert answered(rig.wait(3), b"-ERR no\r\n").said().endswith(FAILED)
        rig.client(LOGIN)
        assert not rig.wait(2.9).pending(Dial)
        rig.wait(0.1)
        rig = Rig(plugin(on_login=lambda *_: Hold(3))).start().client(LOGIN)


@pytest.mark.parametrize("seconds", [-1, inf, nan, -0.001])
def test_what_is_no_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="no time to wait"):
        Hold(seconds)


@pytest.mark.parametrize("given", [{"seconds": "3"}, {"seconds": 1, "reason": 5}])
def test_what_is_no_hold(given: Any) -> None:
    with pytest.raises(TypeError, match="Hold: "):
        Hold(**given)


@pytest.mark.parametrize("fail", ALIVE)
def test_promise_7_a_hold_is_no_answer_to_anything_else(fail: Fail) -> None:
    rig = answered(asked(plugin(fail, on_login_result=lambda *_: Hold(1))))
    assert rig.said() == (b"+OK in\r\n" if fail is Fail.OPEN else BROKEN)
    assert rig.meter.errors == [("p1", "on_login_result", f"fail_{fail.value}")]


# on_verifier


def test_a_refusal_of_on_verifier_may_wait_and_be_counted_as_a_limit() -> None:
    made = plugin(on_verifier=lambda *_: Refuse("No", Code.SYS_TEMP, "banned", 3, True, True))
    made.mechanisms = frozenset({"SCRAM-SHA-1"})
    rig = Rig(made).start()
    rig.said()
    rig.client(SCRAM)
    assert rig.said() == b"" and rig.meter.logins == [("SCRAM-SHA-1", "rate_limited", 0.0)]
    rig.wait(3)
    assert rig.said() == b"-ERR [SYS/TEMP] No\r\n"
    rig.ended("policy")


def test_a_failed_proof_may_be_answered_late() -> None:
    made = plugin(
        on_verifier=lambda *_: Verifier(b"salt", 1, b"s" * 20, b"k" * 20),
        on_login_result=lambda *_: Refuse("Wrong", delay=4),
    )
    made.mechanisms = frozenset({"SCRAM-SHA-1"})
    rig = Rig(made, nonce=lambda: b"n").start().client(SCRAM)
    rig.said()
    rig.client(b64encode(b"c=biws,r=cn,p=" + b64encode(b"x" * 20)) + b"\r\n")
    assert rig.said() == b"" and rig.wait(4).said() == b"-ERR [AUTH] Wrong\r\n"


# on_login_result refuses


@pytest.mark.parametrize("waits", [True, False])
def test_promises_1_and_4_a_login_that_went_well_is_refused(waits: bool) -> None:
    verdict = Refuse("Too many", Code.IN_USE, "2 sessions")
    rig = answered(asked(plugin(on_login_result=waiting if waits else lambda *_: verdict)))
    if waits:
        assert rig.said() == b"" and rig.s.upstream_open
        rig.returned(verdict)
    assert rig.said() == b"-ERR [IN-USE] Too many\r\n"
    assert not rig.s.upstream_open
    assert rig.s.phase is Phase.AUTHORIZATION
    assert rig.all_upstream == LOGIN, "no QUIT"
    assert rig.view.login is None
    assert rig.meter.logins == [("USER", "in_use", 0.0)]
    assert rig.notes("login_failed")[0]["reason"] == "2 sessions"
    assert [effect.failure for effect in rig.effects if isinstance(effect, Judge)] == [None], "the server is good"
    assert [effect.ok for effect in rig.effects if isinstance(effect, LoginTook)] == [True]
    # And again: the connection is as good as before.
    rig.client(LOGIN)
    assert answered(rig).said().startswith(b"+OK\r\n")


def test_limits_are_counted_as_such() -> None:
    refuse = Refuse("Too many", Code.SYS_TEMP, limited=True)
    rig = answered(asked(plugin(on_login_result=lambda *_: refuse)))
    assert rig.meter.logins == [("USER", "rate_limited", 0.0)]
    assert rig.meter.outcomes()["PASS", "denied"] == 1
    rig = asked(plugin(on_login=lambda *_: refuse))
    assert rig.meter.logins == [("USER", "rate_limited", 0.0)]
    rig = answered(asked(plugin(on_login_result=lambda *_: refuse)), b"-ERR no\r\n")
    assert rig.meter.logins == [("USER", "bad_credentials", 0.0)], "it is what the upstream said"


def test_it_may_be_late_and_final() -> None:
    rig = answered(asked(plugin(on_login_result=lambda *_: Refuse("No", delay=3, close=True))))
    assert not rig.s.upstream_open, "nobody keeps a place for a client that waits"
    assert rig.said() == b""
    rig.wait(3)
    assert rig.said() == b"-ERR [SYS/PERM] No\r\n"
    rig.ended("policy")


def test_the_others_hear_how_it_ends() -> None:
    heard: list[tuple[int, LoginResult, str | None]] = []

    def hears(number: int, verdict: Any = None) -> Any:
        def on_login_result(session: SessionView, result: LoginResult) -> Any:
            heard.append((number, result, session.login))
            return verdict

        return plugin(on_login_result=on_login_result)

    rig = answered(asked(hears(1), hears(2, Refuse("No", Code.SYS_PERM, "why")), hears(3)))
    refused = LoginResult(False, "SYS/PERM", "No", "why", "main")
    assert heard == [(3, LoginResult(True, None, "in", "", "main"), "joe"), (2, heard[0][1], "joe"), (1, refused, None)]
    assert rig.said() == b"-ERR [SYS/PERM] No\r\n"


def test_of_several_the_first_counts_and_the_last_has_the_last_word() -> None:
    rig = answered(
        asked(
            plugin(on_login_result=lambda *_: Answer(False, "Go away", Code.SYS_PERM)),
            plugin(on_login_result=lambda *_: Refuse("Second", Code.AUTH, "second", delay=2)),
            plugin(on_login_result=lambda *_: Refuse("First", Code.IN_USE, "first", delay=5, close=True)),
        )
    )
    assert rig.wait(4.9).said() == b""
    assert rig.wait(0.1).said() == b"-ERR [SYS/PERM] Go away\r\n"
    rig.ended("policy")
    assert rig.notes("login_failed")[0]["reason"] == "first"
    assert rig.meter.logins == [("USER", "in_use", 0.0)]


def test_a_failed_login_keeps_its_code_and_its_reason() -> None:
    rig = asked(plugin(on_login_result=lambda *_: Refuse("Slowly", Code.SYS_PERM, "why", delay=2)))
    answered(rig, b"-ERR no joe\r\n")
    assert rig.said() == b""
    assert rig.wait(2).said() == b"-ERR [AUTH] Slowly\r\n"
    assert rig.notes("login_failed")[0]["reason"] == "upstream: no joe"
    assert rig.meter.logins == [("USER", "bad_credentials", 0.0)]


def test_the_longer_delay_counts() -> None:
    refuse = plugin(on_login=lambda *_: Refuse("No", Code.AUTH, delay=1))
    for seconds, waits in ((4, 4), (0, 1)):
        rig = asked(refuse, plugin(on_login_result=lambda *_, s=seconds: Refuse("Wrong", delay=s)))
        assert rig.wait(waits - 0.1).said() == b""
        assert rig.wait(0.1).said() == b"-ERR [AUTH] Wrong\r\n"


@pytest.mark.parametrize("fail", ALIVE)
def test_promise_8_no_code_hides_in_the_words_for_a_login_that_failed_without_one(fail: Fail) -> None:
    rig = asked(
        plugin(fail, on_login_result=lambda *_: Refuse("[AUTH] no", Code.AUTH)),
        plugin(on_login=lambda *_: Refuse("No", None)),
    )
    assert rig.said() == b"-ERR No\r\n"
    assert rig.meter.errors == [("p1", "on_login_result", f"fail_{fail.value}")]


@pytest.mark.parametrize("how", ["raises", "lies"])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("fail", ALIVE)
def test_promise_7_a_plugin_that_fails_behind_a_refusal_changes_nothing(fail: Fail, waits: bool, how: str) -> None:
    def fails(*_: object) -> Any:
        if how == "raises":
            raise ValueError("no")
        return "a lie"

    bad = plugin(fail, on_login_result=waiting if waits else fails)
    rig = answered(asked(bad, plugin(on_login_result=lambda *_: Refuse("No", Code.IN_USE))))
    if waits:
        rig = rig.raised(TimeoutError()) if how == "raises" else rig.returned("a lie")
    assert rig.said() == b"-ERR [IN-USE] No\r\n"
    assert rig.meter.errors == [("p1", "on_login_result", f"fail_{fail.value}")]


def test_every_attempt_has_one_result() -> None:
    """What a plugin takes at on_login it can give back at on_login_result."""
    counts = {"login": 0, "good": 0, "bad": 0}
    refusals = [None, Refuse("No"), None, Hold(1)]

    def on_login(session: SessionView, credentials: Credentials) -> Any:
        counts["login"] += 1

    def on_login_result(session: SessionView, result: LoginResult) -> Any:
        counts["good" if result.ok else "bad"] += 1
        if session.attempt == 3:
            return Refuse("Not now")
        return None

    first = plugin(on_login=on_login, on_login_result=on_login_result)
    rig = Rig(first, plugin(on_login=lambda *_: refusals.pop(0)), limits=Limits(auth_attempts=9)).start()
    answered(rig.client(LOGIN), b"-ERR no\r\n")
    assert counts == {"login": 1, "good": 0, "bad": 1}
    rig.client(LOGIN)
    assert counts == {"login": 2, "good": 0, "bad": 2}
    answered(rig.client(LOGIN))
    assert counts == {"login": 3, "good": 1, "bad": 2}
    answered(rig.client(LOGIN).wait(1))
    assert counts == {"login": 4, "good": 2, "bad": 2}
    assert rig.s.phase is Phase.TRANSACTION


def test_a_client_cannot_try_for_ever() -> None:
    rig = Rig(plugin(on_login_result=lambda *_: Refuse("No")), limits=Limits(auth_attempts=2)).start()
    for _ in range(2):
        answered(rig.client(LOGIN))
    rig.ended("policy")
    assert rig.s.detail == "too many failed logins"


def test_the_upstream_is_lost_while_a_refusal_is_made() -> None:
    rig = answered(asked(plugin(on_login_result=waiting))).lost().returned(Refuse("No", Code.IN_USE))
    assert rig.said() == b"-ERR [IN-USE] No\r\n"
    assert rig.s.phase is Phase.AUTHORIZATION


# Groups


def test_groups_are_what_a_route_says_until_a_name_is_given_again() -> None:
    seen: list[frozenset[str]] = []
    routes = [Route(groups=("staff", "dev")), Route(groups=())]
    sees = plugin(on_login=lambda session, credentials: seen.append(session.groups))
    rig = asked(plugin(on_login=lambda *_: routes.pop(0)), plugin(on_login=lambda *_: Route(key="k")), sees)
    answered(rig, b"-ERR no\r\n")
    assert seen == [{"staff", "dev"}] and rig.view.groups == {"staff", "dev"}
    rig.client(b"USER joe\r\n")
    assert rig.view.groups == frozenset()
    rig.client(b"PASS sesame\r\n")
    assert seen[1:] == [frozenset()]


@pytest.mark.parametrize("groups", ["staff", ["staff"], ("staff", 5), 7])
def test_what_is_no_tuple_of_groups(groups: Any) -> None:
    with pytest.raises(TypeError, match="Route: group"):
        Route(groups=groups)


@pytest.mark.parametrize("fail", ALIVE)
def test_promise_7_a_group_without_a_name(fail: Fail) -> None:
    rig = asked(plugin(fail, on_login=lambda *_: Route("other", groups=("staff", ""))))
    assert rig.meter.errors == [("p1", "on_login", f"fail_{fail.value}")]
    assert rig.view.groups == frozenset()

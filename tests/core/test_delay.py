"""Refuse.delay and Refuse.close in on_login, and the number of the attempt."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from popproxy.api import Answer, Code, Command, Credentials, Refuse, SessionView
from popproxy.api.testing import play
from popproxy.core.effects import Await, Dial
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.phases import Phase
from tests.core.rig import Rig, plugin

LOGIN = b"USER joe\r\nPASS sesame\r\n"
NO = b"-ERR [AUTH] No\r\n"


def refused(*plugins: Any, delay: float = 3.0, close: bool = False, **given: Any) -> Rig:
    """Credentials are complete and refused with a delay."""
    verdict = Refuse("No", Code.AUTH, "wrong", delay, close)
    rig = Rig(plugin(on_login=lambda *_: verdict), *plugins, **given).start()
    rig.said()
    return rig.client(LOGIN)


def test_the_answer_waits_and_then_the_client_may_try_again() -> None:
    rig = refused()
    assert rig.said() == b"+OK\r\n"
    assert rig.s.phase is Phase.LOGGING_IN
    rig.wait(2.9)
    assert rig.said() == b""
    rig.wait(0.1)
    assert rig.said() == NO
    assert rig.s.phase is Phase.AUTHORIZATION
    rig.client(LOGIN).wait(3)
    assert rig.said() == b"+OK\r\n" + NO
    assert not rig.pending(Dial) and not rig.pending(Await)


def test_no_delay_is_no_delay() -> None:
    rig = refused(delay=0)
    assert rig.said() == b"+OK\r\n" + NO
    assert rig.s.phase is Phase.AUTHORIZATION


def test_it_is_logged_and_counted_when_it_is_decided() -> None:
    rig = refused()
    assert rig.notes("login_failed")[0]["reason"] == "wrong"
    assert rig.meter.logins == [("USER", "bad_credentials", 0.0)]
    rig.wait(3)
    assert len(rig.meter.logins) == len(rig.notes("login_failed")) == 1


def test_it_is_bounded_by_the_time_a_client_has_for_its_login() -> None:
    rig = refused(delay=1e9, timeouts=Timeouts(pre_auth=20))
    rig.wait(19.9)
    assert rig.said() == b"+OK\r\n"
    rig.wait(0.1)
    assert rig.said() == NO


def test_the_next_login_has_its_own_time() -> None:
    rig = refused(timeouts=Timeouts(pre_auth=20)).wait(3)
    rig.wait(19.9)
    assert not rig.closed
    rig.wait(0.1)
    rig.ended("login_timeout")


def test_what_the_client_sends_meanwhile_waits() -> None:
    rig = refused().client(b"NOOP\r\nUSER ann\r\nQUIT\r\n")
    assert rig.said() == b"+OK\r\n"
    rig.wait(3)
    assert rig.said().startswith(NO)
    rig.ended("quit")


def test_a_client_that_is_gone_meanwhile_leaves_nothing() -> None:
    rig = refused()
    rig.s.client_gone()
    rig.drain()
    rig.ended("client_reset")
    assert rig.s.deadline == inf
    rig.wait(100)
    assert rig.all_client == b"+OK POP3 ready\r\n+OK\r\n"


def test_half_closing_does_not_shorten_the_wait() -> None:
    rig = refused().eof()
    assert not rig.closed
    rig.wait(3)
    assert rig.said() == b"+OK\r\n" + NO
    rig.ended("client_eof")


def test_a_shutdown_still_answers() -> None:
    rig = refused().stop()
    assert not rig.closed
    rig.wait(3)
    assert rig.said() == b"+OK\r\n" + NO
    rig.ended("shutdown")


def test_the_words_may_still_be_changed() -> None:
    rig = refused(plugin(on_login_result=lambda *_: Answer(False, "Wrong", Code.AUTH)))
    rig.wait(3)
    assert rig.said() == b"+OK\r\n-ERR [AUTH] Wrong\r\n"


@pytest.mark.parametrize("delay", [0.0, 3.0])
def test_the_connection_may_be_closed_behind_it(delay: float) -> None:
    rig = refused(delay=delay, close=True)
    if delay:
        assert not rig.closed
        rig.wait(delay)
    assert rig.said() == b"+OK\r\n" + NO
    rig.ended("policy")
    assert rig.s.detail == "wrong"


def test_the_last_attempt_waits_too() -> None:
    rig = refused(limits=Limits(auth_attempts=1)).wait(3)
    assert rig.said() == b"+OK\r\n" + NO
    rig.ended("policy")


def test_attempts_are_numbered() -> None:
    seen: list[int] = []

    def on_login(session: SessionView, credentials: Credentials) -> Refuse | None:
        seen.append(session.attempt)
        return Refuse("No", Code.AUTH) if len(seen) < 3 else None

    rig = Rig(plugin(on_login=on_login)).start()
    rig.client(LOGIN * 2)
    rig.login()
    assert seen == [1, 2, 3]
    assert rig.view.attempt == 3


def test_other_hooks_do_not_wait() -> None:
    def on_command(session: SessionView, command: Command) -> Refuse:
        return Refuse("No", delay=5, close=True)

    rig = Rig(plugin(on_command=on_command)).login()
    rig.client(b"NOOP\r\n")
    assert rig.said() == b"-ERR [SYS/PERM] No\r\n"
    assert not rig.closed
    rig = Rig(plugin(on_connect=lambda session: Refuse("No", delay=5))).start()
    assert rig.said() == b"-ERR [SYS/PERM] No\r\n"
    rig.ended("policy")


@pytest.mark.parametrize("delay", [-1, inf, nan, -0.001])
def test_what_is_no_delay(delay: float) -> None:
    with pytest.raises(ValueError, match="no time to wait"):
        Refuse(delay=delay)


def test_what_is_no_number() -> None:
    for given in ({"delay": "3"}, {"close": 1}):
        with pytest.raises(TypeError):
            Refuse(**given)  # type: ignore[arg-type]


def test_in_a_play() -> None:
    script = """
S: +OK POP3 ready
C: USER joe
S: +OK
C: PASS sesame
@ wait 2.5
C: USER joe
@ wait 0.5
S: -ERR [AUTH] No
S: +OK
C: QUIT
S: +OK Bye
@ client-closed
"""
    play(plugin(on_login=lambda *_: Refuse("No", Code.AUTH, delay=3)), script)

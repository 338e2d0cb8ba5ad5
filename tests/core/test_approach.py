"""What a leg upstream shows of its server, and when another server is tried."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Route, ServerAddress
from popproxy.core.effects import CloseUpstream, Dial, Dialed, Greeted, Judge, LoginTook, Ready, SecureUpstream
from popproxy.core.failures import RULES, Failure, Kind
from popproxy.core.limits import Timeouts
from popproxy.core.plan import UpstreamPolicy
from tests.core.rig import AWAY, Rig, plugin

GROUP = UpstreamPolicy("main", "off", servers=3)
STICKY = UpstreamPolicy("main", "off", servers=3, sticky=True)


def asked(*plugins: Any, policy: UpstreamPolicy = GROUP, **given: Any) -> Rig:
    """Credentials are complete."""
    rig = Rig(*plugins, policy=policy, **given).start().client(b"USER Joe\r\nPASS sesame\r\n")
    rig.said()
    return rig


def judged(rig: Rig) -> list[tuple[str, str | None]]:
    return [(j.failure.kind.value if j.failure else "", j.who) for j in rig.pending(Judge)]


def test_a_login_speaks_for_the_server() -> None:
    rig = asked().connected().upstream(b"+OK\r\n").upstream(b"+OK in\r\n")
    assert judged(rig) == [("", "joe")]


def test_how_long_a_login_took_is_told() -> None:
    rig = asked(plugin(on_login=lambda *_: Route("other"))).connected()
    rig.now += 2.0
    rig.upstream(b"+OK\r\n")
    rig.now += 1.0
    rig.upstream(b"+OK in\r\n")
    assert rig.pending(LoginTook) == [LoginTook("other", True, 3.0)]
    rig = asked(policy=UpstreamPolicy("main", "off")).connected().upstream(b"+OK\r\n").upstream(b"-ERR no\r\n")
    assert rig.pending(LoginTook) == [LoginTook("main", False, 0.0)]
    rig = asked(policy=UpstreamPolicy("main", "off")).connected().lost()
    assert rig.pending(LoginTook) == [LoginTook("main", False, 0.0)]


@pytest.mark.parametrize(("line", "told"), [(b"+OK", True), (b"-ERR busy", True), (b"HTTP/1.1 400", False)])
def test_how_long_the_greeting_took_is_told_for_good_and_bad_ones(line: bytes, told: bool) -> None:
    rig = asked(plugin(on_login=lambda *_: Route("other")))
    rig.now += 5.0
    rig.done(Dialed("mail.example.com:110", False))
    rig.now += 2.0
    rig.upstream(line + b"\r\n")
    assert rig.pending(Greeted) == ([Greeted("other", 2.0)] if told else [])


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"-ERR [AUTH] no\r\n", ""),
        (b"-ERR no\r\n", ""),
        (b"-ERR [IN-USE] x\r\n", ""),
        (b"-ERR [LOGIN-DELAY] x\r\n", ""),
        (b"-ERR [SYS/PERM] x\r\n", ""),
        (b"-ERR [SYS/TEMP] x\r\n", "temporary"),
        (b"-ERR temporary failure, try again\r\n", "temporary"),
    ],
)
def test_a_refusal_speaks_for_it_unless_it_is_trouble(answer: bytes, shown: str) -> None:
    rig = asked().connected().upstream(b"+OK\r\n").upstream(answer)
    assert judged(rig) == [(shown, "joe")]
    assert len(rig.pending(Dial)) == 0


def test_a_server_that_is_told_the_clients_address_may_dislike_it() -> None:
    rig = asked(policy=UpstreamPolicy("main", "off", tells=True)).done(Dialed("a:110", False))
    assert judged(rig.lost()) == [("lost", "192.0.2.1")]
    rig = asked(policy=UpstreamPolicy("main", "off", tells=True)).connected().upstream(b"+OK\r\n")
    assert judged(rig.upstream(b"-ERR [SYS/TEMP] x\r\n")) == [("temporary", "joe")]


@pytest.mark.parametrize("kind", [kind for kind in Kind if RULES[kind].health])
def test_before_the_login_every_fault_of_the_server_counts(kind: Kind) -> None:
    rig = asked(policy=UpstreamPolicy("main", "off")).done(Dialed("a:110", False)).lost(Failure(kind))
    assert judged(rig) == [(kind.value, None)]
    # It is told while the connection is still known.
    kinds = [type(effect) for effect in rig.effects if isinstance(effect, (Judge, CloseUpstream))]
    assert kinds[0] is Judge


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.RESET, Kind.PROTOCOL, Kind.OVERLONG, Kind.UNASKED])
def test_behind_a_clients_words_faults_may_be_of_its_making(kind: Kind) -> None:
    """Whoever knows how to crash a server's login must not be able to take it from everybody."""
    rig = asked(policy=UpstreamPolicy("main", "off")).connected().lost(Failure(kind))
    assert judged(rig) == []
    assert rig.said() == AWAY


def test_no_answer_to_the_login_counts() -> None:
    rig = asked(timeouts=Timeouts(login=5.0)).connected().upstream(b"+OK\r\n").wait(6.0)
    assert judged(rig) == [("login_timeout", "joe")]
    assert rig.said() == AWAY and not rig.pending(Dial)


def test_an_idle_early_leg_that_is_lost_shows_nothing() -> None:
    rig = Rig(policy=GROUP, known=None).start().client(b"CAPA\r\n")
    rig.connected().upstream(b"-ERR\r\n").lost()
    assert judged(rig) == []


def test_a_login_on_an_early_leg_is_at_its_server() -> None:
    rig = Rig(policy=GROUP, known=None).start().client(b"CAPA\r\n").connected().upstream(b"-ERR\r\n")
    rig.client(b"USER joe\r\n").client(b"PASS sesame\r\n").upstream(b"+OK\r\n").upstream(b"+OK\r\n")
    assert (rig.view.login, rig.view.server) == ("joe", "mail.example.com:110")


def test_a_leg_that_is_ready_is_told_before_the_login_is_judged() -> None:
    rig = Rig(policy=GROUP, known=None).start().client(b"CAPA\r\n").connected()
    assert not rig.pending(Ready)
    rig.upstream(b"-ERR\r\n")
    assert len(rig.pending(Ready)) == 1
    rig = asked(policy=UpstreamPolicy("main", "off")).done(Dialed("a:110", False)).lost()
    assert not rig.pending(Ready)
    rig = asked().connected().upstream(b"+OK\r\n-ERR\r\n")
    shown = [effect for effect in rig.effects if isinstance(effect, (Ready, Judge))]
    assert not isinstance(shown[0], Judge)


def test_hanging_up_on_capa_shows_nothing() -> None:
    rig = asked(known=None, policy=UpstreamPolicy("main", "off")).connected().lost()
    assert judged(rig) == []
    assert rig.pending(Dial)


def test_trouble_with_tls_counts() -> None:
    rig = asked(policy=UpstreamPolicy("main", "starttls")).connected().upstream(b"+OK\r\n")
    rig.done(Failure(Kind.TLS), SecureUpstream)
    assert judged(rig) == [("tls", None)]


# Another server


def test_the_next_dial_names_those_that_failed_and_why() -> None:
    rig = asked().done(Dialed("a:110", False)).upstream(b"-ERR busy\r\n")
    dial = rig.pending(Dial)[0]
    assert (dial.avoid, dial.why.kind) == (("a:110",), Kind.GREETING)
    rig.done(Dialed("b:110", False)).upstream(b"220\r\n")
    dial = rig.pending(Dial)[0]
    assert (dial.avoid, dial.why.kind) == (("a:110", "b:110"), Kind.GREETING)
    rig.done(Dialed("c:110", False)).upstream(b"-ERR\r\n")
    assert not rig.pending(Dial) and rig.said() == AWAY
    assert [note["kind"] for note in rig.notes("upstream_retry")] == ["greeting", "greeting"]
    assert [note["kind"] for note in rig.notes("upstream_failed")] == ["greeting"]


def test_a_second_login_begins_anew() -> None:
    rig = asked().done(Dialed("a:110", False)).upstream(b"-ERR busy\r\n").done(Failure(Kind.DOWN, "no other server"))
    assert rig.said() == AWAY
    rig.client(b"USER joe\r\nPASS sesame\r\n")
    assert rig.pending(Dial)[0].avoid == ()


def test_when_no_other_server_is_left_the_first_fault_is_told() -> None:
    rig = asked().done(Dialed("a:110", False)).upstream(b"-ERR busy\r\n").done(Failure(Kind.DOWN, "no other server"))
    assert "busy" in rig.notes("login_failed")[0]["reason"]


def test_there_is_a_time_for_trying() -> None:
    """The first retry is always tried, further ones only while a client can be expected to wait."""
    rig = asked(timeouts=Timeouts(greeting=40.0, login=60.0))
    rig.done(Dialed("a:110", False)).wait(40.0)
    rig.done(Dialed("b:110", False)).wait(40.0)
    assert rig.said() == AWAY and not rig.pending(Dial)


def test_a_server_that_a_plugin_named_has_no_other() -> None:
    rig = asked(plugin(on_login=lambda *_: Route(server=ServerAddress("z"))))
    rig.done(Dialed("z:110", False)).upstream(b"-ERR busy\r\n")
    assert not rig.pending(Dial) and rig.said() == AWAY


def test_a_client_that_leaves_is_not_served_further() -> None:
    rig = asked().done(Dialed("a:110", False))
    rig.s.client_gone()
    rig.drain().lost()
    assert not rig.pending(Dial) and judged(rig) == []


# Sticky


def test_an_early_leg_serves_the_login_unless_the_key_decides() -> None:
    for policy, dials in ((GROUP, 0), (STICKY, 1)):
        rig = Rig(policy=policy, known=None).start().client(b"CAPA\r\n")
        assert rig.pending(Dial)[0].target.key is None
        rig.connected().upstream(b"-ERR\r\n")
        rig.client(b"USER joe\r\nPASS sesame\r\n")
        assert len(rig.pending(Dial)) == dials
        assert not dials or rig.pending(Dial)[0].target.key == "joe"

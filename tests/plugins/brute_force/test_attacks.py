"""brute_force against who knows how it works: spellings, answers not waited for, exchanges not ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from popproxy_plugins.brute_force import bans

from popproxy.api import Hold, Password, Refuse, SessionSummary
from tests.plugins.brute_force.rig import AT_HOME, ELSEWHERE, GONE, Rig
from tests.plugins.driving import drive

SPELLINGS = (
    "jos\u00e9@x.example", "jose\u0301@x.example", "JOS\u00c9@x.example", " jos\u00e9@x.example ",
    "jos\u00e9@x.example\u200b", "\uff4aos\u00e9@x.example", "jos\u00e9@x.ex\u00adample", "jos\u00e9@\uff38.example",
)  # fmt: skip


def test_all_spellings_of_a_name_are_one_user_under_attack() -> None:
    """Databases compare without case, composition, width and trailing blanks: a mailbox has a thousand spellings."""
    rig = Rig()
    for n in range(24):
        rig.login(SPELLINGS[n % len(SPELLINGS)], f"guess{n}", f"198.51.{n}.1")
    assert rig.login(SPELLINGS[0], "right", "203.0.113.1", right=True) == ("ok", 15.0)
    assert rig.login("jose@x.example", "right", "203.0.113.2", right=True) == ("ok", 0.0)


def test_octets_that_are_no_text_are_a_name() -> None:
    rig = Rig()
    for name in ("\udcff" * 255, "\x00\x01", "\u200b", " "):
        assert rig.login(name, "guess", ELSEWHERE)[0] == "wrong"


def test_addresses_behind_nat64_are_not_one_network() -> None:
    rig = Rig()
    for n in range(8):
        rig.login(f"user{n}", "spray", "64:ff9b::192.0.2.7")
    assert rig.login("ann", "x", AT_HOME)[0] == "SYS/TEMP"
    assert rig.login("ann", "x", "64:ff9b::198.51.100.9")[0] == "wrong"
    assert str(bans.parse_network("64:ff9b::192.0.2.7")) == "192.0.2.7/32"


@pytest.mark.parametrize("summary", [GONE, replace(GONE, reason="client_reset")])
def test_who_goes_away_before_the_answer_has_failed(summary: SessionSummary) -> None:
    """A server says yes at once and no after two seconds: half a second tells which it will be."""
    rig = Rig()
    outcomes = []
    for n in range(200):
        session = rig.session(AT_HOME, f"user{n}")
        verdict = rig.begin(session, f"guess{n}")
        outcomes.append(isinstance(verdict, Refuse))
        rig.clock.wait(0.5 + (verdict.seconds if isinstance(verdict, Hold) else 0.0))
        rig.close(session, summary)
        assert sum(rig.plugin._flights.values()) <= 1
    assert outcomes.count(False) == 8
    assert [event for event, _ in rig.events()] == ["banned"]


def test_who_goes_away_while_held_has_tried_nothing() -> None:
    rig = Rig(address={"delay": 1})
    rig.login("joe", "guess")
    for n in range(50):
        session = rig.session(AT_HOME, f"user{n}")
        assert isinstance(rig.begin(session, "x"), Hold)
        rig.clock.wait(1)
        rig.close(session, GONE)
    assert not rig.plugin._flights
    assert [event for event, _ in rig.events()] == []


@pytest.mark.parametrize(
    ("summary", "seconds"),
    [(replace(GONE, reason="shutdown"), 0.5), (replace(GONE, reason="login_timeout"), 0.5), (GONE, 30.0)],
)
def test_who_is_left_without_an_answer_has_not_failed(summary: SessionSummary, seconds: float) -> None:
    """A worker that stops, or a server that hangs: mail programs wait for half a minute at least."""
    rig = Rig()
    for n in range(50):
        session = rig.session(AT_HOME, f"user{n}")
        assert rig.begin(session, f"right{n}") is None
        rig.clock.wait(seconds)
        rig.close(session, summary)
    assert not rig.plugin._flights


def test_who_went_away_is_noted_when_the_store_is_back_or_not_at_all() -> None:
    rig = Rig()
    session = rig.session(AT_HOME)
    rig.begin(session)
    rig.close(session, GONE)
    rig.store.down = True
    assert rig.begin(rig.session(AT_HOME)) is None
    assert not rig.plugin._flights
    rig.store.down = False
    assert rig.login("joe", "x") == ("wrong", 0.0)


def test_many_who_go_away_wait_for_their_turn() -> None:
    rig = Rig()
    for n in range(100):
        session = rig.session(f"198.51.{n}.1", "ann")
        assert not isinstance(rig.begin(session, f"guess{n}"), Refuse)
        rig.clock.wait(15)
        rig.close(session, GONE)
        # One login notes what it finds, so that it waits for no more than a few.
        assert len(rig.plugin._unanswered) == 1
    assert rig.login("ann", "right", "203.0.113.1", right=True) == ("ok", 15.0)


def test_a_cancelled_exchange_is_not_the_login_behind_it() -> None:
    """A plugin in front refuses the second one: it is not held against the user of the first."""
    rig = Rig()
    rig.login("ann", "right", right=True)
    session = rig.session(AT_HOME, "ann")
    session.mechanism = "SCRAM-SHA-256"
    assert drive(rig.plugin.on_verifier(session, "ann", "SCRAM-SHA-256")) is None
    session.mechanism, session.user = "USER", "joe"
    rig.end(session, "AUTH")
    assert not rig.plugin._flights
    assert rig.services.metrics.counters["failures", "stranger"].value == 1
    assert rig.services.metrics.counters["failures", "known"].value == 0


def test_a_proof_that_another_plugin_turned_into_a_password_is_one_login() -> None:
    rig = Rig()
    session = rig.session(AT_HOME, "ann")
    session.mechanism = "SCRAM-SHA-256"
    assert drive(rig.plugin.on_verifier(session, "ann", "SCRAM-SHA-256")) is None
    assert rig.begin(session, Password("ann*master", b"of the master")) is None
    rig.end(session, None)
    session = rig.session(AT_HOME, "ann")
    rig.begin(session)
    assert rig.plugin._slot.get(session).facts.known  # type: ignore[union-attr]


@pytest.mark.parametrize("client", [AT_HOME, "2001:db8::7"])
def test_one_failure_behind_a_lifted_ban_is_one_failure(client: str) -> None:
    rig = Rig(user={"delay": 0, "passwords": 0})
    for n in range(8):
        rig.login(f"user{n}", "spray", client)
    assert rig.login("ann", "x", client)[0] == "SYS/TEMP"
    network = bans.parse_network(f"{client}/{32 if client == AT_HOME else 64}")
    assert drive(bans.remove(rig.store, network))
    assert [rig.login(f"late{n}", "spray", client)[0] for n in range(9)] == ["wrong"] * 8 + ["SYS/TEMP"]
    assert [fields["times"] for event, fields in rig.events() if event == "banned"] == [1, 1]


def test_an_audited_ban_holds_when_it_is_meant() -> None:
    audit, meant = Rig(mode="audit"), Rig()
    for n in range(8):
        assert audit.login(f"user{n}", "spray") == ("wrong", 0.0)
    meant.plugin._store = audit.store
    assert meant.login("ann", "right", right=True)[0] == "SYS/TEMP"


def test_whoever_cancels_exchanges_all_the_time_holds_one_place_for_each_connection() -> None:
    rig = Rig(at_once=2)
    sessions = [rig.session(AT_HOME, f"user{n}") for n in range(2)]
    for session in sessions * 20:
        session.mechanism = "SCRAM-SHA-256"
        assert drive(rig.plugin.on_verifier(session, session.user or "", "SCRAM-SHA-256")) is None
    assert isinstance(rig.begin(rig.session(AT_HOME, "ann")), Refuse)
    for session in sessions:
        rig.close(session, GONE)
    # Nobody has judged them: they are no failures either.
    assert not rig.plugin._unanswered
    assert rig.login("ann", "right", right=True) == ("ok", 0.0)

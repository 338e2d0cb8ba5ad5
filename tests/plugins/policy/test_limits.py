"""Sessions, logins and octets of a day: counted for those who proved who they are, and given back in any order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Code, MaildropEntry, Refuse, SessionView, Spend
from tests.plugins.policy.rig import DAY, Rig

Case = tuple[dict[str, Any], list[tuple[str, str]], tuple[str, str]]
SESSIONS: list[Case] = [
    ({"sessions_per_user": 2}, [("joe", "192.0.2.1"), ("JOE", "192.0.2.2")], ("joe", "192.0.2.3")),
    ({"sessions_per_user_and_address": 1}, [("joe", "192.0.2.1"), ("joe", "192.0.2.2")], ("joe", "192.0.2.2")),
    ({"sessions_per_address": 2}, [("joe", "192.0.2.1"), ("ann", "192.0.2.1")], ("bob", "192.0.2.1")),
    ({"sessions_per_domain": 2}, [("a@x.org", "192.0.2.1"), ("b@X.org", "192.0.2.2")], ("c@x.org", "192.0.2.3")),
]


@pytest.mark.parametrize(("setting", "inside", "outside"), SESSIONS, ids=[next(iter(case[0])) for case in SESSIONS])
def test_sessions(setting: dict[str, Any], inside: list[tuple[str, str]], outside: tuple[str, str]) -> None:
    rig = Rig({"name": "few", **setting})
    point = next(iter(setting))
    entered = [rig.enter(user, client) for user, client in inside]
    late = rig.session(outside[1])
    refused = rig.login(late, outside[0])
    assert refused is not None
    assert (refused.code, refused.limited, refused.text) == (Code.IN_USE, True, "Too many sessions at once")
    assert refused.reason == f"policy rule few: {point}"
    assert (rig.counted("few", "deny"), rig.limited(point, "denied")) == (1, 1)
    rig.close(entered[-1])
    assert rig.login(late, outside[0]) is None
    assert rig.store.runs == len(inside) + 2
    for session in (*entered, late):
        rig.close(session)
    assert rig.store.held == set()


def test_nothing_to_count_by() -> None:
    rig = Rig({"name": "few", "sessions_per_domain": 1, "sessions_per_address": 1})
    for _ in range(3):
        rig.enter("joe", "unix")
    assert rig.store.runs == 0


def test_all_limits_of_a_login_are_one_call() -> None:
    rig = Rig(
        {
            "name": "all",
            "sessions_per_user": 9,
            "sessions_per_user_and_address": 5,
            "sessions_per_address": 9,
            "sessions_per_domain": 99,
            "logins": "9/day",
            "login_delay": "1s",
            "octets_per_day": 10_000,
        }
    )
    rig.enter("joe@example.com")
    assert rig.store.runs == 1


def test_limits_of_others_cost_no_call_and_no_hook() -> None:
    for_networks = [{"when": {"network": [f"198.51.{part}.0/24"]}, "login": "deny"} for part in range(60)]
    limits = {"sessions_per_user": 3, "max_octets": 1000, "rate": 1000}
    for_users = [{"when": {"user": [f"u{number}@example.com"]}, **limits} for number in range(40)]
    rig = Rig(*({"name": f"r{number}", **rule} for number, rule in enumerate(for_networks + for_users)))
    rig.enter("joe@example.com")
    assert rig.store.runs == 0
    assert {"on_command", "on_maildrop", "on_reply", "pace"} <= rig.unneeded
    rig.enter("u7@example.com")
    assert rig.store.runs == 1


def test_a_refused_login_uses_up_nothing() -> None:
    rig = Rig({"name": "few", "sessions_per_user": 1, "logins": "2/day", "sessions_per_address": 9})
    first = rig.enter()
    for _ in range(5):
        assert rig.login(rig.session()) is not None
    rig.close(first)
    assert rig.store.held == set()
    rig.close(rig.enter())
    refused = rig.login(rig.session())
    assert refused is not None
    assert (refused.code, refused.text) == (Code.LOGIN_DELAY, "Too many logins, try again later")


def test_who_does_not_know_the_password_uses_up_nothing() -> None:
    rig = Rig({"name": "few", "sessions_per_user": 1, "logins": "1/day", "login_delay": "1h", "octets_per_day": 1})
    for number in range(50):
        session = rig.session(f"198.51.100.{number}")
        assert rig.ask(session) is None
        assert rig.prove(session, ok=False) is None
    assert rig.store.runs == 0
    rig.enter()


def test_time_between_logins() -> None:
    rig = Rig({"name": "slow", "login_delay": "5m"})
    rig.close(rig.enter())
    rig.clock.wait(299)
    refused = rig.login(rig.session())
    assert refused is not None
    assert (refused.code, refused.limited) == (Code.LOGIN_DELAY, True)
    assert rig.login(rig.session(), "ann") is None
    rig.clock.wait(1.5)
    assert rig.login(rig.session()) is None


def test_logins_of_a_period() -> None:
    rig = Rig({"name": "few", "logins": "3/hour"})
    for _ in range(3):
        rig.close(rig.enter())
    assert rig.login(rig.session()) is not None
    rig.clock.wait(2 * 3600)
    assert rig.login(rig.session()) is None


def test_the_day_of_a_user() -> None:
    """What was sent counts for the next session; the octets of a session are posted, and never waited for."""
    rig = Rig({"name": "day", "octets_per_day": 10_000})
    rig.close(rig.enter(), sent=6_000)
    runs = rig.store.runs
    rig.close(rig.enter(), sent=4_500)
    assert rig.store.runs == runs + 1
    refused = rig.login(rig.session())
    assert refused is not None
    assert (refused.code, refused.limited) == (Code.SYS_TEMP, True)
    assert refused.text == "Too much was retrieved, try again later"
    assert rig.login(rig.session(), "ann") is None
    rig.clock.wait(2 * DAY)
    assert rig.login(rig.session()) is None


def test_sessions_at_once_share_the_day() -> None:
    rig = Rig({"name": "day", "octets_per_day": 1000})
    first, second = rig.enter(), rig.enter()
    for session in (first, second):
        rig.list(session, *(MaildropEntry(number, octets, b"%d" % number) for number, octets in ((1, 600), (2, 390))))
    assert rig.command(first, "RETR 1") is None
    assert isinstance(rig.command(second, "RETR 1"), Refuse)
    assert rig.command(second, "RETR 2") is None
    third = rig.enter()
    rig.list(third, MaildropEntry(1, 100, b"a"))
    assert isinstance(rig.command(third, "RETR 1"), Refuse)
    # The first one lost its upstream in the middle: what never came is there for the others.
    rig.close(first, sent=100)
    assert rig.command(third, "RETR 1") is None
    for session, sent in ((second, 400), (third, 100)):
        rig.close(session, sent=sent)
    assert sum(step.amount for step in rig.store.posted if isinstance(step, Spend)) == 600
    other = rig.enter("ann")
    rig.list(other, MaildropEntry(1, 900, b"a"))
    assert rig.command(other, "RETR 1") is None


def test_another_limit_begins_no_other_day() -> None:
    """As on a machine that has the new config already, or by a rule for another network."""
    old = Rig({"name": "day", "octets_per_day": 10_000, "logins": "9/day"})
    new = Rig({"name": "day", "octets_per_day": 8_000, "logins": "4/day"}, store=old.store)
    old.close(old.enter(), sent=5_000)
    new.close(new.enter(), sent=4_000)
    refused = new.login(new.session())
    assert refused is not None and refused.text == "Too much was retrieved, try again later"
    assert new.login(new.session(), "ann") is None
    for _ in range(2):
        assert old.login(old.session(), "bob") is None
        assert new.login(new.session(), "bob") is None
    refused = new.login(new.session(), "bob")
    assert refused is not None and refused.text == "Too many logins, try again later"
    assert old.login(old.session(), "bob") is None


def test_sessions_with_other_limits_share_the_day() -> None:
    office = {"name": "office", "when": {"network": ["192.0.2.0/24"]}, "octets_per_day": 2000}
    rig = Rig(office, {"name": "else", "octets_per_day": 1000})
    inside, outside = rig.enter(client="192.0.2.1"), rig.enter(client="198.51.100.1")
    for session in (inside, outside):
        rig.list(session, MaildropEntry(1, 900, b"1"))
    assert rig.command(inside, "RETR 1") is None
    assert isinstance(rig.command(outside, "RETR 1"), Refuse)
    assert rig.command(inside, "RETR 1") is None
    assert isinstance(rig.command(inside, "RETR 1"), Refuse)


def test_a_long_session_tells_the_store_on_its_way() -> None:
    rig = Rig({"name": "day", "octets_per_day": "1GB"})
    session = rig.enter()
    session.sent = 3 << 20
    rig.command(session, "NOOP")
    rig.command(session, "NOOP")
    assert [step.amount for step in rig.store.posted if isinstance(step, Spend)] == [3 << 20]
    rig.close(session, sent=(3 << 20) + 7)
    assert [step.amount for step in rig.store.posted if isinstance(step, Spend)] == [3 << 20, 7]


def test_two_rules_with_one_limit_share_the_count() -> None:
    rig = Rig(
        {"name": "office", "when": {"network": ["192.0.2.0/24"]}, "sessions_per_user": 2},
        {"name": "else", "sessions_per_user": 1},
    )
    rig.enter("joe", "192.0.2.1")
    refused = rig.login(rig.session("198.51.100.1"))
    assert refused is not None
    assert refused.reason == "policy rule else: sessions_per_user"
    rig.enter("joe", "192.0.2.2")


@pytest.mark.parametrize("user", ["ANN@A.example", " ann@a.example ", "\uff41nn@a.example", "an\u00adn@a.example"])
def test_another_spelling_of_a_name_has_no_sessions_of_its_own(user: str) -> None:
    rig = Rig({"name": "one", "sessions_per_user": 1, "sessions_per_domain": 1})
    rig.enter("ann@a.example")
    assert rig.login(rig.session(), user) is not None


def test_names_of_any_kind_are_keys() -> None:
    rig = Rig({"name": "few", "sessions_per_user": 1, "sessions_per_domain": 5})
    for user in ("x" * 5000, "x" * 5001, "a|b", "a", "\udcff@\udcfe", "\U0001f600", "a\tb", ""):
        rig.enter(user)
        refused = rig.login(rig.session(), user)
        assert refused is not None


@pytest.mark.parametrize("closed", [False, True])
def test_the_store_is_down(closed: bool) -> None:
    rig = Rig({"name": "few", "sessions_per_user": 1, "store_failure": "closed" if closed else "open"})
    rig.store.down = True
    for _ in range(3):
        refused = rig.login(rig.session())
        if closed:
            assert refused is not None
            assert (refused.code, refused.limited) == (Code.SYS_TEMP, True)
        else:
            assert refused is None
    assert rig.limited("sessions_per_user", "error") == 3
    assert rig.counted("few", "deny") == (3 if closed else 0)
    assert len(rig.told("store_down")) == 1
    rig.store.down = False
    rig.enter()
    assert len(rig.told("store_back")) == 1
    assert rig.login(rig.session()) is not None
    rig.store.down = True
    rig.login(rig.session())
    assert len(rig.told("store_down")) == 2


def test_one_closed_rule_is_enough() -> None:
    rig = Rig(
        {"name": "open", "sessions_per_user": 9},
        {"name": "closed", "logins": "9/day", "store_failure": "closed"},
    )
    rig.store.down = True
    refused = rig.login(rig.session())
    assert refused is not None
    assert refused.reason == "policy rule closed: logins"


def test_turned_away_by_somebody_else() -> None:
    """What an attempt took is given back by the next one, whatever its name, and by the end of the session."""
    rig = Rig({"name": "few", "sessions_per_user": 1})
    session = rig.session()
    assert rig.login(session) is None
    assert rig.ask(session, "ann") is None
    assert rig.store.held == set()
    assert rig.prove(session) is None
    assert len(rig.store.held) == 1
    assert rig.prove(session, ok=False) is None
    assert rig.store.held == set()


def test_a_session_that_nobody_closes() -> None:
    """A plugin with a ``when`` for users is not in the chain of a session that gave another name at last."""
    rig = Rig({"name": "few", "sessions_per_user": 1})
    session: SessionView | None = rig.session()
    assert session is not None
    assert rig.login(session) is None
    assert len(rig.store.held) == 1
    del session
    assert rig.store.held == set()


ATTEMPT = st.tuples(
    st.sampled_from(["joe", "ann", "joe@x.org", "ann@x.org"]),
    st.sampled_from(["192.0.2.1", "192.0.2.2"]),
    st.sampled_from(["in", "wrong", "refused before", "turned away", "store down", "gone"]),
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "sessions_per_user": st.integers(1, 3),
        "sessions_per_address": st.integers(1, 3),
        "sessions_per_domain": st.integers(1, 3),
        "logins": st.sampled_from(["2/hour", "5/hour"]),
        "octets_per_day": st.integers(1, 9),
        "store_failure": st.sampled_from(["open", "closed"]),
    },
)


@settings(max_examples=150, deadline=None)
@given(LIMITS, st.lists(st.tuples(st.integers(0, 4), ATTEMPT), max_size=40), st.sampled_from(["enforce", "audit"]))
def test_whatever_happens_nothing_is_held_at_the_end(
    limits: dict[str, Any], attempts: list[tuple[int, tuple[str, str, str]]], mode: str
) -> None:
    """Five clients try, get in, leave and are turned away in any order."""
    failure = limits.pop("store_failure", "open")
    rules = [{"name": point, point: value, "store_failure": failure} for point, value in limits.items()]
    rig = Rig(*rules, {"name": "any", "commands": {"deny": ["TOP"]}}, mode=mode)
    sessions: dict[int, SessionView] = {}
    for place, (user, client, how) in attempts:
        session = sessions.setdefault(place, rig.session(client))
        if session.phase == "transaction":
            rig.close(sessions.pop(place), sent=3)
            continue
        rig.store.down = how == "store down"
        if how != "refused before":
            before: Refuse | None = rig.ask(session, user)
            assert before is None
        answer = rig.prove(session, ok=how not in ("wrong", "refused before"))
        if mode == "audit":
            assert answer is None
        if how == "turned away" and answer is None:
            session.phase = "authorization"
        rig.store.down = False
        inside = [one for one in sessions.values() if one.phase == "transaction"]
        if "sessions_per_user" in limits and mode == "enforce" and failure == "closed":
            for name in {one.user for one in inside}:
                assert sum(one.user == name for one in inside) <= limits["sessions_per_user"]
        if how == "gone":
            rig.close(sessions.pop(place))
    for session in sessions.values():
        rig.close(session, sent=2)
    assert rig.store.held == set()

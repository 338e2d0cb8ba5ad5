"""What holds whatever the order in which people and attackers come."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.brute_force import BruteForceConfig
from popproxy_plugins.brute_force.judge import Facts, judge, step

from popproxy.api import Hold, Refuse
from tests.plugins.brute_force.rig import GONE, OVER, Rig
from tests.plugins.driving import drive

USERS, PASSWORDS = ("ann", "bob", "joe"), ("a", "b", "c", "d", "e", "f")
CLIENTS = ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
FAILURES = st.tuples(st.sampled_from(USERS), st.sampled_from(PASSWORDS), st.sampled_from(CLIENTS))
SHARP = {
    "delays": [1], "address": {"delay": 1, "pairs": 2, "names": 2, "passwords": 2},
    "network": {"delay": 1, "pairs": 2, "names": 2, "passwords": 2},
    "user": {"delay": 1, "passwords": 1, "strikes": 1, "everybody": 1},
}  # fmt: skip
MOVES = ("begin", "scram", "ok", "AUTH", "SYS/TEMP", "close", "gone", "wait")
COUNTS = st.integers(0, 200)


@given(
    st.lists(st.tuples(FAILURES, st.booleans(), st.floats(0, 4000), st.integers(0, 3)), max_size=60),
    st.sampled_from(USERS),
    st.sampled_from(CLIENTS),
)
@settings(max_examples=60, deadline=None)
def test_failures_of_others_never_hold_or_refuse_who_is_known(
    others: list[tuple[tuple[str, str, str], bool, float, int]], user: str, client: str
) -> None:
    """All other users at her address, and she herself everywhere else, with the sharpest limits there can be."""
    rig = Rig(workers=4, **SHARP)
    assert rig.login(user, "right", client, right=True) == ("ok", 0.0)
    own = _place(client)
    for (name, password, where), through, pause, worker in others:
        if name == user and _place(where) == own:
            continue
        rig.login(name, password, where, right=through, worker=worker)
        rig.clock.wait(pause)
        assert rig.login(user, "right", client, right=True, worker=worker) == ("ok", 0.0)


@given(st.lists(FAILURES, max_size=60))
@settings(max_examples=60, deadline=None)
def test_different_pairs_are_counted_once(failures: list[tuple[str, str, str]]) -> None:
    """With limits that nobody reaches, what on_login knows is what a set would hold."""
    off = {"delay": 0, "pairs": 0, "names": 0, "passwords": 0}
    rig = Rig(address=off, network=off, user={"delay": 0, "passwords": 0})
    for name, password, client in failures:
        assert rig.login(name, password, client) == ("wrong", 0.0)
    for client in CLIENTS:
        for user in USERS:
            session = rig.session(client, user)
            rig.begin(session)
            attempt = rig.plugin._slot.get(session)
            assert attempt is not None
            place = _place(client)
            assert attempt.facts.pairs == len({(u, p) for u, p, c in failures if _place(c) == place})
            assert attempt.facts.passwords == len({p for u, p, _ in failures if u == user})
            rig.close(session)


@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7)), max_size=80))
@settings(max_examples=60, deadline=None)
def test_logins_under_way_are_never_fewer_than_none(steps: list[tuple[str, int]]) -> None:
    rig = Rig(at_once=3)
    sessions = [rig.session("192.0.2.1", USERS[n % 3]) for n in range(8)]
    for what, number in steps:
        session = sessions[number]
        if what == "begin":
            verdict = rig.begin(session, f"guess{number}")
            assert verdict is None or isinstance(verdict, Refuse | Hold)
        elif what == "scram":
            session.mechanism = "SCRAM-SHA-256"
            drive(rig.plugin.on_verifier(session, session.user or "", "SCRAM-SHA-256"))
        elif what in ("close", "gone"):
            rig.close(session, OVER if what == "close" else GONE)
            sessions[number] = rig.session("192.0.2.1", USERS[number % 3])
        elif what == "wait":
            rig.clock.wait(number)
        else:
            rig.end(session, None if what == "ok" else what)
        assert all(count > 0 for count in rig.plugin._flights.values())
        assert rig.plugin._flights["192.0.2.1/32"] <= 3
    for session in sessions:
        rig.close(session)
    while rig.plugin._unanswered:
        rig.begin(session := rig.session("203.0.113.1"))
        rig.close(session)
    assert not rig.plugin._flights


@given(
    st.builds(
        Facts,
        known=st.booleans(),
        near=st.booleans(),
        own=COUNTS,
        pairs=COUNTS,
        network_pairs=COUNTS,
        passwords=COUNTS,
        ban=st.sampled_from([None, "auto", "manual"]),
        network_ban=st.sampled_from([None, "auto", "manual"]),
        at_once=st.integers(0, 40),
    )
)
def test_a_judgement_is_one_thing(facts: Facts) -> None:
    config = BruteForceConfig()
    found = judge(config, facts)
    assert found.delay >= 0
    assert not (found.delay and found.refused)
    assert bool(found.refused) == (found.result not in ("passed", "held", "known"))
    assert (found.result == "held") == (found.delay > 0)
    if facts.known and "manual" not in (facts.ban, facts.network_ban):
        own = judge(config, Facts(known=True, own=facts.own, at_once=facts.at_once))
        assert (found.delay, bool(found.refused)) == (own.delay, bool(own.refused))


@given(st.lists(st.floats(0.1, 60), min_size=1, max_size=5), COUNTS, COUNTS)
def test_delays_never_shrink_where_the_list_does_not(delays: list[float], count: int, start: int) -> None:
    rising = tuple(sorted(delays))
    assert step(rising, count, start) <= step(rising, count + 1, start)
    assert step(rising, count, 0) == 0.0


def _place(client: str) -> str:
    return client if "." in client else "2001:db8:0:1" if "0:1::" in client else "2001:db8:0:0"

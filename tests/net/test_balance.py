"""Balancing: shares by weight, and users that stay where they are."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.config.plan import Server
from popproxy.config.urls import parse_server
from popproxy.net.balance import least_sessions, ranking, round_robin, score, sticky


@dataclass
class Choice:
    server: Server
    sessions: int = 0
    credit: int = 0
    turn: int = 0


def servers(*weights: int) -> list[Server]:
    return [replace(parse_server(f"pop3s://mail{n}.example.com"), weight=w) for n, w in enumerate(weights, 1)]


def choices(*weights: int) -> list[Choice]:
    return [Choice(server) for server in servers(*weights)]


WEIGHTS = st.lists(st.integers(1, 9), min_size=2, max_size=6)
USERS = [f"user{number}@example.com" for number in range(4000)]


@settings(max_examples=50, deadline=None)
@given(WEIGHTS)
def test_round_robin_gives_shares_exactly(weights: list[int]) -> None:
    group = choices(*weights)
    took = Counter(id(round_robin(group)) for _ in range(3 * sum(weights)))
    assert [took[id(choice)] for choice in group] == [3 * weight for weight in weights]


def test_round_robin_is_spread_evenly() -> None:
    group = choices(5, 1, 1)
    assert [group.index(round_robin(group)) for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


@settings(max_examples=50, deadline=None)
@given(WEIGHTS)
def test_least_sessions_keeps_shares(weights: list[int]) -> None:
    group = choices(*weights)
    for _ in range(10 * sum(weights)):
        least_sessions(group).sessions += 1
    for choice, weight in zip(group, weights, strict=True):
        assert choice.sessions == pytest.approx(10 * weight, abs=2)


def test_least_sessions_of_equals_takes_turns() -> None:
    group = choices(1, 1, 1)
    assert [group.index(least_sessions(group)) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_least_sessions_fills_the_emptier() -> None:
    group = choices(1, 1)
    group[0].sessions = 5
    for _ in range(5):
        chosen = least_sessions(group)
        assert chosen is group[1]
        chosen.sessions += 1


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 5), (10, 20, 70), (1, 1000)])
def test_sticky_users_are_shared_by_weight(weights: tuple[int, ...]) -> None:
    group = servers(*weights)
    homes = Counter(ranking(group, user)[0].host for user in USERS)
    for server in group:
        share = server.weight / sum(weights)
        # Four standard deviations of a binomial share.
        assert abs(homes[server.host] / len(USERS) - share) < 4 * (share * (1 - share) / len(USERS)) ** 0.5


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.randoms(use_true_random=False))
def test_a_dead_server_moves_only_its_own_users(weights: list[int], random: object) -> None:
    group = servers(*weights)
    for user in USERS[:200]:
        before = ranking(group, user)
        for dead in group:
            left = [server for server in group if server is not dead]
            after = ranking(left, user)
            assert after == [server for server in before if server is not dead]
            assert before[0] is dead or after[0] is before[0]


def test_a_dead_servers_users_are_spread_by_weight() -> None:
    group = servers(1, 1, 3)
    orphans = [user for user in USERS if ranking(group, user)[0] is group[0]]
    homes = Counter(ranking(group[1:], user)[0].weight for user in orphans)
    assert homes[3] / len(orphans) == pytest.approx(0.75, abs=0.06)


def test_a_heavier_server_only_takes() -> None:
    group = servers(1, 1, 1)
    heavier = [group[0], replace(group[1], weight=2), group[2]]
    for user in USERS[:500]:
        before, after = ranking(group, user)[0], ranking(heavier, user)[0]
        assert after.host == before.host or after.host == group[1].host


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.permutations(servers(1, 3, 7)))
def test_the_order_in_the_config_decides_nothing(user: str, group: list[Server]) -> None:
    assert ranking(group, user) == ranking(servers(1, 3, 7), user)
    assert sticky([Choice(server) for server in group], user).server == ranking(group, user)[0]


@settings(max_examples=300, deadline=None)
@given(st.text(), st.integers(1, 1000))
def test_a_score_is_a_positive_number(key: str, weight: int) -> None:
    assert 0 < score(replace(servers(1)[0], weight=weight), key) < float("inf")


def test_another_process_has_the_same_answer() -> None:
    """No salted hash() decides."""
    here = [ranking(servers(1, 2, 3), user)[0].host for user in USERS[:50]]
    code = (
        "from tests.net.test_balance import *;"
        "print(*[ranking(servers(1, 2, 3), user)[0].host for user in USERS[:50]])"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert there.stdout.split() == here


def test_the_answer_is_that_of_other_versions_too() -> None:
    """A user must not move because the proxy was updated: these are fixed for ever."""
    homes = [ranking(servers(1, 2, 3), user)[0].host[4] for user in ("joe", "ann", "bob@example.com", "zoe", "")]
    assert "".join(homes) == "23313"

"""Places at the servers of a group: choice, limits, the queue, and that no place is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.config.plan import HealthPlan, UpstreamPlan
from popproxy.config.urls import parse_server
from popproxy.core.failures import Failure, Kind
from popproxy.core.plan import UpstreamPolicy
from popproxy.net.balance import ranking
from popproxy.net.group import Group, Lease, Wish

REFUSED = Failure(Kind.REFUSED, "connection refused")
TEMPORARY = Failure(Kind.TEMPORARY, "no disk")


class Watched:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.turns: list[tuple[str, bool, str]] = []
        self.lengths: list[int] = []
        self.waits: list[str] = []

    def turned(self, server: str, up: bool, failure: Failure | None, seconds: float) -> None:
        self.turns.append((server, up, failure.kind.value if failure is not None else ""))

    def queue(self, length: int) -> None:
        self.lengths.append(length)

    def waited(self, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.waits.append(result)


class Bench:
    """A group of servers called a, b, c with a clock of its own."""

    def __init__(self, count: int = 1, caps: tuple[int, ...] = (), **plan: Any) -> None:
        servers = tuple(parse_server(f"pop3s://{name}") for name in "abcdef"[:count])
        if caps:
            servers = tuple(replace(s, max_sessions=cap) for s, cap in zip(servers, caps, strict=True))
        given = {"health": HealthPlan(fall=1, rise=1, backoff=10.0, longest=40.0), **plan}
        self.plan = UpstreamPlan("main", servers, UpstreamPolicy("main"), None, True, None, None, **given)
        self.now = 100.0
        self.watched = Watched()
        self.group = Group(self.plan, lambda: self.now, self.watched)

    def take(self, key: str = "", *avoid: str) -> Lease:
        taken = self.group.take(Wish(key, tuple(f"{name}:995" for name in avoid)))
        assert isinstance(taken, Lease)
        return taken

    def name(self, key: str = "", *avoid: str) -> str:
        """Whose place is taken; it is kept."""
        return self.take(key, *avoid).member.server.host

    def kill(self, *names: str) -> None:
        for member in self.group.members:
            if member.server.host in names:
                self.group.bad(member, 0, REFUSED, None)

    @property
    def clean(self) -> bool:
        return self.group.sessions == 0 and all(member.sessions == 0 for member in self.group.members)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


# Choice


def test_the_first_that_works() -> None:
    bench = Bench(3)
    assert [bench.name() for _ in range(3)] == ["a", "a", "a"]
    assert bench.name("", "a") == "b"
    bench.kill("a")
    assert bench.name() == "b"
    assert bench.watched.turns == [("a:995", False, "refused")]


def test_round_robin_and_least_sessions() -> None:
    assert [Bench(3, balance="round_robin").name() for _ in range(1)] == ["a"]
    bench = Bench(3, balance="round_robin")
    assert [bench.name() for _ in range(6)] == ["a", "b", "c"] * 2
    bench = Bench(3, balance="least_sessions")
    held = [bench.take() for _ in range(6)]
    assert Counter(lease.member.server.host for lease in held) == {"a": 2, "b": 2, "c": 2}
    freed = [lease for lease in held if lease.member.server.host == "b"]
    for lease in freed:
        lease.close()
    assert [bench.name(), bench.name()] == ["b", "b"]


def test_sticky_moves_only_the_users_of_the_dead() -> None:
    bench = Bench(4, balance="sticky")
    users = [f"user{number}" for number in range(100)]
    homes = {user: bench.name(user) for user in users}
    assert homes == {user: ranking(bench.plan.servers, user)[0].host for user in users}
    bench.kill("b")
    for user in users:
        moved = bench.name(user)
        assert moved == homes[user] or (homes[user] == "b" and moved != "b")


def test_a_server_that_is_avoided_is_not_taken_even_when_it_is_the_last() -> None:
    outcome = Bench(2).group.take(Wish("", ("a:995", "b:995")))
    assert isinstance(outcome, Failure) and outcome.kind is Kind.DOWN


# Health


def test_a_dead_server_is_tried_by_one_login_when_its_time_has_come() -> None:
    bench = Bench(2)
    bench.kill("a")
    bench.now += 10.0
    trial = bench.take()
    assert trial.member.server.host == "a"
    assert bench.name() == "b"
    trial.good()
    assert bench.name() == "a"
    assert bench.watched.turns[-1] == ("a:995", True, "")


def test_when_all_are_dead_one_login_at_a_time_is_let_through() -> None:
    bench = Bench(2)
    bench.kill("a", "b")
    first, second = bench.take(), bench.take()
    assert {first.member.server.host, second.member.server.host} == {"a", "b"}
    third = bench.group.take(Wish())
    assert isinstance(third, Failure) and third.kind is Kind.DOWN
    assert "a:995, b:995" in third.detail
    first.bad(REFUSED)
    first.close()
    assert bench.name() == "a"
    second.good()
    assert bench.name() == "b"


def test_a_lease_tells_its_outcome_once() -> None:
    bench = Bench(1, health=HealthPlan(fall=2))
    lease = bench.take()
    lease.bad(REFUSED)
    lease.bad(REFUSED)
    lease.good()
    assert bench.watched.turns == []
    lease.close()
    lease.close()
    lease.bad(REFUSED)
    assert bench.clean and bench.group.members[0].breaker.up


def test_a_trial_that_is_greeted_brings_back_a_server_that_could_not_be_reached() -> None:
    bench = Bench(1)
    bench.kill("a")
    trial = bench.take()
    trial.ready()
    assert bench.watched.turns[-1] == ("a:995", True, "")
    # What becomes of that login counts as that of any other.
    bench.take().ready()
    trial.bad(TEMPORARY, "joe")
    assert bench.watched.turns[-1] == ("a:995", False, "temporary")
    trial = bench.take()
    trial.ready()
    assert not bench.group.members[0].breaker.up
    trial.good()
    assert bench.group.members[0].breaker.up


def test_a_slow_trial_at_the_only_server_does_not_refuse_everybody() -> None:
    bench = Bench(1)
    bench.kill("a")
    bench.take()
    assert isinstance(bench.group.take(Wish()), Failure)
    bench.now += 10.0
    assert bench.name() == "a"


def test_what_says_nothing_about_the_server_does_not_count() -> None:
    bench = Bench(1)
    for kind in (Kind.CREDENTIALS, Kind.BUSY, Kind.INTERNAL, Kind.COMMAND_TIMEOUT):
        bench.take().bad(Failure(kind))
    assert bench.watched.turns == []


def test_a_trial_that_ends_in_silence_makes_room_for_another() -> None:
    bench = Bench(1)
    bench.kill("a")
    bench.take().close()
    lease = bench.take()
    lease.bad(Failure(Kind.CREDENTIALS))
    assert bench.take().member.server.host == "a"


def test_one_user_whose_maildrop_is_broken_takes_no_server_out() -> None:
    bench = Bench(1, health=HealthPlan(fall=2))
    for _ in range(5):
        bench.take().bad(TEMPORARY, "joe")
    assert bench.watched.turns == []
    bench.take().bad(TEMPORARY, "ann")
    assert bench.watched.turns == [("a:995", False, "temporary")]


def test_probes() -> None:
    bench = Bench(2)
    member = bench.group.members[0]
    bench.group.probed(member, REFUSED)
    assert bench.name() == "b"
    bench.group.probed(member, REFUSED)
    bench.group.probed(member, None)
    bench.group.probed(member, None)
    assert bench.name() == "a"
    assert [up for _, up, _ in bench.watched.turns] == [False, True]


# A server that a plugin named


def test_a_named_server_that_is_one_of_the_group_is_that_one() -> None:
    bench = Bench(2, max_sessions=2)
    assert bench.group.other(parse_server("pop3s://b")) is bench.group.members[1]
    starttls = bench.group.other(parse_server("pop3://b:995"))
    assert starttls.breaker is bench.group.members[1].breaker and starttls.server.tls == "starttls"


def test_a_named_server_has_a_place_in_the_upstreams_limit() -> None:
    bench = Bench(1, max_sessions=2)
    other = bench.group.other(parse_server("pop3s://z"))
    bench.take()
    lease = bench.group.take(Wish(only=other))
    assert isinstance(lease, Lease) and lease.member is other
    assert bench.group.take(Wish()) is None and bench.group.take(Wish(only=other)) is None
    lease.close()
    assert isinstance(bench.group.take(Wish()), Lease)


# Limits and the queue


def test_a_full_server_gives_way_to_the_next() -> None:
    bench = Bench(2, caps=(2, 1))
    assert [bench.name() for _ in range(3)] == ["a", "a", "b"]
    assert bench.group.take(Wish()) is None


def test_a_sticky_user_waits_for_the_own_server() -> None:
    bench = Bench(2, caps=(1, 1), balance="sticky")
    home = bench.take("joe")
    assert bench.group.take(Wish("joe")) is None
    home.close()
    assert bench.take("joe").member is home.member


def test_without_a_queue_a_full_upstream_is_busy_at_once() -> None:
    async def scene() -> None:
        bench = Bench(1, max_sessions=1)
        bench.take()
        outcome = await bench.group.admit(Wish())
        assert isinstance(outcome, Failure) and outcome.kind is Kind.BUSY
        assert outcome.detail == "all places are taken: 1 sessions"
        assert bench.watched.waits == ["full"] and bench.watched.lengths == []

    run(scene())


async def waiting(bench: Bench, *keys: str) -> list[asyncio.Task[Lease | Failure]]:
    """Logins that wait, in this order."""
    tasks = []
    for key in keys:
        tasks.append(asyncio.ensure_future(bench.group.admit(Wish(key))))
        await asyncio.sleep(0)
    return tasks


def given_to(tasks: list[asyncio.Task[Lease | Failure]]) -> list[int]:
    return [place for place, task in enumerate(tasks) if task.done()]


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def test_places_are_given_in_the_order_of_the_queue() -> None:
    async def scene() -> None:
        bench = Bench(1, max_sessions=1, queue=3)
        held: Any = bench.take()
        tasks = await waiting(bench, "1", "2", "3")
        refused = await bench.group.admit(Wish())
        assert isinstance(refused, Failure) and refused.detail == "all places are taken: 1 sessions, 3 logins wait"
        for turn, task in enumerate(tasks):
            held.close()
            # Nobody overtakes: not even one that comes just now.
            late = asyncio.ensure_future(bench.group.admit(Wish()))
            await settle()
            assert given_to(tasks) == list(range(turn + 1))
            assert not late.done()
            late.cancel()
            await settle()
            held = task.result()
        held.close()
        assert bench.clean
        assert bench.watched.lengths[-1] == 0

    run(scene())


def test_one_that_waits_for_another_server_is_passed_by() -> None:
    async def scene() -> None:
        bench = Bench(2, caps=(1, 1), balance="sticky", queue=9)
        users = {ranking(bench.plan.servers, name)[0].host: name for name in map(str, range(20))}
        on_a, on_b = bench.take(users["a"]), bench.take(users["b"])
        tasks = await waiting(bench, users["a"], users["b"])
        on_b.close()
        await settle()
        assert given_to(tasks) == [1]
        on_a.close()
        await settle()
        assert given_to(tasks) == [0, 1]

    run(scene())


def test_the_queue_has_a_deadline() -> None:
    async def scene() -> None:
        bench = Bench(1, max_sessions=1, queue=5, queue_timeout=0.01)
        held = bench.take()
        outcome = await bench.group.admit(Wish())
        assert isinstance(outcome, Failure) and outcome.kind is Kind.BUSY
        assert outcome.detail == "no place was free within 0.01 s"
        assert bench.watched.waits == ["timeout"] and bench.watched.lengths == [1, 0]
        held.close()
        assert bench.clean

    run(scene())


def test_who_waits_for_a_server_that_dies_gets_another_or_an_answer() -> None:
    async def scene() -> None:
        bench = Bench(2, caps=(1, 1), balance="sticky", queue=9)
        user = next(name for name in map(str, range(20)) if ranking(bench.plan.servers, name)[0].host == "a")
        bench.take(user)
        tasks = await waiting(bench, user)
        bench.kill("a")
        await settle()
        moved = tasks[0].result()
        assert isinstance(moved, Lease) and moved.member.server.host == "b"

    run(scene())


def test_a_server_that_comes_back_has_places_for_those_who_wait() -> None:
    async def scene() -> None:
        bench = Bench(2, caps=(1, 1), queue=9)
        bench.kill("a")
        bench.take()
        trial = bench.group.take(Wish())
        assert trial is None
        tasks = await waiting(bench, "")
        bench.group.probed(bench.group.members[0], None)
        await settle()
        back = tasks[0].result()
        assert isinstance(back, Lease) and back.member.server.host == "a"

    run(scene())


@pytest.mark.parametrize("turns", range(6))
def test_who_is_cancelled_just_when_a_place_is_free_gives_it_back(turns: int) -> None:
    async def scene() -> None:
        bench = Bench(1, max_sessions=1, queue=5)
        held = bench.take()
        first, second = await waiting(bench, "1", "2")
        held.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            outcome = await first
            assert isinstance(outcome, Lease)
            outcome.close()
        outcome = await second
        assert isinstance(outcome, Lease)
        outcome.close()
        assert bench.clean and bench.watched.lengths[-1] == 0

    run(scene())


ACTIONS = st.lists(st.tuples(st.sampled_from("acfgbtkp"), st.integers(0, 7)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(
    ACTIONS,
    st.sampled_from(["first", "round_robin", "least_sessions", "sticky"]),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_no_place_is_lost_and_no_bound_exceeded(
    actions: list[tuple[str, int]], kind: str, total: int, queue: int
) -> None:
    """Logins that come, wait, are cancelled, fail and end in any order; servers that die and come back."""

    async def scene() -> None:
        bench = Bench(3, caps=(2, 1, 0), balance=kind, max_sessions=total, queue=queue, queue_timeout=60.0)
        tasks: list[asyncio.Task[Lease | Failure]] = []
        held: list[Lease] = []
        for action, number in actions:
            if action == "a":
                tasks.append(asyncio.ensure_future(bench.group.admit(Wish(str(number)))))
            elif action == "c" and tasks:
                tasks[number % len(tasks)].cancel()
            elif action == "t":
                await asyncio.sleep(0)
            elif action == "k":
                bench.now += number * 5
            elif action == "p":
                bench.group.probed(bench.group.members[number % 3], REFUSED if number > 3 else None)
            elif held:
                lease = held.pop(number % len(held))
                if action == "g":
                    lease.good()
                elif action == "b":
                    lease.bad(REFUSED)
                lease.close()
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                if not task.cancelled() and isinstance(task.result(), Lease):
                    held.append(task.result())  # type: ignore[arg-type]
            assert not total or bench.group.sessions <= total
            assert all(not m.server.max_sessions or m.sessions <= m.server.max_sessions for m in bench.group.members)
            assert bench.group.sessions == sum(member.sessions for member in bench.group.members)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Lease):
                held.append(outcome)
        for lease in held:
            lease.close()
        assert bench.clean
        assert not bench.watched.lengths or bench.watched.lengths[-1] == 0

    run(scene())


def test_who_waits_for_one_server_does_not_hold_up_others() -> None:
    async def scene() -> None:
        bench = Bench(2, balance="sticky", caps=(1, 1), queue=1, queue_timeout=60.0)
        names = {ranking(bench.plan.servers, key)[0].host: key for key in "zyxwvutsrq"}
        kept = bench.take(names["a"])
        waiting = asyncio.ensure_future(bench.group.admit(Wish(names["a"])))
        await asyncio.sleep(0)
        given = await bench.group.admit(Wish(names["b"]))
        assert isinstance(given, Lease) and given.member.server.host == "b"
        assert not waiting.done()
        kept.close()
        assert isinstance(await waiting, Lease)

    run(scene())


def test_a_drained_server_is_left_out_and_a_changed_upstream_remembers_it() -> None:
    bench = Bench(3)
    bench.group.join()
    assert bench.group.drain("a:995", True) and not bench.group.drain("a:995", True)
    assert [bench.name(), bench.name()] == ["b", "b"]
    named = bench.group.other(parse_server("pop3://a:995"))
    refused = bench.group.take(Wish(only=named))
    assert isinstance(refused, Failure) and refused.kind is Kind.DOWN and refused.detail.startswith("drained by an")
    later = Group(replace(bench.plan, balance="round_robin"), lambda: bench.now, bench.watched, bench.group)
    later.join()
    hosts = {lease.member.server.host for lease in (later.take(Wish()) for _ in range(4)) if isinstance(lease, Lease)}
    assert hosts == {"b", "c"}
    assert later.drain("a:995", False)
    assert bench.name() == "a", "all kin go by it"


def test_the_last_fault_of_a_server_is_remembered_over_a_reload() -> None:
    bench = Bench(2)
    bench.group.join()
    bench.kill("a")
    bench.group.probed(bench.group.members[1], TEMPORARY)
    faults = [member.fault for member in bench.group.members]
    assert [fault[1] for fault in faults if fault is not None] == [REFUSED, TEMPORARY]
    later = Group(bench.plan, lambda: bench.now, bench.watched, bench.group)
    assert [member.fault for member in later.members] == faults


def test_who_waits_in_a_changed_upstream_gets_what_a_group_that_is_gone_gives_back() -> None:
    async def scene() -> None:
        bench = Bench(1, max_sessions=1, queue=5)
        bench.group.join()
        held = bench.take()
        later = Group(bench.plan, lambda: bench.now, bench.watched, bench.group)
        later.join()
        bench.group.leave()
        waiting = asyncio.ensure_future(later.admit(Wish()))
        await asyncio.sleep(0)
        held.close()
        assert isinstance(await waiting, Lease)

    run(scene())


def test_a_server_that_is_alone_is_chosen_by_the_same_rules() -> None:
    bench = Bench(1)
    assert bench.name() == "a"
    refused = bench.group.take(Wish("", ("a:995",)))
    assert isinstance(refused, Failure) and refused.detail == "no other server"
    other = bench.group.other(parse_server("pop3://b:995"))
    named = bench.group.take(Wish(only=other))
    assert isinstance(named, Lease) and named.member is other
    bench.group.join()
    bench.group.drain("a:995", True)
    assert isinstance(bench.group.take(Wish()), Failure)
    bench.group.drain("a:995", False)
    bench.kill("a")
    assert isinstance(bench.group.take(Wish()), Lease)
    assert isinstance(bench.group.take(Wish()), Failure), "one trial at a time"

"""The circuit breaker: when a server is out, and that it never stays out for ever. Time is the test's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from popproxy.config.plan import HealthPlan
from popproxy.net.health import PATIENCE, Breaker

RULES = HealthPlan(fall=3, rise=2, backoff=1.0, longest=5.0)


def out(rules: HealthPlan = RULES, now: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(rules)
    for turn in range(rules.fall):
        assert breaker.up
        assert breaker.failed(breaker.begin(now), now) is (turn == rules.fall - 1)
    assert not breaker.up and breaker.since == now
    return breaker


def trial(breaker: Breaker, now: float) -> int:
    assert breaker.admits(now)
    number = breaker.begin(now)
    assert number > 0
    return number


def test_faults_in_a_row_take_it_out() -> None:
    assert not out().admits(0.5)


def test_a_success_between_them_begins_anew() -> None:
    breaker = Breaker(RULES)
    for _ in range(10):
        assert not breaker.failed(0, 0.0)
        assert not breaker.failed(0, 0.0)
        assert not breaker.succeeded(0, 0.0)
    assert breaker.up


def test_one_user_alone_takes_nothing_out() -> None:
    breaker = Breaker(RULES)
    for _ in range(10):
        assert not breaker.failed(0, 0.0, "joe")
    assert not breaker.failed(0, 0.0, "ann")
    assert breaker.failed(0, 0.0, "joe")


def test_half_open_is_one_trial_at_a_time() -> None:
    breaker = out()
    first = trial(breaker, 1.0)
    assert not breaker.admits(1.0) and not breaker.admits(1.9, urgent=True)
    assert not breaker.succeeded(first, 2.0)
    # rise = 2: the next one may begin at once.
    second = trial(breaker, 2.0)
    assert breaker.succeeded(second, 3.0)
    assert breaker.up and breaker.since == 3.0
    assert breaker.begin(3.0) == 0


def test_every_failed_trial_makes_it_wait_twice_as_long_up_to_the_longest() -> None:
    breaker = out()
    now = 1.0
    for wait in (2.0, 4.0, 5.0, 5.0):
        assert not breaker.failed(trial(breaker, now), now)
        assert not breaker.admits(now + wait - 0.001)
        assert breaker.admits(now + wait)
        now += wait
    # Back and out again: from the beginning.
    assert not breaker.succeeded(trial(breaker, now), now)
    assert breaker.succeeded(trial(breaker, now), now)
    for _ in range(3):
        breaker.failed(0, now)
    assert not breaker.admits(now + 0.999) and breaker.admits(now + 1.0)


def test_a_failed_trial_takes_back_the_trials_won() -> None:
    breaker = out()
    assert not breaker.succeeded(trial(breaker, 1.0), 1.0)
    assert not breaker.failed(trial(breaker, 1.0), 1.0)
    assert not breaker.succeeded(trial(breaker, 3.0), 3.0)
    assert not breaker.up


def test_when_nothing_else_is_left_a_trial_does_not_wait() -> None:
    breaker = out()
    assert not breaker.admits(0.0) and breaker.admits(0.0, urgent=True)


def test_logins_from_before_decide_nothing() -> None:
    """A hundred logins that hang in a dead server end at the same time."""
    breaker = out()
    for _ in range(100):
        assert not breaker.failed(0, 0.9)
        assert not breaker.succeeded(0, 0.9)
    assert not breaker.up and breaker.admits(1.0)


def test_a_trial_that_shows_nothing_makes_room_for_another() -> None:
    breaker = out()
    breaker.dropped(trial(breaker, 1.0))
    assert breaker.admits(1.0)


def test_a_trial_that_nobody_ends_is_forgotten() -> None:
    breaker = out()
    lost = trial(breaker, 1.0)
    assert not breaker.admits(1.0 + PATIENCE - 0.001)
    current = trial(breaker, 1.0 + PATIENCE)
    # What it says at last does not end the one that is under way, nor make it wait longer.
    breaker.dropped(lost)
    assert not breaker.failed(lost, 70.0)
    assert not breaker.admits(70.0)
    breaker.dropped(current)
    assert breaker.admits(70.0)


def test_a_slow_trial_keeps_others_out_for_a_while_only_when_no_server_is_up() -> None:
    breaker = out()
    slow = breaker.begin(0.5)
    assert not breaker.admits(1.4, urgent=True)
    assert not breaker.admits(30.0)
    assert breaker.admits(1.5, urgent=True)
    quick = breaker.begin(1.5)
    assert not breaker.admits(2.4, urgent=True)
    # Each of them counts when it succeeds.
    assert not breaker.succeeded(quick, 1.6)
    assert breaker.succeeded(slow, 9.0)


def test_the_way_to_a_login_ends_a_trial_unless_logins_took_the_server_out() -> None:
    breaker = out(HealthPlan(fall=2, rise=2))
    first = trial(breaker, 1.0)
    assert breaker.reached(first, 1.1) and not breaker.up
    second = trial(breaker, 1.1)
    assert breaker.reached(second, 1.2) and breaker.up
    assert not breaker.reached(0, 1.3)
    for user in "ab":
        breaker.failed(0, 2.0, user)
    third = trial(breaker, 3.0)
    assert not breaker.reached(third, 3.1)
    assert not breaker.admits(3.1)


def test_probes_bring_a_server_back() -> None:
    breaker = out()
    assert not breaker.answered(0.1)
    assert breaker.answered(0.2)
    assert breaker.up


def test_a_greeting_excuses_no_login() -> None:
    breaker = Breaker(RULES)
    for user in "abc":
        assert not breaker.answered(0.0)
        breaker.failed(0, 0.0, user)
    assert not breaker.up
    for _ in range(5):
        assert not breaker.answered(0.5)
    assert not breaker.up
    # But the next login need not wait.
    assert breaker.admits(0.5)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("bsfdpq"), st.integers(0, 5), st.floats(0, 20)), max_size=60),
)
def test_it_never_sticks_open(fall: int, rise: int, events: list[tuple[str, int, float]]) -> None:
    """Whatever happened: when it is out, a login is let through in bounded time, and successes bring it back."""
    rules = HealthPlan(fall, rise, 1.0, 8.0)
    breaker = Breaker(rules)
    numbers = [0]
    now = 0.0
    for event, which, seconds in events:
        now += seconds
        number = numbers[which % len(numbers)]
        if event == "b" and breaker.admits(now):
            numbers.append(breaker.begin(now))
        elif event == "s":
            breaker.succeeded(number, now)
        elif event == "f":
            breaker.failed(number, now, "joe" if which % 2 else None)
        elif event == "d":
            breaker.dropped(number)
        elif event == "p":
            breaker.answered(now)
        elif event == "q":
            breaker.failed(0, now)
    now += max(PATIENCE, rules.longest)
    for _ in range(rise):
        assert breaker.admits(now)
        breaker.succeeded(breaker.begin(now), now)
    assert breaker.up


class OneTrial(RuleBasedStateMachine):
    """While it is out, there is never more than one trial that is not ended, within a trial's time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = out(HealthPlan(1, 3, 1.0, 4.0))
        self.now = 0.0
        self.open: list[tuple[int, float]] = []

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.open = [(number, ends) for number, ends in self.open if ends > self.now]

    @rule(urgent=st.booleans())
    def login(self, urgent: bool) -> None:
        if self.breaker.admits(self.now, urgent):
            number = self.breaker.begin(self.now)
            if number:
                # Who is in a hurry does not wait for one that takes long.
                self.open = [(number, self.now + PATIENCE)]

    @precondition(lambda self: self.open)
    @rule(how=st.sampled_from(["succeeded", "failed", "dropped"]))
    def end(self, how: str) -> None:
        number, _ = self.open.pop()
        if how == "dropped":
            self.breaker.dropped(number)
        else:
            getattr(self.breaker, how)(number, self.now)

    @invariant()
    def one(self) -> None:
        if self.breaker.up:
            self.open.clear()
        assert len(self.open) <= 1


TestOneTrial = OneTrial.TestCase
TestOneTrial.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("fall", [1, 2, 7])
def test_the_count_is_the_operators(fall: int) -> None:
    assert not out(HealthPlan(fall=fall)).up

"""Windows against the library ``limits``, where both mean the same, and by themselves at their edges."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import limits.storage.memory
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from popproxy.api.store import Fixed, Sliding, TokenBucket, Window
from popproxy.state.windows import Level, added, ends, moved, room, used

BEGIN = 1_700_000_040.0
"""A multiple of 60."""


class Clock:
    """``time`` for limits."""

    def __init__(self) -> None:
        self.now = BEGIN

    def time(self) -> float:
        return self.now


class Storage(limits.storage.memory.MemoryStorage):
    """Without the thread that looks at the clock."""


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[Clock]:
    with pytest.MonkeyPatch.context() as patch:
        made = Clock()
        patch.setattr(limits.storage.memory, "time", made)
        patch.setattr(Storage, "_MemoryStorage__schedule_expiry", lambda self: None)
        patch.setattr(limits.storage.memory.MemoryStorage, "_MemoryStorage__schedule_expiry", lambda self: None)
        yield made


STEPS = st.lists(st.tuples(st.integers(0, 130).map(float), st.integers(1, 4)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=200)
@given(limit=st.integers(1, 12), steps=STEPS)
def test_sliding_windows_are_those_of_limits(clock: Clock, limit: int, steps: list[tuple[float, int]]) -> None:
    clock.now = BEGIN
    storage = Storage()
    oracle, item = SlidingWindowCounterRateLimiter(storage), RateLimitItemPerSecond(limit, 60)
    window, level = Sliding(limit, 60), None
    for pause, amount in steps:
        clock.now += pause
        level = moved(window, level, clock.now)
        before, left, current, _ = storage.get_sliding_window(item.key_for("k"), 60)
        estimate = before * left / 60 + current
        assert used(window, level, clock.now) == pytest.approx(estimate)
        found = room(window, level, amount, clock.now)
        # limits rounds the estimate down before it adds: it may let in one more than the limit, by less than one.
        assert found.ok == (estimate + amount <= limit + 1e-6)
        if found.ok:
            assert oracle.hit(item, "k", cost=amount)
            level = added(level, amount)
        elif estimate == int(estimate):
            assert not oracle.test(item, "k", cost=amount)


@settings(deadline=None, max_examples=200)
@given(
    limit=st.integers(1, 12),
    periods=st.lists(
        st.tuples(
            st.integers(1, 3), st.lists(st.tuples(st.integers(0, 59), st.integers(1, 4)), min_size=1, max_size=12)
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_fixed_windows_are_those_of_limits(
    clock: Clock, limit: int, periods: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    clock.now = BEGIN
    oracle, item = FixedWindowRateLimiter(Storage()), RateLimitItemPerSecond(limit, 60)
    window, level = Fixed(limit, 60), None
    begin = BEGIN
    for skipped, hits in periods:
        begin += 60 * skipped
        # A window of limits begins with its first hit, one of ours with its period: the first hit is there.
        for number, (offset, amount) in enumerate(sorted(hits)):
            clock.now = begin + (offset if number else 0)
            level = moved(window, level, clock.now)
            found = room(window, level, amount if number else 1, clock.now)
            if found.ok:
                assert oracle.hit(item, "k", cost=amount if number else 1)
                level = added(level, amount if number else 1)
            else:
                assert not oracle.test(item, "k", cost=amount)
                assert clock.now + found.wait == begin + 60 or amount > limit
            assert oracle.get_window_stats(item, "k").remaining == limit - used(window, level, clock.now)


KINDS = st.sampled_from([Fixed, Sliding, TokenBucket])
WINDOWS = st.builds(
    lambda kind, limit, seconds: kind(limit, seconds),
    KINDS,
    st.integers(0, 20) | st.integers(10**6, 10**12),
    st.sampled_from([0.5, 1, 7, 60, 3600, 86400, 31 * 86400]),
)


@settings(deadline=None)
@given(window=WINDOWS, data=st.data())
def test_no_estimate_is_ever_negative_or_above_the_limit(window: Window, data: st.DataObject) -> None:
    now, level = BEGIN, None
    for _ in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.floats(0, window.seconds * 2.5) | st.just(0.0))
        level = moved(window, level, now)
        amount = data.draw(st.integers(0, max(1, window.limit)))
        found = room(window, level, amount, now)
        assert found.limit == window.limit and 0 <= found.used <= window.limit
        assert found.ok == (found.wait == 0)
        if found.ok:
            level = added(level, amount)
        assert 0 <= used(window, level, now) <= window.limit + 1e-5


@settings(deadline=None)
@given(window=WINDOWS, data=st.data())
def test_who_waits_as_told_has_room_and_not_much_earlier(window: Window, data: st.DataObject) -> None:
    now, level = BEGIN, None
    for _ in range(data.draw(st.integers(1, 10))):
        now += data.draw(st.floats(0, window.seconds))
        level = added(moved(window, level, now), data.draw(st.integers(0, window.limit)))
    now += data.draw(st.floats(0, window.seconds))
    amount = data.draw(st.integers(1, max(1, window.limit)))
    level = moved(window, level, now)
    found = room(window, level, amount, now)
    if found.wait == float("inf"):
        assert amount > window.limit
        return
    if found.ok:
        return
    assert found.wait > 0
    then = now + found.wait + 1e-4 * window.seconds
    assert room(window, moved(window, level, then), amount, then).ok
    early = now + found.wait * 0.99 - 1e-4 * window.seconds
    if early > now and window.limit < 1000:
        assert not room(window, moved(window, level, early), amount, early).ok


@settings(deadline=None)
@given(window=WINDOWS, data=st.data())
def test_a_level_that_has_ended_says_nothing(window: Window, data: st.DataObject) -> None:
    now, level = BEGIN, None
    for _ in range(data.draw(st.integers(1, 6))):
        now += data.draw(st.floats(0, window.seconds))
        level = added(moved(window, level, now), data.draw(st.integers(0, 3 * window.limit + 1)))
    assert level is not None
    end = ends(window, level)
    assert end > now - 1e-6
    if window.limit or not isinstance(window, TokenBucket):
        then = max(end, now)
        assert used(window, moved(window, level, then), then) == pytest.approx(0, abs=1e-3 * max(1, window.limit))


@pytest.mark.parametrize("window", [Fixed(3, 60), Sliding(3, 60), TokenBucket(3, 60)], ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("back", [1.0, 45.0, 61.0, 86400.0, 86400.0 * 3650])
def test_a_clock_that_goes_back_frees_nothing_and_closes_nothing_for_long(window: Window, back: float) -> None:
    level = added(moved(window, None, BEGIN + 5), 3)
    now = BEGIN + 5 - back
    level = moved(window, level, now)
    found = room(window, level, 1, now)
    assert not found.ok and found.used >= 3
    assert 0 < found.wait <= 3 * 60
    then = now + found.wait + 1e-3
    assert room(window, moved(window, level, then), 1, then).ok


def test_periods_begin_at_multiples_since_the_epoch() -> None:
    day = Fixed(5, 86400)
    level = added(moved(day, None, 86400.0 * 100 - 0.5), 5)
    assert not room(day, moved(day, level, 86400.0 * 100 - 0.25), 1, 86400.0 * 100 - 0.25).ok
    assert room(day, moved(day, level, 86400.0 * 100), 1, 86400.0 * 100).ok
    assert ends(day, level) == 86400.0 * 100


def test_a_period_before_the_last_one_does_not_count() -> None:
    window = Sliding(10, 60)
    level = added(moved(window, None, BEGIN), 10)
    assert used(window, moved(window, level, BEGIN + 60), BEGIN + 60) == 10
    assert used(window, moved(window, level, BEGIN + 90), BEGIN + 90) == 5
    assert used(window, moved(window, level, BEGIN + 120), BEGIN + 120) == 0


def test_a_bucket_fills_evenly() -> None:
    window = TokenBucket(60, 60)
    level = added(moved(window, None, BEGIN), 60)
    for second in range(1, 61):
        now = BEGIN + second
        level = moved(window, level, now)
        assert room(window, level, 1, now).ok and not room(window, level, 2, now).ok
        level = added(level, 1)


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_small_steps_lose_nothing(steps: int) -> None:
    window = TokenBucket(10, 10.0)
    level = added(moved(window, None, BEGIN), 10)
    for step in range(steps):
        level = moved(window, level, BEGIN + (step + 1) * 10.0 / steps)
    assert ceil(used(window, level, BEGIN + 10.0) - 1e-6) == 0
    assert room(window, level, 10, BEGIN + 10.0).ok


def test_an_unused_level_is_empty() -> None:
    for window in (Fixed(1, 60), Sliding(1, 60), TokenBucket(1, 60)):
        assert used(window, moved(window, None, BEGIN), BEGIN) == 0
        assert moved(window, Level(), BEGIN).count == 0

"""When a dead worker is started again."""

from __future__ import annotations

import pytest

from popproxy.run.restarts import FIRST, LONGEST, SETTLED, Restarts


def test_who_has_served_is_followed_at_once() -> None:
    restarts = Restarts()
    assert [restarts.died(SETTLED) for _ in range(20)] == [0.0] * 20
    assert restarts.count == 20


def test_who_dies_soon_waits_longer_each_time() -> None:
    restarts = Restarts()
    waits = [restarts.died(SETTLED - 0.1) for _ in range(14)]
    assert waits[0] == 0.0 and waits[1] == FIRST
    assert waits[2:9] == [FIRST * 2**power for power in range(1, 8)]
    assert waits[-1] == LONGEST and waits == sorted(waits)
    assert restarts.died(0.0) == LONGEST
    for _ in range(2000):
        restarts.died(0.0)
    assert restarts.died(0.0) == LONGEST


def test_a_good_one_ends_the_row() -> None:
    restarts = Restarts()
    for _ in range(8):
        restarts.died(0.0)
    assert restarts.died(SETTLED) == 0.0
    assert restarts.died(0.0) == FIRST
    assert restarts.count == 10


@pytest.mark.parametrize(("settled", "longest"), [(0.5, 1.0), (2.0, 0.3)])
def test_times_may_be_others(settled: float, longest: float) -> None:
    restarts = Restarts(settled, longest)
    assert [restarts.died(settled) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert max(restarts.died(settled / 2) for _ in range(9)) == longest

"""Pace: the bucket by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popproxy.api import Pace


def test_the_burst_is_free_and_the_rest_is_waited_for() -> None:
    pace = Pace(rate=100, burst=50)
    assert pace.spend(50, 0.0) == 0.0
    assert pace.spend(10, 0.0) == pytest.approx(0.1)
    assert pace.spend(0, 0.05) == pytest.approx(0.05)
    assert pace.spend(0, 0.1) == 0.0
    assert pace.spend(50, 1000.0) == 0.0, "a long rest fills it"
    assert pace.spend(1, 1000.0) == pytest.approx(0.01), "but with no more than the burst"


def test_a_shared_one_lets_everybody_wait_for_the_debt_of_all() -> None:
    pace = Pace(rate=100, burst=1)
    assert pace.spend(101, 5.0) == pytest.approx(1.0)
    assert pace.spend(100, 5.0) == pytest.approx(2.0)


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    pace = Pace(rate=100, burst=100)
    pace.spend(100, 10.0)
    assert pace.spend(10, 9.0) == pytest.approx(0.1)
    assert pace.spend(0, 10.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("rate", "burst", "text"),
    [
        (0, 1, "rate=0"),
        (-1.0, 1, "rate=-1.0"),
        (float("inf"), 1, "rate=inf"),
        (float("nan"), 1, "rate=nan"),
        (1, 0, "burst=0"),
    ],
)
def test_what_is_no_pace(rate: Any, burst: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Pace(rate, burst)


@given(
    st.floats(1, 1e9),
    st.integers(1, 1 << 24),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(0, 10)), max_size=40),
)
def test_who_waits_as_told_never_sends_faster(rate: float, burst: int, turns: list[tuple[int, float]]) -> None:
    pace = Pace(rate, burst)
    now = sent = 0.0
    for octets, rest in turns:
        now += pace.spend(octets, now) + rest
        sent += octets
        assert sent <= burst + rate * now * (1 + 1e-9) + 1

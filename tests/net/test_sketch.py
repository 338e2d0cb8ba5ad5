"""The Space-Saving sketch: whoever is heavy is in it, and no bound is wrong, alone and merged."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.net.desk.sketch import Sketch, merged

BATCH = st.dictionaries(st.sampled_from("abcdefghijklmnopqrst"), st.integers(0, 50), max_size=12)
ONE = st.builds(lambda key, weight: {key: weight}, st.sampled_from("abcdefghijklmnopqrst"), st.integers(0, 50))
STREAM = st.lists(ONE, max_size=120) | st.lists(BATCH, max_size=20)


def fed(stream: list[dict[str, int]], places: int) -> tuple[Sketch, Counter[str]]:
    sketch, true = Sketch(places), Counter[str]()
    for weights in stream:
        sketch.add(weights)
        true.update(weights)
    return sketch, true


@given(streams=st.lists(STREAM, min_size=1, max_size=4), places=st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_heavy_hitters_are_in_and_bounds_hold(streams: list[list[dict[str, int]]], places: int) -> None:
    made = [fed(stream, places) for stream in streams]
    true = sum((counts for _, counts in made), Counter[str]())
    heavy, floor, total = merged([sketch.told() for sketch, _ in made])
    assert total == sum(true.values())
    assert floor <= total / places
    named = {one.key: one for one in heavy}
    assert len(named) == len(heavy) <= places * len(streams)
    for one in heavy:
        assert one.count - one.error <= true[one.key] <= one.count
        assert 0 <= one.error <= floor
    for key, weight in true.items():
        if weight > total / places:
            assert key in named
        if key not in named:
            assert weight <= floor
    assert [one.count for one in heavy] == sorted((one.count for one in heavy), reverse=True)


@given(stream=STREAM)
def test_what_fits_is_exact(stream: list[dict[str, int]]) -> None:
    sketch, true = fed(stream, 20)
    heavy, floor, _ = merged([sketch.told()])
    assert {one.key: one.count for one in heavy} == {key: count for key, count in true.items() if count}
    assert all(one.error == 0 for one in heavy)
    assert floor <= (min(true.values()) if len(true) == 20 else 0)


def test_a_copy_goes_its_own_way() -> None:
    sketch, _ = fed([{"a": 1}, {"b": 2}, {"c": 3}], 2)
    copy = sketch.copy()
    assert copy.told() == sketch.told()
    copy.add({"d": 9})
    assert "d" not in str(sketch.told()) and sketch.total == 6

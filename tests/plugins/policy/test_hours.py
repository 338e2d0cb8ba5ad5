"""Times of the week, against a clock that is read minute by minute."""

from __future__ import annotations

import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.policy.hours import DAY, DAYS, WEEK, hours, zone

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
"""Midnight in UTC."""


def at(text: str, fold: int = 0) -> float:
    """What a clock in Berlin shows: ``2026-03-29 01:59``. ``fold`` 1 is the second time on the day it is put back."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, frozenset[tuple[int, int]]]:
    """A window as it is written, and the minutes (day, minute) that it holds, found one by one."""
    days = draw(st.one_of(st.none(), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=3)))
    begin, end = draw(st.one_of(st.none(), st.tuples(st.integers(0, DAY - 1), st.integers(0, DAY)))) or (0, DAY)
    if begin == end:
        end = DAY if begin < DAY - 1 else 0
    parts: list[str] = []
    held: set[int] = set()
    for first, last in [(0, 6)] if days is None else days:
        parts.append(DAYS[first] if first == last else f"{DAYS[first]}-{DAYS[last]}")
        day = first
        while True:
            held.add(day)
            if day == last:
                break
            day = (day + 1) % 7
    minutes: set[tuple[int, int]] = set()
    for day in held:
        minute = begin
        while minute != end:
            minutes.add((day, minute))
            minute += 1
            if minute == DAY and end != DAY:
                day, minute = (day + 1) % 7, 0
    spelt = "" if days is None else ",".join(parts) + " "
    return f"{spelt}{clock(begin)}-{clock(end)}", frozenset(minutes)


@given(st.lists(windows(), min_size=1, max_size=3), st.lists(st.integers(0, WEEK - 1), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_a_week_minute_by_minute(
    drawn: list[tuple[str, frozenset[tuple[int, int]]]], minutes: list[int]
) -> None:
    found = hours([written for written, _ in drawn], UTC)
    held = frozenset[tuple[int, int]]().union(*(minutes for _, minutes in drawn))
    edges = {minute + step for minute in found.spans for step in (-1, 0)}
    for minute in {*minutes, *(edge % WEEK for edge in edges)}:
        for second in (0, 59.9):
            now = (MONDAY + timedelta(minutes=minute, seconds=second)).timestamp()
            assert found.holds(now) == (divmod(minute, DAY) in held), (found.written, divmod(minute, DAY))


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("Mon-Fri 08:00-18:00", ["2026-11-27 08:00", "2026-11-27 17:59"], ["2026-11-27 18:00", "2026-11-28 09:00"]),
        ("Fri 22:00-02:00", ["2026-11-27 23:00", "2026-11-28 01:59"], ["2026-11-28 02:00", "2026-11-27 01:00"]),
        ("Sun 22:00-02:00", ["2026-11-29 23:00", "2026-11-30 01:59"], ["2026-11-30 02:00", "2026-11-29 01:00"]),
        ("sat, SUN", ["2026-11-28 00:00", "2026-11-29 23:59"], ["2026-11-27 23:59", "2026-11-30 00:00"]),
        ("Fri-Mon", ["2026-11-27 00:00", "2026-11-30 23:59"], ["2026-12-01 00:00", "2026-11-26 23:59"]),
        ("8:00 - 9:30", ["2026-11-27 09:29", "2026-11-28 08:00"], ["2026-11-27 09:30"]),
        ("Mon 00:00-24:00", ["2026-11-23 00:00", "2026-11-23 23:59"], ["2026-11-24 00:00"]),
    ],
)
def test_what_is_written(written: str, inside: list[str], outside: list[str]) -> None:
    found = hours([written], BERLIN)
    assert [text for text in inside if not found.holds(at(text))] == []
    assert [text for text in outside if found.holds(at(text))] == []


def test_windows_that_touch_are_one() -> None:
    assert hours(["Mon 08:00-12:00", "Mon 12:00-14:00", "Mon 09:00-10:00"], UTC).spans == (480, 840)


def minutes_held(written: str, day: str) -> int:
    """How many real minutes of that day in Berlin, from midnight to midnight, are in the window."""
    found = hours([written], BERLIN)
    begin = at(f"{day} 00:00")
    end = (datetime.fromisoformat(day).replace(tzinfo=BERLIN) + timedelta(days=1)).timestamp()
    return sum(found.holds(begin + 60 * minute) for minute in range(round((end - begin) / 60)))


def test_the_day_the_clock_is_put_forward() -> None:
    """29 March 2026: 01:59 is followed by 03:00."""
    assert minutes_held("Sun 00:00-24:00", "2026-03-29") == 23 * 60
    assert minutes_held("Sun 02:00-03:00", "2026-03-29") == 0
    assert minutes_held("Sun 01:30-03:30", "2026-03-29") == 60
    found = hours(["Sun 01:30-03:30"], BERLIN)
    assert found.holds(at("2026-03-29 01:59")) and found.holds(at("2026-03-29 01:59") + 60)
    assert not found.holds(at("2026-03-29 03:30"))


def test_the_day_the_clock_is_put_back() -> None:
    """25 October 2026: 02:59 is followed by 02:00."""
    assert minutes_held("Sun", "2026-10-25") == 25 * 60
    assert minutes_held("Sun 02:00-03:00", "2026-10-25") == 120
    assert minutes_held("Sat 22:00-02:30", "2026-10-25") == 120 + 30 + 30
    found = hours(["Sun 02:00-02:30"], BERLIN)
    assert [found.holds(at("2026-10-25 02:15", fold)) for fold in (0, 1)] == [True, True]
    assert [found.holds(at("2026-10-25 02:45", fold)) for fold in (0, 1)] == [False, False]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "is no time of the week: write it like"),
        ("Mon-Fri 08:00", "is no time of the week"),
        ("Montag 08:00-09:00", "'Montag' is no day: write one of Mon, Tue"),
        ("Mon, 08:00-09:00", "is no time of the week"),
        ("25:00-26:00", "'25:00' is no time of day: write 00:00 to 24:00"),
        ("08:60-09:00", "is no time of day"),
        ("08:00-08:00", "ends when it begins: write the days alone"),
        ("24:00-01:00", "begins at 24:00: write 00:00 of the next day"),
        ("Mon 08:00-09:00 Tue", "is no time of the week"),
    ],
)
def test_what_is_no_window_says_what_to_write(written: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        hours([written], UTC)
    assert told in str(caught.value)


def test_a_zone_that_is_none() -> None:
    with pytest.raises(ValueError, match="there is no time zone 'Europe/Belin': write Europe/Berlin"):
        zone("Europe/Belin")
    for name in ("", "/etc/passwd", "../zoneinfo", "Europe"):
        with pytest.raises(ValueError, match="write"):
            zone(name)


def test_a_host_without_time_zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tzdata", None)
    zoneinfo.reset_tzpath(to=[tmp_path])
    ZoneInfo.clear_cache()
    try:
        with pytest.raises(ValueError, match="no time zone data: install Debian's tzdata, or write pip install tzdata"):
            zone("Europe/Berlin")
    finally:
        zoneinfo.reset_tzpath()
    assert zone("Europe/Berlin").key == "Europe/Berlin"

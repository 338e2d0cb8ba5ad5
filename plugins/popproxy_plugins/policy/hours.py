"""Times of the week on a wall clock: ``Mon-Fri 08:00-18:00``. Pure, beside the time zone data of the host.

A window is what the clock on the wall shows: on the day it is put back 02:00-03:00 lasts two hours, on the day it is
put forward it does not happen. One that ends before it begins goes over midnight and belongs to the day it begins on.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY = 24 * 60
WEEK = 7 * DAY
"""Minutes."""
_HINT = 'write it like "Mon-Fri 08:00-18:00", "Sat,Sun" or "22:00-06:00"'
_WINDOW = re.compile(r"(?:(?P<days>[A-Za-z][A-Za-z,\- ]*?) *)?(?:(?P<begin>\d{1,2}:\d\d) *- *(?P<end>\d{1,2}:\d\d))?")
_SPAN = re.compile(r"([A-Za-z]+)(?: *- *([A-Za-z]+))?")


@dataclass(frozen=True, slots=True)
class Hours:
    """Windows of the week in one time zone. ``spans`` are minutes since Monday 00:00, begin and end in turn, sorted,
    apart from each other; ``written`` is what the config says."""

    spans: tuple[int, ...]
    zone: tzinfo
    written: str

    def holds(self, now: float) -> bool:
        """Whether ``now`` (seconds since the epoch) is in one of the windows."""
        return bisect_right(self.spans, minute_of_week(now, self.zone)) % 2 == 1


def hours(windows: Iterable[str], zone: tzinfo) -> Hours:
    """The windows in ``zone``. Raises ValueError for one that is none, with what to write."""
    written = tuple(windows)
    begun: list[tuple[int, int]] = []
    for window in written:
        begun += _spans(window)
    joined: list[int] = []
    for begin, end in sorted(begun):
        if joined and begin <= joined[-1]:
            joined[-1] = max(joined[-1], end)
        else:
            joined += (begin, end)
    return Hours(tuple(joined), zone, ", ".join(written))


def zone(name: str) -> ZoneInfo:
    """The time zone ``name``. Raises ValueError with what to write or to install."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    known = available_timezones()
    if not known:
        raise ValueError(
            f"{name!r} cannot be looked up, this host has no time zone data: install Debian's tzdata, or write "
            "pip install tzdata"
        )
    close = get_close_matches(name, known, 1)
    raise ValueError(f"there is no time zone {name!r}: write {close[0] if close else 'a name like Europe/Berlin'}")


def minute_of_week(now: float, zone: tzinfo) -> int:
    """What a clock in ``zone`` shows at ``now``, in minutes since Monday 00:00."""
    local = datetime.fromtimestamp(now, zone)
    return local.weekday() * DAY + local.hour * 60 + local.minute


def _spans(window: str) -> Iterator[tuple[int, int]]:
    """Begin and end in minutes of the week. What goes beyond Sunday comes again on Monday."""
    found = _WINDOW.fullmatch(window.strip())
    if found is None or not window.strip():
        raise ValueError(f"{window!r} is no time of the week: {_HINT}")
    begin, end = (0, DAY) if found["begin"] is None else (_minute(found["begin"]), _minute(found["end"]))
    if begin == end:
        raise ValueError(f"{window!r} ends when it begins: write the days alone for whole days, or 00:00-24:00")
    if begin == DAY:
        raise ValueError(f"{window!r} begins at 24:00: write 00:00 of the next day")
    for day in _days(found["days"], window):
        first = day * DAY + begin
        last = day * DAY + (end if end > begin else DAY + end)
        yield first, min(last, WEEK)
        if last > WEEK:
            yield 0, last - WEEK


def _days(written: str | None, window: str) -> list[int]:
    if written is None:
        return list(range(7))
    days: list[int] = []
    for part in written.split(","):
        found = _SPAN.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"{window!r} is no time of the week: {_HINT}")
        first, last = _day(found[1]), _day(found[2] or found[1])
        days += [(first + step) % 7 for step in range((last - first) % 7 + 1)]
    return sorted(set(days))


def _day(name: str) -> int:
    try:
        return DAYS.index(name.capitalize())
    except ValueError:
        raise ValueError(f"{name!r} is no day: write one of {', '.join(DAYS)}") from None


def _minute(written: str) -> int:
    hour, minute = map(int, written.split(":"))
    if minute > 59 or hour * 60 + minute > DAY:
        raise ValueError(f"{written!r} is no time of day: write 00:00 to 24:00")
    return hour * 60 + minute

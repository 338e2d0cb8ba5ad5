"""When a message arrived: what its header says, whoever wrote it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from popproxy.core.dates import arrived, seconds

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()


def at(*when: int, east: float = 0) -> float:
    year, month, day, hour, minute, second = when
    return datetime(year, month, day, hour, minute, second, tzinfo=timezone(timedelta(hours=east))).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"Fri, 20 Nov 2026 10:15:30 +0100", at(2026, 11, 20, 10, 15, 30, east=1)),
        (b"20 Nov 2026 10:15 -0530", at(2026, 11, 20, 10, 15, 0, east=-5.5)),
        (b"Fri, 20 Nov 2026 10:15:30 +0100 (CET)", at(2026, 11, 20, 10, 15, 30, east=1)),
        (b"Fri, 20 Nov (the (month) of fog) 2026 10:15:30 GMT", at(2026, 11, 20, 10, 15, 30)),
        (b"Fri, 20 Nov 2026 10:15:30", at(2026, 11, 20, 10, 15, 30)),
        (b"Fri, 20 Nov 2026 10:15:30 PST", at(2026, 11, 20, 10, 15, 30, east=-8)),
        (b"Fri, 20 Nov 2026 10:15:30 CET", at(2026, 11, 20, 10, 15, 30)),
        (b"Fri,  1 Nov 26 10:15:30 UT", at(2026, 11, 1, 10, 15, 30)),
        (b"1 Nov 99 10:15:30 UT", at(1999, 11, 1, 10, 15, 30)),
        (b"Fri, 20-Nov-2026 10:15:30 +0000", at(2026, 11, 20, 10, 15, 30)),
        (b"FRI, 20 NOVEMBER 2026 10:15:30 +0000", at(2026, 11, 20, 10, 15, 30)),
        (b"20 Nov 2026 10.15.30 +0000", at(2026, 11, 20, 10, 15, 30)),
        (b"20 Nov 2026 10:15:30.123 +0200", at(2026, 11, 20, 10, 15, 30, east=2)),
        (b"31 Dec 2016 23:59:60 +0000", at(2016, 12, 31, 23, 59, 59)),
        (b"Fri Nov 20 10:15:30 2026", at(2026, 11, 20, 10, 15, 30)),
        (b"Fri Nov  2 10:15:30 EST 2026", at(2026, 11, 2, 10, 15, 30, east=-5)),
        (b"Thu, 1 Jan 1970 00:00:00 +0000", 0.0),
        (b"Sat, 28 Nov 2026 11:59:59 +0000", at(2026, 11, 28, 11, 59, 59)),
    ],
)
def test_dates_that_are_written(text: bytes, expected: float) -> None:
    assert seconds(text, NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"yesterday",
        b"31 Feb 2026 10:00:00 +0000",
        b"20 Nov 2026 25:00:00 +0000",
        b"20 Xyz 2026 10:00:00 +0000",
        b"0 Nov 2026 10:00:00 +0000",
        b"Wed, 31 Dec 1969 23:59:59 +0000",
        b"Thu, 1 Jan 1970 00:00:00 +0100",
        b"Sat, 28 Nov 2026 12:00:01 +0000",
        b"20 Nov 9999 10:00:00 +0000",
        b"20 Nov 0000 10:00:00 +0000",
        b"(20 Nov 2026 10:00:00 +0000)",
        b"\xb2\xb0 Nov 2026 10:00:00 +0000",
    ],
)
def test_dates_that_are_none(text: bytes) -> None:
    assert seconds(text, NOW) is None


TOP = b"Received: from a (b; c) by d with ESMTP id e;\r\n\tFri, 20 Nov 2026 10:00:00 +0000 (a; b)\r\n"
BELOW = b"Received: from x by y; Thu, 19 Nov 2026 10:00:00 +0000\r\n"
DATE = b"Date: Wed, 18 Nov 2026 10:00:00 +0000\r\n"


@pytest.mark.parametrize(
    ("header", "day"),
    [
        (TOP + BELOW + DATE + b"\r\n", 20),
        (b"Return-Path: <>\r\nDKIM-Signature: t=5;\r\n x=6\r\n" + TOP + BELOW + b"\r\n", 20),
        (DATE + TOP + b"\r\n", 20),
        (DATE + b"\r\n", 18),
        (b"rEcEiVeD : x\r\n ; 20\r\n Nov 2026\r\n 10:00:00\r\n\r\n", 20),
        (b"Received: from x by y\r\n" + BELOW + DATE + b"\r\n", 18),
        (b"Received: x; 20 Nov 2126 10:00:00\r\n" + BELOW + DATE, 18),
        (b"X-\xff\xfe: \xe4\xf6; 1 Nov 2026 10:00\r\n" + TOP + b"\r\n", 20),
        ((TOP + DATE + b"\r\n").replace(b"\r\n", b"\n"), 20),
        (b"no field\r\nDate\r\n" + DATE + DATE.replace(b"18", b"17") + b"\r\n", 18),
        (b"\r\n" + DATE, None),
        (b"", None),
        (b"Subject: Date: 18 Nov 2026 10:00\r\n\r\n", None),
        (b"X-Date: 18 Nov 2026 10:00\r\n\r\n", None),
    ],
)
def test_the_topmost_received_or_else_date(header: bytes, day: int | None) -> None:
    assert arrived(header, NOW) == (None if day is None else at(2026, 11, day, 10, 0, 0))


def test_a_field_that_is_cut_is_not_believed() -> None:
    whole = DATE + b"Received: a; 20 Nov 2026 10:00:00 +0900\r\n"
    for end in range(len(DATE) + 1, len(whole)):
        assert arrived(whole[:end], NOW, cut=True) == at(2026, 11, 18, 10, 0, 0)
    assert arrived(whole, NOW, cut=True) == at(2026, 11, 18, 10, 0, 0), "its next line may have been cut off"
    assert arrived(whole, NOW) == at(2026, 11, 20, 1, 0, 0)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2026, 11, 1)).map(lambda when: when.replace(microsecond=0)),
    st.integers(-12 * 60, 14 * 60),
)
def test_what_email_utils_writes_is_read(when: datetime, minutes: int) -> None:
    dated = when.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = format_datetime(dated).encode()
    assert seconds(text, NOW) == dated.timestamp()
    assert arrived(b"Received: from a by b; " + text + b"\r\n\r\n", NOW) == dated.timestamp()


NOISE = st.binary(max_size=300) | st.text("0123456789 ;:,+-()NovDateRcid\r\n", max_size=300).map(str.encode)


@given(NOISE, st.booleans())
@example(b"Received:" + b"(" * 4000 + b";" * 4000, False)
@example(b"Date: 1 Nov 2026 10:00 +9999\r\n\r\n", False)
def test_nothing_makes_it_raise(noise: bytes, cut: bool) -> None:
    begun = b"Received: a;1 Nov 2026 1:00 "
    for header in (noise, b"Received:" + noise, b"Date:" + noise + b"\r\n\r\n", begun + noise):
        found = arrived(header, NOW, cut)
        assert found is None or 0 <= found <= NOW + 86_400


def test_the_work_grows_no_faster_than_the_header() -> None:
    """Folded without end, or of brackets only: each octet is looked at a few times."""
    for hostile in (b"Received: a;" + b"\r\n 1" * 8000, b"Received: " + b"(" * 32000, b"\r\n".join([b"Date"] * 6000)):
        assert arrived(hostile + b"\r\n", NOW) is None

"""When a message arrived, as its header says it: by the topmost Received field, which the last server wrote, or else by
Date, which is the sender's word (RFC 5321 section 4.4, RFC 5322 section 3.3).

The header is a stranger's: nothing in it makes this raise, and a date that cannot be is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

_LONGEST = 4096
"""Octets of a field that are looked at, from its end."""
_AHEAD = 86_400.0
"""Seconds that a date may be ahead: clocks differ, and so do zones that nobody wrote down."""

_MONTHS = {name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_ZONES = {b"edt": -4, b"est": -5, b"cdt": -5, b"cst": -6, b"mdt": -6, b"mst": -7, b"pdt": -7, b"pst": -8}
"""RFC 5322 section 4.3; other letters mean UTC, as section 4.3 has it for zones that are not known."""

_COMMENT = re.compile(rb"\([^()]*\)")
_TIME = rb"(?P<h>\d{1,2})[:.](?P<m>\d{2})(?:[:.](?P<s>\d{2})(?:[.,]\d{1,9})?)?"
_ZONE = rb"(?:\s{0,9}(?P<zone>[+-]\d{4}|[A-Za-z]{1,5})\b)?"
_DATE = re.compile(
    rb"(?<!\d)(?P<d>\d{1,2})[\s-]{1,9}(?P<mon>[A-Za-z]{3})[A-Za-z]{0,6}[\s,-]{1,9}(?P<y>\d{2,4})[\s,]{1,9}"
    + _TIME
    + _ZONE
)
_ASCTIME = re.compile(
    rb"(?P<mon>[A-Za-z]{3})\s{1,9}(?P<d>\d{1,2})\s{1,9}"
    + _TIME
    + rb"(?:\s{1,9}(?P<zone>[A-Z]{1,5}))?\s{1,9}(?P<y>\d{4})"
)


def arrived(header: bytes, now: float, cut: bool = False) -> float | None:
    """Seconds since the epoch; None when no field says it. ``cut``: the header does not end where ``header`` does."""
    received = date = None
    for name, value in _fields(header, cut):
        if name == b"received" and received is None:
            received = value
            found = seconds(_behind(value), now)
            if found is not None:
                return found
        elif name == b"date" and date is None:
            date = value
        if received is not None and date is not None:
            break
    return None if date is None else seconds(date, now)


def seconds(text: bytes, now: float) -> float | None:
    """The date in ``text`` as seconds since the epoch; None when there is none, or one that cannot be at ``now``."""
    text = _plain(text)
    found = _DATE.search(text) or _ASCTIME.search(text)
    month = None if found is None else _MONTHS.get(found["mon"].lower())
    if found is None or month is None:
        return None
    year = int(found["y"])
    if len(found["y"]) < 4:
        # RFC 5322 section 4.3.
        year += 2000 if year < 50 else 1900
    try:
        # A leap second is the second before it.
        at = datetime(
            year, month, int(found["d"]), int(found["h"]), int(found["m"]), min(59, int(found["s"] or 0)), tzinfo=UTC
        )
    except ValueError:
        return None
    known = at.timestamp() - _offset(found["zone"] or b"")
    return known if 0 <= known <= now + _AHEAD else None


def _offset(zone: bytes) -> float:
    """How far ``zone`` is east of Greenwich, in seconds; 0 for none."""
    if zone[:1] in (b"+", b"-"):
        return (int(zone[1:3]) * 3600 + int(zone[3:5]) * 60) * (-1.0 if zone[:1] == b"-" else 1.0)
    return 3600.0 * _ZONES.get(zone.lower(), 0)


def _plain(value: bytes) -> bytes:
    """``value`` without its comments; they may hold semicolons, and dates."""
    value = value[-_LONGEST:]
    for _ in range(3):
        value = _COMMENT.sub(b" ", value)
    return value


def _behind(value: bytes) -> bytes:
    """What stands behind the last semicolon; nothing without one."""
    return _plain(value).rpartition(b";")[2] if b";" in value else b""


def _fields(header: bytes, cut: bool) -> Iterator[tuple[bytes, bytes]]:
    """Names in lower case and values, unfolded, from the top."""
    name, value = b"", [b""]
    for line in header.removesuffix(b"\n").split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            value.append(line)
            continue
        if name:
            yield name, b"".join(value)
        if not line:
            return
        name, colon, first = line.partition(b":")
        value = [first]
        name = name.strip().lower() if colon else b""
    if name and not cut:
        yield name, b"".join(value)

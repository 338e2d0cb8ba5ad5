"""How the command line shows things: strange names made harmless, numbers and times that fit a column."""

from __future__ import annotations

from time import localtime, strftime

_UNITS = "KMGTPE"


def printable(text: str) -> str:
    """``text`` with every sign that could move a cursor, change a colour or turn the reading direction written as an
    escape: names come from strangers."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def amount(octets: float) -> str:
    """Octets in at most six columns: ``812``, ``12.3K``, ``4.0G``."""
    if octets < 1000:
        return f"{octets:.0f}"
    place = 0
    while octets >= 999.95 and place < len(_UNITS):
        octets /= 1000
        place += 1
    return f"{octets:.1f}{_UNITS[place - 1]}"


def span(seconds: float) -> str:
    """A time in at most four columns: ``9s``, ``12m``, ``3h``, ``120d``."""
    whole = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def moment(seconds: float) -> str:
    """A time since the epoch as local time: ``2026-12-24 18:00:07``."""
    return strftime("%Y-%m-%d %H:%M:%S", localtime(seconds))

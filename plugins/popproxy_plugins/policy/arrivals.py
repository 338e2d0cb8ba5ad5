"""When messages arrived, remembered by their unique ids: a client that polls costs no TOP for what was asked before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from popproxy.api import MaildropEntry, SessionView

KEPT = 100_000
"""Messages of all users that are remembered; the one that was used longest ago goes first."""

_Key = tuple[str, str, bytes]


class Arrivals:
    """At most ``size`` arrivals of this worker. A unique id never names another message (RFC 1939 section 7), so
    nothing of it grows old."""

    __slots__ = ("_kept", "_size")

    def __init__(self, size: int = KEPT) -> None:
        self._size = size
        self._kept: OrderedDict[_Key, float | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(
        self, session: SessionView, entries: Mapping[int, MaildropEntry]
    ) -> tuple[dict[int, float | None], frozenset[int]]:
        """When ``entries`` arrived, by their numbers: seconds since the epoch, None where nobody can tell; and those of
        which it has to be asked first (Dates). What the entries say themselves is remembered."""
        known: dict[int, float | None] = {}
        unknown: list[int] = []
        news: list[tuple[_Key, float | None]] = []
        for number, entry in entries.items():
            key = None if entry.uid is None else (session.upstream or "", session.login or "", entry.uid)
            if entry.dated:
                known[number] = entry.arrived
                if key is not None:
                    news.append((key, entry.arrived))
            elif key is not None and key in self._kept:
                self._kept.move_to_end(key)
                known[number] = self._kept[key]
            else:
                unknown.append(number)
        # Last, so that a maildrop larger than all that is kept cannot push out what was just found.
        for key, arrived in news:
            self._kept[key] = arrived
            self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return known, frozenset(unknown)

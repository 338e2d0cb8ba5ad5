"""The maildrop as a client sees it when a plugin hides messages or announces other sizes.

Exists only when a plugin asks: it costs one LIST and one UIDL upstream per session. Numbers of hidden messages are
closed up; the map between both numberings holds for the whole session and is never kept longer (RFC 1939 section
5: message numbers are assigned at the beginning of the TRANSACTION state).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from popproxy.api.views import MaildropEntry, MaildropView


def parse_listing(body: bytes) -> dict[int, bytes]:
    """The rest, which may be empty, of each ``number rest`` line of a LIST or UIDL; other lines are left out."""
    rows: dict[int, bytes] = {}
    for line in body.split(b"\r\n"):
        number, _, rest = line.partition(b" ")
        if number.isdigit() and len(number) <= 10:
            rows[int(number)] = rest.strip()
    return rows


def view_of(listing: bytes, uids: bytes) -> MaildropView:
    """What LIST and UIDL said. A message without a readable size counts 0 octets."""
    names = parse_listing(uids)
    entries: dict[int, MaildropEntry] = {}
    for number, rest in parse_listing(listing).items():
        size = rest.split(b" ", 1)[0]
        octets = int(size) if size.isdigit() and len(size) <= 18 else 0
        entries[number] = MaildropEntry(number, octets, names.get(number) or None)
    return MaildropView(entries)


class Maildrop:
    """One session's maildrop, renumbered."""

    def __init__(self, view: MaildropView) -> None:
        self._entries = dict(view.entries)
        self._upstream: list[int] = []
        self._deleted: set[int] = set()
        self.kept: set[int] = set()
        """Upstream's numbers that the client has deleted and the upstream knows nothing of, answered or not."""
        self.unreadable = 0
        """Headers that the upstream refused; -1 as soon as it has sent one."""
        self._resized = False
        self._has_uids = any(entry.uid is not None for entry in view.entries.values()) or not view.entries
        self._close_up()

    def hide(self, numbers: frozenset[int]) -> None:
        """Leave these out (upstream's numbers)."""
        for number in numbers:
            self._entries.pop(number, None)
        self._close_up()

    def resize(self, number: int, octets: int) -> None:
        """Announce ``octets`` for the upstream's ``number``."""
        entry = self._entries.get(number)
        if entry is not None and octets >= 0:
            self._resized = True
            self._entries[number] = replace(entry, octets=octets)

    def grow(self, octets: int) -> None:
        """Announce ``octets`` more for every message."""
        if octets:
            self._resized = True
            self._entries = {
                number: replace(entry, octets=entry.octets + octets)
                for number, entry in self._entries.items()
            }

    def date(self, number: int, arrived: float | None) -> None:
        """The upstream's ``number`` arrived then; None when nobody knows."""
        self._entries[number] = replace(self._entries[number], arrived=arrived, dated=True)

    def undatable(self) -> None:
        """Nobody will know when those arrived that have no date."""
        for number in self.undated(self._entries):
            self.date(number, None)

    def undated(self, numbers: Iterable[int]) -> list[int]:
        """Those of ``numbers``, the upstream's, that are there and were never dated."""
        return [number for number in numbers if number in self._entries and not self._entries[number].dated]

    @property
    def view(self) -> MaildropView:
        """The messages that are not hidden so far, with what is announced for them, by the upstream's numbers."""
        return MaildropView(MappingProxyType(self._entries))

    @property
    def shown(self) -> Mapping[int, MaildropEntry]:
        """The same by the client's numbers."""
        return _Shown(self._upstream, self._entries)

    def octets(self, number: int) -> int | None:
        """What is announced for the upstream's ``number``; None when it is not there, or none was changed."""
        entry = self._entries.get(number) if self._resized else None
        return None if entry is None else entry.octets

    def _close_up(self) -> None:
        self._upstream = sorted(self._entries)

    def number(self, shown: int) -> int | None:
        """The upstream's number for the client's, or None when the client has no such message."""
        return self._upstream[shown - 1] if 0 < shown <= len(self._upstream) else None

    def mark(self, number: int) -> bool:
        """DELE was answered ``+OK`` for the upstream's ``number``. Whether it was there until now."""
        new = number not in self._deleted
        self._deleted.add(number)
        return new

    def reset(self) -> None:
        """The upstream took RSET."""
        self._deleted.clear()
        self.kept.clear()

    def _left(self) -> list[tuple[int, MaildropEntry]]:
        return [
            (place, self._entries[number])
            for place, number in enumerate(self._upstream, 1)
            if number not in self._deleted
        ]

    def stat(self) -> bytes:
        """The reply to STAT; messages marked as deleted are not counted (RFC 1939 section 5)."""
        left = self._left()
        return b"+OK %d %d\r\n" % (len(left), sum(entry.octets for _, entry in left))

    def list(self, shown: int | None) -> bytes:
        """The reply to LIST, whole or for one message."""
        if shown is not None:
            entry = self._one(shown)
            return _NO_MESSAGE if entry is None else b"+OK %d %d\r\n" % (shown, entry.octets)
        rows = b"".join(b"%d %d\r\n" % (place, entry.octets) for place, entry in self._left())
        return b"+OK\r\n" + rows + b".\r\n"

    def uidl(self, shown: int | None) -> bytes:
        """The reply to UIDL, whole or for one message."""
        if not self._has_uids:
            return b"-ERR UIDL is not available\r\n"
        if shown is not None:
            entry = self._one(shown)
            return _NO_MESSAGE if entry is None or entry.uid is None else b"+OK %d %b\r\n" % (shown, entry.uid)
        left = self._left()
        rows = b"".join(b"%d %b\r\n" % (place, entry.uid) for place, entry in left if entry.uid is not None)
        return b"+OK\r\n" + rows + b".\r\n"

    def _one(self, shown: int) -> MaildropEntry | None:
        number = self.number(shown)
        return None if number is None or number in self._deleted else self._entries[number]


class _Shown(Mapping[int, MaildropEntry]):
    """Entries by the client's numbers, which begin at 1 and have no gaps."""

    __slots__ = ("_entries", "_upstream")

    def __init__(self, upstream: list[int], entries: dict[int, MaildropEntry]) -> None:
        self._upstream = upstream
        self._entries = entries

    def __getitem__(self, number: int) -> MaildropEntry:
        if not 0 < number <= len(self._upstream):
            raise KeyError(number)
        return self._entries[self._upstream[number - 1]]

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self._upstream) + 1))

    def __len__(self) -> int:
        return len(self._upstream)


_NO_MESSAGE = b"-ERR No such message\r\n"
NO_MESSAGE = _NO_MESSAGE
"""The reply for a number the client does not have."""

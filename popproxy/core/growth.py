"""True sizes (promise 9): what plugins announced that messages grow by, and the upstream's words about sizes.

STAT, LIST and the status line of RETR are rewritten as they pass: line by line where they are long, never held.
A number that cannot be read is left as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from popproxy.api.plugin import Fail
from popproxy.core import hooks
from popproxy.core.chain import Chain
from popproxy.core.lies import check

if TYPE_CHECKING:
    from popproxy.core.session import Session

SIZED = frozenset({b"STAT", b"LIST", b"RETR", b"TOP"})
"""Verbs whose replies tell sizes, or are messages that grow."""

_ROW = re.compile(rb"^(\d{1,10} {1,30})(\d{1,18})(?=[ \r\n])", re.MULTILINE)
_LIST = re.compile(rb"\+OK +\d{1,10} +(\d{1,18})(?=[ \r])")
_STAT = re.compile(rb"\+OK +(\d{1,10}) +(\d{1,18})(?=[ \r])")
_OCTETS = re.compile(rb"(?<![^ (\[])(\d{1,18})(?= octets?\b)", re.IGNORECASE)
_LONGEST = 64
"""Octets in which number and size of a row have come, if it has any."""


class Growth:
    """The octets by plugin: those asked for at the login, and those of on_maildrop for the maildrop that is open."""

    __slots__ = ("_by_hook", "_by_verdict", "total")

    def __init__(self) -> None:
        self._by_hook: dict[str, int] = {}
        self._by_verdict: dict[str, int] = {}
        self.total = 0

    def fixed(self, plugin: str, octets: int) -> None:
        """What the plugin's ``growth`` returned."""
        self._by_hook[plugin] = octets
        self.total += octets

    def announced(self, plugin: str, octets: int) -> None:
        """A Grow of on_maildrop."""
        self._by_verdict[plugin] = self._by_verdict.get(plugin, 0) + octets
        self.total += octets

    def forget(self) -> None:
        """on_maildrop will be asked again."""
        self.total -= sum(self._by_verdict.values())
        self._by_verdict.clear()

    def of(self, plugin: str) -> int:
        """By how much the plugin makes each message longer."""
        return self._by_hook.get(plugin, 0) + self._by_verdict.get(plugin, 0)


def measure(session: Session, chain: Chain) -> Growth | None:
    """Ask the plugins, behind the login. None when one failed that is closed: no size that is told would be true."""
    growth = Growth()
    for entry in chain["growth"]:
        started = session.clock()
        try:
            octets = entry.call(session.seen())
            check(entry.hook, octets)
        except hooks.CONTAINED as error:
            hooks.report(session, entry, error)
            if entry.subscriber.fail is Fail.CLOSED:
                return None
            continue
        name, verdict = entry.subscriber.name, "modify" if octets else "pass"
        session.meter.plugin(name, entry.hook, verdict, session.clock() - started)
        growth.fixed(name, octets)
    return growth


def stat_line(line: bytes, growth: int) -> bytes:
    """The reply to STAT when each of its messages is ``growth`` octets larger."""
    found = _STAT.match(line)
    if found is None:
        return line
    octets = int(found[2]) + growth * int(found[1])
    return line[: found.start(2)] + b"%d" % octets + line[found.end(2) :]


def list_line(line: bytes, growth: int) -> bytes:
    """The reply to LIST with a message number."""
    found = _LIST.match(line)
    if found is None:
        return line
    return line[: found.start(1)] + b"%d" % (int(found[1]) + growth) + line[found.end(1) :]


def listing_line(line: bytes) -> bytes:
    """The first line of a LIST: a sum of octets in it would not be true any more."""
    return b"+OK\r\n" if _OCTETS.search(line) else line


def retr_line(line: bytes, growth: int, announced: int | None) -> bytes:
    """The status line of RETR: many servers say ``+OK 120 octets``, and some clients believe it. ``announced`` is what
    LIST says when the proxy makes it itself."""

    def true(found: re.Match[bytes]) -> bytes:
        return b"%d" % (int(found[1]) + growth if announced is None else announced)

    return _OCTETS.sub(true, line, count=1)


class Listing:
    """The sink for the rows of a LIST: each size grows as it passes. Keeps at most one unfinished row."""

    untouched = False

    def __init__(self, growth: int) -> None:
        self._growth = growth
        self._rest = b""
        self._amid = False

    def feed(self, chunk: bytes) -> bytes:
        """See Sink."""
        data = self._rest + chunk if self._rest else chunk
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        start = data.find(b"\n") + 1 if self._amid else 0
        if end:
            self._amid = False
        out = data[:start] + _ROW.sub(self._grown, data[start:end])
        if self._amid or len(self._rest) > _LONGEST:
            # What is still to come of the line are words: they pass as they are.
            out += self._rest if self._amid else _ROW.sub(self._grown, self._rest)
            self._rest = b""
            self._amid = True
        return out

    def finish(self) -> bytes:
        """See Sink. Nothing is kept here: a terminator stands behind a CRLF."""
        return b".\r\n"

    def _grown(self, row: re.Match[bytes]) -> bytes:
        return row[1] + b"%d" % (int(row[2]) + self._growth)

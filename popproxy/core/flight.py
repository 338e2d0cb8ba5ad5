"""Commands on their way: what a sent command expects back, and who looks at it.

An entry is a plain tuple because tens of thousands are made per second: (kind, verb index, time read, thing).
SINGLE and MULTI pass untouched and need no thing; CAREFUL has a Pending; LOCAL has the reply, or what makes it at
the moment it is due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from popproxy.wire.commands import VERBS, Command, Framing, Where

SINGLE, MULTI, CAREFUL, LOCAL = range(4)

FlightEntry = tuple[int, int, float, Any]


@dataclass(slots=True)
class Pending:
    """A command whose reply is looked at.

    ``sent`` went upstream, ``shown`` is what the client sent. ``collect`` gets (ok, status line, content) of a
    reply that never goes to the client as it is; ``after`` hears whether the reply was ``+OK``. Nothing is sent
    behind a ``barrier`` before it is answered. With ``cut`` not more than so many octets of the content are kept.
    """

    sent: Command
    shown: Command
    collect: Callable[[bool, bytes, bytes], None] | None = None
    after: Callable[[bool], None] | None = None
    quits: bool = False
    uploads: bool = False
    barrier: bool = False
    cut: int = 0


def stops(entry: FlightEntry) -> bool:
    """Whether nothing may be sent behind ``entry`` before it is answered."""
    return entry[0] == CAREFUL and bool(entry[3].barrier)


_LISTINGS = {VERBS[name].index for name in (b"CAPA", b"LANG", b"LIST", b"UIDL")}


def bears_message(entry: FlightEntry) -> bool:
    """Whether the client is owed a message for ``entry``, or a reply of a kind that may hold one."""
    multiline = entry[0] == MULTI or (entry[0] == CAREFUL and entry[3].shown.multiline)
    return multiline and entry[1] not in _LISTINGS


def _spellings(name: bytes) -> tuple[bytes, bytes]:
    return name, name.lower()


WHOLE_LINES: dict[bytes, tuple[int, int]] = {
    spelling + b"\r": (MULTI if verb.framing is not Framing.SINGLE else SINGLE, verb.index)
    for name, verb in VERBS.items()
    if Where.TRANSACTION in verb.where
    and verb.least == 0
    and not verb.fenced
    and name not in (b"QUIT", b"CAPA")
    for spelling in _spellings(name)
}
"""Lines without an argument (less their LF) that may pass as they are: kind and verb index."""

NUMBERED: dict[bytes, tuple[int, int]] = {
    spelling: (MULTI if verb.framing is Framing.MULTI else SINGLE, verb.index)
    for name, verb in VERBS.items()
    if verb.numbers and verb.most == 1 and not verb.fenced
    for spelling in _spellings(name)
}
"""Verbs whose line may pass as it is when one message number follows."""


def careful_entry(
    command: Command, shown: Command, now: float, collect: Callable[[bool, bytes, bytes], None], cut: int = 0
) -> FlightEntry:
    """An entry whose whole reply, or its first ``cut`` octets, go to ``collect``."""
    return (CAREFUL, command.verb.index, now, Pending(command, shown, collect, cut=cut))


def expected(
    command: Command,
    shown: Command,
    now: float,
    after: Callable[[bool], None] | None,
    barrier: bool,
    looked_at: bool,
) -> FlightEntry:
    """An entry for ``command`` sent for ``shown``; it passes untouched unless somebody has to look at its reply.

    TOP that is sent as RETR is cut to the lines the client asked for, and counted as what the client did.
    """
    verb = command.verb
    quits, uploads = verb.name == b"QUIT", verb.framing is Framing.UPLOAD
    cut = verb.name == b"RETR" and shown.verb.name == b"TOP"
    if after is None and not (quits or uploads or looked_at or cut):
        return (MULTI if command.multiline else SINGLE, verb.index, now, None)
    pending = Pending(command, shown, None, after, quits, uploads, barrier or quits or uploads)
    return (CAREFUL, shown.verb.index if cut else verb.index, now, pending)


LONGEST = 24
"""Octets of a line that ``common`` may be asked about: more than any line has that may pass as it is."""


@lru_cache(maxsize=2048)
def common(line: bytes) -> tuple[int, int] | None:
    """Kind and verb index of a line (less its LF) that may pass as it is: no argument, or one message number.

    All sessions say the same few lines, so what was found is kept; the caller asks about no line that is longer than
    ``LONGEST``."""
    known = WHOLE_LINES.get(line)
    if known is None:
        name, _, argument = line.partition(b" ")
        known = NUMBERED.get(name)
        if known is not None:
            digits = argument[:-1]
            if argument[-1:] != b"\r" or not digits.isdigit() or len(digits) > 10 or digits[0] == 48:
                return None
    return known

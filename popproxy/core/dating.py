"""The headers of messages whose dates a plugin wants (api.Dates): a ``TOP n 0`` for each, some of them under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from popproxy.core.dates import arrived
from popproxy.core.flight import careful_entry
from popproxy.core.limits import HEADER
from popproxy.core.maildrop import Maildrop
from popproxy.wire.commands import VERBS, Command

if TYPE_CHECKING:
    from popproxy.core.transaction import Transaction

_WINDOW = 32
"""Commands under way at most: more would not be faster, and the answers have to be read before anything else."""

_TRIES = 8
"""Refusals after which an upstream that has sent no header is taken for one without TOP, which is optional (RFC 1939
section 7). It is asked no more, for no message: a server may hang up on who says what it does not know."""


class Dating:
    """Dates ``numbers`` of ``drop``, the upstream's, then calls ``then``. The client's lines must wait meanwhile."""

    __slots__ = ("_drop", "_due", "_t", "_then", "_waiting")

    def __init__(self, t: Transaction, drop: Maildrop, numbers: Iterable[int], then: Callable[[], None]) -> None:
        self._t = t
        self._drop = drop
        self._waiting = deque(sorted(numbers))
        self._due = 0
        self._then = then

    def begin(self) -> None:
        """Ask for as many as may be under way."""
        t = self._t
        refused = self._drop.unreadable
        most = min(_WINDOW if refused < 0 else _TRIES - refused, t.limit)
        while self._waiting and self._due < most:
            number = self._waiting.popleft()
            self._due += 1
            asked = Command(VERBS[b"TOP"], b"%d 0" % number)

            def came(good: bool, line: bytes, header: bytes, number: int = number) -> None:
                self._came(number, good, header)

            t.queue(asked.line, careful_entry(asked, asked, t.s.clock(), came, cut=HEADER))

    def _came(self, number: int, good: bool, header: bytes) -> None:
        drop = self._drop
        self._due -= 1
        drop.date(number, arrived(header, self._t.s.plan.wall(), cut=len(header) >= HEADER))
        if good:
            drop.unreadable = -1
        elif drop.unreadable >= 0:
            drop.unreadable += 1
            if drop.unreadable == _TRIES:
                drop.undatable()
                self._waiting.clear()
        if self._waiting:
            self.begin()
        elif not self._due:
            self._then()

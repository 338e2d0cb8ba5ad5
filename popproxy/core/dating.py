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
        while self._waiting and self._due < min(_WINDOW, t.limit):
            number = self._waiting.popleft()
            self._due += 1
            asked = Command(VERBS[b"TOP"], b"%d 0" % number)

            def came(good: bool, line: bytes, header: bytes, number: int = number) -> None:
                self._came(number, header if good else b"")

            t.queue(asked.line, careful_entry(asked, asked, t.s.clock(), came, cut=HEADER))

    def _came(self, number: int, header: bytes) -> None:
        self._due -= 1
        self._drop.date(number, arrived(header, self._t.s.plan.wall(), cut=len(header) >= HEADER))
        if self._waiting:
            self.begin()
        elif not self._due:
            self._then()

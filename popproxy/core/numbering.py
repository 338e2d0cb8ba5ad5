"""Commands that name messages, when a plugin hides some or announces other sizes.

STAT, LIST and UIDL are answered here, at the moment their turn comes; RETR, TOP and DELE go upstream with the
upstream's number. The view is made before the first such command and holds for the whole session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from popproxy.api.verdicts import Hide, Sizes
from popproxy.core import hooks
from popproxy.core.chain import Entry
from popproxy.core.flight import careful_entry
from popproxy.core.maildrop import NO_MESSAGE, Maildrop, view_of
from popproxy.core.meter import DENIED, OK
from popproxy.wire.commands import VERBS, Command

if TYPE_CHECKING:
    from popproxy.core.transaction import Transaction

_NUMBERS = frozenset({b"STAT", b"LIST", b"UIDL", b"RETR", b"TOP", b"DELE", b"LAST", b"RSET"})


class Numbering:
    """The maildrop view of one session; exists only when a plugin subscribes to on_maildrop."""

    def __init__(self, transaction: Transaction) -> None:
        self.t = transaction
        self._drop: Maildrop | None = None

    def concerns(self, command: Command) -> bool:
        """Whether ``command`` depends on the view."""
        return command.verb.name in _NUMBERS

    def take(self, command: Command, shown: Command, now: float) -> None:
        """Answer ``command`` or send it on, as soon as the view is there."""
        if self._drop is None:
            self._load(lambda drop: self._through(drop, command, shown, now))
        else:
            self._through(self._drop, command, shown, now)

    def _through(self, drop: Maildrop, command: Command, shown: Command, now: float) -> None:
        t = self.t
        name = command.verb.name
        number = command.message
        local: dict[bytes, Callable[[], bytes]] = {
            b"STAT": drop.stat,
            b"LIST": lambda: drop.list(number),
            b"UIDL": lambda: drop.uidl(number),
            b"LAST": lambda: b"-ERR LAST is not available\r\n",
        }
        if name in local:
            t.s.count(command.verb.index, OK)
            t.local(local[name])
            return
        if name == b"RSET":
            t.send(command, shown, now, lambda good: drop.reset() if good else None)
            return
        theirs = drop.number(number or 0)
        if theirs is None:
            t.s.count(command.verb.index, DENIED)
            t.local(NO_MESSAGE)
            return
        words = (b"%d" % theirs, *command.arguments[1:])
        marks = (lambda good: drop.mark(theirs) if good else None) if name == b"DELE" else None
        t.send(Command(command.verb, b" ".join(words)), shown, now, marks)

    def _load(self, then: Callable[[Maildrop], None]) -> None:
        """LIST and UIDL upstream, then on_maildrop; the client's further commands wait."""
        t = self.t
        s = t.s
        found: list[bytes] = []

        def ask(verb: bytes) -> None:
            command = Command(VERBS[verb])
            t.queue(command.line, careful_entry(command, command, s.clock(), listed))

        def listed(good: bool, line: bytes, body: bytes) -> None:
            found.append(body if good else b"")
            if len(found) < 2:
                ask(b"UIDL")
                return
            view = view_of(found[0], found[1])
            drop = Maildrop(view)

            def use(entry: Entry, verdict: Any) -> bool:
                if isinstance(verdict, Hide):
                    drop.hide(verdict.messages)
                elif isinstance(verdict, Sizes):
                    for number, octets in verdict.octets.items():
                        drop.resize(number, octets)
                else:
                    # A closed plugin failed: nothing may be shown that it might have hidden.
                    drop.hide(frozenset(view.entries))
                return False

            def done() -> None:
                self._drop = drop
                t.resume()
                then(drop)
                t.moved(s.clock())

            hooks.call(s, t.chain["on_maildrop"], lambda: (s.view, view), use, done)

        t.busy = True
        ask(b"LIST")

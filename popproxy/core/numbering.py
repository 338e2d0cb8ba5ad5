"""Commands that name messages, when a plugin hides some or announces other sizes.

STAT, LIST and UIDL are answered here, at the moment their turn comes; RETR, TOP and DELE go upstream with the
upstream's number. The view is made before the first such command and holds for the whole session, or until another
maildrop is selected (XTND).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from popproxy.api.verdicts import Dates, Grow, Hide, Refuse, Sizes
from popproxy.core import hooks
from popproxy.core.chain import Entry
from popproxy.core.dating import Dating
from popproxy.core.flight import careful_entry
from popproxy.core.lies import Lie
from popproxy.core.maildrop import NO_MESSAGE, Maildrop, view_of
from popproxy.core.meter import DENIED, ERR, OK
from popproxy.wire.commands import VERBS, Command
from popproxy.wire.replies import err, ok

if TYPE_CHECKING:
    from popproxy.core.transaction import Transaction

_OWN = frozenset({b"STAT", b"LIST", b"UIDL"})
_CLOSED = frozenset({b"LAST", b"XTND XLST"})
_SELECT = frozenset({b"XTND ARCHIVE", b"XTND BBOARDS", b"XTND X-BBOARDS"})


class Numbering:
    """The maildrop view of one session; exists only when a plugin subscribes to on_maildrop."""

    __slots__ = ("_drop", "t")

    def __init__(self, transaction: Transaction) -> None:
        self.t = transaction
        self._drop: Maildrop | None = None

    def concerns(self, command: Command) -> bool:
        """Whether ``command`` depends on the view."""
        name = command.verb.name
        if name in _SELECT:
            return not command.multiline
        return command.verb.numbers or name in _OWN or name in _CLOSED or name == b"RSET"

    def take(self, command: Command, shown: Command, now: float) -> None:
        """Answer ``command`` or send it on, as soon as the view is there."""
        t, name = self.t, command.verb.name
        if name in _CLOSED:
            # They tell the upstream's numbers, which mean nothing to this client.
            t.s.count(command.verb.index, DENIED)
            t.local(err(f"{command.name} is not served in this session", b"SYS/PERM"))
        elif name in _SELECT:
            t.send(command, shown, now, self._selected, barrier=True)
        elif name == b"RSET":
            # What follows may name a message that is to be there again.
            t.send(command, shown, now, self._reset, barrier=self._drop is not None)
        else:
            self._with(command, lambda drop: self._through(drop, command, shown, now))

    def keep(self, command: Command, shown: Command, text: str, now: float) -> None:
        """Answer DELE with ``+OK text``, whatever becomes of the message."""
        self._with(command, lambda drop: self._through(drop, command, shown, now, text))

    def undated(self, messages: Iterable[int]) -> list[int] | None:
        """The upstream's numbers of those of ``messages``, the client's, that have no date; None without a view."""
        drop = self._drop
        return None if drop is None else drop.undated(drop.number(number) or 0 for number in messages)

    def lacks(self, number: int | None) -> bool:
        """Whether it is known that there is no message with the client's ``number``."""
        return number is not None and self._drop is not None and self._drop.number(number) is None

    def date(self, messages: Iterable[int], command: Command, then: Callable[[], None]) -> None:
        """Date these messages, the client's numbers, before ``command`` is decided about; its further lines wait."""

        def ready(drop: Maildrop) -> None:
            undated = self.undated(messages)
            if undated:
                self.t.busy = True
                Dating(self.t, drop, undated, then).begin()
            else:
                then()

        self._with(command, ready)

    def octets(self, number: int | None) -> int | None:
        """What is announced for the upstream's ``number``; None when that is what the upstream itself says."""
        return None if self._drop is None or number is None else self._drop.octets(number)

    def _selected(self, good: bool) -> None:
        """Another maildrop is open: every number means another message (RFC 1082)."""
        if good:
            self._drop = None
            self.t.s.view.maildrop = {}

    def _reset(self, good: bool) -> None:
        if good and self._drop is not None:
            self._drop.reset()

    def _with(self, command: Command, ready: Callable[[Maildrop], None]) -> None:
        """Call ``ready`` when the view is there; when none can be had, that is the answer to ``command``."""
        if self._drop is None:
            self._load(command, ready)
        else:
            ready(self._drop)

    def _through(self, drop: Maildrop, command: Command, shown: Command, now: float, kept: str | None = None) -> None:
        t, verb, number = self.t, command.verb, command.message
        own: dict[bytes, Callable[[], bytes]] = {
            b"STAT": drop.stat,
            b"LIST": lambda: drop.list(number),
            b"UIDL": lambda: drop.uidl(number),
        }
        make = own.get(verb.name)
        if make is not None:
            t.local(lambda: self._counted(verb.index, make(), now))
            return
        theirs = drop.number(number or 0)
        if theirs is None or theirs in drop.kept:
            t.local(lambda: self._counted(verb.index, NO_MESSAGE, now))
            return
        if kept is not None:
            drop.kept.add(theirs)
            t.local(lambda: self._kept(drop, theirs, verb.index, kept, now))
            return
        words = (b"%d" % theirs, *command.arguments[1:])

        def deleted(good: bool) -> None:
            if good:
                drop.mark(theirs)

        t.send(Command(verb, b" ".join(words)), shown, now, deleted if verb.name == b"DELE" else None)

    def _kept(self, drop: Maildrop, number: int, verb: int, text: str, read: float) -> bytes:
        """The answer to a DELE that goes nowhere, when its turn has come."""
        good = drop.mark(number)
        self.t.s.kept += good
        return self._counted(verb, ok(text) if good else NO_MESSAGE, read)

    def _counted(self, verb: int, reply: bytes, read: float) -> bytes:
        """``reply``, which goes out now, to a command that was read at ``read``: making the view is in its time."""
        s = self.t.s
        outcome = OK if reply.startswith(b"+") else ERR
        s.count(verb, outcome)
        s.meter.latency(verb, s.clock() - read, 1, outcome)
        return reply

    def _load(self, command: Command, ready: Callable[[Maildrop], None]) -> None:
        """LIST and UIDL upstream, then on_maildrop; the client's further commands wait."""
        t = self.t
        s = t.s
        found: list[bytes] = []
        read = s.clock()

        def ask(verb: bytes) -> None:
            asked = Command(VERBS[verb])
            t.queue(asked.line, careful_entry(asked, asked, s.clock(), listed))

        def listed(good: bool, line: bytes, body: bytes) -> None:
            if not found and not good:
                # Without its LIST nobody knows what may be shown: the client hears what the upstream said.
                t.resume()
                t.local(lambda: self._counted(command.verb.index, line, read))
                return
            found.append(body if good else b"")
            if len(found) < 2:
                ask(b"UIDL")
            else:
                self._judge(found[0], found[1], command, ready, read)

        t.busy = True
        ask(b"LIST")

    def _judge(
        self, listing: bytes, uids: bytes, command: Command, ready: Callable[[Maildrop], None], read: float
    ) -> None:
        """on_maildrop, then the command that waits for the view."""
        t = self.t
        s = t.s
        growth = t.growth
        growth.forget()
        drop = Maildrop(view_of(listing, uids))
        drop.grow(growth.total)
        entries = t.chain["on_maildrop"]
        broken: list[Refuse] = []
        again: list[tuple[Entry, list[int]]] = []

        def use(entry: Entry, verdict: Any) -> bool:
            if isinstance(verdict, Hide):
                drop.hide(verdict.messages)
            elif isinstance(verdict, Sizes):
                for number, octets in verdict.octets.items():
                    drop.resize(number, octets)
            elif isinstance(verdict, Grow):
                drop.grow(verdict.octets)
                growth.announced(entry.subscriber.name, verdict.octets)
            elif isinstance(verdict, Dates):
                undated = drop.undated(verdict.messages)
                if not undated:
                    raise Lie("Dates: all of these are dated, or are not there")
                again.append((entry, undated))
            else:
                broken.append(verdict)
            return bool(broken or again)

        def ask(entries: tuple[Entry, ...]) -> None:
            hooks.call(s, entries, lambda: (s.seen(), drop.view), use, then)

        def then() -> None:
            if again:
                entry, undated = again.pop()
                Dating(t, drop, undated, lambda: ask(entries[entries.index(entry) :])).begin()
                if not t.answers.reading:
                    t.moved(s.clock())
                return
            t.resume()
            if broken:
                # Nothing may be shown that the plugin might have hidden; the next command tries again.
                t.local(lambda: self._counted(command.verb.index, hooks.BROKEN_LINE, read))
            else:
                self._drop = drop
                s.view.maildrop = drop.shown
                ready(drop)
            if not t.answers.reading:
                t.moved(s.clock())

        ask(entries)

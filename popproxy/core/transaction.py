"""The TRANSACTION stage (RFC 1939 section 5): the client's commands on their way upstream.

Common lines pass as they are: a table look-up each, and one ``bytes`` object for a whole run of them. Whatever
else comes (hooks, CAPA, QUIT, odd spelling, an upstream without PIPELINING) takes the careful road, in order.
Replies come back in core/answers.py. Nothing is sent while octets from upstream are still being looked at: a reply
that nobody asked for must never meet a command that was sent behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf, isfinite
from typing import TYPE_CHECKING

from popproxy.core.answers import Answers
from popproxy.core.awaited import Awaited
from popproxy.core.chain import Chain
from popproxy.core.effects import Paced
from popproxy.core.failures import Failure
from popproxy.core.flight import (
    CAREFUL,
    LOCAL,
    LONGEST,
    SINGLE,
    FlightEntry,
    bears_message,
    careful_entry,
    common,
    expected,
    stops,
)
from popproxy.core.growth import SIZED, Growth, measure
from popproxy.core.meter import DENIED, MALFORMED
from popproxy.core.needs import narrow, paces
from popproxy.core.numbering import Numbering
from popproxy.core.phases import CLOSED
from popproxy.core.screen import screen
from popproxy.wire.commands import OTHER, VERBS, BadCommand, Command, Where, content, split
from popproxy.wire.framer import BodyScanner
from popproxy.wire.replies import err

if TYPE_CHECKING:
    from popproxy.core.session import Session

_WATCHING = ("on_command", "on_reply", "open_body", "on_message", "on_maildrop")
"""Hooks for which a command, or its reply, is looked at."""


class Transaction:
    """See the head of this file.

    ``flight`` holds what is sent and not answered, ``backlog`` what must wait for it, ``rest`` octets of the client
    that nobody has looked at; ``busy`` while an async hook or the maildrop's listing is awaited; ``upload`` while
    the client sends a message (XTND XMIT).
    """

    __slots__ = (
        "answers",
        "backlog",
        "busy",
        "chain",
        "flight",
        "growth",
        "idle",
        "limit",
        "numbering",
        "patience",
        "pipelining",
        "plain",
        "rest",
        "s",
        "upload",
        "upstream",
    )

    def __init__(self, session: Session, pipelining: bool) -> None:
        plan = session.plan
        self.s = session
        chain: Chain = plan.chain.select(session.view, session.user)
        narrowed = narrow(session, chain) if chain.hooks["unneeded"] else chain
        self.chain = chain = chain if narrowed is None else narrowed
        self.pipelining = pipelining and plan.pipelining
        self.flight: deque[FlightEntry] = deque()
        self.backlog: deque[tuple[bytes, FlightEntry]] = deque()
        self.limit = plan.limits.pipeline
        self.idle = plan.timeouts.idle
        self.patience = plan.timeouts.command
        self.rest = b""
        self.busy = False
        self.upload: BodyScanner | None = None
        hooks = chain.hooks
        measured = measure(session, chain) if hooks["growth"] and narrowed is not None else Growth()
        self.growth: Growth = measured or Growth()
        self.plain = not (self.growth.total or any(map(hooks.__getitem__, _WATCHING)))
        self.numbering = Numbering(self) if hooks["on_maildrop"] else None
        self.answers = Answers(self)
        self.upstream: Callable[[bytes], None] = self.answers.data
        """See Stage."""
        wanted = paces(session, chain) if hooks["pace"] and narrowed is not None else ()
        if wanted:
            session.effects.append(Paced(wanted))
        if narrowed is None:
            session.leave("policy", "a plugin failed to tell what it needs")
        elif measured is None:
            session.leave("policy", "a plugin failed to tell its growth")
        elif wanted is None:
            session.leave("policy", "a plugin failed to tell its pace")

    # Stage

    def begin(self, rest: bytes) -> None:
        """The login was answered; ``rest`` is what the client sent behind it."""
        self.s.want_client = self.s.want_upstream = True
        self.clocked(self.s.clock())
        if rest:
            self.client(rest)

    def client(self, data: bytes) -> None:
        """Octets from the client."""
        s = self.s
        if (
            self.plain and s.want_upstream and self.upload is None
            and not (self.flight or self.rest or self.backlog or s.blocked or s.deaf)
        ):  # fmt: skip
            # The shortest way for what comes most: one common line, and nobody else under way.
            known = common(data[:-1]) if len(data) <= LONGEST and data[-1:] == b"\n" else None
            if known is not None:
                now = s.clock()
                self.flight.append((known[0], known[1], now, None))
                s.to_upstream.append(data)
                s.deadline = now + self.patience
                s.want_client = self.limit > 1
                return
        if self.upload is not None:
            self._uploading(self.upload, data)
        elif not s.deaf:
            if self.rest:
                data = self.rest + data
                self.rest = b""
            self._commands(data)

    def upstream_gone(self, failure: Failure) -> None:
        """The upstream is lost."""
        self.answers.gone(failure)

    def expired(self) -> None:
        """The deadline passed: who was to move?"""
        if self.s.blocked or self.answers.pouring:
            self.s.end("client_stalled", "the client took nothing in time")
        elif self.answers.careful.waiting:
            now = self.s.clock()
            self.answers.pours.keep_alive(now)
            self.clocked(now)
        elif self.flight:
            self.answers.too_late()
        else:
            self.s.end("idle_timeout", "no command in time")

    def owes(self) -> bool:
        """Whether the client still has a reply to come."""
        if self.flight or self.backlog or self.busy or self.answers.waiting:
            return True
        if self.s.half_closed or self.upload is None:
            return not self.s.deaf and b"\n" in self.rest
        return True

    def drained(self) -> None:
        """The client has room: go on with what waited for it."""
        self.answers.drained()

    def stalled(self) -> None:
        """Who takes nothing is not heard; who takes again is."""
        self.moved(self.s.clock())

    def awaits(self, now: float) -> Awaited:
        """See Stage. The deadline tells since when: it is set anew whenever somebody has moved."""
        s, a = self.s, self.answers
        if s.blocked or a.paused or a.pours.source is not None:
            return Awaited("client", _since(now, s.deadline - self.idle))
        if a.careful.waiting:
            return Awaited("proxy")
        if self.flight:
            return Awaited("upstream", _since(now, s.deadline - self.patience))
        if self.busy:
            return Awaited("proxy")
        return Awaited("client", _since(now, s.deadline - self.idle))

    def quitting(self) -> bool:
        """See Stage."""
        due = [*self.flight, *(entry for _, entry in self.backlog)]
        if not due or self.answers.paused or self.answers.pours.source is not None:
            return False
        kind, _, _, last = due[-1]
        return kind == CAREFUL and last.quits and not any(map(bears_message, due))

    def close(self) -> None:
        """Give back what is held; nothing goes upstream any more."""
        self.rest = b""
        self.backlog.clear()
        self.answers.close()

    # The clock

    def clocked(self, now: float) -> None:
        """Give whoever is to move now its time."""
        s = self.s
        if s.phase is CLOSED:
            return
        a = self.answers
        if s.blocked or (not s.want_upstream and a.pouring):
            s.deadline = now + self.idle
        elif not s.want_upstream and a.careful.waiting:
            s.deadline = a.pours.alive
        elif self.flight:
            s.deadline = now + self.patience
        else:
            s.deadline = inf if self.busy else now + self.idle

    def suspend(self) -> None:
        """An outcome is awaited: the client's further lines wait."""
        self.busy = True
        if not self.flight:
            self.clocked(self.s.clock())

    def resume(self) -> None:
        """The outcome is there. Whoever calls this calls moved() when it has been made use of."""
        self.busy = False

    # The client's lines

    def _held(self) -> bool:
        """Whether no line of the client may be looked at now."""
        s = self.s
        return (
            self.busy
            or s.deaf
            or s.blocked
            or self.upload is not None
            or self.answers.pouring
            or (bool(self.flight) and stops(self.flight[-1]))
            or (bool(self.backlog) and stops(self.backlog[-1][1]))
        )

    def _commands(self, data: bytes) -> None:
        """Take as many lines as may be taken now; keep what is left."""
        s = self.s
        waiting = len(self.flight) + len(self.backlog)
        now = s.clock()
        taken = False
        self.answers.said = 0
        held = self._held()
        while data and not held:
            room = self.limit - len(self.flight) - len(self.backlog)
            lines = data.split(b"\n", room) if room > 0 else [data]
            lines.pop()
            if not lines:
                break
            taken = True
            place, held = self._lines(data, lines, now)
            data = data[place:] if place < len(data) else b""
        if taken:
            due = len(self.flight) + len(self.backlog)
            if due > 1 or waiting:
                s.meter.pipelined[0] += max(0, due - (waiting or 1))
            if not waiting:
                self.clocked(now)
        self._keep(data, held)

    def _keep(self, data: bytes, held: bool) -> None:
        """What is left: an unfinished line, or lines that have to wait."""
        s = self.s
        if s.deaf:
            # Behind QUIT, or an end: it is read, so that the client's end is seen, and counts no more.
            s.want_client = True
            return
        self.rest = data
        # Who waits for the proxy itself is read a little further: a client that is gone is not waited for.
        may = not held or (self.busy and len(data) <= s.plan.limits.line)
        s.want_client = may and len(self.flight) + len(self.backlog) < self.limit
        if s.want_client and len(data) > s.plan.limits.line:
            self.rest = b""
            self._overlong()

    def _overlong(self) -> None:
        """A line is too long, whether its end has come or not: answered in its turn, and the last one."""
        s = self.s
        s.meter.violation("client", "overlong")
        s.leave("protocol_error", "overlong line")
        self.local(err(f"Line longer than {s.plan.limits.line} octets"))

    def _lines(self, data: bytes, lines: list[bytes], now: float) -> tuple[int, bool]:
        """Send ``lines``, which are the beginning of ``data``: the offset of the first that has to wait, and whether
        no line may be looked at any more. It begins when one may."""
        s = self.s
        flight = self.flight
        start = place = 0
        held = False
        fast = self._fast()
        for line in lines:
            if fast:
                known = common(line) if len(line) <= LONGEST else None
                if known is not None:
                    flight.append((known[0], known[1], now, None))
                    place += len(line) + 1
                    fast = self.pipelining
                    continue
            if start < place:
                s.to_upstream.append(data[start:place])
                start = place
            if held:
                return place, True
            start = place = place + len(line) + 1
            self._line(line + b"\n", now)
            held = self._held()
            fast = not held and self._fast()
        if start == 0 and place == len(data):
            s.to_upstream.append(data)
        elif start < place:
            s.to_upstream.append(data[start:place])
        return place, held

    def _fast(self) -> bool:
        """Whether a common line may pass as it is. Decided anew behind every line that did not."""
        return self.plain and not self.backlog and (self.pipelining or not self.flight)

    def _line(self, line: bytes, now: float) -> None:
        """One line on the careful road."""
        s = self.s
        if len(line) > s.plan.limits.line:
            self._overlong()
            return
        try:
            command = Command(*split(content(line, s.plan.bare_lf), s.plan.verbs))
        except BadCommand as bad:
            index = bad.verb.index if bad.verb is not None else OTHER
            self.local(s.bad_command(index, MALFORMED, bad.kind, str(bad)))
            return
        verb = command.verb
        if verb.fenced and verb.name not in s.plan.opened:
            self.local(s.bad_command(verb.index, DENIED, "", f"{command.name} is not served here"))
        elif Where.TRANSACTION not in verb.where:
            # STLS, USER, PASS and AUTH behind a login are refused here, never relayed.
            self.local(s.bad_command(verb.index, MALFORMED, "phase", f"{command.name} is not valid now"))
        elif self.chain["on_command"]:
            screen(self, command, now)
        else:
            self.mapped(command, command, now)

    # The road upstream

    def mapped(self, command: Command, shown: Command, now: float) -> None:
        """``command`` goes on, its message numbers through the maildrop view when a plugin asked for one."""
        if self.numbering is not None and self.numbering.concerns(command):
            self.numbering.take(command, shown, now)
        else:
            self.send(command, shown, now)

    def send(
        self,
        command: Command,
        shown: Command,
        now: float,
        after: Callable[[bool], None] | None = None,
        *,
        barrier: bool = False,
    ) -> None:
        """Send ``command``; ``after`` hears whether it was answered ``+OK``. Nothing passes a ``barrier``."""
        name = command.verb.name
        if name == b"CAPA":
            entry = careful_entry(command, shown, now, self.answers.careful.capabilities)
        else:
            entry = expected(command, shown, now, after, barrier, self._looked_at(name))
        self.queue(command.line, entry)
        if name == b"QUIT":
            self.s.deaf = True

    def _looked_at(self, name: bytes) -> bool:
        """Whether somebody looks at the reply to this verb."""
        chain = self.chain
        if chain["on_reply"] or (name in SIZED and self.growth.total):
            return True
        return name in (b"RETR", b"TOP") and bool(chain["open_body"] or chain["on_message"])

    def queue(self, line: bytes, entry: FlightEntry) -> None:
        """Send ``line`` when its turn comes; ``entry`` is what it expects back."""
        if self.backlog or self.answers.reading or self._must_wait():
            self.backlog.append((line, entry))
        else:
            self._dispatch(line, entry)

    def _must_wait(self) -> bool:
        """Whether what is in flight must be answered before anything else is sent."""
        return bool(self.flight) and (not self.pipelining or stops(self.flight[-1]))

    def _dispatch(self, line: bytes, entry: FlightEntry) -> None:
        if entry[0] == LOCAL and not self.flight and not self.answers.waiting:
            self.answers.say(entry[3])
            return
        if line:
            self.s.to_upstream.append(line)
        self.flight.append(entry)
        if entry[0] == CAREFUL and entry[3].quits:
            self.answers.quit_due()

    def local(self, reply: bytes | Callable[[], bytes]) -> None:
        """A reply of the proxy's own, in its turn."""
        self.queue(b"", (LOCAL, OTHER, 0.0, reply))

    def moved(self, now: float) -> None:
        """Something changed: send what waited for it, take more lines when there is room, set the clock."""
        s = self.s
        if s.phase is CLOSED:
            return
        while self.backlog and not self._must_wait():
            self._dispatch(*self.backlog.popleft())
        if self.rest and (self.upload is not None or not self._held()):
            rest, self.rest = self.rest, b""
            self.client(rest)
        elif not s.want_client:
            room = len(self.flight) + len(self.backlog) < self.limit
            s.want_client = s.deaf or (room and not self._held())
        if s.deaf:
            self.answers.quit_due()
        self.clocked(now)

    # XTND XMIT

    def start_upload(self) -> None:
        """It was answered ``+OK``: the client's next octets are a message."""
        self.upload = BodyScanner()
        self.s.want_client = True

    def _uploading(self, scanner: BodyScanner, data: bytes) -> None:
        """The client's message, as it is; the reply to it comes behind its terminator (RFC 1082's XTND XMIT)."""
        s = self.s
        end = scanner.scan(data)
        if end < 0:
            s.to_upstream.append(data)
        else:
            s.to_upstream.append(data[:end])
            self.upload = None
            self.flight.append((SINGLE, VERBS[b"XTND XMIT"].index, s.clock(), None))
            if end < len(data):
                self.client(data[end:])
        self.clocked(s.clock())


def _since(now: float, began: float) -> float | None:
    """Seconds; None when no deadline was set."""
    return max(0.0, now - began) if isfinite(began) else None

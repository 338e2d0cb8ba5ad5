"""Replies on their way to the client: matched to commands strictly in order, framed, and passed untouched.

A chunk from upstream leaves as the very same ``bytes`` object unless something in it has to change. Octets that no
command asked for, and lines that are no status line, break the session: they are never taken for a reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from popproxy.core.body import Sink
from popproxy.core.careful import Careful
from popproxy.core.failures import Failure, Kind
from popproxy.core.flight import CAREFUL, LOCAL, MULTI
from popproxy.core.limits import BURST
from popproxy.core.meter import ERR, OK, TIMEOUT, UPSTREAM_LOST
from popproxy.core.phases import CLOSED, Phase
from popproxy.core.pouring import Pouring
from popproxy.wire.framer import BodyScanner, body_end
from popproxy.wire.replies import err, parse_status

if TYPE_CHECKING:
    from popproxy.core.transaction import Transaction

_LOST = "Connection to the mail server lost"
_LOST_QUIT = "Connection to the mail server lost; some deletions may not be done"


class Answers:
    """The upstream half of the TRANSACTION stage.

    ``sink`` takes the content of the multi-line reply under way, None passes it. ``held`` are octets that wait: for
    the end of a status line, for a hook, or until the client has room (``waiting``). ``paused``: the proxy's own
    replies wait for the client, more than BURST of them was ``said`` at once. ``reading`` while octets are looked at.
    """

    __slots__ = (
        "_all_ok",
        "_limit",
        "_since",
        "_status",
        "careful",
        "held",
        "lost",
        "paused",
        "pours",
        "reading",
        "said",
        "scanner",
        "sink",
        "size",
        "streaming",
        "t",
    )

    def __init__(self, transaction: Transaction) -> None:
        self.t = transaction
        self.held = b""
        self.sink: Sink | None = None
        self.streaming = False
        self.reading = False
        self.paused = False
        self.said = 0
        self.size = 0
        self.lost: Failure | None = None
        self.careful = Careful(self)
        self.pours = Pouring(self)
        self.scanner = BodyScanner()
        self._since = 0.0
        self._limit = transaction.s.plan.limits.reply
        self._all_ok = _all_ok(self._limit)
        self._status = _status(self._limit)

    @property
    def pouring(self) -> bool:
        """Whether something waits until the client has room."""
        return self.paused or self.pours.source is not None

    @property
    def waiting(self) -> bool:
        """Whether upstream octets must wait. While they must, the session's ``want_upstream`` is not set."""
        return self.careful.waiting or self.paused or self.pours.source is not None

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self.t.s.phase is CLOSED

    def data(self, data: bytes) -> None:
        """Octets from upstream."""
        t = self.t
        s = t.s
        if self.held:
            data = self.held + data
            self.held = b""
        if not s.want_upstream and self.waiting:
            self._set_aside(data)
            return
        now = s.clock()
        self.said = 0
        flight = t.flight
        # Two that are single: otherwise it is not worth a look at all of the chunk.
        several = len(flight) > 1 and not (flight[0][0] or flight[1][0] or self.streaming)
        if not (several and self._all_good(data, now)):
            self.reading = True
            self._replies(data, now)
            self.reading = False
        if s.want_client and not (t.backlog or t.rest or s.deaf):
            # Nothing has waited for this.
            t.clocked(now)
        else:
            t.moved(now)

    def _all_good(self, data: bytes, now: float) -> bool:
        """The fast road: nothing but positive single lines, as many as single-line replies are due."""
        t = self.t
        flight = t.flight
        replies = data.count(b"\n")
        if replies > len(flight) or self._all_ok.fullmatch(data) is None:
            return False
        for entry in islice(flight, replies):
            if entry[0]:
                return False
        count = t.s.count
        verb, since, run = -1, 0.0, 0
        for _ in range(replies):
            _, index, at, _ = flight.popleft()
            if index == verb and at == since:
                run += 1
            else:
                if run:
                    count(verb, OK, run, now - since)
                verb, since, run = index, at, 1
        count(verb, OK, run, now - since)
        t.s.to_client.append(data)
        if flight:
            self.locals()
        return True

    def _replies(self, data: bytes, now: float) -> None:
        t = self.t
        s = t.s
        flight = t.flight
        out = s.to_client
        status = self._status
        start = place = 0
        size = len(data)
        while place < size and flight:
            if self.streaming:
                end = self.scanner.scan(data, place)
                stop = size if end < 0 else end
                self.size += stop - place
                if self.sink is None:
                    place = stop
                    if end >= 0:
                        self.streamed(now)
                    else:
                        break
                else:
                    self.careful.pour_in(self.sink, data[place:stop], end >= 0, now)
                    place = start = stop
            else:
                line = status(data, place)
                if line is None:
                    break
                behind = line.end()
                good = line.lastindex is None
                kind, verb, at, thing = flight[0]
                if kind == CAREFUL:
                    if start < place:
                        out.append(data[start:place])
                    self.careful.reply(thing, data[place:behind], good, now)
                    place = start = behind
                else:
                    s.count(verb, OK if good else ERR, 1, now - at)
                    place = behind
                    if kind == MULTI and good:
                        place = body_end(data, behind - 2)
                        if place < 0:
                            place = size
                            self.stream(None, now, data, size - behind)
                            break
                        s.meter.transfer(verb, 0.0, place - behind)
                    flight.popleft()
                    if not flight or flight[0][0] != LOCAL:
                        continue
            if s.phase is CLOSED:
                return
            if flight and flight[0][0] == LOCAL and not self.streaming:
                if start < place:
                    out.append(data[start:place])
                    start = place
                self.locals()
            if self.waiting:
                break
        if start == 0 and place == size:
            out.append(data)
        elif start < place:
            out.append(data[start:place])
        if place < size:
            if self.waiting:
                self._set_aside(data[place:])
            else:
                self._unfinished(data, place)

    def _set_aside(self, data: bytes) -> None:
        """Octets that must wait. What no command can have asked for is a fault already, which only comes out later:
        a command that is sent meanwhile must not get it for a reply."""
        self.t.s.want_upstream = False
        if not data:
            return
        decided = int(self.careful.whole)
        if any(entry[0] != LOCAL for entry in islice(self.t.flight, decided, None)):
            self.held = data
        elif self.lost is None:
            self.lost = self._unasked(data)

    def _unfinished(self, data: bytes, place: int) -> None:
        """Something is left: the beginning of a status line, or a fault."""
        fault = self._fault(data, place)
        if fault is None:
            self.held = data[place:]
            return
        if fault.kind is not Kind.UNASKED:
            self.t.s.meter.violation("upstream", "overlong" if fault.kind is Kind.OVERLONG else "status")
        self.fail(fault, UPSTREAM_LOST)

    def _unasked(self, data: bytes) -> Failure:
        self.t.s.meter.violation("upstream", "unasked")
        return Failure(Kind.UNASKED, f"octets that nobody asked for: {_described(data)}")

    def _fault(self, data: bytes, place: int) -> Failure | None:
        """Why there is no status line at ``place``; None when it only has not come whole."""
        if not self.t.flight:
            return self._unasked(data[place:])
        end = data.find(b"\n", place)
        head = data[place : place + 5] if end < 0 else data[place : min(end + 1, place + 5)]
        begun = any(known.startswith(head[: len(known)]) for known in _BEGINNINGS)
        if begun and (len(data) if end < 0 else end + 1) - place > self._limit:
            return Failure(Kind.OVERLONG, f"a status line of more than {self._limit} octets")
        if begun and end < 0:
            return None
        return Failure(Kind.PROTOCOL, f"not a status line: {_described(data[place:])}")

    # Replies of more than one line

    def stream(self, sink: Sink | None, now: float, begun: bytes = b"\r\n", size: int = 0) -> None:
        """A multi-line reply begins; its content goes to ``sink``, None passes it. ``size`` octets of the content have
        passed already, at the end of ``begun``."""
        self.sink = sink
        self.streaming = True
        self.scanner = BodyScanner(begun[-4:])
        self.careful.begin()
        self.size = size
        self._since = now
        self.t.s.enter(Phase.STREAMING)

    def streamed(self, now: float) -> None:
        """The reply under way has come whole."""
        t = self.t
        self.streaming = False
        self.sink = None
        entry = t.flight.popleft()
        t.s.meter.transfer(entry[1], now - self._since, self.size)
        t.s.enter(Phase.TRANSACTION)

    # What waits

    def say(self, reply: bytes | Callable[[], bytes]) -> None:
        """A reply of the proxy's own, now."""
        data = reply if isinstance(reply, bytes) else reply()
        s = self.t.s
        s.to_client.append(data)
        self.said += len(data)
        if self.said > BURST:
            self.paused = s.pulling = True
            s.want_upstream = False

    def locals(self) -> None:
        """The proxy's own replies whose turn it is."""
        flight = self.t.flight
        while flight and flight[0][0] == LOCAL and not self.waiting:
            self.say(flight.popleft()[3])

    def drained(self) -> None:
        """The client has room."""
        if self.pours.source is not None:
            self.pours.pour()
        elif self.paused:
            self.paused = False
            self.resume()

    def resume(self) -> None:
        """A hook returned, or the client has taken what waited for it: go on."""
        t = self.t
        if self.closed or self.waiting:
            return
        self.said = 0
        self.locals()
        if self.waiting:
            return
        t.s.want_upstream = True
        if self.held:
            self.data(b"")
        elif self.lost is None:
            t.moved(t.s.clock())
        if self.lost is not None and not self.waiting and not self.closed:
            self.fail(self.lost, UPSTREAM_LOST)

    # The end

    def close(self) -> None:
        """Give back what is held."""
        self.held = b""
        self.paused = False
        self.pours.close()

    def quit_due(self) -> None:
        """UPDATE begins when QUIT is sent and everything before it is answered (RFC 1939 section 6)."""
        t = self.t
        last = len(t.flight) == 1 and t.flight[0][0] == CAREFUL and t.flight[0][3].quits
        if last and t.s.phase is Phase.TRANSACTION:
            t.s.enter(Phase.UPDATE)
            t.patience = t.s.plan.timeouts.update
            t.s.deadline = t.s.clock() + t.patience

    def too_late(self) -> None:
        """The upstream owes a reply for too long."""
        kind = Kind.UPDATE_TIMEOUT if self.t.s.phase is Phase.UPDATE else Kind.COMMAND_TIMEOUT
        self.fail(Failure(kind, "no answer in time"), TIMEOUT)

    def gone(self, failure: Failure) -> None:
        """The upstream is lost. What has come whole still goes out."""
        if self.waiting:
            self.lost = self.lost or failure
        else:
            self.fail(failure, UPSTREAM_LOST)

    def fail(self, failure: Failure, outcome: int) -> None:
        """Answer what is due, if nothing of its reply is out; then close (promise 2)."""
        t = self.t
        s = t.s
        if t.flight and not self.streaming:
            s.count(t.flight[0][1], outcome)
        due = t.flight or t.backlog or t.busy or t.upload is not None or b"\n" in t.rest
        if due and (not self.streaming or (self.sink is not None and self.sink.untouched)):
            text = _LOST_QUIT if s.phase is Phase.UPDATE else _LOST
            s.to_client.append(err(text, b"SYS/TEMP"))
        s.note(failure.rule.level, "upstream_failed", kind=failure.kind.value, detail=failure.detail)
        s.end(failure.rule.ends, f"{failure.kind.value}: {failure.detail}")


_BEGINNINGS = (b"+OK ", b"+OK\r", b"-ERR ", b"-ERR\r")
_Match = Callable[[bytes, int], re.Match[bytes] | None]


@cache
def _status(limit: int) -> _Match:
    """Finds a status line of at most ``limit`` octets at an offset; its group is there when it is negative.

    RFC 1939 section 3: CRLF ends the line; a CR anywhere else would end it for some clients only."""
    text = rb"(?: [^\r\n]{0,%d}+)?+\r\n"
    return re.compile(rb"\+OK" + text % max(0, limit - 6) + rb"|(-ERR)" + text % max(0, limit - 7)).match


@cache
def _all_ok(limit: int) -> re.Pattern[bytes]:
    """One or more positive single-line replies of at most ``limit`` octets and nothing else: the fast road."""
    return re.compile(rb"(?:\+OK(?: [^\r\n]{0,%d}+)?+\r\n)++" % max(0, limit - 6))


def _described(data: bytes) -> str:
    """What came, without its words: they may be of a message, or repeat a password (promise 6)."""
    line = data.partition(b"\r\n")[0]
    status = parse_status(line)
    if status is None:
        return f"{len(data)} octets that begin with {data[:4]!r}"
    code = "" if status.code is None else f" [{status.code.decode('ascii')}]"
    return f"a line {'+OK' if status.ok else '-ERR'}{code} of {len(line)} octets"

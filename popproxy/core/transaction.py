"""The TRANSACTION stage (RFC 1939 section 5): the client's commands on their way upstream.

Common lines pass as they are: a table look-up each, and one ``bytes`` object for a whole run of them. Whatever
else comes (hooks, CAPA, QUIT, odd spelling, an upstream without PIPELINING) takes the careful road, in order.
Replies come back in core/answers.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from popproxy.api.verdicts import Answer, Hangup, Refuse, Rewrite
from popproxy.core import hooks
from popproxy.core.answers import Answers
from popproxy.core.careful import answered
from popproxy.core.chain import Chain, Entry
from popproxy.core.failures import Failure
from popproxy.core.flight import (
    CAREFUL,
    LOCAL,
    MULTI,
    NUMBERED,
    SINGLE,
    WHOLE_LINES,
    FlightEntry,
    Pending,
    careful_entry,
)
from popproxy.core.meter import DENIED, MALFORMED, OK
from popproxy.core.numbering import Numbering
from popproxy.core.phases import Phase
from popproxy.wire.commands import OTHER, VERBS, BadCommand, Command, Framing, Where, content, one_command, parse
from popproxy.wire.framer import BodyScanner
from popproxy.wire.replies import err

if TYPE_CHECKING:
    from popproxy.core.session import Session

class Transaction:
    """See the head of this file.

    ``flight`` holds what is sent and not answered, ``backlog`` what must wait for it; ``busy`` while an async hook
    or the maildrop's listing is awaited; ``deaf`` when no further command counts (behind QUIT).
    """

    __slots__ = (
        "answers",
        "backlog",
        "blocked",
        "busy",
        "chain",
        "deaf",
        "flight",
        "limit",
        "numbering",
        "patience",
        "pipelining",
        "plain",
        "rest",
        "s",
        "upload",
    )

    def __init__(self, session: Session, pipelining: bool) -> None:
        plan = session.plan
        self.s = session
        self.chain: Chain = plan.chain.select(session.view, session.view.user)
        self.pipelining = pipelining and plan.pipelining
        self.flight: deque[FlightEntry] = deque()
        self.backlog: deque[tuple[bytes, FlightEntry]] = deque()
        self.limit = plan.limits.pipeline
        self.patience = plan.timeouts.command
        self.rest = b""
        self.busy = False
        self.deaf = False
        self.blocked = False
        self.upload: BodyScanner | None = None
        watched = ("on_command", "on_reply", "open_body", "on_message", "on_maildrop")
        self.plain = not any(self.chain[hook] for hook in watched)
        self.numbering = Numbering(self) if self.chain["on_maildrop"] else None
        self.answers = Answers(self)

    # Stage

    def begin(self, rest: bytes) -> None:
        """The login was answered; ``rest`` is what the client sent behind it."""
        self.s.want_client = True
        self.s.deadline = self.s.clock() + self.s.plan.timeouts.idle
        if rest:
            self.client(rest)

    def client(self, data: bytes) -> None:
        """Octets from the client."""
        if self.deaf:
            return
        if self.upload is not None:
            self._uploading(self.upload, data)
            return
        if self.rest:
            data = self.rest + data
            self.rest = b""
        if self.busy:
            self.rest = data
            self.s.want_client = len(data) < self.s.plan.limits.auth_line
        else:
            self._commands(data)

    def upstream(self, data: bytes) -> None:
        """Octets from upstream."""
        self.answers.data(data)

    def upstream_gone(self, failure: Failure) -> None:
        """The upstream is lost."""
        self.answers.gone(failure)

    def expired(self) -> None:
        """The deadline passed: who was to move?"""
        if self.blocked:
            self.s.end("client_stalled", "the client took nothing in time")
        elif self.flight:
            self.answers.too_late()
        else:
            self.s.end("idle_timeout", "no command in time")

    def owes(self) -> bool:
        """Whether the client still has a reply to come."""
        return bool(self.flight) or bool(self.backlog) or self.busy or self.answers.waiting

    def drained(self) -> None:
        """The client's write buffer has room again."""
        self.answers.careful.pour()

    def stalled(self, blocked: bool) -> None:
        """Whose time counts: the client's while its buffer is full, else that of whoever is to move."""
        self.blocked = blocked
        times = self.s.plan.timeouts
        waits = times.idle if blocked or not self.flight else self.patience
        self.s.deadline = self.s.clock() + waits

    def close(self) -> None:
        """Give a spool back."""
        self.answers.close()

    # The road upstream

    def moved(self, now: float) -> None:
        """Replies went out: send what waited for them, read on when there is room, watch the right clock."""
        s = self.s
        while self.backlog:
            if self.flight and (not self.pipelining or self._barrier()):
                break
            self._dispatch(*self.backlog.popleft())
        if self.rest and not self.busy and self.upload is None and not self.deaf:
            rest, self.rest = self.rest, b""
            self._commands(rest)
        if self.deaf:
            self.answers.quit_due()
        elif not (self.owes() or self.blocked or self.upload or s.phase is Phase.CLOSED):
            s.deadline = now + s.plan.timeouts.idle

    def _barrier(self) -> bool:
        """Whether the last command in flight must be answered before anything else is sent."""
        entry = self.flight[-1]
        return entry[0] == CAREFUL and (entry[3].uploads or entry[3].quits)

    def _commands(self, data: bytes) -> None:
        s = self.s
        flight = self.flight
        room = self.limit - len(flight) - len(self.backlog)
        if room <= 0:
            self.rest = data
            s.want_client = False
            return
        lines = data.split(b"\n", room)
        rest = lines.pop()
        if lines:
            now = s.clock()
            waiting = len(flight)
            if not flight and not self.blocked:
                s.deadline = now + self.patience
            rest = self._lines(data, lines, rest, now)
            if waiting or len(flight) > 1:
                s.meter.pipelined[0] += max(0, len(flight) - (waiting or 1))
        if rest:
            self._keep(rest)
        else:
            s.want_client = True

    def _keep(self, rest: bytes) -> None:
        """What is left: an unfinished line, or lines that have to wait."""
        s = self.s
        self.rest = rest
        waits = self._stopped() or len(self.flight) + len(self.backlog) >= self.limit
        s.want_client = not waits
        if not waits and not self.deaf and b"\n" not in rest and len(rest) > s.plan.limits.line:
            self.rest = b""
            self._overlong()

    def _overlong(self) -> None:
        """A line is too long, whether its end has come or not: answered in its turn, and the last one."""
        s = self.s
        s.meter.violation("client", "overlong")
        self.deaf = True
        self.local(err(f"Line longer than {s.plan.limits.line} octets"))
        s.leave("protocol_error", "overlong line")

    def _lines(self, data: bytes, lines: list[bytes], rest: bytes, now: float) -> bytes:
        """Send ``lines``, which are the beginning of ``data``; returns what has to wait, ``rest`` included."""
        s = self.s
        flight = self.flight
        start = place = 0
        for line in lines:
            behind = place + len(line) + 1
            # Decided anew for every line: a careful one may raise a barrier.
            if self.plain and not self.backlog and (self.pipelining or not flight) and not self._stopped():
                known = WHOLE_LINES.get(line)
                if known is None:
                    name, _, argument = line.partition(b" ")
                    known = NUMBERED.get(name)
                    if known is not None and not _number(argument):
                        known = None
                if known is not None:
                    flight.append((known[0], known[1], now, None))
                    place = behind
                    continue
            if start < place:
                s.to_upstream.append(data[start:place])
            if self._stopped():
                return data[place:] if not self.deaf else b""
            start = place = behind
            self._line(line + b"\n", now)
        if start == 0 and place == len(data):
            s.to_upstream.append(data)
        elif start < place:
            s.to_upstream.append(data[start:place])
        return b"" if self.deaf else rest

    def _stopped(self) -> bool:
        return self.busy or self.deaf or self.upload is not None or bool(self.flight and self._barrier())

    def _line(self, line: bytes, now: float) -> None:
        """One line on the careful road."""
        s = self.s
        if len(line) > s.plan.limits.line:
            self._overlong()
            return
        try:
            command = parse(content(line, s.plan.bare_lf), s.plan.verbs)
        except BadCommand as bad:
            verb = bad.verb.index if bad.verb is not None else OTHER
            self.local(s.bad_command(verb, MALFORMED, bad.kind, str(bad)))
            return
        verb_ = command.verb
        if verb_.fenced and verb_.name not in s.plan.opened:
            self.local(s.bad_command(verb_.index, DENIED, "", f"{command.name} is not served here"))
        elif Where.TRANSACTION not in verb_.where:
            # STLS, USER, PASS and AUTH behind a login are refused here, never relayed.
            self.local(s.bad_command(verb_.index, MALFORMED, "phase", f"{command.name} is not valid now"))
        else:
            self._hooked(command, now)

    def _hooked(self, command: Command, now: float) -> None:
        entries = self.chain["on_command"]
        if not entries:
            self._mapped(command, command, now)
            return
        s = self.s
        current = [command]
        stopped: list[Any] = []

        def use(entry: Entry, verdict: Any) -> bool:
            if isinstance(verdict, Rewrite):
                wanted = verdict.command
                # Promise 1: a plugin cannot make a QUIT, not even inside an argument; and what the client awaits
                # must keep its framing.
                if wanted.multiline != command.multiline or b"QUIT" in (wanted.verb.name, command.verb.name):
                    raise ValueError(f"may not rewrite {command.name} to {wanted.name}")
                if Where.TRANSACTION not in wanted.verb.where or not one_command(wanted, s.plan.verbs):
                    raise ValueError(f"{wanted!r} is no command of the TRANSACTION state")
                current[0] = wanted
                return False
            if command.verb.name == b"QUIT" and not isinstance(verdict, Hangup):
                return False
            stopped.append(verdict)
            return True

        def then() -> None:
            suspended = self.busy
            if suspended:
                self.resume()
            if stopped:
                self._stopped_by(stopped[0], command)
            else:
                self._mapped(current[0], command, now)
            if suspended:
                self.moved(s.clock())

        if not hooks.call(s, entries, lambda: (s.view, current[0]), use, then):
            self.suspend()

    def _stopped_by(self, verdict: Any, command: Command) -> None:
        s = self.s
        verb = command.verb.index
        if isinstance(verdict, Hangup):
            s.count(verb, DENIED)
            s.end("policy", verdict.reason or "hung up by a plugin")
        elif isinstance(verdict, Refuse):
            s.count(verb, DENIED)
            self.local(err(verdict.text, None if verdict.code is None else verdict.code.value))
        elif isinstance(verdict, Answer):
            s.count(verb, OK if verdict.ok else DENIED)
            self.local(answered(verdict, command.multiline))

    def suspend(self) -> None:
        """An outcome is awaited: the client's further lines wait."""
        self.busy = True
        self.s.deadline = inf

    def resume(self) -> None:
        """The outcome is there."""
        self.busy = False
        self.s.want_client = True
        self.s.deadline = self.s.clock() + (self.patience if self.flight else self.s.plan.timeouts.idle)

    def _mapped(self, command: Command, shown: Command, now: float) -> None:
        """Message numbers through the maildrop view, when a plugin asked for one."""
        if self.numbering is not None and self.numbering.concerns(command):
            self.numbering.take(command, shown, now)
        else:
            self.send(command, shown, now)

    def send(
        self, command: Command, shown: Command, now: float, after: Callable[[bool], None] | None = None
    ) -> None:
        verb = command.verb
        quits, uploads = verb.name == b"QUIT", verb.framing is Framing.UPLOAD
        plain = self.plain or not (
            self.chain["on_reply"] or (verb.name in (b"RETR", b"TOP") and self._edits())
        )
        if verb.name == b"CAPA":
            entry = careful_entry(command, shown, now, self.answers.careful.capabilities)
        elif after is not None or quits or uploads or not plain:
            entry = (CAREFUL, verb.index, now, Pending(command, shown, None, after, quits, uploads))
        else:
            entry = (MULTI if command.multiline else SINGLE, verb.index, now, None)
        if quits:
            self.deaf = True
        self.queue(command.line, entry)

    def _edits(self) -> bool:
        return bool(self.chain["open_body"] or self.chain["on_message"])

    def queue(self, line: bytes, entry: FlightEntry) -> None:
        """Send ``line`` when its turn comes; ``entry`` is what it expects back."""
        if self.backlog or (self.flight and (not self.pipelining or self._barrier())):
            self.backlog.append((line, entry))
        else:
            self._dispatch(line, entry)

    def _dispatch(self, line: bytes, entry: FlightEntry) -> None:
        s = self.s
        if entry[0] == LOCAL and not self.flight and not self.answers.waiting:
            self.answers.say(entry[3])
            return
        if line:
            if not self.flight and not self.blocked:
                s.deadline = s.clock() + self.patience
            s.to_upstream.append(line)
        self.flight.append(entry)

    def local(self, reply: bytes | Callable[[], bytes]) -> None:
        """A reply of the proxy's own, in its turn."""
        self.queue(b"", (LOCAL, OTHER, 0.0, reply))

    def start_upload(self) -> None:
        """XTND XMIT was answered ``+OK``: the client's next octets are a message (draft of RFC 1082's XTND)."""
        self.upload = BodyScanner()
        self.s.want_client = True
        rest, self.rest = self.rest, b""
        if rest:
            self._uploading(self.upload, rest)

    def _uploading(self, scanner: BodyScanner, data: bytes) -> None:
        s = self.s
        end = scanner.scan(data)
        s.deadline = s.clock() + s.plan.timeouts.idle
        if end < 0:
            s.to_upstream.append(data)
            return
        s.to_upstream.append(data[:end])
        self.upload = None
        self.flight.append((SINGLE, VERBS[b"XTND XMIT"].index, s.clock(), None))
        s.deadline = s.clock() + self.patience
        if data[end:]:
            self.client(data[end:])


def _number(argument: bytes) -> bool:
    """``123`` CR: a message number that may pass as it is."""
    digits = argument[:-1]
    return argument[-1:] == b"\r" and digits.isdigit() and len(digits) <= 10 and digits[0] != 48

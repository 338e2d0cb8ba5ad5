"""Replies that somebody looks at: a hook, a filter, a spool, or the proxy itself (CAPA).

Nothing of such a reply goes out before it is clear what goes out. Once the first octet of a message is out the only
honest answer to a failure is to close the connection (promise 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from popproxy.api.verdicts import Answer, Refuse
from popproxy.api.views import ReplyView
from popproxy.core import hooks
from popproxy.core.announce import announce, show
from popproxy.core.body import Collect, Filtered, FilterFailed, Head, Overlong, Sink, Swallow
from popproxy.core.chain import Entry
from popproxy.core.failures import Failure, Kind
from popproxy.core.flight import Pending
from popproxy.core.growth import Listing, list_line, listing_line, retr_line, stat_line
from popproxy.core.lies import Lie
from popproxy.core.message import Spooled
from popproxy.core.meter import ERR, OK, UPSTREAM_LOST
from popproxy.core.offer import offered
from popproxy.core.opening import stages, wanting
from popproxy.core.phases import Phase
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.dots import stuff
from popproxy.wire.replies import err, ok, parse_status

if TYPE_CHECKING:
    from popproxy.core.answers import Answers


class Careful:
    """The part of Answers that only sessions with plugins, or CAPA, ever enter.

    ``waiting`` while an async hook decides, ``whole`` when all of the reply it decides about has come. ``hold`` is
    what may be the beginning of a terminator, ``before`` the two octets in front of it.
    """

    __slots__ = ("a", "before", "hold", "waiting", "whole")

    def __init__(self, answers: Answers) -> None:
        self.a = answers
        self.before = b"\r\n"
        self.hold = b""
        self.waiting = False
        self.whole = False

    # The content of a multi-line reply

    def begin(self) -> None:
        """A multi-line reply begins: the CRLF of its status line counts as the beginning of a terminator."""
        self.before = b"\r\n"
        self.hold = b""

    def pour_in(self, sink: Sink, chunk: bytes, ended: bool, now: float) -> None:
        """Feed ``sink``. What may be the beginning of the terminator is held back until it is known."""
        a = self.a
        s = a.t.s
        if self.hold:
            chunk = self.hold + chunk
        keep = 3 if ended else terminator_begun(self.before, chunk)
        if keep:
            self.hold = chunk[-keep:]
            chunk = chunk[:-keep]
        else:
            self.hold = b""
        if chunk:
            self.before = (self.before + chunk[-2:])[-2:]
        try:
            data = sink.feed(chunk) if chunk else b""
            if data:
                s.to_client.append(data)
            if isinstance(sink, Filtered) and sink.through and not ended:
                # What follows passes untouched, what is held included; the scanner has seen all of it.
                if self.hold:
                    s.to_client.append(self.hold)
                    self.hold = b""
                a.sink = None
            elif isinstance(sink, Spooled) and (ended or sink.overflow is not None):
                a.pours.spooled(sink, ended, now)
            elif isinstance(sink, Collect) and ended:
                a.streamed(now)
                sink.finish()
            elif ended:
                data = sink.finish()
                a.streamed(now)
                if data:
                    s.to_client.append(data)
        except FilterFailed as failed:
            self._filter_failed(sink, failed, ended, now)
        except Overlong as overlong:
            a.fail(Failure(Kind.OVERLONG, str(overlong)), UPSTREAM_LOST)

    def _filter_failed(self, sink: Sink, failed: FilterFailed, ended: bool, now: float) -> None:
        """A plugin failed in the body for good: an error while nothing is out, else the end (promise 2)."""
        if sink.untouched:
            self.refuse_rest(ended, now)
        else:
            self.a.t.s.end("policy", f"plugin {failed} failed in the middle of a message")

    def refuse_rest(self, ended: bool, now: float) -> None:
        """Nothing of the message is out: answer with an error in its place and drop what comes of it."""
        a = self.a
        a.t.s.to_client.append(hooks.BROKEN_LINE)
        a.pours.close()
        if ended:
            a.streamed(now)
        else:
            a.sink = Swallow()

    # The status line

    def wait(self, whole: bool) -> None:
        """An async hook decides: nothing from upstream is looked at until then."""
        self.waiting = True
        self.whole = whole
        self.a.t.s.want_upstream = False

    def returned(self) -> bool:
        """The hooks have decided. Whether anything had to wait for that: then the caller ends with resume()."""
        waited = self.waiting
        self.waiting = self.whole = False
        return waited

    def reply(self, pending: Pending, line: bytes, good: bool, now: float) -> None:
        """The status line of a reply that somebody looks at."""
        a = self.a
        t = a.t
        s = t.s
        if pending.collect is not None:
            collect = pending.collect
            if good and pending.sent.multiline:
                limit = s.plan.limits.listing * (1 if pending.sent.verb.name == b"CAPA" else 16)
                kind = Head if pending.cut else Collect
                a.stream(kind(pending.cut or limit, lambda body: collect(True, line, body)), now)
            else:
                t.flight.popleft()
                collect(good, line, b"")
                a.locals()
            return
        entries = t.chain["on_reply"]
        if not entries:
            self._decide(pending, line, good, None, now)
            return
        status = parse_status(line[:-2])
        code = None if status is None or status.code is None else status.code.decode("ascii", "replace")
        view = ReplyView(good, code, b"" if status is None else status.text)
        answer: list[Answer] = []

        def use(entry: Entry, verdict: Any) -> bool:
            if isinstance(verdict, Refuse):
                answer.append(Answer(False, verdict.text, verdict.code))
            else:
                needs_body(verdict, pending.shown.multiline)
                answer.append(verdict)
            return True

        def then() -> None:
            waited = self.returned()
            self._decide(pending, line, good, answer[0] if answer else None, s.clock())
            if waited:
                a.resume()

        if not hooks.call(s, entries, lambda: (s.seen(), pending.shown, view), use, then):
            self.wait(not (good and pending.sent.multiline))

    def _decide(self, pending: Pending, line: bytes, good: bool, answer: Answer | None, now: float) -> None:
        """The status line is final: say it, and choose what happens to what follows it."""
        a = self.a
        t = a.t
        s = t.s
        _, verb, at, _ = t.flight[0]
        if good and (t.growth.total or t.numbering is not None):
            line = self._true(pending, line)
        if pending.uploads and good:
            # The client must send its message now; only the reply to that may be another one.
            answer = None
        s.count(verb, OK if (good if answer is None else answer.ok) else ERR, 1, now - at)
        if pending.after is not None:
            pending.after(good)
        multiline = good and pending.sent.multiline
        if answer is not None:
            s.to_client.append(answered(answer, pending.shown.multiline))
            if multiline:
                a.stream(Swallow(), now)
                return
        elif multiline:
            self._open(pending, line, now)
            return
        else:
            s.to_client.append(line)
        t.flight.popleft()
        if pending.quits:
            if s.phase is Phase.TRANSACTION:
                s.enter(Phase.UPDATE)
            s.quit()
        elif pending.uploads and good:
            t.start_upload()
        a.locals()

    def _true(self, pending: Pending, line: bytes) -> bytes:
        """The status line, what it says of sizes made true (promise 9)."""
        t = self.a.t
        growth = t.growth.total
        name = pending.sent.verb.name
        if name == b"STAT":
            return stat_line(line, growth)
        if name == b"LIST":
            return listing_line(line) if pending.sent.multiline else list_line(line, growth)
        if name == b"RETR":
            announced = None if t.numbering is None else t.numbering.octets(pending.sent.message)
            return retr_line(line, growth, announced)
        return line

    def _open(self, pending: Pending, line: bytes, now: float) -> None:
        """A multi-line reply begins: filters and a spool for a message, true sizes for a LIST, nothing else."""
        a = self.a
        t = a.t
        s = t.s
        sink: Sink | None = None
        if pending.sent.verb.name in (b"RETR", b"TOP"):
            found = stages(t, pending.shown, pending.sent)
            wanted = None if found is None else wanting(t, pending.shown)
            if found is None or wanted is None:
                s.to_client.append(hooks.BROKEN_LINE)
                a.stream(Swallow(), now)
                return
            filtered = Filtered(line, found) if found else None
            sink = filtered
            if wanted:
                spooled = a.pours.spool(line, filtered, pending.shown, wanted)
                if isinstance(spooled, Spooled):
                    sink = spooled
                elif not spooled:
                    s.to_client.append(hooks.BROKEN_LINE)
                    sink = Swallow()
        elif pending.sent.verb.name == b"LIST" and t.growth.total:
            s.to_client.append(line)
            a.stream(Listing(t.growth.total), now)
            return
        if sink is None:
            s.to_client.append(line)
        a.stream(sink, now)

    # CAPA

    def capabilities(self, good: bool, line: bytes, body: bytes) -> None:
        """The upstream's CAPA after the login: show the intersection (RFC 2449 section 5)."""
        t = self.a.t
        s = t.s
        logins = offered(s) if s.secure or s.plan.auth_before_tls else frozenset[str]()
        theirs = Capabilities.parse(body.split(b"\r\n")) if good else None
        ours = announce(s.plan, theirs, logins=logins, stls=False)

        def then(reply: bytes) -> None:
            waited = self.returned()
            s.to_client.append(reply)
            if waited:
                self.a.resume()

        if not show(s, t.chain["on_capabilities"], ours, then):
            self.wait(False)


def needs_body(verdict: Answer, multiline: bool) -> None:
    """Raises Lie for an Answer that lacks the body its command needs."""
    if verdict.ok and multiline and verdict.body is None:
        raise Lie("Answer: the reply has more than one line, so it needs a body")


def answered(verdict: Answer, multiline: bool) -> bytes:
    """The reply an Answer makes."""
    if not verdict.ok:
        return err(verdict.text, None if verdict.code is None else verdict.code.value)
    return ok(verdict.text) + stuff(verdict.body or b"") if multiline else ok(verdict.text)


def terminator_begun(before: bytes, chunk: bytes) -> int:
    """How many octets at the end of ``chunk`` may belong to the terminator; ``before`` are the two in front of it."""
    end = before + chunk[-4:]
    return 2 if end.endswith(b"\r\n.\r") else 1 if end.endswith(b"\r\n.") else 0

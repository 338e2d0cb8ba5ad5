"""Replies that somebody looks at: a hook, a filter, a spool, or the proxy itself (CAPA).

Nothing of such a reply goes out before it is clear what goes out. Once the first octet of a message is out the only
honest answer to a failure is to close the connection (promise 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any

from popproxy.api.bodies import BodyFilter
from popproxy.api.plugin import Fail
from popproxy.api.verdicts import Answer
from popproxy.api.views import ReplyView
from popproxy.core import hooks
from popproxy.core.announce import announce
from popproxy.core.body import Collect, Filtered, FilterFailed, FilterStage, Overlong, Sink, Swallow
from popproxy.core.chain import Entry
from popproxy.core.failures import Failure, Kind
from popproxy.core.flight import Pending
from popproxy.core.message import Spooled
from popproxy.core.meter import ERR, OK, UPSTREAM_LOST
from popproxy.core.phases import Phase
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.commands import VERBS
from popproxy.wire.dots import stuff
from popproxy.wire.errors import Code
from popproxy.wire.replies import err, ok, parse_status

if TYPE_CHECKING:
    from popproxy.core.answers import Answers


class Careful:
    """The part of Answers that only sessions with plugins, or CAPA, ever enter.

    ``waiting`` while an async hook decides; ``source`` makes a spooled message piece by piece; ``hold`` is what may
    be the beginning of a terminator.
    """

    __slots__ = ("a", "hold", "source", "waiting")

    def __init__(self, answers: Answers) -> None:
        self.a = answers
        self.hold = b""
        self.waiting = False
        self.source: Iterator[bytes] | None = None

    def pour_in(self, chunk: bytes, ended: bool, now: float) -> None:
        """Feed the sink. What may be the beginning of the terminator is held back until it is known."""
        a = self.a
        s = a.t.s
        sink = a.sink
        if sink is None:
            return
        chunk = self.hold + chunk
        if ended:
            chunk, self.hold = chunk[:-3], b""
        else:
            keep = terminator_begun(chunk, a.size == len(chunk))
            chunk, self.hold = chunk[: len(chunk) - keep], chunk[len(chunk) - keep :]
        try:
            data = sink.feed(chunk) if chunk else b""
            if isinstance(sink, Spooled) and (ended or sink.overflowed):
                self._spooled(sink, ended, now)
                return
            if ended:
                data += sink.finish()
        except FilterFailed as failed:
            self._filter_failed(sink, str(failed))
            if ended and s.phase is not Phase.CLOSED:
                a.streamed(now)
            return
        except Overlong as overlong:
            a.fail(Failure(Kind.OVERLONG, str(overlong)), UPSTREAM_LOST)
            return
        if ended and s.phase is not Phase.CLOSED:
            a.streamed(now)
        if data:
            s.to_client.append(data)

    def _filter_failed(self, sink: Sink, plugin: str) -> None:
        """A plugin failed in the body for good: an error while nothing is out, else the end (promise 2)."""
        s = self.a.t.s
        if sink.untouched:
            s.to_client.append(hooks_broken())
            self.a.sink = Swallow()
        else:
            s.end("policy", f"plugin {plugin} failed in the middle of a message")

    def _wait(self) -> None:
        """An async hook decides: nothing from upstream is looked at until then."""
        self.waiting = True
        self.a.t.s.deadline = inf

    def reply(self, pending: Pending, line: bytes, good: bool, now: float) -> None:
        """The status line of a reply that somebody looks at."""
        a = self.a
        t = a.t
        s = t.s
        if pending.collect is not None:
            collect = pending.collect
            if good and pending.sent.multiline:
                limit = s.plan.limits.listing * (1 if pending.sent.verb.name == b"CAPA" else 16)
                a.stream(Collect(limit, lambda body: collect(True, line, body)), now)
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
            answer.append(verdict if isinstance(verdict, Answer) else Answer(False, verdict.text, verdict.code))
            return True

        def then() -> None:
            waited, self.waiting = self.waiting, False
            self._decide(pending, line, good, answer[0] if answer else None, s.clock())
            if waited:
                self.resume()

        if not hooks.call(s, entries, lambda: (s.view, pending.shown, view), use, then):
            self._wait()

    def _decide(self, pending: Pending, line: bytes, good: bool, answer: Answer | None, now: float) -> None:
        """The status line is final: say it, and choose what happens to what follows it."""
        a = self.a
        t = a.t
        s = t.s
        _, verb, at, _ = t.flight[0]
        a.count(verb, OK if good and (answer is None or answer.ok) else ERR, now - at)
        if pending.after is not None:
            pending.after(good)
        multiline = good and pending.sent.multiline
        if answer is not None and not pending.uploads:
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
            s.end("quit")
        elif pending.uploads and good:
            t.start_upload()
        a.locals()

    def _open(self, pending: Pending, line: bytes, now: float) -> None:
        """A multi-line reply begins: filters and a spool for a message, nothing for anything else."""
        a = self.a
        t = a.t
        s = t.s
        sink: Sink | None = None
        if pending.sent.verb.name in (b"RETR", b"TOP"):
            stages = self._stages(pending)
            if stages is None:
                s.to_client.append(hooks_broken())
                a.stream(Swallow(), now)
                return
            filtered = Filtered(line, stages) if stages else None
            sink = filtered
            if t.chain["on_message"]:
                spool = s.spool(s.plan.limits.message_memory)
                sink = Spooled(line, filtered, spool, s.plan.limits, pending.shown)
        if sink is None:
            s.to_client.append(line)
        a.stream(sink, now)

    def _stages(self, pending: Pending) -> list[FilterStage] | None:
        """The filters for this message; None when a closed plugin failed to give one."""
        s = self.a.t.s
        stages: list[FilterStage] = []
        for entry in self.a.t.chain["open_body"]:
            started = s.clock()
            try:
                made = entry.call(s.view, pending.shown)
                if made is not None and not isinstance(made, BodyFilter):
                    raise TypeError(f"returned {type(made).__name__}; allowed: BodyFilter or None")
            except Exception as error:
                hooks.report(s, entry, error)
                if entry.subscriber.fail is Fail.CLOSED:
                    return None
                continue
            s.meter.plugin(entry.subscriber.name, entry.hook, "modify" if made else "pass", s.clock() - started)
            if made is not None:
                stages.append(FilterStage(entry, made, lambda entry, error: hooks.report(s, entry, error)))
        return stages

    # Spooled messages

    def _spooled(self, sink: Spooled, ended: bool, now: float) -> None:
        """The message is in the spool, or too large for it: then it passes unseen, or is refused (fail mode)."""
        a = self.a
        t = a.t
        s = t.s
        if sink.overflowed:
            if sink.too_large(t.chain["on_message"], s):
                sink.close()
                s.to_client.append(hooks_broken())
                a.sink = Swallow()
                if ended:
                    a.streamed(now)
            elif ended:
                self._pour_out(sink, now)
            else:
                self.source = sink.replay()
                a.sink = sink.continued()
                self.pour()
            return

        def then() -> None:
            waited, self.waiting = self.waiting, False
            self._pour_out(sink, s.clock())
            if waited and self.source is None:
                self.resume()

        if not hooks.call(s, t.chain["on_message"], lambda: (s.view, sink.command, sink.view), sink.use, then):
            self._wait()

    def _pour_out(self, sink: Spooled, now: float) -> None:
        self.source = sink.decided()
        self.a.streamed(now)
        self.pour()

    def pour(self) -> None:
        """Send more of a spooled message: one piece per call, so that the pump can stop at a full buffer."""
        s = self.a.t.s
        if self.source is None:
            return
        try:
            piece = next(self.source, None)
        except FilterFailed as failed:
            # Something of the reply may be out already; the connection is the only safe answer.
            s.end("policy", f"plugin {failed} failed in the middle of a message")
            return
        s.pulling = piece is not None
        if piece is not None:
            s.to_client.append(piece)
        else:
            self.source = None
            self.resume()

    def resume(self) -> None:
        """A hook returned or a spooled message is out: go on with what waited."""
        a = self.a
        s = a.t.s
        if a.closed or a.waiting:
            return
        a.locals()
        s.want_upstream = True
        if a.held:
            a.data(b"")
        else:
            s.deadline = s.clock() + a.t.patience
            a.t.moved(s.clock())
        if a.lost is not None and not a.waiting and not a.closed:
            lost, a.lost = a.lost, None
            a.gone(lost)

    def capabilities(self, good: bool, line: bytes, body: bytes) -> None:
        """The upstream's CAPA after the login: show the intersection (RFC 2449 section 5)."""
        t = self.a.t
        s = t.s
        secure = s.view.tls is not None or s.plan.auth_before_tls
        theirs = Capabilities.parse(body.split(b"\r\n")) if good else None
        shown = [announce(s.plan, theirs, logins=secure, stls=False)]

        def use(entry: Entry, verdict: Any) -> bool:
            if isinstance(verdict, Capabilities):
                shown[0] = verdict
            return False

        def then() -> None:
            waited, self.waiting = self.waiting, False
            s.count(VERBS[b"CAPA"].index, OK)
            s.to_client.append(shown[0].reply())
            if waited:
                self.resume()

        if not hooks.call(s, t.chain["on_capabilities"], lambda: (s.view, shown[0]), use, then):
            self._wait()


def answered(verdict: Answer, multiline: bool) -> bytes:
    """The reply an Answer makes. One that lacks the body its command needs becomes a temporary error."""
    if not verdict.ok:
        return err(verdict.text, None if verdict.code is None else verdict.code.value)
    if not multiline:
        return ok(verdict.text)
    if verdict.body is None:
        return err("Internal error, try again later", Code.SYS_TEMP.value)
    return ok(verdict.text) + stuff(verdict.body)


def hooks_broken() -> bytes:
    """The reply for a failed plugin that is Fail.CLOSED."""
    return err(hooks.BROKEN.text, Code.SYS_TEMP.value)


def terminator_begun(chunk: bytes, whole: bool) -> int:
    """How many octets at the end of ``chunk`` may belong to the terminator; ``whole``: the content begins here."""
    if chunk.endswith(b"\r\n.\r") or (whole and chunk == b".\r"):
        return 2
    if chunk.endswith(b"\r\n.") or (whole and chunk == b"."):
        return 1
    return 0

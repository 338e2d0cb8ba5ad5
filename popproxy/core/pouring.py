"""Spooled messages on their way out: piece by piece, so that the pump can stop at a full write buffer.

A message is poured when on_message has judged it, or when it turned out too large to be spooled and passes unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from popproxy.api.plugin import Fail
from popproxy.core import hooks
from popproxy.core.body import Filtered, FilterFailed, Swallow
from popproxy.core.chain import Entry
from popproxy.core.message import Spooled
from popproxy.wire.commands import Command

if TYPE_CHECKING:
    from popproxy.core.answers import Answers


class Pouring:
    """At most one message at a time; ``source`` makes its pieces. ``alive`` is when the client, who waits for
    on_message, is due a sign of life."""

    __slots__ = ("_spooled", "a", "alive", "source")

    def __init__(self, answers: Answers) -> None:
        self.a = answers
        self.source: Iterator[bytes] | None = None
        self.alive = inf
        self._spooled: Spooled | None = None

    def spool(
        self, head: bytes, filtered: Filtered | None, command: Command, entries: tuple[Entry, ...]
    ) -> Spooled | bool:
        """A place for the message that follows ``head``. When there is none to be had: whether it may pass unseen."""
        s = self.a.t.s
        try:
            place = s.spool(s.plan.limits.message_memory)
        except OSError as error:
            return not self.unspoolable(error, entries)
        self._spooled = Spooled(head, filtered, place, s.plan.limits, command, entries)
        return self._spooled

    def unspoolable(self, error: OSError, entries: tuple[Entry, ...] = ()) -> bool:
        """Every plugin that must see the message is told in the log; whether one of them is closed."""
        if self._spooled is not None:
            entries = self._spooled.entries
        # Made anew: these are our words, and the log shows them.
        told = OSError(f"the message cannot be spooled: {error.strerror or error}")
        for entry in entries:
            hooks.report(self.a.t.s, entry, told)
        return any(entry.subscriber.fail is Fail.CLOSED for entry in entries)

    def spooled(self, sink: Spooled, ended: bool, now: float) -> None:
        """The message is in the spool, or there is no room for it: then it passes unseen, or is refused (fail mode)."""
        a = self.a
        t = a.t
        if sink.overflow is not None:
            if self.unspoolable(sink.overflow):
                a.careful.refuse_rest(ended, now)
            elif ended:
                self._decided(sink, now)
            else:
                a.sink = sink.continued()
                self._begin(sink.replay())
            return

        def then() -> None:
            self.alive = inf
            waited = a.careful.returned()
            self._decided(sink, t.s.clock())
            if waited:
                t.moved(t.s.clock())

        if not hooks.call(t.s, sink.entries, lambda: (t.s.seen(), sink.command, sink.view), sink.use, then):
            a.careful.wait(True)
            if sink.filtered:
                self.alive = now + t.s.plan.timeouts.keepalive

    def keep_alive(self, now: float) -> None:
        """on_message takes long: the client gets a few octets of what comes first in any case, if a filter has any."""
        s = self.a.t.s
        octets = b"" if self._spooled is None else self._spooled.early()
        if octets:
            s.to_client.append(octets)
        self.alive = now + s.plan.timeouts.keepalive

    def _decided(self, sink: Spooled, now: float) -> None:
        if sink.refused is not None and sink.begun:
            # Its beginning is out: an error now would be read as its text, and its end must not be invented.
            reason = sink.refused.reason or sink.refused.text
            self.a.t.s.end("policy", f"a message was refused when its beginning was out: {reason}")
            return
        self.a.streamed(now)
        self._begin(sink.decided())

    def _begin(self, source: Iterator[bytes]) -> None:
        """Pieces go out when the pump asks for them, the first one, too."""
        self.source = source
        self.a.t.s.pulling = True
        self.a.t.s.want_upstream = False

    def pour(self) -> None:
        """Send one more piece; behind the last one, go on with what waited."""
        a = self.a
        s = a.t.s
        if self.source is None:
            return
        try:
            piece = next(self.source, None)
        except (FilterFailed, OSError) as failed:
            if isinstance(failed, OSError):
                self.unspoolable(failed)
            if self._spooled is not None and not self._spooled.begun:
                s.to_client.append(hooks.BROKEN_LINE)
                if a.streaming:
                    a.sink = Swallow()
                piece = None
            else:
                # Something of the reply is out; the connection is the only safe answer.
                what = f"plugin {failed}" if isinstance(failed, FilterFailed) else "the spool"
                s.end("policy", f"{what} failed in the middle of a message")
                return
        s.pulling = piece is not None
        if piece is not None:
            s.to_client.append(piece)
            a.t.clocked(s.clock())
        else:
            self.close()
            a.resume()

    def close(self) -> None:
        """Give the spool back."""
        self.source = None
        if self._spooled is not None:
            self._spooled.spool.close()
            self._spooled = None

"""A whole message for on_message: spooled, judged, and only then sent (bounded in memory, then on disk).

The spool holds plain octets. What goes out is made piece by piece while the client takes it, so that a large
message never stands in memory.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from popproxy.api.header import Header, header_end
from popproxy.api.padding import check_size, followed_by_blanks
from popproxy.api.verdicts import Edit, Refuse, Replace
from popproxy.core.body import Filtered, FilterFailed, Stage
from popproxy.core.chain import Entry
from popproxy.core.lies import Lie
from popproxy.core.limits import Limits
from popproxy.core.spool import Spool
from popproxy.wire.commands import Command
from popproxy.wire.dots import Stuffer, Unstuffer
from popproxy.wire.replies import err

HEADER_LIMIT = 256 << 10


class Spooled:
    """A sink that keeps the message until on_message has judged it. ``overflow`` tells why there is no room for it.

    ``untouched`` stays true while it is fed: nothing goes out then.
    """

    def __init__(
        self,
        head: bytes,
        filtered: Filtered | None,
        spool: Spool,
        limits: Limits,
        command: Command,
        entries: tuple[Entry, ...] = (),
    ) -> None:
        self.untouched = True
        self.overflow: OSError | None = None
        self.command = command
        self.entries = entries
        """The on_message hooks that are called."""
        self.spool = spool
        self._head = head
        self._filtered = filtered
        self._limit = limits.message_size
        self._unstuff = Unstuffer()
        self._unwritten = b""
        self._whole = 0
        self._header: bytes | None = None
        self._replaced: Replace | None = None
        self.refused: Refuse | None = None
        self._failed: FilterFailed | None = None
        self._made: Outlet | None = None
        self._absorbed: list[tuple[Stage, int]] = []

    @property
    def view(self) -> SpooledView:
        """What a plugin sees."""
        return SpooledView(self)

    def feed(self, chunk: bytes) -> bytes:
        """Nothing: it is kept."""
        data = self._unstuff.feed(chunk)
        try:
            self.spool.write(data)
        except OSError as error:
            # Nothing is lost: what was written before stays, and this is kept here.
            self._unwritten = data
            self.overflow = error
        else:
            if self.spool.octets > self._limit:
                self.overflow = OSError(errno.EFBIG, f"it has more than {self._limit} octets (limits.message_size)")
        return b""

    def finish(self) -> bytes:
        """Nothing: on_message comes first."""
        return b""

    def use(self, entry: Entry, verdict: Any) -> bool:
        """A verdict of on_message. Edits add up; a replacement or a refusal ends the chain."""
        if isinstance(verdict, Edit):
            # Made now, so that an edit that cannot be made is the plugin's failure, before the first octet.
            try:
                whole, header = self.view.cut_header() if self._header is None else (self._whole, self._header)
            except OSError as error:
                raise Lie(f"the spool cannot be read: {error.strerror or error}") from error
            made = edited(header, verdict)
            self._absorb(entry, len(made) - len(header))
            self._whole, self._header = whole, made
            return False
        if isinstance(verdict, Replace):
            if verdict.octets is not None:
                # Looked at again: what was forged must fail here, not when octets are out.
                try:
                    check_size(verdict.message, verdict.octets)
                except (TypeError, ValueError) as error:
                    raise Lie(f"Replace: {error}") from error
            for stage, octets in self._absorbed:
                stage.absorb(-octets)
            self._replaced = verdict
        else:
            self.refused = verdict
        return True

    def _absorb(self, entry: Entry, octets: int) -> None:
        """What a plugin's Edit adds is part of the growth that it announced. Raises Lie."""
        stage = None if self._filtered is None else self._filtered.stage(entry.subscriber.name)
        if stage is not None:
            stage.absorb(octets)
            self._absorbed.append((stage, octets))

    @property
    def begun(self) -> bool:
        """Whether something of the reply was given out."""
        return self._made is not None and self._made.begun

    @property
    def filtered(self) -> bool:
        """Whether there is a filter that may have something early."""
        return self._filtered is not None

    def early(self) -> bytes:
        """A sign of life for the client, while on_message is awaited. A filter that fails at it fails the message."""
        try:
            return self._outlet().early() if self._failed is None else b""
        except FilterFailed as failed:
            self._failed = failed
            return b""

    def continued(self) -> Continued:
        """The sink for what is still to come of a message that passes unseen."""
        return Continued(self._outlet(), self._unstuff)

    def replay(self) -> Iterator[bytes]:
        """The reply so far, for a message that passes unseen."""
        outlet = self._outlet()
        for chunk in chain(self.spool.chunks(), (self._unwritten,)):
            piece = outlet.feed_plain(chunk)
            if piece:
                yield piece

    def decided(self) -> Iterator[bytes]:
        """The reply as judged, terminator included."""
        if self._failed is not None:
            raise self._failed
        if self.refused is not None:
            yield err(self.refused.text, None if self.refused.code is None else self.refused.code.value)
            return
        outlet = self._outlet()
        for chunk in self._content():
            piece = outlet.feed_plain(chunk)
            if piece:
                yield piece
        yield outlet.finish()

    def _content(self) -> Iterator[bytes]:
        if self._replaced is not None:
            message, octets = self._replaced.message, self._replaced.octets
            yield from (message,) if octets is None else followed_by_blanks(message, octets)
            return
        if self._header is not None:
            yield self._header
        yield from self.spool.chunks(self._whole)
        if self._unwritten:
            yield self._unwritten

    def _outlet(self) -> Outlet:
        if self._made is None:
            self._made = Outlet(self._head, self._filtered)
        return self._made


class Outlet:
    """Plain octets in, the reply as it travels out: through the streaming filters, if any."""

    def __init__(self, head: bytes, filtered: Filtered | None) -> None:
        self.begun = False
        """Whether it has given anything."""
        self._head = head
        self._filtered = filtered
        self._stuff = Stuffer()

    def feed_plain(self, chunk: bytes) -> bytes:
        """More of the message. A filter that fails raises FilterFailed."""
        return self._out(self._stuff.feed(chunk))

    def early(self) -> bytes:
        """What the filters let go before they are fed. Raises FilterFailed."""
        out = b"" if self._filtered is None else self._filtered.early()
        self.begun = self.begun or bool(out)
        return out

    def finish(self) -> bytes:
        """The end of the reply."""
        if self._filtered is not None and not self._filtered.through:
            return self._filtered.finish()
        return self._out(self._stuff.finish())

    def _out(self, data: bytes) -> bytes:
        if self._filtered is not None:
            out = self._filtered.feed(data)
        else:
            out = self._head + data
            self._head = b""
        self.begun = self.begun or bool(out)
        return out


class Continued:
    """Streams the rest of a message that was too large to spool."""

    def __init__(self, outlet: Outlet, unstuff: Unstuffer) -> None:
        self._outlet = outlet
        self._unstuff = unstuff

    @property
    def untouched(self) -> bool:
        """See Sink: a filter may still hold all of it."""
        return not self._outlet.begun

    def feed(self, chunk: bytes) -> bytes:
        """See Sink."""
        return self._outlet.feed_plain(self._unstuff.feed(chunk))

    def finish(self) -> bytes:
        """See Sink."""
        return self._outlet.finish()


class SpooledView:
    """api.MessageView on a spool."""

    def __init__(self, sink: Spooled) -> None:
        self._sink = sink

    @property
    def octets(self) -> int:
        """See MessageView."""
        return self._sink.spool.octets

    @property
    def number(self) -> int:
        """See MessageView."""
        return self._sink.command.message or 0

    @property
    def header(self) -> bytes:
        """See MessageView."""
        return self._beginning()[0]

    def cut_header(self) -> tuple[int, bytes]:
        """Size and octets of the header block. Raises Lie when it is too large to be edited."""
        header, whole = self._beginning()
        if not whole:
            raise Lie(f"a header of more than {HEADER_LIMIT} octets cannot be edited")
        return len(header), header

    def _beginning(self) -> tuple[bytes, bool]:
        """The header block, and whether it is all of it."""
        found = b""
        for chunk in self._sink.spool.chunks():
            found += chunk
            end = header_end(found, 0)
            if end >= 0:
                return found[:end], end <= HEADER_LIMIT
            if len(found) > HEADER_LIMIT:
                return found[:HEADER_LIMIT], False
        return found, True

    def chunks(self) -> Iterator[bytes]:
        """See MessageView."""
        return self._sink.spool.chunks()


def edited(header: bytes, edit: Edit) -> bytes:
    """``header`` with ``edit`` made. Raises Lie for what is no header field."""
    fields = Header(header)
    try:
        for name in edit.remove:
            fields.remove(name)
        for name, value in reversed(edit.add):
            fields.add(name, value)
    except (TypeError, ValueError, re.error) as error:
        raise Lie(f"Edit: {error}") from error
    return bytes(fields)

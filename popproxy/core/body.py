"""What happens to a multi-line reply that does not pass untouched. A sink is fed its content without terminator.

``feed`` and ``finish`` return octets for the client. ``untouched`` tells whether nothing has gone out yet: then an
error may still be answered; afterwards the only honest end is to close the connection (promise 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from popproxy.api.bodies import BodyFilter, HeaderFilter
from popproxy.api.padding import LEAST_GROWTH, on_top, padding
from popproxy.api.plugin import Fail
from popproxy.core.chain import Entry
from popproxy.core.hooks import CONTAINED
from popproxy.core.lies import Lie
from popproxy.core.limits import KEPT
from popproxy.wire.dots import Stuffer, Unstuffer


class Sink(Protocol):
    """Takes the content of one multi-line reply, still stuffed."""

    @property
    def untouched(self) -> bool:
        """Whether nothing of the reply is out."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """Octets for the client."""
        ...

    def finish(self) -> bytes:
        """The last octets for the client, terminator included."""
        ...


class Swallow:
    """Drops the content: the client was answered otherwise."""

    untouched = False

    def feed(self, chunk: bytes) -> bytes:
        """Nothing."""
        return b""

    def finish(self) -> bytes:
        """Nothing."""
        return b""


class Overlong(Exception):
    """A reply is larger than what may be held."""


class Collect:
    """Holds the content, at most ``limit`` octets, for whoever asked. Raises Overlong."""

    untouched = True

    def __init__(self, limit: int, then: Callable[[bytes], None]) -> None:
        self._limit = limit
        self._size = 0
        self._parts: list[bytes] = []
        self._then = then

    def feed(self, chunk: bytes) -> bytes:
        """Nothing."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise Overlong(f"a listing of more than {self._limit} octets")
        self._parts.append(chunk)
        return b""

    def finish(self) -> bytes:
        """Nothing; who asked gets the content."""
        self._then(b"".join(self._parts))
        return b""


class Head(Collect):
    """Holds the first ``limit`` octets of the content and drops the others."""

    def feed(self, chunk: bytes) -> bytes:
        """Nothing."""
        room = self._limit - self._size
        return super().feed(chunk[:room]) if room else b""


class FilterFailed(Exception):
    """A filter failed and its plugin is Fail.CLOSED, or octets are out already."""


class FilterStage:
    """One plugin's filter in the pipeline, with its failure contained.

    While the filter has given nothing on, what it was fed is kept (at most ``KEPT`` octets), so that Fail.OPEN
    can go on as if the filter were not there, but for the ``growth`` that was announced for it.
    """

    __slots__ = ("_early", "_entry", "_filter", "_kept", "_report", "_size", "_started", "growth", "holds", "through")

    def __init__(self, entry: Entry, filter: BodyFilter, report: Callable[[Entry, BaseException], None]) -> None:
        self._entry = entry
        self._filter: BodyFilter | None = filter
        self._report = report
        self._kept: list[bytes] = []
        self._size = 0
        self._started = False
        self._early = b""
        self.growth = filter.growth
        """By how many octets it makes the message longer, whatever happens."""
        self.holds = filter.holds is True
        """Whether nothing may go out early, of no filter."""
        self.through = False
        """Whether what follows passes the filter untouched."""

    def feed(self, chunk: bytes) -> bytes:
        """Through the filter. Raises FilterFailed."""
        if self._filter is None:
            return chunk
        if not self._started:
            self._size += len(chunk)
            if self._size <= KEPT:
                self._kept.append(chunk)
            else:
                self._kept.clear()
        try:
            out = self._filter.feed(chunk)
            if not isinstance(out, bytes):
                raise TypeError(f"feed() returned {type(out).__name__}, not bytes")
            self.through = self._filter.through is True
        except CONTAINED as error:
            return self._failed(error)
        if out and not self._started:
            self._started = True
            self._kept.clear()
        return out

    def finish(self) -> bytes:
        """The filter's last octets. Raises FilterFailed."""
        if self._filter is None:
            return b""
        try:
            out = self._filter.finish()
            if not isinstance(out, bytes):
                raise TypeError(f"finish() returned {type(out).__name__}, not bytes")
        except CONTAINED as error:
            return self._failed(error)
        return out

    def early(self) -> bytes:
        """Octets that the filter lets go before it is fed. Raises FilterFailed."""
        if self._filter is None:
            return b""
        try:
            out = self._filter.early()
            if not isinstance(out, bytes):
                raise TypeError(f"early() returned {type(out).__name__}, not bytes")
        except CONTAINED as error:
            return self._failed(error)
        self._early += out
        return out

    @property
    def plugin(self) -> str:
        """The plugin's name in the config."""
        return self._entry.subscriber.name

    def absorb(self, octets: int) -> None:
        """An Edit of the same plugin has added ``octets``: the filter adds so many less. Raises Lie when it cannot."""
        if not self.growth or not octets:
            return
        if not isinstance(self._filter, HeaderFilter):
            raise Lie("Edit: the plugin's filter is no HeaderFilter and cannot make up for the size; edit there")
        if self.growth - octets < LEAST_GROWTH:
            most = self.growth - LEAST_GROWTH
            raise Lie(f"Edit: it adds {octets} octets; of the announced growth {most} are left")
        self._filter.growth = self.growth = self.growth - octets

    def _failed(self, error: BaseException) -> bytes:
        self._report(self._entry, error)
        field = padding(self.growth) if self.growth else b""
        closed = self._entry.subscriber.fail is Fail.CLOSED
        if closed or self._started or self._size > KEPT or not field.startswith(self._early):
            raise FilterFailed(self._entry.subscriber.name) from error
        self._filter = None
        self.through = True
        kept, self._kept = b"".join(self._kept), []
        return field[len(self._early) :] + kept if self._early else on_top(kept, field)


class Stage(Protocol):
    """What a message passes on its way to the client: a FilterStage, or one of ours. See FilterStage."""

    through: bool
    growth: int
    holds: bool

    @property
    def plugin(self) -> str:
        """Name of the plugin, empty for one of ours."""
        ...

    def early(self) -> bytes:
        """See FilterStage."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """See FilterStage."""
        ...

    def finish(self) -> bytes:
        """See FilterStage."""
        ...

    def absorb(self, octets: int) -> None:
        """See FilterStage."""
        ...


_FIRST_PIECE = 8192


class Filtered:
    """Un-stuff > filters > stuff. The status line goes out with the first octets that the filters give on."""

    def __init__(self, head: bytes, stages: Sequence[Stage]) -> None:
        self.untouched = True
        self.through = False
        """Whether no filter changes what follows: it may pass as it travels, without this sink."""
        self._head = head
        self._unstuff = Unstuffer()
        self._stages = stages
        self._stuff = Stuffer()
        self._fed = self._given = b"\r\n"

    def stage(self, plugin: str) -> Stage | None:
        """The plugin's stage."""
        return next((stage for stage in self._stages if stage.plugin == plugin), None)

    def feed(self, chunk: bytes) -> bytes:
        """Filtered octets, stuffed. Raises FilterFailed."""
        if len(chunk) <= _FIRST_PIECE:
            return self._edit(chunk)
        # Small pieces first: most filters are through when the header is.
        untouched = self.untouched
        parts: list[bytes] = []
        place, size = 0, _FIRST_PIECE
        try:
            while place < len(chunk) and not self.through:
                parts.append(self._edit(chunk[place : place + size]))
                place += size
                size *= 2
        except FilterFailed:
            # The pieces before it do not go out either.
            self.untouched = untouched
            raise
        return b"".join((*parts, chunk[place:]))

    def _edit(self, chunk: bytes) -> bytes:
        if self.through:
            # Un-stuffing and stuffing again is the identity (wire/dots.py).
            return chunk
        self._fed = (self._fed + chunk[-2:])[-2:]
        data = self._unstuff.feed(chunk)
        for stage in self._stages:
            if not data:
                return b""
            data = stage.feed(data)
        if not data:
            return b""
        self._given = (self._given + data[-2:])[-2:]
        # A dot at the end may be a stuffing dot that is taken off already: then the next octets are not as they came.
        # Nor are they when a filter ended its last line elsewhere: a dot would begin a line that began none.
        done = chunk[-1] != 0x2E and _line_state(self._fed) == _line_state(self._given)
        self.through = done and all(stage.through for stage in self._stages)
        return self._out(self._stuff.feed(data))

    def early(self) -> bytes:
        """What may go out before the first ``feed``, of the outermost filter that has any. Raises FilterFailed."""
        if any(stage.holds for stage in self._stages):
            return b""
        for place in reversed(range(len(self._stages))):
            data = self._stages[place].early()
            for stage in self._stages[place + 1 :]:
                data = stage.feed(data) if data else b""
            if data:
                self._given = (self._given + data[-2:])[-2:]
                return self._out(self._stuff.feed(data))
        return b""

    def finish(self) -> bytes:
        """What the filters held back, and the terminator. Raises FilterFailed."""
        if self.through:
            return b".\r\n"
        data = b""
        for stage in self._stages:
            data = (stage.feed(data) if data else b"") + stage.finish()
        return self._out(self._stuff.feed(data) + self._stuff.finish())

    def _out(self, data: bytes) -> bytes:
        if self.untouched:
            self.untouched = False
            return self._head + data
        return data


def _line_state(octets: bytes) -> int:
    """Where the octets behind these stand: 2 at the beginning of a line, 1 behind a CR, 0 elsewhere."""
    return 2 if octets.endswith(b"\r\n") else 1 if octets.endswith(b"\r") else 0

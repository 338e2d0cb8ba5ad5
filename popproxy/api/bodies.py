"""Filters of a message while it streams: octets in, octets out, without stuffing and without terminator."""

from __future__ import annotations

from collections.abc import Callable

from popproxy.api.header import Header, header_end
from popproxy.api.padding import LEAST_GROWTH, begun, on_top, padding

HEADER_LIMIT = 256 << 10
"""The largest header a HeaderFilter holds, in octets, its empty line included."""


class BodyFilter:
    """Changes one message as it passes. Made by ``Plugin.open_body``, used once, never shared.

    ``feed`` is called with every chunk in order, ``finish`` exactly once after the last; both return what goes on
    to the client. When the session dies neither is called again. Line ends are CRLF; chunks end anywhere.
    """

    __slots__ = ()

    through: bool = False
    """Set it true when the filter is done: ``feed`` would return from now on what it gets, ``finish`` nothing, and the
    last octets it returned are the last it was fed. The rest of the message then passes at the speed of the wire. (A
    class with ``__slots__`` names ``through`` among them.)"""
    holds: bool = False
    """Set it true when ``on_message`` of the plugin may still refuse the message: then nothing goes out early, of no
    filter."""
    growth: int = 0
    """By how many octets this filter makes the message longer: 0, or what its plugin announced (``Plugin.growth``,
    ``Grow``). When it fails and Fail.OPEN lets the message pass, a padding field of this size goes on top, so that the
    announced size holds even then."""

    def feed(self, chunk: bytes) -> bytes:
        """What goes on for ``chunk``; ``b""`` keeps everything back for now."""
        return chunk

    def finish(self) -> bytes:
        """What goes on after the last chunk."""
        return b""

    def early(self) -> bytes:
        """A few octets of what this filter will put first, to keep the client alive while ``on_message`` is awaited.

        Called before the first ``feed``, every ``timeouts.keepalive`` seconds. What it returns goes out now and must
        not be returned again. Once something is out the message must follow: a Refuse then ends the connection."""
        return b""


class HeaderFilter(BodyFilter):
    """Edits the header of one message and hands the body on untouched, as the very same ``bytes`` objects.

    Give it ``edit`` or override the method. The header is held until its empty line has come, or the end of a
    message that has none; ``edit`` is called exactly once then, before anything goes out. A header of more than
    ``limit`` octets is not edited: ``overflow`` is called instead and, unless that raises, the message passes as it is,
    behind the fields that it has made.

    With ``growth`` the message grows by exactly so many octets whatever ``edit`` does, also when it is not edited: a
    padding field on top (api/padding.py) makes up the difference. An edit that adds more than ``growth - Grow.LEAST``
    octets is the plugin's failure.
    """

    __slots__ = ("_change", "_held", "_limit", "_sent", "growth", "overflowed", "through")

    def __init__(
        self, edit: Callable[[Header], None] | None = None, *, growth: int = 0, limit: int = HEADER_LIMIT
    ) -> None:
        """ValueError for a ``growth`` that is neither 0 nor at least ``Grow.LEAST``."""
        if growth != 0 and growth < LEAST_GROWTH:
            raise ValueError(f"growth={growth}: write 0 for none, or at least {LEAST_GROWTH} octets")
        self._change = edit
        self._limit = limit
        self._held = bytearray()
        self._sent = 0
        self.growth = growth
        self.through = False
        self.overflowed = False
        """Whether the header was too large and the message passes unedited."""

    def edit(self, header: Header) -> None:
        """Change ``header``. What it raises is the plugin's failure."""
        if self._change is not None:
            self._change(header)

    def overflow(self, top: Header) -> None:
        """The header is larger than the limit, and not edited: fields put into ``top``, which is empty, go above it.

        Raise to make it the plugin's failure.
        """

    def early(self) -> bytes:
        """The beginning of the padding, octet by octet; nothing without ``growth``."""
        octets = begun(self._sent) if self.growth else b""
        self._sent += len(octets)
        return octets

    def feed(self, chunk: bytes) -> bytes:
        """Nothing until the header is complete, then the edited header and what follows, then each chunk itself."""
        if self.through:
            return chunk
        if not self._held:
            data: bytes | bytearray = chunk
            end = header_end(chunk, 0, self._limit)
        else:
            data = self._held
            searched = len(data)
            data += chunk
            end = header_end(data, searched - 2, self._limit)
        if end < 0 and len(data) < self._limit:
            if data is chunk:
                self._held += chunk
            return b""
        self.through = True
        if end < 0:
            self.overflowed = True
            top = Header()
            self.overflow(top)
            return self._padded(chunk if data is chunk else self._release(), 0, bytes(top))
        block = bytes(data[:end])
        made = self._edited(block)
        if made is block:
            return chunk if data is chunk else self._release()
        return made + data[end:]

    def finish(self) -> bytes:
        """The edited header of a message that ended within it."""
        if self.through:
            return b""
        self.through = True
        return self._edited(self._release())

    def _edited(self, block: bytes) -> bytes:
        """The header block with its padding; the very same object when nothing changed."""
        header = Header(block)
        self.edit(header)
        made = bytes(header) if header.changed else block
        return self._padded(made, len(made) - len(block))

    def _padded(self, message: bytes, added: int, above: bytes = b"") -> bytes:
        """``message``, or its beginning, with ``above`` and the padding that makes ``added`` octets the growth."""
        if not self.growth:
            return on_top(message, above) if above else message
        added += len(above)
        if added > self.growth - LEAST_GROWTH:
            raise ValueError(
                f"the edit adds {added} octets; with growth={self.growth} it may add {self.growth - LEAST_GROWTH}"
            )
        field = padding(self.growth - added) + above
        return field[self._sent :] + message if self._sent else on_top(message, field)

    def _release(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held

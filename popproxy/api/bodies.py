"""Filters of a message while it streams: octets in, octets out, without stuffing and without terminator."""

from __future__ import annotations

from collections.abc import Callable

from popproxy.api.header import Header, header_end

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

    def feed(self, chunk: bytes) -> bytes:
        """What goes on for ``chunk``; ``b""`` keeps everything back for now."""
        return chunk

    def finish(self) -> bytes:
        """What goes on after the last chunk."""
        return b""


class HeaderFilter(BodyFilter):
    """Edits the header of one message and hands the body on untouched, as the very same ``bytes`` objects.

    Give it ``edit`` or override the method. The header is held until its empty line has come, or the end of a
    message that has none; ``edit`` is called exactly once then, before anything goes out. A header of more than
    ``limit`` octets is not edited: ``overflow`` is called instead and, unless that raises, the message passes as it is.
    """

    __slots__ = ("_change", "_held", "_limit", "overflowed", "through")

    def __init__(self, edit: Callable[[Header], None] | None = None, *, limit: int = HEADER_LIMIT) -> None:
        self._change = edit
        self._limit = limit
        self._held = bytearray()
        self.through = False
        self.overflowed = False
        """Whether the header was too large and the message passes unedited."""

    def edit(self, header: Header) -> None:
        """Change ``header``. What it raises is the plugin's failure."""
        if self._change is not None:
            self._change(header)

    def overflow(self) -> None:
        """The header is larger than the limit. Raise to make that the plugin's failure; else it passes unedited."""

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
            self.overflow()
        else:
            header = Header(bytes(data[:end]))
            self.edit(header)
            if header.changed:
                return bytes(header) + data[end:]
        return chunk if data is chunk else self._release()

    def finish(self) -> bytes:
        """The edited header of a message that ended within it."""
        if self.through:
            return b""
        self.through = True
        header = Header(self._release())
        self.edit(header)
        return bytes(header)

    def _release(self) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held

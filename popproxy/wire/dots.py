"""Incremental byte-stuffing (RFC 1939 section 3): a line that begins with ``.`` travels with one more.

Both directions start in the state "at the beginning of a line" and treat only CRLF as the end of a line,
so un-stuffing followed by stuffing is the identity on every body that a strict sender can send, also one
with bare LF.
"""

from __future__ import annotations


class Unstuffer:
    """Takes the stuffing off a body that arrives in chunks. The terminator must not be fed."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        """The octets of the message in ``chunk``."""
        if not chunk:
            return b""
        tail = self._tail
        self._tail = (tail + chunk[-2:])[-2:]
        cut = 0
        if tail == b"\r\n" and chunk[0] == 0x2E:
            cut = 1
        elif tail[-1:] == b"\r" and chunk[:2] == b"\n.":
            return b"\n" + chunk[2:].replace(b"\r\n.", b"\r\n")
        return chunk[cut:].replace(b"\r\n.", b"\r\n")


class Stuffer:
    """Puts the stuffing on and ends the body. Octets in, octets for the wire out."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        """``chunk`` as it travels."""
        if not chunk:
            return b""
        tail = self._tail
        self._tail = (tail + chunk[-2:])[-2:]
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        if tail == b"\r\n" and chunk[0] == 0x2E:
            return b"." + stuffed
        if tail[-1:] == b"\r" and chunk[:2] == b"\n.":
            return b"\n." + stuffed[1:]
        return stuffed

    def finish(self) -> bytes:
        """The terminator; a body that did not end with CRLF gets one first, as every server adds it."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"


def stuff(message: bytes) -> bytes:
    """A whole message as it travels, terminator included."""
    stuffer = Stuffer()
    return stuffer.feed(message) + stuffer.finish()


def unstuff(body: bytes) -> bytes:
    """A whole body without its terminator as the message it carries."""
    return Unstuffer().feed(body)

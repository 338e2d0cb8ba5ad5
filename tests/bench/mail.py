"""The benchmark's messages: the same octets in the stub that sends them and in the client that compares them.

A maildrop is named by its user: ``m50x30000`` holds 50 messages of 30,000 octets. A message is a function of its
number and size, so neither side needs the other's memory; numbers differ in the header and in every body line.
"""

from __future__ import annotations

import base64
import random
import re
from dataclasses import dataclass
from functools import lru_cache

MAX_MESSAGES = 10_000
MAX_OCTETS = 64 * 1024 * 1024

_NAME = re.compile(r"m(\d{1,5})x(\d{1,8})", re.ASCII)
_DOT_LINES = (b".\r\n", b"..\r\n", b".hidden line\r\n", b"\r\n")


@dataclass(frozen=True, slots=True)
class Maildrop:
    """`count` messages of `size` octets each (RFC 1939 octets: before dot-stuffing)."""

    count: int
    size: int

    @classmethod
    def named(cls, user: str) -> Maildrop:
        """The maildrop of a user name; ValueError when the name does not describe one."""
        match = _NAME.fullmatch(user)
        if match is None:
            raise ValueError(f"user {user!r}: write m<count>x<octets>, for example m50x30000")
        drop = cls(int(match[1]), int(match[2]))
        if drop.count > MAX_MESSAGES or drop.size > MAX_OCTETS:
            raise ValueError(f"user {user!r}: at most {MAX_MESSAGES} messages of {MAX_OCTETS} octets")
        return drop

    @property
    def user(self) -> str:
        return f"m{self.count}x{self.size}"

    @property
    def total(self) -> int:
        return self.count * self.size


_TEXT = 8192
"""Octets of text at the beginning of a message, with dots in it and lines that begin with them; then base64, which
is what most octets of large mail are."""


def raw(number: int, size: int) -> bytes:
    """Message `number`, exactly `size` octets, ending in CRLF: text with dots, then base64 lines of 76 octets."""
    head = b"Subject: message %d\r\nMessage-ID: <%d.%d@bench.invalid>\r\n\r\n" % (number, number, size)
    words = random.Random(number)
    text = bytearray(head)
    index = 0
    while len(text) < min(_TEXT, size):
        text += b"Line %d of the text, %016x. And one more sentence.\r\n" % (index, words.getrandbits(64))
        if index % 16 == 0:
            text += _DOT_LINES[index // 16 % len(_DOT_LINES)]
        index += 1
    block = base64.encodebytes(words.randbytes(57 * 1024)).replace(b"\n", b"\r\n")
    text += block * (max(0, size - len(text)) // len(block) + 1)
    whole = bytes(text[: max(0, size - 2)])
    if whole.endswith(b"\r"):
        whole = whole[:-1] + b"x"
    return (whole + b"\r\n")[:size]


@lru_cache(maxsize=256)
def wire(number: int, size: int) -> bytes:
    """What follows the status line of ``RETR number``: the stuffed message and the terminator (RFC 1939, 3)."""
    body = raw(number, size)
    if body.startswith(b"."):
        body = b"." + body
    return body.replace(b"\r\n.", b"\r\n..") + b".\r\n"


@lru_cache(maxsize=16)
def prepare(drop: Maildrop) -> None:
    """Make all messages of a maildrop now, lest the first measured RETR pays for them."""
    for number in range(1, min(drop.count, 64) + 1):
        wire(number, drop.size)


@lru_cache(maxsize=16)
def listing(drop: Maildrop) -> bytes:
    """The whole reply to LIST."""
    rows = b"".join(b"%d %d\r\n" % (number, drop.size) for number in range(1, drop.count + 1))
    return b"+OK %d messages\r\n" % drop.count + rows + b".\r\n"


@lru_cache(maxsize=16)
def unique_ids(drop: Maildrop) -> bytes:
    """The whole reply to UIDL."""
    rows = b"".join(b"%d %s\r\n" % (number, uid(number, drop.size)) for number in range(1, drop.count + 1))
    return b"+OK\r\n" + rows + b".\r\n"


def uid(number: int, size: int) -> bytes:
    return b"%08x%08x" % (number, size)

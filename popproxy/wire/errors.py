"""Errors of the wire that know the reply they become.

Law: the public text of a Refusal says nothing an attacker could use; the reason is private and goes to
the log only. Text is ASCII, one line, without CR, LF or NUL.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from popproxy.wire.replies import err


class Code(Enum):
    """Response codes a reply can carry (RFC 2449 section 8, RFC 3206, RFC 6856)."""

    AUTH = b"AUTH"
    SYS_TEMP = b"SYS/TEMP"
    SYS_PERM = b"SYS/PERM"
    IN_USE = b"IN-USE"
    LOGIN_DELAY = b"LOGIN-DELAY"
    UTF8 = b"UTF8"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A negative reply in the making.

    ``text`` is what the client reads, ``code`` its response code or None, ``reason`` the private cause.
    """

    text: str
    code: Code | None = None
    reason: str = ""

    def line(self) -> bytes:
        """The ``-ERR`` line, CRLF included."""
        return err(self.text.encode("ascii", "replace"), None if self.code is None else self.code.value)


class WireError(ValueError):
    """What a peer sent breaks the protocol. ``kind`` is a short stable word used as a metric label."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind

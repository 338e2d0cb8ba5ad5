"""SpamAssassin's spamd: a small client of its protocol, SPAMC/1.5 with the command SYMBOLS.

    SYMBOLS SPAMC/1.5\r\n Content-length: N\r\n \r\n message  >  SPAMD/1.1 0 EX_OK\r\n Spam: True ; 15.0 / 5.0\r\n ...

The reply's content is as long as its Content-length says. One that is shorter or longer is no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from popproxy.api import MessageView, SessionView, Stream, StreamFailed
from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned, symbols_of

HEAD = 8192
"""Octets of the largest head of a reply."""
CONTENT = 1 << 16
"""Octets of the largest content of a reply."""

_STATUS = re.compile(rb"SPAMD/\d{1,3}\.\d{1,3} (\d{1,3}) ([ -~]{1,64})\Z")
_SPAM = re.compile(rb"(True|Yes|False|No) *; *(-?\d{1,9}(?:\.\d{1,9})?) */ *(-?\d{1,9}(?:\.\d{1,9})?)\Z", re.IGNORECASE)
_USER = re.compile(r"[\w.@+=-]{1,128}\Z", re.ASCII)
_LENGTH = re.compile(rb"\d{1,9}\Z")
_TEMPORARY = frozenset({69, 71, 74, 75, 79})
"""EX_UNAVAILABLE, EX_OSERR, EX_IOERR, EX_TEMPFAIL, EX_TIMEOUT (sysexits.h; the last is spamd's own)."""

Connect = Callable[[str, float], Awaitable[Stream]]


class Spamd:
    """A client of spamd. ``connect`` is services.stream; with ``tells_user`` spamd hears the user's name."""

    def __init__(self, connect: Connect, tells_user: bool) -> None:
        self._connect = connect
        self._tells_user = tells_user

    async def scan(self, server: str, seconds: float, session: SessionView, message: MessageView) -> Scored:
        """Ask ``server`` what it thinks of ``message``. Raises ScanFailed."""
        user = (session.login or session.user or "") if self._tells_user else ""
        answer = Answer()
        try:
            async with await self._connect(server, seconds) as stream:
                await stream.write(request(message.octets, user))
                for chunk in message.chunks():
                    await stream.write(chunk)
                await stream.write_eof()
                while not answer.complete:
                    data = await stream.read()
                    if not data:
                        break
                    answer.feed(data)
        except StreamFailed as error:
            why = Unscanned.LATE if error.kind == "timeout" else Unscanned.AWAY
            raise ScanFailed(why, f"{error.kind}: {error}") from error
        return answer.verdict()


def request(octets: int, user: str = "") -> bytes:
    """The head of a request for a message of ``octets``. A ``user`` that could break the head is left out."""
    head = b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n" % octets
    if _USER.match(user):
        head += b"User: %b\r\n" % user.encode("ascii")
    return head + b"\r\n"


class Answer:
    """A reply as it comes. ``complete`` when no more of it is needed. Raises ScanFailed for what is no reply."""

    def __init__(self) -> None:
        self.complete = False
        self._data = b""
        self._head: dict[bytes, bytes] | None = None
        self._length = 0

    def feed(self, data: bytes) -> None:
        """More of it."""
        self._data += data
        if self._head is None:
            self._begin()
        if self._head is not None:
            self.complete = len(self._data) >= self._length

    def verdict(self) -> Scored:
        """The verdict. Raises ScanFailed unless the reply is whole, and exactly as long as it says."""
        if self._head is None:
            # spamd says what is wrong in one line and closes.
            status, ended, _ = self._data.partition(b"\r\n")
            if ended:
                self._check(status)
            raise ScanFailed(Unscanned.WRONG, "closed in the middle of the head of its reply")
        if len(self._data) != self._length:
            raise ScanFailed(Unscanned.WRONG, f"its reply has {len(self._data)} octets, not {self._length} as it says")
        found = _SPAM.match(self._head.get(b"spam", b""))
        if found is None:
            raise ScanFailed(Unscanned.WRONG, "its reply has no verdict")
        names = re.split(r"[,\s]+", self._data.decode("ascii", "replace"))
        try:
            return Scored(float(found[2]), found[1].lower() in (b"true", b"yes"), float(found[3]), symbols_of(names))
        except ValueError as error:
            raise ScanFailed(Unscanned.WRONG, "the score is out of range") from error

    def _begin(self) -> None:
        head, end, content = self._data.partition(b"\r\n\r\n")
        if not end:
            if len(self._data) > HEAD:
                raise ScanFailed(Unscanned.WRONG, f"a head of more than {HEAD} octets")
            return
        status, *lines = head.split(b"\r\n")
        self._check(status)
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip()
        length = fields.get(b"content-length", b"0")
        if not _LENGTH.match(length) or int(length) > CONTENT:
            raise ScanFailed(Unscanned.WRONG, "a Content-length that is none, or too large")
        self._head, self._length, self._data = fields, int(length), content

    def _check(self, status: bytes) -> None:
        """Raises ScanFailed unless the status line says EX_OK."""
        found = _STATUS.match(status)
        if found is None:
            raise ScanFailed(Unscanned.WRONG, "no status line of spamd")
        code = int(found[1])
        if code != 0:
            why = Unscanned.AWAY if code in _TEMPORARY else Unscanned.WRONG
            raise ScanFailed(why, f"spamd says {code} {found[2].decode('ascii')}")

"""What a client gets instead of a message that is replaced."""

from __future__ import annotations

import re
import textwrap

from popproxy.api import Header
from popproxy_plugins.spam.actions import fill_notice
from popproxy_plugins.spam.marks import Marks
from popproxy_plugins.spam.subject import decoded
from popproxy_plugins.spam.verdict import Scored

KEPT = ("From", "To", "Cc", "Date", "Subject", "Message-ID")
"""Fields of the original that the notice has, too: so it stands in the client's list as the message would."""

_MIME = (
    ("Content-Transfer-Encoding", "8bit"),
    ("Content-Type", "text/plain; charset=utf-8"),
    ("MIME-Version", "1.0"),
)
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_SHOWN = 200
_BLANK = 60
"""Octets of a blank line that fills a notice up, or fewer."""
_WIDTH = 200
"""Characters of a line; in UTF-8 at most 800 octets, of 998 that RFC 5322 section 2.1.1 allows."""


def notice(original: Header, octets: int, room: int, text: str, scored: Scored, marks: Marks) -> bytes:
    """The notice for a message of ``octets`` octets with the header ``original``: at most ``room`` octets.

    A small message leaves little room: then kept fields are cut, and lines at the end of the text are left out.
    ``room`` is at least ``marks.growth``.
    """
    for length in (400, 120, 40, 0):
        header = Header()
        for name in KEPT:
            values = original.get_all(name)
            value = _cut(_CONTROL.sub(" ", values[0]), length) if values else ""
            if value:
                header.add(name, value, top=False)
        for name, value in _MIME:
            header.add(name, value)
        marks.write(header, scored)
        head = bytes(header) + b"\r\n"
        if len(head) <= room:
            break
    places = {name: _shown(original, name) for name in ("from", "subject", "date")}
    filled = fill_notice(text, {**places, "score": f"{scored.score:.2f}", "octets": str(octets)})
    return head + _lines(filled, room - len(head))


def top_of(made: bytes, room: int, lines: int) -> bytes | None:
    """The notice ``made`` as TOP shows it; None when so many ``lines`` are all of it, blank ones behind it included.

    Fewer show nothing but the text: the blank lines are there for the size that LIST said, which TOP does not have.
    """
    head, empty, body = made.partition(b"\r\n\r\n")
    text = body.splitlines(keepends=True)
    if lines - len(text) > (room - len(made)) // _BLANK:
        return None
    return head + empty + b"".join(text[:lines])


def _cut(value: str, length: int) -> str:
    """At most ``length`` characters, cut between words: half an encoded-word would be none."""
    if len(value) <= length:
        return value
    return value[: length + 1].rpartition(" ")[0]


def _shown(original: Header, name: str) -> str:
    values = original.get_all(name)
    text = _CONTROL.sub(" ", decoded(values[0][:998])) if values else ""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _lines(text: str, room: int) -> bytes:
    """``text`` with CRLF, as many lines of it as fit."""
    made = b""
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        for part in textwrap.wrap(line, _WIDTH) if len(line) > _WIDTH else [line]:
            octets = part.encode("utf-8", "replace") + b"\r\n"
            if len(made) + len(octets) > room:
                return made
            made += octets
    return made

"""What is written into a message: a constant number of octets, whatever the verdict.

Law: an edit adds at most ``growth - Grow.LEAST`` octets, for any header and any verdict; HeaderFilter pads the rest.
"""

from __future__ import annotations

from popproxy.api import Grow, Header
from popproxy_plugins.spam.actions import Decision, decide
from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.subject import put_tag
from popproxy_plugins.spam.verdict import SCORE_LIMIT, Scored, Unscanned

NOTICE_ROOM = 112
"""Octets that a notice needs beside what is written into every message: its MIME fields, and its empty line."""

_LINE = 78
_VALUE = f"{-SCORE_LIMIT:.2f}"
_STATUS = f"Yes, score={_VALUE} required={_VALUE} tests="
_UNSCANNED = "Unknown, not scanned: "


class Marks:
    """The fields and the tag of one plugin table."""

    def __init__(self, config: SpamConfig) -> None:
        self._config = config
        self._fields = config.fields
        self._names = tuple(name for name in (config.fields.flag, config.fields.score, config.fields.status) if name)
        status = max(len(_STATUS) + config.symbols, *(len(_UNSCANNED + why.value) for why in Unscanned))
        self.growth = Grow.LEAST + (
            _most(self._fields.flag, 3)
            + _most(self._fields.score, len(_VALUE))
            + _most(self._fields.status, status)
            + max(_tag_octets(action.tag) for action in config.actions)
            + (NOTICE_ROOM if any(action.replace for action in config.actions) else 0)
        )
        """Octets by which every message grows."""

    def decide(self, scored: Scored) -> Decision:
        """What the actions say of a message."""
        return decide(self._config.actions, scored)

    def write(self, header: Header, judged: Scored | Unscanned) -> None:
        """Put the verdict into ``header``. Fields of the names that are ours go: whoever wrote them, it was not us."""
        for name in self._names:
            header.remove(name)
        if isinstance(judged, Unscanned):
            self._add(header, self._fields.status, _UNSCANNED + judged.value)
            return
        decision = self.decide(judged)
        if decision.tag:
            put_tag(header, decision.tag)
        self._add(header, self._fields.status, self._status(judged, decision))
        self._add(header, self._fields.score, f"{judged.score:.2f}")
        self._add(header, self._fields.flag, "YES" if decision.flagged else "NO")

    def _add(self, header: Header, name: str, value: str) -> None:
        if name:
            header.add(name, value)

    def _status(self, scored: Scored, decision: Decision) -> str:
        text = f"{'Yes' if decision.flagged else 'No'}, score={scored.score:.2f}"
        if decision.required is not None:
            text += f" required={decision.required:.2f}"
        tests = ""
        for symbol in scored.symbols:
            longer = f"{tests}, {symbol}" if tests else symbol
            if len(longer) > self._config.symbols:
                break
            tests = longer
        return f"{text} tests={tests}" if tests else text


def _most(name: str, value: int) -> int:
    """Octets of a field called ``name`` with ``value`` characters of ASCII in words of at most 64, folded."""
    if not name:
        return 0
    octets = len(name) + 2 + value
    # Of two lines one after the other the first word of the second did not fit into the first.
    return octets + 2 + 2 * (2 * octets // _LINE + 1)


def _tag_octets(tag: str) -> int:
    """The most that a tag adds to a header."""
    if not tag:
        return 0
    most = 0
    for value in (b"", b"Subject:\r\n", b"Subject:x\r\n", b"Subject:=?a?q?a?=\r\n"):
        header = Header(value)
        put_tag(header, tag)
        most = max(most, len(bytes(header)) - len(value))
    return most + 4

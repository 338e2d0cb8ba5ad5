"""What may be shown of a conversation to somebody who looks on: by type, never by pattern (promise 6).

Of a command its verb, when it is one, and arguments whose type is harmless: message numbers, the name behind USER or
APOP, a mechanism that exists. All else is told by what it is and how long. Text is printable ASCII afterwards, so that
no peer can speak to a terminal.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Mapping

from popproxy.api.transcript import escape
from popproxy.core.offer import SASL
from popproxy.wire.commands import VERBS, BadCommand, Command, Framing, Verb, Where, parse

_DIGEST = re.compile(rb"[0-9a-f]{32}")
_BEFORE = (b"\0", b" ", b"p=", b"Bearer ")
"""What stands before the secret in PLAIN, CRAM-MD5, SCRAM, and where a token is sent."""
_WORD = 4
"""Octets of the shortest argument that could be a secret: words as short as language tags are everywhere."""
_CUT = 600
"""Characters of the longest text that is shown."""


def text_of(octets: bytes) -> str:
    """``octets`` as printable ASCII, cut where it is very long."""
    text = escape(octets[:_CUT])
    return text if len(octets) <= _CUT else f"{text}... ({len(octets):,} octets)"


def line_of(octets: bytes) -> bytes:
    """A line without its end."""
    return octets.removesuffix(b"\n").removesuffix(b"\r")


def shown(text: bytes, where: Where, extra: Mapping[bytes, Verb] | None = None) -> tuple[str, Command | None]:
    """A line of a client (without its end) in the state ``where``, and the command that it is, if it is one."""
    try:
        command = parse(text, extra)
    except BadCommand as bad:
        if bad.verb is None:
            return f"<unknown command, {len(text)} octets>", None
        return f"{bad.verb.name.decode('ascii')} <wrong arguments, {len(text)} octets in all>", None
    return _command(command, where), command


def _command(command: Command, where: Where) -> str:
    verb, name, argument = command.verb, command.name, command.argument
    if not argument:
        return name
    if verb.name in (b"PASS", b"RPOP"):
        return f"{name} <password>"
    if verb.numbers:
        return f"{name} {argument.decode('ascii')}"
    if where is Where.AUTHORIZATION:
        words = command.arguments
        if verb.name == b"AUTH" and words[0].upper().decode("ascii", "replace") in SASL:
            initial = f" <sasl initial response, {len(words[1])} octets>" if len(words) > 1 else ""
            return f"{name} {words[0].upper().decode('ascii')}{initial}"
        if verb.name == b"AUTH":
            return f"{name} <unknown mechanism>"
        if verb.name == b"USER" and b" " not in argument:
            return f"{name} {text_of(argument)}"
        if verb.name == b"APOP" and len(words) == 2 and _DIGEST.fullmatch(words[1]):
            return f"{name} {text_of(words[0])} <digest>"
    return f"{name} <arguments, {len(argument)} octets>"


def reply_kind(command: Command | None) -> str:
    """What follows ``+OK`` to ``command``: nothing (empty), or a word for it."""
    if command is None:
        return ""
    verb = command.verb
    if verb.name == b"CAPA":
        return "capabilities"
    if verb.name in (b"RETR", b"TOP"):
        return "message"
    if verb.framing is Framing.UPLOAD:
        return "upload"
    if command.multiline or (verb.name == b"AUTH" and not command.argument):
        return "listing"
    return ""


class Secrets:
    """What a session's client and the proxy have said in secret, so that a peer who repeats it is not shown. Only the
    last few are kept, and nothing longer than a session is looked at."""

    __slots__ = ("_doubtful", "_kept")

    def __init__(self) -> None:
        self._kept: deque[bytes] = deque(maxlen=32)
        self._doubtful: deque[bytes] = deque(maxlen=32)

    def command(self, command: Command | None) -> None:
        """A command was said: keep what is secret in it."""
        if command is None or not command.argument:
            return
        if command.verb.name in (b"PASS", b"RPOP"):
            self._keep(command.argument)
        elif command.verb.name == b"AUTH":
            for word in command.arguments[1:]:
                self.sasl(word)
        elif command.verb.name == b"APOP":
            self._keep(command.arguments[-1])
        elif command.verb.name != b"USER" and not command.verb.numbers:
            # It was not shown, so nobody shall say it for the client.
            self._doubtful.extend(word for word in command.arguments if len(word) >= _WORD)

    def strange(self, line: bytes) -> None:
        """A line that is no command: nothing of it was shown but perhaps its verb."""
        self._doubtful.extend(word for word in line.split() if len(word) >= _WORD and word.upper() not in VERBS)

    def name(self, text: bytes) -> None:
        """Where a name belongs something stood that may be a secret: it counts as one, and not as a name."""
        self._doubtful.append(text.strip() or text)

    def sasl(self, text: bytes) -> None:
        """A response within AUTH, or what stands in its place: base64, and what it holds."""
        if text in (b"=", b"*"):
            return
        self._keep(text)
        self._keep(text[:8])
        try:
            plain = base64.b64decode(text)
        except binascii.Error:
            return
        self._keep(plain)
        for mark in _BEFORE:
            self._keep(plain.rpartition(mark)[2].partition(b"\x01")[0])

    def _keep(self, word: bytes) -> None:
        word = word.strip()
        if word and word not in self._kept:
            self._kept.append(word)

    def repeated(self, text: bytes, *but: str | None) -> bool:
        """Whether ``text`` repeats one of them, in letters of either case: some servers write what they did not
        understand in capitals. ``but``: names, which are none although a mechanism sends them so."""
        text = text.lower()
        names = {name.encode("utf-8", "surrogateescape") for name in but if name}
        kept = (word for word in self._kept if word not in names)
        return any(word.lower() in text for words in (kept, self._doubtful) for word in words)

"""What a hook may return: a closed union of plain values. None always means "go on".

Plugins find, policy decides: public texts are generic, the reason goes to the log and never to the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from popproxy.api.credentials import Credentials
from popproxy.wire.commands import Command
from popproxy.wire.errors import Code


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer ``-ERR [code] text``; nothing goes upstream. ``reason`` is for the log."""

    text: str = "Refused by policy"
    code: Code | None = Code.SYS_PERM
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Send ``command`` upstream instead. Its reply must have the framing of the command it stands for."""

    command: Command


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer in place of the upstream: ``+OK text`` or ``-ERR [code] text``.

    ``body`` is the content of a multi-line reply as plain octets with CRLF line ends, neither stuffed nor
    terminated; it is needed exactly when ``ok`` is true and the command's reply is a multi-line one.
    """

    ok: bool
    text: str = ""
    code: Code | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the client's connection without a word, and the upstream's without QUIT."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Log in at ``upstream`` (a name from the config; None keeps it) with ``credentials`` (None keeps them)."""

    upstream: str | None = None
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Hide:
    """Hide these messages (numbers of the upstream's maildrop) for the whole session."""

    messages: frozenset[int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Announce these octets for these messages (numbers of the upstream's maildrop)."""

    octets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Edit:
    """Change the header of a spooled message: drop all fields in ``remove``, put ``add`` on top, in this order."""

    add: Sequence[tuple[str, str]] = ()
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Replace:
    """Send ``message`` (plain octets with CRLF line ends) instead of the one retrieved."""

    message: bytes


ConnectVerdict = Refuse | None
LoginVerdict = Refuse | Route | None
LoginResultVerdict = Answer | None
MaildropVerdict = Hide | Sizes | None
CommandVerdict = Refuse | Rewrite | Answer | Hangup | None
ReplyVerdict = Answer | None
MessageVerdict = Edit | Replace | Refuse | None
Verdict = Refuse | Rewrite | Answer | Hangup | Route | Hide | Sizes | Edit | Replace

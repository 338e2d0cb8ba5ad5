"""What a hook may return: a closed union of plain values. None always means "go on".

Plugins find, policy decides: public texts are generic, the reason goes to the log and never to the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal

from popproxy.api.credentials import Credentials
from popproxy.api.header import Header
from popproxy.api.padding import LEAST_GROWTH, check_size
from popproxy.wire.commands import Command
from popproxy.wire.errors import Code
from popproxy.wire.sasl import Verifier


def _check(verdict: str, **fields: tuple[object, Any]) -> None:
    """A verdict is made inside the plugin: a wrong type fails there, where it can be blamed and contained."""
    for name, (value, kind) in fields.items():
        if not isinstance(value, kind):
            raise TypeError(f"{verdict}: {name} must be {getattr(kind, '__name__', kind)}, not {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer ``-ERR [code] text``; nothing goes upstream. ``reason`` is for the log.

    From on_verifier, on_login and on_login_result the answer waits ``delay`` seconds, at most ``timeouts.pre_auth``;
    with ``close`` the connection is closed behind it; with ``limited`` the attempt is counted as ``rate_limited`` and
    not as what its code says. Elsewhere these three say nothing.
    """

    text: str = "Refused by policy"
    code: Code | None = Code.SYS_PERM
    reason: str = ""
    delay: float = 0.0
    close: bool = False
    limited: bool = False

    def __post_init__(self) -> None:
        _check("Refuse", text=(self.text, str), code=(self.code, Code | None), reason=(self.reason, str))
        _check("Refuse", delay=(self.delay, int | float), close=(self.close, bool), limited=(self.limited, bool))
        if not 0 <= self.delay < inf:
            raise ValueError(f"Refuse: delay={self.delay} is no time to wait")


@dataclass(frozen=True, slots=True)
class Hold:
    """From on_login: the login goes on ``seconds`` later, at most ``timeouts.pre_auth``; ``reason`` is for the log.

    The plugins behind this one are asked at once. Of several Holds the longest counts; a Refuse of a later plugin
    counts more and has its own delay. Who is held costs no task and no connection upstream.
    """

    seconds: float
    reason: str = ""

    def __post_init__(self) -> None:
        _check("Hold", seconds=(self.seconds, int | float), reason=(self.reason, str))
        if not 0 <= self.seconds < inf:
            raise ValueError(f"Hold: seconds={self.seconds} is no time to wait")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Send ``command`` upstream instead. Its reply must have the framing of the command it stands for."""

    command: Command

    def __post_init__(self) -> None:
        _check("Rewrite", command=(self.command, Command))


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

    def __post_init__(self) -> None:
        _check("Answer", ok=(self.ok, bool), text=(self.text, str), code=(self.code, Code | None))
        _check("Answer", body=(self.body, bytes | None))


@dataclass(frozen=True, slots=True)
class Keep:
    """Answer DELE with ``+OK text`` and keep the message: the upstream never hears of it.

    For this client the message is deleted, until RSET: STAT, LIST and UIDL leave it out, RETR, TOP and DELE of it are
    refused. Only where some plugin's on_maildrop is called in this session: the numbers are the proxy's then.
    """

    text: str = ""

    def __post_init__(self) -> None:
        _check("Keep", text=(self.text, str))


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the client's connection without a word, and the upstream's without QUIT."""

    reason: str = ""

    def __post_init__(self) -> None:
        _check("Hangup", reason=(self.reason, str))


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server the config does not name. ``host`` is a host name or an IP address without brackets.

    ``port`` and ``tls`` None are those of the upstream's first server. ``tls`` may not be ``off`` where the
    upstream's own servers have TLS.
    """

    host: str
    port: int | None = None
    tls: Literal["off", "starttls", "implicit"] | None = None

    def __post_init__(self) -> None:
        _check("ServerAddress", host=(self.host, str), port=(self.port, int | None), tls=(self.tls, str | None))


@dataclass(frozen=True, slots=True)
class Route:
    """Log in at ``upstream`` (a name from the config; None keeps it) with ``credentials`` (None keeps them).

    ``server`` is connected to instead of the upstream's own servers, under that upstream's policy: certificates,
    mechanism, time-outs. A later Route that names an upstream forgets it. ``key`` is what sticky balancing chooses
    the server by; None keeps it, and when nobody gave one it is the user name used upstream. ``groups`` are what
    later plugins and all later hooks read as ``session.groups``; None keeps them, () says there are none.
    """

    upstream: str | None = None
    credentials: Credentials | None = None
    server: ServerAddress | None = None
    key: str | None = None
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check("Route", upstream=(self.upstream, str | None), credentials=(self.credentials, Credentials | None))
        _check("Route", server=(self.server, ServerAddress | None), key=(self.key, str | None))
        _check("Route", groups=(self.groups, tuple | None))
        for group in self.groups or ():
            _check("Route", group=(group, str))


@dataclass(frozen=True, slots=True)
class Rename:
    """Go on looking for the verifier of ``user`` instead. The client's name stays what the client gave."""

    user: str

    def __post_init__(self) -> None:
        _check("Rename", user=(self.user, str))


@dataclass(frozen=True, slots=True)
class Hide:
    """Hide these messages (numbers of the upstream's maildrop) for the whole session."""

    messages: frozenset[int]

    def __post_init__(self) -> None:
        _check("Hide", messages=(self.messages, frozenset))
        for number in self.messages:
            _check("Hide", number=(number, int))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Announce these octets for these messages (numbers of the upstream's maildrop), whatever was announced before."""

    octets: Mapping[int, int]

    def __post_init__(self) -> None:
        _check("Sizes", octets=(self.octets, Mapping))
        for number, size in self.octets.items():
            _check("Sizes", number=(number, int), size=(size, int))


@dataclass(frozen=True, slots=True)
class Grow:
    """Announce every message ``octets`` larger. What several plugins announce adds up.

    The plugin's filter has this ``growth`` (``HeaderFilter(edit, growth=octets)``); to messages that it gives no filter
    for, or fails at, the session adds a padding field of this size. ``Plugin.growth`` does the same without a listing.
    0, or at least ``Grow.LEAST`` octets: no smaller padding can be made.
    """

    LEAST: ClassVar[int] = LEAST_GROWTH

    octets: int

    def __post_init__(self) -> None:
        _check("Grow", octets=(self.octets, int))
        if self.octets != 0 and self.octets < LEAST_GROWTH:
            raise ValueError(f"Grow: {self.octets} octets; write 0, or at least {LEAST_GROWTH}")


@dataclass(frozen=True, slots=True)
class Dates:
    """Find out when these messages arrived, then call this hook again: ``MaildropEntry.arrived`` tells it.

    ``messages`` are the upstream's numbers in on_maildrop, the client's in on_command. It costs a ``TOP n 0`` upstream
    for each, while the client waits; remember dates by unique id. To ask only for messages that are all dated, or not
    there, is a fault, unless the command names a message that is not there: it is refused anyway. Where the upstream
    has no TOP, all count as dated. Only where some plugin's on_maildrop is called in this session.
    """

    messages: frozenset[int]

    def __post_init__(self) -> None:
        _check("Dates", messages=(self.messages, frozenset))
        for number in self.messages:
            _check("Dates", number=(number, int))


@dataclass(frozen=True, slots=True)
class Edit:
    """Change the header of a spooled message: drop all fields in ``remove``, put ``add`` on top, in this order."""

    add: Sequence[tuple[str, str]] = ()
    remove: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check("Edit", add=(self.add, Sequence), remove=(self.remove, Sequence))
        for name, value in self.add:
            Header.check(name, value)
        for name in self.remove:
            _check("Edit", name=(name, str))


@dataclass(frozen=True, slots=True)
class Replace:
    """Send ``message`` (plain octets with CRLF line ends) instead of the one retrieved.

    With ``octets`` blank lines behind it make it exactly as large: ``octets=message.octets`` keeps what LIST has said.
    ValueError when it has more; then leave ``octets`` out, or say less.
    """

    message: bytes
    octets: int | None = None

    def __post_init__(self) -> None:
        _check("Replace", message=(self.message, bytes), octets=(self.octets, int | None))
        if self.octets is not None:
            check_size(self.message, self.octets)


ConnectVerdict = Refuse | None
VerifierVerdict = Verifier | Rename | Refuse | None
LoginVerdict = Refuse | Hold | Route | None
LoginResultVerdict = Answer | Refuse | None
MaildropVerdict = Hide | Sizes | Grow | Dates | None
CommandVerdict = Refuse | Rewrite | Answer | Keep | Dates | Hangup | None
ReplyVerdict = Answer | None
MessageVerdict = Edit | Replace | Refuse | None
Verdict = (
    Refuse | Hold | Rewrite | Answer | Keep | Hangup | Verifier | Rename | Route | Hide | Sizes | Grow | Dates | Edit
    | Replace
)  # fmt: skip

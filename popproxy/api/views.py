"""What a plugin sees of a session. Views are for reading: the session never takes its own decisions from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")


class Slot(Generic[T]):
    """A typed place for a plugin's own data in each session.

    Make one per plugin, at import: ``SEEN = Slot("seen", 0)``. The default must be immutable.
    """

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: T) -> None:
        self.name = name
        self.default = default

    def get(self, session: SessionView) -> T:
        """The value in ``session``; the default when none was set."""
        value: T = session.slots.get(self, self.default)
        return value

    def set(self, session: SessionView, value: T) -> None:
        """Keep ``value`` until the session ends."""
        session.slots[self] = value


@dataclass(frozen=True, slots=True)
class TlsView:
    """TLS on the client's leg. ``version`` is ``TLSv1.3`` and the like; ``terminated_by`` tells a PROXY peer."""

    version: str = ""
    cipher: str = ""
    resumed: bool = False
    server_name: str | None = None
    client_certificate: str | None = None
    by_proxy: bool = False
    """True when a trusted PROXY header, not this process, vouches for TLS."""
    verify: str = ""
    """Whether a client certificate was asked for, in nginx's words: ``SUCCESS`` it was shown and is good, ``NONE`` none
    was shown, empty when none was asked for. A bad one ends the handshake."""
    subject: str = ""
    issuer: str = ""
    """Distinguished names of the client certificate as RFC 2253 and OpenSSL write them, ASCII only."""
    serial: str = ""
    """Serial number, hexadecimal, upper case."""
    fingerprint: str = ""
    """SHA-1 of the certificate, hexadecimal, lower case."""
    pem: str = field(default="", repr=False)
    """The certificate itself."""


@dataclass(frozen=True, slots=True)
class MaildropEntry:
    """A message of the upstream's maildrop. ``uid`` is None when the upstream has no UIDL.

    ``arrived`` is when, in seconds since the epoch, by the topmost Received field or else Date; None when that is not
    known. ``dated``: somebody has asked (Dates), so that None is the last word.
    """

    number: int
    octets: int
    uid: bytes | None
    arrived: float | None = None
    dated: bool = False


_NO_MAILDROP: Mapping[int, MaildropEntry] = MappingProxyType({})
# Bare: called as dict[...]() it costs four times as much, once for each connection.
_NO_SLOTS = cast("Callable[[], dict[Slot[Any], Any]]", dict)


@dataclass(slots=True)
class SessionView:
    """One client connection.

    ``user`` is the name the client gave (None before USER or AUTH), ``login`` the name used upstream after a
    successful login. ``server`` is the host and port in use upstream. ``client`` and ``local`` are IP addresses as
    text, or ``unix``; with ``proxied`` a trusted PROXY header told them. ``phase`` is the RFC 1939 state as a
    lower-case word. ``messages`` counts messages retrieved. ``attempt`` is which login attempt this is, 1 at the
    first. ``maildrop`` holds the messages by the number that the client knows them by, hidden ones left out, with
    what is announced for them. It is empty when no plugin subscribes to on_maildrop, and until the first command
    that needs message numbers has passed on_command. ``sent`` counts the octets that the client was sent, true whenever
    a hook behind the login is called. ``ttl`` is how many proxies may still
    follow, as a trusted one in front said (None: none said anything). ``began`` is when the client was accepted, in
    seconds since the epoch. ``groups`` are those the user is in, as a plugin's Route in on_login said; they are
    forgotten when the client gives a name again.
    """

    id: str
    listener: str
    client: str = ""
    client_port: int = 0
    local: str = ""
    local_port: int = 0
    tls: TlsView | None = None
    user: str | None = None
    login: str | None = None
    mechanism: str | None = None
    upstream: str | None = None
    server: str | None = None
    phase: str = "authorization"
    messages: int = 0
    sent: int = 0
    attempt: int = 1
    proxied: bool = False
    ttl: int | None = None
    began: float = 0.0
    groups: frozenset[str] = frozenset()
    maildrop: Mapping[int, MaildropEntry] = field(default_factory=lambda: _NO_MAILDROP, repr=False)
    slots: dict[Slot[Any], Any] = field(default_factory=_NO_SLOTS)


@dataclass(frozen=True, slots=True)
class ReplyView:
    """The status line of an upstream reply; nothing of it has been sent to the client yet."""

    ok: bool
    code: str | None
    text: bytes


@dataclass(frozen=True, slots=True)
class LoginResult:
    """How the login ended: ``ok`` or the refusal the client is about to read (``code``, ``text``), and why."""

    ok: bool
    code: str | None
    text: str
    reason: str
    upstream: str


@dataclass(frozen=True, slots=True)
class MaildropView:
    """The upstream's maildrop at login, by message number."""

    entries: Mapping[int, MaildropEntry]

    @property
    def octets(self) -> int:
        """Sum of all sizes."""
        return sum(entry.octets for entry in self.entries.values())


class MessageView(Protocol):
    """A whole message, spooled. ``octets`` is its size; content has no stuffing and no terminator."""

    @property
    def octets(self) -> int:
        """Size of the message."""
        ...

    @property
    def number(self) -> int:
        """Message number as the client knows it."""
        ...

    @property
    def header(self) -> bytes:
        """The header block up to and with the blank line (RFC 5322 section 2.1), at most 256 KiB of it."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The message from its beginning, in pieces of at most 64 KiB."""
        ...


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """Final totals of a session. Durations in seconds, octets as on the wire after TLS. ``deleted`` are the messages
    that the upstream took DELE for; what a plugin kept (Keep) is not among them."""

    reason: str
    phase: str
    seconds: float
    commands: Mapping[str, int]
    retrieved: int
    deleted: int
    octets_received: int
    octets_sent: int

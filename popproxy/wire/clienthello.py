"""The first flight of a TLS client, read before any TLS library sees it (RFC 8446 sections 4.1.2 and 5.1).

Law: nothing is consumed and nothing is decided here. read_hello() looks at octets that the handshake will read
again, and says what ALPN and SNI the client offers (so that a foreign protocol can be sent an alert, RFC 7301
section 3.2, instead of a certificate) or that no TLS client is talking. A hello that a TLS library would refuse may
pass, the other way round only where this room is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal["plaintext", "not_tls", "not_hello", "malformed", "overlong"]

LIMIT: Final = 65_536
"""Octets, record headers included, within which a ClientHello must be complete."""
RECORDS: Final = 256
"""Records over which a ClientHello may be spread."""

UNEXPECTED_MESSAGE: Final = 10
DECODE_ERROR: Final = 50
PROTOCOL_VERSION: Final = 70
NO_APPLICATION_PROTOCOL: Final = 120

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 1
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_RECORD_LIMIT: Final = 1 << 14
_SERVER_NAME: Final = 0
_ALPN: Final = 16


class HelloError(ValueError):
    """The connection does not begin with a ClientHello. ``reason`` is a stable metric label.

    ``plaintext`` it begins with text, for example a POP3 command sent to an implicit TLS port; ``not_tls`` with
    other octets (SSL 2 among them); ``not_hello`` with TLS, but another record or message; ``malformed`` a hello
    that does not parse; ``overlong`` one beyond LIMIT octets or RECORDS records.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class NeedMore:
    """Not complete yet, and it cannot be with fewer than ``total`` octets, those of this call included."""

    total: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A whole ClientHello.

    ``alpn`` holds the protocol names in the client's order, None without the extension (never empty);
    ``server_name`` the host name as sent (ASCII, letter case kept), None without it.
    """

    alpn: tuple[bytes, ...] | None
    server_name: str | None


def alert(description: int) -> bytes:
    """A fatal alert in one plaintext record (RFC 8446 section 6): what may be sent before any keys exist.

    Raises ValueError for a ``description`` outside 0 to 255.
    """
    return b"\x15\x03\x03\x00\x02\x02" + bytes([description])


def read_hello(data: bytes) -> NeedMore | Hello:
    """Reads the ClientHello from ``data``, all octets of the connection so far; what follows it is not looked at.

    An error is raised as soon as an octet is there that cannot be right, whatever came with it: HelloError.
    """
    data = data[:LIMIT]
    message = bytearray()
    needed, offset = _MESSAGE_HEADER, 0
    for _ in range(RECORDS):
        if len(data) < offset + _RECORD_HEADER:
            _check_record(data[offset:], first=offset == 0)
            return _more(offset + _RECORD_HEADER)
        length = _check_record(data[offset : offset + _RECORD_HEADER], first=offset == 0)
        offset += _RECORD_HEADER
        fragment = data[offset : offset + length]
        message += fragment
        if message and message[0] != _CLIENT_HELLO:
            raise HelloError("not_hello", f"handshake message {message[0]} instead of a ClientHello")
        if len(message) >= _MESSAGE_HEADER:
            needed = _MESSAGE_HEADER + int.from_bytes(message[1:4])
            if needed > LIMIT:
                raise HelloError("overlong", f"a ClientHello of {needed} octets")
            if len(message) >= needed:
                return _parse(bytes(message[_MESSAGE_HEADER:needed]))
        missing = length - len(fragment)
        if missing:
            return _more(len(data) + min(missing, needed - len(message)))
        offset += length
    raise HelloError("overlong", f"a ClientHello in more than {RECORDS} records")


def _more(total: int) -> NeedMore:
    if total > LIMIT:
        raise HelloError("overlong", f"a ClientHello that is not complete after {LIMIT} octets")
    return NeedMore(total)


def _check_record(header: bytes, *, first: bool) -> int:
    """Judges as much of a record header as is there; the length of the record when it is whole, else 0."""
    if header[:1] and header[0] != _HANDSHAKE:
        raise _no_handshake(header[0], first)
    # The minor version says nothing: clients of every version write 1 or 3 here (RFC 8446 section 5.1).
    if header[1:2] and header[1] != 3:
        raise HelloError("not_tls" if first else "malformed", f"a record of TLS major version {header[1]}")
    if len(header) < _RECORD_HEADER:
        return 0
    length = int.from_bytes(header[3:5])
    if not 0 < length <= _RECORD_LIMIT:
        raise HelloError("malformed", f"a handshake record of {length} octets")
    return length


def _no_handshake(octet: int, first: bool) -> HelloError:
    if not first:
        return HelloError("malformed", f"a record of type {octet} within the ClientHello")
    if octet in (9, 10, 13) or 32 <= octet < 127:
        return HelloError("plaintext", "the client speaks in clear where TLS is expected")
    if 20 <= octet <= 24:
        return HelloError("not_hello", f"a TLS record of type {octet} instead of a ClientHello")
    return HelloError("not_tls", f"the first octet is 0x{octet:02x}, not that of a TLS handshake")


class _Reader:
    """Takes a ClientHello apart; every length that does not fit is a HelloError."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise HelloError("malformed", "the ClientHello is shorter than its fields")
        self._at += count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int, least: int) -> bytes:
        """An opaque vector behind a length of ``width`` octets, of at least ``least`` octets."""
        value = self.take(self.number(width))
        if len(value) < least:
            raise HelloError("malformed", "a vector of the ClientHello is too short")
        return value

    def whole(self, width: int, least: int) -> _Reader:
        """The same, to be the last thing in here; as a reader of its own."""
        inner = _Reader(self.vector(width, least))
        if self:
            raise HelloError("malformed", "octets behind the end of a vector of the ClientHello")
        return inner


def _parse(body: bytes) -> Hello:
    reader = _Reader(body)
    reader.take(2 + 32)  # legacy_version, random
    reader.vector(1, 0)  # legacy_session_id
    reader.vector(2, 2)  # cipher_suites
    reader.vector(1, 1)  # legacy_compression_methods
    alpn: tuple[bytes, ...] | None = None
    server_name: str | None = None
    # RFC 5246 section 7.4.1.2: a hello may end here.
    extensions = reader.vector(2, 0) if reader else b""
    if reader:
        raise HelloError("malformed", "octets behind the end of a vector of the ClientHello")
    seen: set[int] = set()
    at, end = 0, len(extensions)
    # By hand, not with a _Reader: this loop is most of the time that a handshake costs here.
    while at < end:
        if end - at < 4:
            raise HelloError("malformed", "the ClientHello is shorter than its fields")
        kind = extensions[at] << 8 | extensions[at + 1]
        begin = at + 4
        at = begin + (extensions[at + 2] << 8 | extensions[at + 3])
        if at > end:
            raise HelloError("malformed", "the ClientHello is shorter than its fields")
        if kind in seen:
            raise HelloError("malformed", f"extension {kind} stands twice in the ClientHello")
        seen.add(kind)
        if kind == _ALPN:
            alpn = _protocols(_Reader(extensions[begin:at]).whole(2, 2))
        elif kind == _SERVER_NAME:
            server_name = _host_name(_Reader(extensions[begin:at]).whole(2, 1))
    return Hello(alpn, server_name)


def _protocols(names: _Reader) -> tuple[bytes, ...]:
    """ProtocolNameList, RFC 7301 section 3.1."""
    found: list[bytes] = []
    while names:
        found.append(names.vector(1, 1))
    return tuple(found)


def _host_name(names: _Reader) -> str | None:
    """The host_name in a ServerNameList, RFC 6066 section 3; names of other types are passed over."""
    found: str | None = None
    while names:
        kind, name = names.number(1), names.vector(2, 1)
        if kind != 0:
            continue
        if found is not None:
            raise HelloError("malformed", "two host names in the ClientHello")
        if not name.isascii() or not name.decode("ascii").isprintable():
            raise HelloError("malformed", "a server name that is not printable ASCII")
        found = name.decode("ascii")
    return found

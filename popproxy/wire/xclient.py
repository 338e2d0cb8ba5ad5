"""Dovecot's XCLIENT for POP3: a proxy in front tells the server who the client really is.

Law: whoever may send this command decides what addresses every limit and log sees, so the caller lets only trusted
networks reach it, and a value that is not exactly right refuses the whole command.

There is no xtext here (that is SMTP's XCLIENT): values are atoms without spaces. FORWARD alone can carry anything:
fields ``key=value`` in Dovecot's tab-escape, joined by tabs, the whole in base64. Several commands add up; a later
value replaces an earlier one, FORWARD as a whole. Measured with Dovecot 2.3.19: lines above 1,034 octets end the
connection; an empty FORWARD, a port 0 and a TTL above 32 bits are refused; unknown keys are ignored.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Literal

Reason = Literal["address", "port", "ttl", "atom", "forward", "overlong"]

LIMIT: Final = 1024
"""Octets of one command line, CRLF included (Dovecot's documentation, "Forwarding parameters")."""
SESSION_LIMIT: Final = 64
"""Octets of a session id; Dovecot passes over a longer one without a word."""

_ATOM = re.compile(rb"[!-~]+")
_HOST = re.compile(rb"(?=.{1,255}$)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_ESCAPE = re.compile(rb"\x01(.?)", re.DOTALL)
_UNESCAPED: Final = {b"1": b"\x01", b"t": b"\t", b"r": b"\r", b"n": b"\n"}
_ESCAPED: Final = ((b"\x01", b"\x011"), (b"\t", b"\x01t"), (b"\r", b"\x01r"), (b"\n", b"\x01n"))


class XclientError(ValueError):
    """A value that cannot be believed, or cannot be sent. ``reason`` is a stable word; the text names the key."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Xclient:
    """What one or more XCLIENT commands say; None (for ``forward``: empty) is what they do not say.

    ``addr``/``port`` are the client's, ``dest_addr``/``dest_port`` the ones it connected to, as IP text without
    brackets (IPv4 where it came mapped into IPv6) and a port from 1 to 65535. ``session`` is an id of at most 64
    printable octets. ``ttl`` is the number of proxies that may still follow. ``client_transport`` begins with
    ``TLS`` when the client's leg is encrypted (Dovecot says ``insecure`` otherwise). ``dest_name`` is the SNI.
    ``forward`` are (key, value) for the authentication of the server; a field without ``=`` has the value ``""``.
    """

    addr: str | None = None
    port: int | None = None
    dest_addr: str | None = None
    dest_port: int | None = None
    session: str | None = None
    ttl: int | None = None
    client_transport: str | None = None
    dest_name: str | None = None
    forward: tuple[tuple[str, str], ...] = ()


def offered(banner: bytes) -> bool:
    """Whether the greeting line (with or without CRLF) says that XCLIENT is taken from this peer.

    The token stands right behind ``+OK``; the same text further on is somebody's greeting and means nothing.
    """
    return banner.startswith(b"+OK [XCLIENT]") and banner[13:14] in (b"", b" ", b"\r", b"\n")


# Values


def _address(key: str, value: bytes) -> str:
    if value[:1] == b"[" and value[-1:] == b"]":
        value = value[1:-1]
    try:
        address = ip_address(value.decode("ascii"))
    except ValueError:
        raise XclientError("address", f"{key} is not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise XclientError("address", f"{key} has a zone")
        address = address.ipv4_mapped or address
    return str(address)


def _number(key: str, value: bytes, reason: Reason, least: int, greatest: int) -> int:
    if _NUMBER.fullmatch(value) is None or not least <= int(value) <= greatest:
        raise XclientError(reason, f"{key} is not a number from {least} to {greatest}")
    return int(value)


def _port(key: str, value: bytes) -> int:
    return _number(key, value, "port", 1, 65535)


def _ttl(key: str, value: bytes) -> int:
    return _number(key, value, "ttl", 0, 2**32 - 1)


def _atom(key: str, value: bytes) -> str:
    if _ATOM.fullmatch(value) is None:
        raise XclientError("atom", f"{key} is empty or holds a space or an octet that is not printable ASCII")
    return value.decode("ascii")


def _session(key: str, value: bytes) -> str:
    if len(value) > SESSION_LIMIT:
        raise XclientError("atom", f"{key} is longer than {SESSION_LIMIT} octets")
    return _atom(key, value)


def _host(key: str, value: bytes) -> str:
    if _HOST.fullmatch(value) is None:
        raise XclientError("atom", f"{key} is not a host name")
    return value.decode("ascii")


def _forward(key: str, value: bytes) -> tuple[tuple[str, str], ...]:
    try:
        data = binascii.a2b_base64(value, strict_mode=True)
        found = [_unescape(item).decode() for item in data.split(b"\t")]
    except ValueError:
        raise XclientError("forward", f"{key} is not base64 of tab-escaped UTF-8") from None
    pairs = tuple((name, text) for name, _, text in (item.partition("=") for item in found))
    if not all(name for name, _ in pairs) or any("\x00" in item for item in found):
        raise XclientError("forward", f"{key} has a field without a name, or one with a NUL")
    return pairs


def _unescape(item: bytes) -> bytes:
    """Dovecot's str_tabunescape; ValueError for an escape its encoder does not write, and for NUL (``0``)."""

    def one(match: re.Match[bytes]) -> bytes:
        octet = _UNESCAPED.get(match[1])
        if octet is None:
            raise ValueError("unknown escape")
        return octet

    return _ESCAPE.sub(one, item)


def _write(key: str, value: object) -> bytes:
    try:
        return str(value).encode("ascii")
    except UnicodeEncodeError:
        raise XclientError("atom", f"{key} is not ASCII") from None


def _write_address(key: str, value: str) -> bytes:
    # A zone means something on this host only; sockets give one with link-local addresses.
    return _write(key, value.partition("%")[0])


def _write_forward(key: str, pairs: tuple[tuple[str, str], ...]) -> bytes:
    try:
        items = [f"{name}={text}".encode() for name, text in pairs]
    except UnicodeEncodeError:
        raise XclientError("forward", f"{key} is not UTF-8") from None
    for octet, escaped in _ESCAPED:
        items = [item.replace(octet, escaped) for item in items]
    written = binascii.b2a_base64(b"\t".join(items), newline=False)
    if _forward(key, written) != pairs:
        raise XclientError("forward", f"{key} has a field name with an equals sign")
    return written


_KEYS: Final[dict[bytes, tuple[str, Callable[[str, bytes], Any], Callable[[str, Any], bytes]]]] = {
    b"ADDR": ("addr", _address, _write_address),
    b"PORT": ("port", _port, _write),
    b"DESTADDR": ("dest_addr", _address, _write_address),
    b"DESTPORT": ("dest_port", _port, _write),
    b"SESSION": ("session", _session, _write),
    b"TTL": ("ttl", _ttl, _write),
    b"CLIENT-TRANSPORT": ("client_transport", _atom, _write),
    b"DESTNAME": ("dest_name", _host, _write),
    b"FORWARD": ("forward", _forward, _write_forward),
}


def parse(arguments: bytes) -> Xclient:
    """The arguments of one XCLIENT command: what stands behind the verb, without the CRLF.

    Keys in any letter case, unknown ones and words without ``=`` ignored, the last of two alike counts.
    Raises XclientError for a known key with a malformed value.
    """
    said: dict[str, Any] = {}
    for word in arguments.split(b" "):
        key, equals, value = word.partition(b"=")
        known = _KEYS.get(key.upper())
        if known is not None and equals:
            name, read, _ = known
            said[name] = read(key.upper().decode("ascii"), value)
    return Xclient(**said)


def command_lines(what: Xclient, limit: int = LIMIT) -> list[bytes]:
    """The fewest XCLIENT lines, CRLF included, that say ``what`` in lines of at most ``limit`` octets.

    Nothing to say is an empty list. Each line gets one reply. Raises XclientError, with the reasons of parse() for
    a value that a server would refuse, ``overlong`` for one that no line can hold.
    """
    lines: list[bytes] = []
    line = b"XCLIENT"
    for key, word in _words(what):
        if len(line) + 1 + len(word) + 2 > limit and line != b"XCLIENT":
            lines.append(line + b"\r\n")
            line = b"XCLIENT"
        line += b" " + word
        if len(line) + 2 > limit:
            raise XclientError("overlong", f"{key} does not fit into a line of {limit} octets")
    if line != b"XCLIENT":
        lines.append(line + b"\r\n")
    return lines


def _words(what: Xclient) -> list[tuple[str, bytes]]:
    words = []
    for octets, (name, read, write) in _KEYS.items():
        value = getattr(what, name)
        if value is None or value == ():
            continue
        key = octets.decode("ascii")
        text = write(key, value)
        # What is sent is what would be taken: nothing else can put a space or a CRLF into the line.
        read(key, text)
        words.append((key, octets + b"=" + text))
    return words

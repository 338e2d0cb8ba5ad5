"""What a PROXY header says, and what is wrong with one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

Reason = Literal["signature", "version", "command", "family", "length", "address", "overlong", "tlv", "checksum"]
Address = tuple[str, int] | str
"""(IP address, port), or the path of a Unix socket (``@name`` when it is abstract)."""

V1_LIMIT: Final = 107
"""Octets of the longest version 1 header, CRLF included (section 2.1)."""
V2_LIMIT: Final = 4096
"""Octets of the longest version 2 header taken; the format itself allows 65,551."""

V1_SIGNATURE: Final = b"PROXY "
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_FIXED: Final = 16
INET_LAYOUT: Final = struct.Struct("!4s4sHH")
INET6_LAYOUT: Final = struct.Struct("!16s16sHH")
UNIX_LAYOUT: Final = struct.Struct("!108s108s")
TLV_LAYOUT: Final = struct.Struct("!BH")
SSL_LAYOUT: Final = struct.Struct("!BL")


class ProxyError(ValueError):
    """No header, or one that must not be believed: end the connection. ``reason`` is a stable metric label.

    ``signature`` it is not the PROXY protocol at all; ``version``, ``command``, ``family`` a value the specification
    does not know; ``length`` too short for its addresses; ``address`` an address, port or line that does not parse;
    ``overlong`` past V1_LIMIT or V2_LIMIT; ``tlv`` a vector that does not parse; ``checksum`` CRC32C does not match.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


class Tlv(IntEnum):
    """The types of section 2.2 that this room reads, and one of our own (section 2.2.7 leaves 0xE0 to 0xEF free):
    ``popproxy-ttl=N``, how many proxies may still follow."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    POPPROXY_TTL = 0xE0


@dataclass(frozen=True, slots=True)
class ProxyTls:
    """TLS between the client and the proxy in front (PP2_TYPE_SSL, section 2.2.6)."""

    client_ssl: bool
    cert_on_connection: bool = False
    cert_in_session: bool = False
    verify: int = 1
    version: str | None = None
    cipher: str | None = None
    cn: str | None = None

    @property
    def verified(self) -> bool:
        """Whether a client certificate was presented and verified.

        ``verify`` alone does not say it: HAProxy also sends 0 when there was no certificate to fail.
        """
        return self.verify == 0 and (self.cert_on_connection or self.cert_in_session)


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """One header. With ``local`` the real addresses of the socket hold and every other field is empty: section 2.2
    has the rest of such a header discarded, its vectors and their checksum unread.

    An IPv4-mapped IPv6 address is given as the IPv4 address it is, so that networks and limits match it. A Unix
    socket without a name is None. ``authority`` is the SNI; ``alpn`` and ``unique_id`` are raw octets.
    ``ttl`` is our own.
    """

    version: Literal[1, 2]
    local: bool
    source: Address | None = None
    destination: Address | None = None
    tls: ProxyTls | None = None
    authority: str | None = None
    alpn: bytes | None = None
    unique_id: bytes | None = None
    ttl: int | None = None

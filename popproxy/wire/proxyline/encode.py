"""Writes PROXY headers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from popproxy.wire.proxyline.crc32c import crc32c
from popproxy.wire.proxyline.values import (
    INET6_LAYOUT,
    INET_LAYOUT,
    SSL_LAYOUT,
    TLV_LAYOUT,
    UNIX_LAYOUT,
    V2_FIXED,
    V2_LIMIT,
    V2_SIGNATURE,
    Address,
    ProxyError,
    ProxyTls,
    Tlv,
)

_Ip = IPv4Address | IPv6Address


def encode_v1(source: tuple[str, int] | None, destination: tuple[str, int] | None) -> bytes:
    """The version 1 header for one TCP connection; ``PROXY UNKNOWN`` when either address is not known.

    Addresses of two families are both written as IPv6. A zone is left out. Raises ProxyError("address").
    """
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    (host, port), (to_host, to_port) = _inet(source, destination)
    family = 4 if isinstance(host, IPv4Address) else 6
    return f"PROXY TCP{family} {host} {to_host} {port} {to_port}\r\n".encode("ascii")


def encode_v2(
    source: Address | None,
    destination: Address | None,
    tlvs: Iterable[tuple[int, bytes]] = (),
    *,
    checksum: bool = False,
) -> bytes:
    """The version 2 header for one stream; LOCAL, without vectors, when both addresses are None.

    Two (IP, port): TCP, of two families both as IPv6, a zone left out. A path or an unnamed socket on one side and
    a path on the other: Unix. ``tlvs`` are (type, value) in the order to write; ``checksum`` adds a CRC32C.
    Raises ProxyError("address") for an address that does not parse, ProxyError("family") for an IP address beside a
    path, ProxyError("overlong") for more than V2_LIMIT octets, ProxyError("tlv") for vectors on a LOCAL header.
    """
    vectors = b"".join(_vector(kind, value) for kind, value in tlvs)
    if source is None and destination is None:
        if vectors or checksum:
            raise ProxyError("tlv", "a LOCAL header carries nothing")
        return V2_SIGNATURE + b"\x20\x00\x00\x00"
    if checksum:
        vectors += _vector(Tlv.CRC32C, bytes(4))
    family, addresses = _encode_addresses(source, destination)
    length = len(addresses) + len(vectors)
    if V2_FIXED + length > V2_LIMIT:
        raise ProxyError("overlong", f"a version 2 header of {V2_FIXED + length} octets, more than {V2_LIMIT}")
    header = V2_SIGNATURE + struct.pack("!BBH", 0x21, family, length) + addresses + vectors
    return header[:-4] + crc32c(header).to_bytes(4) if checksum else header


def tls_vector(tls: ProxyTls) -> tuple[int, bytes]:
    """The (type, value) for encode_v2 that says what ``tls`` says.

    Raises ProxyError("tlv") for a ``verify`` outside 32 bits or a text that is not UTF-8.
    """
    client = tls.client_ssl | tls.cert_on_connection << 1 | tls.cert_in_session << 2
    texts = ((Tlv.SSL_VERSION, tls.version), (Tlv.SSL_CIPHER, tls.cipher), (Tlv.SSL_CN, tls.cn))
    try:
        subs = [_vector(kind, text.encode()) for kind, text in texts if text is not None]
        return Tlv.SSL, SSL_LAYOUT.pack(client, tls.verify) + b"".join(subs)
    except (struct.error, UnicodeEncodeError):
        raise ProxyError("tlv", "a verify result beyond 32 bits, or a text that is not UTF-8") from None


def ttl_vector(ttl: int) -> tuple[int, bytes]:
    """The (type, value) for encode_v2 that says how many proxies may still follow, 0 to 999."""
    return Tlv.POPPROXY_TTL, b"popproxy-ttl=%d" % ttl


def _vector(kind: int, value: bytes) -> bytes:
    if not 0 <= kind <= 255:
        raise ProxyError("tlv", f"the type of a vector is a number from 0 to 255, not {kind}")
    if len(value) > V2_LIMIT:
        raise ProxyError("overlong", f"a vector of {len(value)} octets, more than a whole header may have")
    return TLV_LAYOUT.pack(kind, len(value)) + value


def _encode_addresses(source: Address | None, destination: Address | None) -> tuple[int, bytes]:
    if isinstance(source, tuple) and isinstance(destination, tuple):
        (host, port), (to_host, to_port) = _inet(source, destination)
        if isinstance(host, IPv4Address):
            return 0x11, INET_LAYOUT.pack(host.packed, to_host.packed, port, to_port)
        return 0x21, INET6_LAYOUT.pack(host.packed, to_host.packed, port, to_port)
    if isinstance(source, tuple) or isinstance(destination, tuple):
        raise ProxyError("family", "an IP address can only be proxied to another IP address")
    return 0x31, UNIX_LAYOUT.pack(_path(source), _path(destination))


def _inet(source: tuple[str, int], destination: tuple[str, int]) -> tuple[tuple[_Ip, int], tuple[_Ip, int]]:
    """Both ends parsed, in one family."""
    ends: list[tuple[_Ip, int]] = []
    for text, port in (source, destination):
        try:
            address = ip_address(text)
        except ValueError:
            raise ProxyError("address", "not an IP address") from None
        if not 0 <= port <= 65535:
            raise ProxyError("address", "a port is a number from 0 to 65535")
        ends.append((address, port))
    if not all(isinstance(address, IPv4Address) for address, _ in ends):
        ends = [(_ipv6(address), port) for address, port in ends]
    return ends[0], ends[1]


def _ipv6(address: _Ip) -> IPv6Address:
    if isinstance(address, IPv4Address):
        return IPv6Address(bytes(10) + b"\xff\xff" + address.packed)
    # Through the packed form: it has no zone.
    return IPv6Address(address.packed)


def _path(path: str | None) -> bytes:
    try:
        octets = (path or "").encode()
    except UnicodeEncodeError:
        raise ProxyError("address", "a Unix socket path that is not UTF-8") from None
    if b"\x00" in octets or len(octets) > 108:
        raise ProxyError("address", "a Unix socket path has no NUL and at most 108 octets")
    return b"\x00" + octets[1:] if octets[:1] == b"@" else octets

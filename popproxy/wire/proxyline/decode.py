"""Reads a PROXY header octet by octet; see the package for the law."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from popproxy.wire.proxyline.crc32c import crc32c
from popproxy.wire.proxyline.values import (
    INET6_LAYOUT,
    INET_LAYOUT,
    SSL_LAYOUT,
    TLV_LAYOUT,
    UNIX_LAYOUT,
    V1_LIMIT,
    V1_SIGNATURE,
    V2_FIXED,
    V2_LIMIT,
    V2_SIGNATURE,
    Address,
    ProxyError,
    ProxyHeader,
    ProxyTls,
    Tlv,
)

_TTL: Final = re.compile(rb"popproxy-ttl=([0-9]{1,3})")
_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")


class ProxyDecoder:
    """Decodes the header at the beginning of one connection, in whatever pieces it comes.

    Read at most ``want`` octets, feed() them, until a header comes back: then nothing behind the header was read.
    A version 2 header takes two or three such reads. A version 1 header has no length, so ``want`` is the least
    that a valid one still lacks: 15, then what the missing fields need, then two at a time; fifty reads at most.
    Who may over-read can feed anything: what lies behind the header is in ``leftover``.
    """

    __slots__ = ("_buffer", "_end", "_header")

    def __init__(self) -> None:
        self._buffer = b""
        self._header: ProxyHeader | None = None
        self._end = 0

    @property
    def want(self) -> int:
        """How many octets may be read without passing the header's end; 0 once it is complete, else at least 1."""
        if self._header is not None:
            return 0
        have = len(self._buffer)
        if self._buffer[:1] == V2_SIGNATURE[:1]:
            if have < V2_FIXED:
                return V2_FIXED - have
            return V2_FIXED + int.from_bytes(self._buffer[14:16]) - have
        if have < _SHORTEST:
            return _SHORTEST - have
        return _missing_v1(self._buffer)

    @property
    def leftover(self) -> bytes:
        """The octets that were fed and lie behind the header; empty while it is not complete."""
        return self._buffer[self._end :] if self._header is not None else b""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Takes the next octets; the header as soon as it is complete, None before. Raises ProxyError.

        After the header is complete, more octets only add to ``leftover``. Feed nothing after a ProxyError.
        """
        self._buffer += data
        if self._header is None:
            buffer = self._buffer
            if _could_be(buffer, V1_SIGNATURE):
                self._feed_v1(buffer)
            elif _could_be(buffer, V2_SIGNATURE):
                self._feed_v2(buffer)
            else:
                raise ProxyError("signature", "the connection does not begin with a PROXY header")
        return self._header

    def _feed_v1(self, buffer: bytes) -> None:
        end = buffer.find(b"\n", 0, V1_LIMIT) + 1
        if end:
            self._header = _parse_v1(buffer[:end])
            self._end = end
        elif len(buffer) >= V1_LIMIT:
            raise ProxyError("overlong", f"a version 1 header of more than {V1_LIMIT} octets")

    def _feed_v2(self, buffer: bytes) -> None:
        # Each octet is judged as soon as it is there, in order: the outcome must not depend on the pieces.
        if len(buffer) > 12 and buffer[12] >> 4 != 2:
            raise ProxyError("version", f"PROXY protocol version {buffer[12] >> 4}")
        if len(buffer) > 12 and buffer[12] & 0xF > 1:
            raise ProxyError("command", f"unassigned PROXY command {buffer[12] & 0xF}")
        local = len(buffer) > 12 and buffer[12] & 0xF == 0
        if len(buffer) > 13 and not local and (buffer[13] >> 4 > 3 or buffer[13] & 0xF > 2):
            raise ProxyError("family", f"unassigned address family or transport 0x{buffer[13]:02x}")
        if len(buffer) < V2_FIXED:
            return
        end = V2_FIXED + int.from_bytes(buffer[14:16])
        if end > V2_LIMIT:
            raise ProxyError("overlong", f"a version 2 header of {end} octets, more than {V2_LIMIT}")
        if len(buffer) >= end:
            self._header = ProxyHeader(2, True) if local else _parse_v2(buffer[:end])
            self._end = end


def _could_be(buffer: bytes, signature: bytes) -> bool:
    return signature.startswith(buffer[: len(signature)])


# Version 1


def _missing_v1(line: bytes) -> int:
    """The fewest octets that can complete ``line``, which is no complete header yet."""
    if line.endswith(b"\r"):
        return 1
    if line.startswith(b"PROXY UNKNOWN"):
        return 2
    # "PROXY TCP6 :: :: 1 1": five spaces, each followed by at least one octet, then CRLF.
    fields = max(0, 5 - line.count(b" "))
    return 2 * fields + line.endswith(b" ") + 2


def _parse_v1(line: bytes) -> ProxyHeader:
    body = line[:-2]
    if not line.endswith(b"\r\n") or b"\r" in body:
        raise ProxyError("address", "a version 1 header ends with CRLF and holds neither CR nor LF")
    fields = body.split(b" ")
    family = fields[1]
    if family == b"UNKNOWN":
        # Section 2.1: ignore anything presented before the CRLF.
        return ProxyHeader(1, True)
    if family not in (b"TCP4", b"TCP6"):
        raise ProxyError("family", "the family of a version 1 header is TCP4, TCP6 or UNKNOWN")
    if len(fields) != 6:
        raise ProxyError("address", "a version 1 header has two addresses and two ports, one space between")
    read = _read_ipv4 if family == b"TCP4" else _read_ipv6
    source, destination = read(fields[2]), read(fields[3])
    return ProxyHeader(1, False, (source, _read_port(fields[4])), (destination, _read_port(fields[5])))


def _read_ipv4(text: bytes) -> str:
    try:
        return str(IPv4Address(text.decode("ascii")))
    except ValueError:
        raise ProxyError("address", "not an IPv4 address in canonical form") from None


def _read_ipv6(text: bytes) -> str:
    try:
        address = IPv6Address(text.decode("ascii"))
    except ValueError:
        raise ProxyError("address", "not an IPv6 address") from None
    if address.scope_id is not None:
        raise ProxyError("address", "an IPv6 address with a zone")
    return _plain(address)


def _plain(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def _read_port(text: bytes) -> int:
    if not (text.isdigit() and len(text) <= 5 and int(text) <= 65535 and (text[:1] != b"0" or text == b"0")):
        raise ProxyError("address", "a port is a decimal number from 0 to 65535 without leading zeros")
    return int(text)


# Version 2


def _parse_v2(header: bytes) -> ProxyHeader:
    match header[13]:
        case 0x11:
            layout: struct.Struct = INET_LAYOUT
        case 0x21:
            layout = INET6_LAYOUT
        case 0x31:
            layout = UNIX_LAYOUT
        case _:
            # Section 2.2: valid, but not a stream or not specified. Where the vectors would begin is not known.
            return ProxyHeader(2, True)
    begin = V2_FIXED + layout.size
    if len(header) < begin:
        raise ProxyError("length", f"{len(header) - V2_FIXED} octets cannot hold the addresses of their family")
    source, destination = _addresses(layout, header)
    found: dict[int, bytes] = {}
    for offset, kind, value in _vectors(header, begin):
        found[kind] = value
        if kind == Tlv.CRC32C:
            _verify(header, offset, value)
    unique_id = found.get(Tlv.UNIQUE_ID)
    if unique_id is not None and len(unique_id) > 128:
        raise ProxyError("tlv", "a unique id of more than 128 octets")
    tls = found.get(Tlv.SSL)
    return ProxyHeader(
        version=2,
        local=False,
        source=source,
        destination=destination,
        tls=None if tls is None else _read_tls(tls),
        authority=_text(found, Tlv.AUTHORITY),
        alpn=found.get(Tlv.ALPN),
        unique_id=unique_id,
        ttl=_read_ttl(found.get(Tlv.POPPROXY_TTL, b"")),
    )


def _addresses(layout: struct.Struct, header: bytes) -> tuple[Address | None, Address | None]:
    if layout is UNIX_LAYOUT:
        source, destination = layout.unpack_from(header, V2_FIXED)
        return _read_path(source), _read_path(destination)
    source, destination, port, to_port = layout.unpack_from(header, V2_FIXED)
    if layout is INET_LAYOUT:
        return (str(IPv4Address(source)), port), (str(IPv4Address(destination)), to_port)
    return (_plain(IPv6Address(source)), port), (_plain(IPv6Address(destination)), to_port)


def _read_path(block: bytes) -> str | None:
    path = block.rstrip(b"\x00")
    if path[:1] == b"\x00":
        path = b"@" + path[1:]
    if b"\x00" in path:
        raise ProxyError("address", "a Unix socket path with a NUL inside")
    try:
        return path.decode() or None
    except UnicodeDecodeError:
        raise ProxyError("address", "a Unix socket path that is not UTF-8") from None


def _vectors(data: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset of the value, type, value) of every vector up to the end of ``data``."""
    while offset < len(data):
        if len(data) - offset < TLV_LAYOUT.size:
            raise ProxyError("tlv", "the header does not end at the end of a vector")
        kind, length = TLV_LAYOUT.unpack_from(data, offset)
        offset += TLV_LAYOUT.size
        value = data[offset : offset + length]
        if len(value) != length:
            raise ProxyError("tlv", "a vector that is longer than what holds it")
        yield offset, kind, value
        offset += length


def _verify(header: bytes, offset: int, value: bytes) -> None:
    if len(value) != 4:
        raise ProxyError("tlv", "a CRC32C of other than 4 octets")
    zeroed = header[:offset] + bytes(4) + header[offset + 4 :]
    if crc32c(zeroed) != int.from_bytes(value):
        raise ProxyError("checksum", "the CRC32C of the header does not match")


def _text(found: dict[int, bytes], kind: Tlv) -> str | None:
    value = found.get(kind)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise ProxyError("tlv", f"{kind.name} is not UTF-8") from None


def _read_ttl(value: bytes) -> int | None:
    """Other programs may use the type for something else: what is not ours says nothing."""
    found = _TTL.fullmatch(value)
    return None if found is None else int(found[1])


def _read_tls(value: bytes) -> ProxyTls:
    if len(value) < SSL_LAYOUT.size:
        raise ProxyError("tlv", "PP2_TYPE_SSL of less than 5 octets")
    client, verify = SSL_LAYOUT.unpack_from(value)
    found = {kind: sub for _, kind, sub in _vectors(value, SSL_LAYOUT.size)}
    return ProxyTls(
        client_ssl=bool(client & 1),
        cert_on_connection=bool(client & 2),
        cert_in_session=bool(client & 4),
        verify=verify,
        version=_text(found, Tlv.SSL_VERSION),
        cipher=_text(found, Tlv.SSL_CIPHER),
        cn=_text(found, Tlv.SSL_CN),
    )

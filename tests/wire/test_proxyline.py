"""The PROXY protocol, v1 and v2, against the specification's examples and the package proxy-protocol as oracle."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from proxyprotocol import ProxyProtocolIncompleteError
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal, ProxyResultUnix
from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from popproxy.wire.proxyline import (
    Address,
    ProxyDecoder,
    ProxyError,
    ProxyHeader,
    ProxyTls,
    Tlv,
    encode_v1,
    encode_v2,
    tls_vector,
    ttl_vector,
)
from popproxy.wire.proxyline.crc32c import crc32c

quick = settings(max_examples=150, deadline=None)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 4711, 995)
PAIR: tuple[tuple[str, int], tuple[str, int]] = (("192.0.2.1", 4711), ("198.51.100.7", 995))

ports = st.integers(0, 65535)
ipv4 = st.tuples(st.ip_addresses(v=4).map(str), ports)
ipv6 = st.tuples(st.ip_addresses(v=6).map(str).filter(lambda ip: not ip.startswith("::ffff:")), ports)
pairs = st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6) | st.tuples(ipv4, ipv6) | st.tuples(ipv6, ipv4)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=2, max_size=25)
tls = st.builds(
    ProxyTls,
    client_ssl=st.booleans(),
    cert_on_connection=st.booleans(),
    cert_in_session=st.booleans(),
    verify=st.integers(0, 2**32 - 1),
    version=st.none() | words,
    cipher=st.none() | words,
    cn=st.none() | words,
)


@contextmanager
def refusal(reason: str) -> Iterator[None]:
    with pytest.raises(ProxyError) as caught:
        yield
    assert caught.value.reason == reason


def v2(body: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def vector(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def decode(data: bytes) -> ProxyHeader | None:
    return ProxyDecoder().feed(data)


def outcome(data: bytes, sizes: list[int] | None = None) -> tuple[Any, bytes, int]:
    """(header, reason of the error or None; what is left over; octets needed to know it), fed in pieces."""
    decoder, fed, pieces = ProxyDecoder(), 0, iter(sizes or [])
    while fed < len(data):
        piece = data[fed : fed + next(pieces, len(data))]
        fed += len(piece)
        try:
            header = decoder.feed(piece)
        except ProxyError as error:
            return error.reason, b"", 0
        if header is not None:
            return header, decoder.leftover + data[fed:], len(data) - len(decoder.leftover + data[fed:])
    return None, b"", 0


# Version 1


@pytest.mark.parametrize(
    ("line", "header"),
    [
        (
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            ProxyHeader(1, False, ("192.168.0.1", 56324), ("192.168.0.11", 443)),
        ),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
            ProxyHeader(1, False, ("255.255.255.255", 65535), ("255.255.255.255", 0)),
        ),
        (
            b"PROXY TCP6 2001:DB8:0:0::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            ProxyHeader(1, False, ("2001:db8::1", 65535), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)),
        ),
        (b"PROXY TCP6 ::ffff:192.0.2.1 :: 1 2\r\n", ProxyHeader(1, False, ("192.0.2.1", 1), ("::", 2))),
        (b"PROXY UNKNOWN\r\n", ProxyHeader(1, True)),
        (b"PROXY UNKNOWN ffff::1 what ever 65535 \xff\r\n", ProxyHeader(1, True)),
        (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ProxyHeader(1, True)),
    ],
)
def test_v1_lines(line: bytes, header: ProxyHeader) -> None:
    assert decode(line) == header


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"USER tim\r\n", "signature"),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "signature"),
        (b"PROXYTCP4", "signature"),
        (b"\r\nQUIT", "signature"),
        (b"\x16\x03\x01", "signature"),
        (b"PROXY \r\n", "family"),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "family"),
        (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "family"),
        (b"PROXY UNKNOWNX\r\n", "family"),
        (b"PROXY TCP4\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "address"),
        (b"PROXY UNKNOWN\n", "address"),
        (b"PROXY UNKNOWN a\rb\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n", "address"),
        (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "address"),
        (b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.\xff 1.2.3.4 1 2\r\n", "address"),
        (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", "address"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "address"),
        (b"PROXY TCP6 ::1 ::\xff 1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 000001\r\n", "address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1_0\r\n", "address"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "overlong"),
        (b"PROXY " + b"x" * 101, "overlong"),
    ],
)
def test_v1_refuses(line: bytes, reason: str) -> None:
    with refusal(reason):
        decode(line)


def test_a_v1_line_that_has_not_ended_is_no_header_yet() -> None:
    assert decode(b"") is None
    assert decode(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r") is None
    assert decode(b"PROXY UNKNOWN " + b"x" * 92) is None


# Version 2


def test_v2_ipv4() -> None:
    assert decode(v2(V4)) == ProxyHeader(2, False, *PAIR)


def test_v2_ipv6_and_mapped_ipv4() -> None:
    a, b = IPv6Address("2001:db8::1"), IPv6Address("::ffff:192.0.2.9")
    header = decode(v2(a.packed + b.packed + struct.pack("!HH", 1, 2), family=0x21))
    assert header == ProxyHeader(2, False, ("2001:db8::1", 1), ("192.0.2.9", 2))


@pytest.mark.parametrize(
    ("block", "path"), [(b"", None), (b"/run/pop3", "/run/pop3"), (b"\x00pop3", "@pop3"), (b"/" + b"x" * 107, None)]
)
def test_v2_unix(block: bytes, path: str | None) -> None:
    header = decode(v2(block.ljust(108, b"\x00") + bytes(108), family=0x31))
    assert header == ProxyHeader(2, False, path if len(block) < 108 else block.decode(), None)


@pytest.mark.parametrize("family", [0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x32])
def test_v2_what_is_no_stream_keeps_the_addresses_of_the_socket(family: int) -> None:
    assert decode(v2(V4, family=family)) == ProxyHeader(2, True)
    assert decode(v2(b"", family=family)) == ProxyHeader(2, True)


@pytest.mark.parametrize("family", [0x00, 0x11, 0xFF])
def test_v2_local_is_skipped_whatever_it_holds(family: int) -> None:
    assert outcome(v2(b"junk", command=0x20, family=family) + b"rest") == (ProxyHeader(2, True), b"rest", 20)


def test_v2_vectors() -> None:
    body = V4 + vector(Tlv.NOOP, b"abc") + vector(Tlv.ALPN, b"pop3") + vector(Tlv.AUTHORITY, "p\xf6p.example".encode())
    body += vector(Tlv.UNIQUE_ID, b"\x00" * 128) + vector(0xE5, b"own") + vector(Tlv.AUTHORITY, b"last.example")
    body += vector(
        Tlv.SSL,
        b"\x07\x00\x00\x00\x00"
        + vector(Tlv.SSL_VERSION, b"TLSv1.3")
        + vector(Tlv.SSL_CIPHER, b"TLS_AES_128_GCM_SHA256")
        + vector(Tlv.SSL_CN, "M\xfcller".encode())
        + vector(0x25, b"RSA2048"),
    )
    assert decode(v2(body)) == ProxyHeader(
        2,
        False,
        *PAIR,
        tls=ProxyTls(True, True, True, 0, "TLSv1.3", "TLS_AES_128_GCM_SHA256", "M\xfcller"),
        authority="last.example",
        alpn=b"pop3",
        unique_id=b"\x00" * 128,
    )


def test_verified_needs_a_certificate_and_not_only_a_verify_result_of_zero() -> None:
    assert not ProxyTls(True, verify=0).verified
    assert not ProxyTls(True, cert_on_connection=True, verify=10).verified
    assert ProxyTls(True, cert_on_connection=True, verify=0).verified
    assert ProxyTls(True, cert_in_session=True, verify=0).verified


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (SIGNATURE[:-1] + b"\r", "signature"),
        (SIGNATURE + b"\x11", "version"),
        (SIGNATURE + b"\x31", "version"),
        (SIGNATURE + b"\x22", "command"),
        (SIGNATURE + b"\x2f", "command"),
        (SIGNATURE + b"\x21\x41", "family"),
        (SIGNATURE + b"\x21\x13", "family"),
        (v2(b"", length=4081), "overlong"),
        (v2(b"", command=0x20, length=65535), "overlong"),
        (v2(b""), "length"),
        (v2(V4[:-1]), "length"),
        (v2(V4, family=0x21), "length"),
        (v2(bytes(215), family=0x31), "length"),
        (v2(b"a\x00b".ljust(216, b"\x00"), family=0x31), "address"),
        (v2(b"\x00a\x00b".ljust(216, b"\x00"), family=0x31), "address"),
        (v2(b"\xff".ljust(216, b"\x00"), family=0x31), "address"),
        (v2(V4 + b"\x04"), "tlv"),
        (v2(V4 + b"\x04\x00"), "tlv"),
        (v2(V4 + b"\x04\x00\x01"), "tlv"),
        (v2(V4 + vector(Tlv.CRC32C, b"abc")), "tlv"),
        (v2(V4 + vector(Tlv.CRC32C, b"abcd")), "checksum"),
        (v2(V4 + vector(Tlv.UNIQUE_ID, bytes(129))), "tlv"),
        (v2(V4 + vector(Tlv.AUTHORITY, b"\xff")), "tlv"),
        (v2(V4 + vector(Tlv.SSL, b"\x01\x00\x00\x00")), "tlv"),
        (v2(V4 + vector(Tlv.SSL, b"\x01\x00\x00\x00\x00\x21")), "tlv"),
        (v2(V4 + vector(Tlv.SSL, b"\x01\x00\x00\x00\x00" + vector(Tlv.SSL_CN, b"\xff"))), "tlv"),
    ],
)
def test_v2_refuses(data: bytes, reason: str) -> None:
    with refusal(reason):
        decode(data)


def test_v2_of_the_greatest_length_is_taken() -> None:
    body = V4 + vector(Tlv.NOOP, bytes(4080 - 12 - 3))
    assert len(v2(body)) == 4096
    assert decode(v2(body)) == ProxyHeader(2, False, *PAIR)


def test_crc32c_of_known_vectors() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    # RFC 3720 appendix B.4, written there in the order of the wire.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@given(pairs, st.binary(max_size=20), st.integers(0, 10_000), st.integers(1, 255))
@quick
def test_a_changed_octet_under_a_checksum_is_never_believed(
    ends: tuple[tuple[str, int], tuple[str, int]], noise: bytes, where: int, change: int
) -> None:
    whole = encode_v2(*ends, [(Tlv.NOOP, noise)], checksum=True)
    assert decode(whole) is not None
    addresses = len(encode_v2(*ends)) - 16
    broken = bytearray(whole)
    broken[16 + where % addresses] ^= change
    with refusal("checksum"):
        decode(bytes(broken))


# Both: pieces, want, leftovers


CORPUS = [
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
    b"PROXY TCP6 ::1 2001:db8::1 1 65535\r\n",
    b"PROXY TCP6 :: :: 1 1\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff::1 what ever\r\n",
    v2(V4),
    v2(b"", command=0x20, family=0),
    v2(b"junk", command=0x20),
    encode_v2(*PAIR, [tls_vector(ProxyTls(True, verify=0, cn="a")), (Tlv.ALPN, b"pop3")], checksum=True),
    encode_v2("/run/a", None),
]
noisy = st.builds(
    lambda base, at, junk, cut: base[: at % len(base)] + junk + base[at % len(base) + cut :],
    st.sampled_from(CORPUS),
    st.integers(0, 300),
    st.binary(max_size=4),
    st.integers(0, 4),
)


@pytest.mark.parametrize("whole", CORPUS)
def test_reading_what_is_wanted_never_passes_the_end(whole: bytes) -> None:
    stream, decoder, at, header, reads = whole + b"\x16\x03\x01 the next protocol", ProxyDecoder(), 0, None, 0
    while header is None:
        want = decoder.want
        assert want >= 1
        at, piece, reads = at + want, stream[at : at + want], reads + 1
        header = decoder.feed(piece)
    assert at == len(whole)
    assert decoder.leftover == b""
    assert decoder.want == 0
    assert header == decode(whole)
    assert reads <= 50


def test_what_lies_behind_the_header_is_kept() -> None:
    decoder = ProxyDecoder()
    assert decoder.feed(b"PROXY UNKN") is None
    assert decoder.leftover == b""
    header = decoder.feed(b"OWN\r\nUSER ")
    assert header == ProxyHeader(1, True)
    assert decoder.leftover == b"USER "
    assert decoder.feed(b"tim\r\n") is header
    assert decoder.leftover == b"USER tim\r\n"


@given(st.binary(max_size=80) | noisy, st.lists(st.integers(1, 40), max_size=10))
@settings(max_examples=400, deadline=None)
def test_any_octets_in_any_pieces_have_one_outcome(data: bytes, sizes: list[int]) -> None:
    whole = outcome(data)
    assert outcome(data, [1] * len(data)) == whole
    assert outcome(data, sizes) == whole


@given(st.binary(max_size=60) | noisy)
@quick
def test_want_agrees_with_the_end_that_is_found(data: bytes) -> None:
    _, _, end = outcome(data)
    for length in range(end):
        decoder = ProxyDecoder()
        assert decoder.feed(data[:length]) is None
        assert 1 <= decoder.want <= end - length


# Encoders


def test_encode_v1() -> None:
    assert encode_v1(*PAIR) == b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 995\r\n"
    assert encode_v1(("::1", 1), ("fe80::1%eth0", 2)) == b"PROXY TCP6 ::1 fe80::1 1 2\r\n"
    assert encode_v1(None, ("::1", 1)) == encode_v1(("::1", 1), None) == b"PROXY UNKNOWN\r\n"


def test_encode_v2_local() -> None:
    assert encode_v2(None, None) == SIGNATURE + b"\x20\x00\x00\x00"
    for tlvs, checksum in ([(Tlv.NOOP, b"")], False), ([], True):
        with refusal("tlv"):
            encode_v2(None, None, tlvs, checksum=checksum)


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        (("localhost", 1), ("::1", 1), "address"),
        (("::1", 1), ("1.2.3.4", 65536), "address"),
        (("::1", -1), ("1.2.3.4", 1), "address"),
        (("::1", 1), "/run/a", "family"),
        (None, ("::1", 1), "family"),
        ("/run/\x00", None, "address"),
        (None, "x" * 109, "address"),
        (None, "/run/\udcff", "address"),
    ],
)
def test_encode_v2_refuses_an_address(source: Address | None, destination: Address | None, reason: str) -> None:
    with refusal(reason):
        encode_v2(source, destination)


def test_encode_v2_refuses_a_vector() -> None:
    for kind, value, reason in [(256, b"", "tlv"), (-1, b"", "tlv"), (4, bytes(70_000), "overlong")]:
        with refusal(reason):
            encode_v2(*PAIR, [(kind, value)])
    with refusal("overlong"):
        encode_v2(*PAIR, [(Tlv.NOOP, bytes(4080 - 12 - 3 + 1))])
    assert len(encode_v2(*PAIR, [(Tlv.NOOP, bytes(4080 - 12 - 3))])) == 4096
    for bad in (ProxyTls(True, verify=-1), ProxyTls(True, verify=2**32), ProxyTls(True, cn="\ud800")):
        with refusal("tlv"):
            tls_vector(bad)


@given(pairs)
@quick
def test_v1_round_trip(ends: tuple[tuple[str, int], tuple[str, int]]) -> None:
    assert decode(encode_v1(*ends)) == ProxyHeader(1, False, *ends)


@given(
    pairs | st.tuples(paths, paths | st.none()),
    st.none() | tls,
    st.none() | words,
    st.none() | st.binary(max_size=50),
    st.none() | st.binary(max_size=128),
    st.booleans(),
)
@quick
def test_v2_round_trip(
    ends: tuple[Address, Address],
    secured: ProxyTls | None,
    authority: str | None,
    alpn: bytes | None,
    unique_id: bytes | None,
    checksum: bool,
) -> None:
    tlvs = [] if secured is None else [tls_vector(secured)]
    named = {Tlv.AUTHORITY: None if authority is None else authority.encode(), Tlv.ALPN: alpn, Tlv.UNIQUE_ID: unique_id}
    tlvs += [(kind, value) for kind, value in named.items() if value is not None]
    header = decode(encode_v2(*ends, tlvs, checksum=checksum))
    assert header == ProxyHeader(2, False, *ends, secured, authority, alpn, unique_id)


# Against the oracle


def oracle(data: bytes) -> ProxyResult:
    reader = ProxyProtocolV1() if data.startswith(b"PROXY") else ProxyProtocolV2()
    return reader.unpack(data)


def named(ip: IPv4Address | IPv6Address) -> str:
    return str(ip) if isinstance(ip, IPv4Address) else str(ip.ipv4_mapped or ip)


def agree(header: ProxyHeader, result: ProxyResult) -> None:
    assert header.local is (result.source is None)
    if isinstance(result, ProxyResultIPv4 | ProxyResultIPv6):
        assert header.source == (named(result.source[0]), result.source[1])
        assert header.destination == (named(result.dest[0]), result.dest[1])
    if header.local or header.version == 1:
        return
    assert (header.authority, header.alpn) == (result.tlv.authority, result.tlv.alpn)
    assert (header.unique_id or b"") == result.tlv.unique_id
    if header.tls is not None:
        theirs, ours = result.tlv.ssl, header.tls
        assert (ours.client_ssl, ours.verify) == (theirs.has_ssl, theirs.verify)
        assert (ours.cert_on_connection, ours.cert_in_session) == (theirs.has_cert_conn, theirs.has_cert_sess)
        assert (ours.version, ours.cipher, ours.cn) == (theirs.version, theirs.cipher, theirs.cn)


ascii_words = st.none() | st.text(st.characters(codec="ascii"), max_size=20)


@given(pairs, words, st.binary(max_size=20), ascii_words, ascii_words, ascii_words, st.booleans(), st.booleans())
@quick
def test_what_the_oracle_packs_we_decode(
    ends: tuple[tuple[str, int], tuple[str, int]],
    authority: str,
    alpn: bytes,
    version: str | None,
    cipher: str | None,
    cn: str | None,
    has_cert: bool,
    verified: bool,
) -> None:
    assume((":" in ends[0][0]) == (":" in ends[1][0]))
    secured = ProxyProtocolSSLTLV(
        has_ssl=True, has_cert_conn=has_cert, verified=verified, version=version, cipher=cipher, cn=cn
    )
    vectors = ProxyProtocolTLV(authority=authority, alpn=alpn, unique_id=b"id", ssl=secured)
    (host, port), (to_host, to_port) = ends
    result: ProxyResult
    if ":" in host:
        result = ProxyResultIPv6(
            (IPv6Address(host), port), (IPv6Address(to_host), to_port), protocol=socket.SOCK_STREAM, tlv=vectors
        )
    else:
        result = ProxyResultIPv4(
            (IPv4Address(host), port), (IPv4Address(to_host), to_port), protocol=socket.SOCK_STREAM, tlv=vectors
        )
    for data in (ProxyProtocolV1().pack(result), ProxyProtocolV2().pack(result)):
        header = decode(data)
        assert header is not None
        assert (header.source, header.destination) == ends
        agree(header, result)
    assert decode(ProxyProtocolV2().pack(ProxyResultLocal(tlv=vectors))) == ProxyHeader(2, True)


def test_the_oracle_s_unix_header() -> None:
    packed = ProxyProtocolV2().pack(ProxyResultUnix("/run/a", "", protocol=socket.SOCK_STREAM))
    assert decode(packed) == ProxyHeader(2, False, "/run/a", None)
    assert packed == encode_v2("/run/a", None)


@given(pairs, st.none() | tls, st.booleans())
@quick
def test_what_we_encode_the_oracle_decodes(
    ends: tuple[tuple[str, int], tuple[str, int]], secured: ProxyTls | None, checksum: bool
) -> None:
    ascii_only = [text for text in ((secured.version, secured.cipher) if secured else ()) if text is not None]
    assume(all(text.isascii() for text in ascii_only))
    data = encode_v2(*ends, [] if secured is None else [tls_vector(secured)], checksum=checksum)
    for packed in (data, encode_v1(*ends)):
        header = decode(packed)
        assert header is not None
        agree(header, oracle(packed))


@given(noisy)
@settings(max_examples=600, deadline=None)
def test_what_we_believe_the_oracle_believes_too(data: bytes) -> None:
    header, _, end = outcome(data)
    if isinstance(header, ProxyHeader) and not header.local and isinstance(header.source, tuple):
        agree(header, oracle(data[:end]))


def test_the_oracle_too_waits_for_the_end() -> None:
    for whole in CORPUS:
        with pytest.raises(ProxyProtocolIncompleteError):
            oracle(whole[:-1])
        assert decode(whole[:-1]) is None


@quick
@given(st.integers(0, 999))
def test_a_ttl_of_our_own_comes_back(ttl: int) -> None:
    header = ProxyDecoder().feed(encode_v2(*PAIR, [ttl_vector(ttl)]))
    assert header is not None and header.ttl == ttl


@pytest.mark.parametrize("value", [b"", b"4", b"popproxy-ttl=", b"popproxy-ttl=-1", b"popproxy-ttl=1234", b"x\0"])
def test_what_others_say_by_the_same_type_is_no_ttl(value: bytes) -> None:
    header = ProxyDecoder().feed(encode_v2(*PAIR, [(0xE0, value)]))
    assert header is not None and header.ttl is None

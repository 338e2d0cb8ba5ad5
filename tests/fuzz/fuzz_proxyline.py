"""Any octets have one outcome (a header, a ProxyError, not yet) in whatever pieces, and want never passes the end.

The first octet is the size of the pieces, the rest what is fed.
"""

from __future__ import annotations

from popproxy.wire.proxyline import (
    V2_LIMIT,
    ProxyDecoder,
    ProxyError,
    ProxyHeader,
    ProxyTls,
    Tlv,
    encode_v1,
    encode_v2,
    tls_vector,
)

_ENDS = (("192.0.2.1", 4711), ("2001:db8::1", 995))
SEEDS: list[bytes] = [
    b"\x03PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nUSER",
    b"\x07PROXY UNKNOWN ffff::1 what ever\r\n",
    b"\x01" + encode_v1(*_ENDS),
    b"\x02" + encode_v2(None, None),
    b"\x05" + encode_v2(*_ENDS) + b"\x16\x03\x01",
    b"\x30" + encode_v2("/run/a", "@b"),
    b"\x10"
    + encode_v2(
        *_ENDS,
        [tls_vector(ProxyTls(True, True, verify=0, version="TLSv1.3", cipher="X", cn="a")), (Tlv.ALPN, b"pop3")],
        checksum=True,
    ),
    b"\x11" + encode_v2(*_ENDS, [(Tlv.AUTHORITY, b"mail.example"), (Tlv.UNIQUE_ID, b"id"), (Tlv.NOOP, b"")]),
]


def _outcome(data: bytes, size: int) -> tuple[ProxyHeader | str | None, bytes]:
    """(header, reason of the error or None; the octets behind the header), fed in pieces of ``size``."""
    decoder = ProxyDecoder()
    for at in range(0, len(data), size):
        try:
            header = decoder.feed(data[at : at + size])
        except ProxyError as error:
            return error.reason, b""
        if header is not None:
            return header, decoder.leftover + data[at + size :]
        assert 1 <= decoder.want <= V2_LIMIT
    return None, b""


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError when that does not hold."""
    size, stream = (data[0] or 1) if data else 1, data[1:]
    whole = _outcome(stream, len(stream) or 1)
    assert _outcome(stream, size) == whole, "the outcome depends on the pieces"
    header, behind = whole
    if not isinstance(header, ProxyHeader):
        return
    end, at, decoder = len(stream) - len(behind), 0, ProxyDecoder()
    while at < end:
        want = decoder.want
        assert 1 <= want <= end - at, "a read that passes the end of the header"
        decoder.feed(stream[at : at + want])
        at += want
    assert decoder.want == 0 and decoder.leftover == b""
    if header.local:
        assert header == ProxyHeader(header.version, True), "a local header that names somebody"
    elif isinstance(header.source, tuple) and isinstance(header.destination, tuple):
        again, _ = _outcome(encode_v2(header.source, header.destination), V2_LIMIT)
        assert isinstance(again, ProxyHeader)
        assert (again.source, again.destination) == (header.source, header.destination)


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)

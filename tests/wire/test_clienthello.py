"""ClientHello reading, against hellos made by OpenSSL and by hand."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire import clienthello
from popproxy.wire.clienthello import LIMIT, Hello, HelloError, NeedMore, alert, read_hello

quick = settings(max_examples=150, deadline=None)


@contextmanager
def refusal(reason: str) -> Iterator[None]:
    with pytest.raises(HelloError) as caught:
        yield
    assert caught.value.reason == reason


def openssl(
    alpn: list[str] | None, name: str | None, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> tuple[bytes, ssl.SSLObject, ssl.MemoryBIO]:
    """What OpenSSL sends first, with the object that waits for an answer and the BIO to put it in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = highest
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read(), connection, incoming


def record(payload: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes([kind]) + version + struct.pack("!H", len(payload)) + payload


def reframed(hello: bytes, size: int) -> bytes:
    """The same handshake message in records of ``size`` octets."""
    message = hello[5:]
    return b"".join(record(message[at : at + size]) for at in range(0, len(message), size))


def vector(width: int, value: bytes) -> bytes:
    return len(value).to_bytes(width) + value


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, value)


def body(
    extensions: bytes | None, *, session: bytes = b"", suites: bytes = b"\x13\x01", methods: bytes = b"\0"
) -> bytes:
    fixed = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, methods)
    return fixed if extensions is None else fixed + vector(2, extensions)


def hello(content: bytes, kind: int = 1) -> bytes:
    return record(bytes([kind]) + vector(3, content))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def sni(*names: tuple[int, bytes]) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in names)))


def outcome(data: bytes) -> Hello | NeedMore | str:
    try:
        return read_hello(data)
    except HelloError as error:
        return error.reason


REAL, *_ = openssl(["pop3"], "mail.example.com")


# What OpenSSL sends


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("offered", [None, ["pop3"], ["h2", "http/1.1"], ["x" * 255, "pop3"]])
@pytest.mark.parametrize("name", [None, "mail.example.com", "xn--bcher-kva.example", "a" * 63 + ".example"])
def test_real_hellos(highest: ssl.TLSVersion, offered: list[str] | None, name: str | None) -> None:
    data, *_ = openssl(offered, name, highest)
    expected = Hello(None if offered is None else tuple(p.encode() for p in offered), name)
    assert read_hello(data) == expected
    assert read_hello(data + b"early data") == expected
    for size in (7, 100, 200, 16384):
        assert read_hello(reframed(data, size)) == expected


def test_a_hello_in_more_than_one_full_record() -> None:
    content = body(extension(21, bytes(40_000)) + alpn(b"pop3") + sni((0, b"a.example")))
    whole = reframed(b"....." + b"\x01" + vector(3, content), 16384)
    assert read_hello(whole) == Hello((b"pop3",), "a.example")


@pytest.mark.parametrize("size", [11, 64, 300, 16384])
def test_every_prefix_asks_for_more_and_never_for_too_much(size: int) -> None:
    whole = reframed(REAL, size)
    for length in range(len(whole)):
        result = read_hello(whole[:length])
        assert isinstance(result, NeedMore)
        assert length < result.total <= len(whole)


@pytest.mark.parametrize("size", [11, 64, 300, 16384])
def test_reading_what_is_needed_ends_at_the_end(size: int) -> None:
    whole, result, calls = reframed(REAL, size), read_hello(b""), 0
    while isinstance(result, NeedMore):
        total, calls = result.total, calls + 1
        result = read_hello(whole[:total])
    assert result == Hello((b"pop3",), "mail.example.com")
    assert total == len(whole)
    assert calls <= 2 * len(whole) // size + 3


def test_the_alert_is_one_that_openssl_understands() -> None:
    assert alert(120) == b"\x15\x03\x03\x00\x02\x02\x78"
    for description, word in [
        (clienthello.NO_APPLICATION_PROTOCOL, "NO_APPLICATION_PROTOCOL"),
        (clienthello.DECODE_ERROR, "DECODE_ERROR"),
        (clienthello.PROTOCOL_VERSION, "PROTOCOL_VERSION"),
        (clienthello.UNEXPECTED_MESSAGE, "UNEXPECTED_MESSAGE"),
    ]:
        _, connection, incoming = openssl(["http/1.1"], "mail.example.com")
        incoming.write(alert(description))
        with pytest.raises(ssl.SSLError, match=f"(?i){word.replace('_', '.')}"):
            connection.do_handshake()
    with pytest.raises(ValueError, match="range"):
        alert(256)


# What is no hello


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"USER tim\r\n", "plaintext"),
        (b"C", "plaintext"),
        (b"\r\n", "plaintext"),
        (b"GET / HTTP/1.1\r\n", "plaintext"),
        (b"\x00", "not_tls"),
        (b"\x80\x2e\x01\x00\x02", "not_tls"),
        (b"\xff\xf4", "not_tls"),
        (b"\x16\x02", "not_tls"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "not_hello"),
        (b"\x17", "not_hello"),
        (record(b"\x02\x00\x00\x04abcd"), "not_hello"),
        (record(b"\x02"), "not_hello"),
        (b"\x16\x03\x01\x00\x00", "malformed"),
        (b"\x16\x03\x01\x40\x01", "malformed"),
        (record(b"\x01") + b"U", "malformed"),
        (record(b"\x01") + b"\x16\x07", "malformed"),
        (record(b"\x01") + b"\x16\x03\x03\x00\x00", "malformed"),
        (record(b"\x01\x00\xff\xfd"), "overlong"),
        (record(b"\x01\xff\xff\xff"), "overlong"),
        (record(b"\x01\x00\x08\x00") + record(b"x") * 255, "overlong"),
    ],
)
def test_what_is_no_hello(data: bytes, reason: str) -> None:
    with refusal(reason):
        read_hello(data)


def test_the_greatest_number_of_records_still_reads() -> None:
    content = body(None, session=bytes(32), suites=bytes(181))
    message = b"\x01" + vector(3, content)
    assert len(message) == 256
    assert read_hello(reframed(b"....." + message, 1)) == Hello(None, None)


@pytest.mark.parametrize("size", [65_516, 65_517])
def test_a_hello_is_complete_within_the_limit_or_overlong(size: int) -> None:
    content = body(extension(21, bytes(size - 4 - 47)))
    data = reframed(hello(content)[:5] + b"\x01" + vector(3, content), 16384)
    assert len(data) == size + 4 * 5
    expected: Hello | NeedMore | str = Hello(None, None) if len(data) <= LIMIT else "overlong"
    assert outcome(data) == outcome(data + b"more") == expected
    assert outcome(data[:LIMIT]) == expected
    assert outcome(data[: 3 * 16389 + 5]) == (NeedMore(LIMIT) if len(data) <= LIMIT else "overlong")


# Bodies by hand


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (body(None), Hello(None, None)),
        (body(b""), Hello(None, None)),
        (body(None, session=bytes(32), suites=bytes(400), methods=b"\x01\x00"), Hello(None, None)),
        (body(alpn(b"\x00\xff", b"pop3")), Hello((b"\x00\xff", b"pop3"), None)),
        (body(sni((0, b"Mail.Example"))), Hello(None, "Mail.Example")),
        (body(sni((7, b"\xff"), (0, b"a"), (7, b"b"))), Hello(None, "a")),
        (body(sni((7, b"\xff"))), Hello(None, None)),
        (body(extension(0x3A3A, b"") + extension(21, b"xx")), Hello(None, None)),
    ],
)
def test_bodies(content: bytes, expected: Hello) -> None:
    assert read_hello(hello(content)) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        body(None)[:33],
        body(None)[:-1],
        body(None, suites=b""),
        body(None, suites=b"x"),
        body(None, methods=b""),
        body(None) + b"\x00",
        body(b"") + b"\x00",
        body(b"\x00"),
        body(b"\x00\x10\x00"),
        body(b"\x00\x10\x00\x01"),
        body(alpn(b"pop3") + alpn(b"pop3")),
        body(extension(5, b"") * 2),
        body(alpn()),
        body(alpn(b"")),
        body(alpn(b"pop3", b"")),
        body(extension(16, b"")),
        body(extension(16, vector(2, b"\x04pop"))),
        body(extension(16, vector(2, b"\x04pop3") + b"\x00")),
        body(sni()),
        body(sni((0, b""))),
        body(sni((0, b"a"), (0, b"b"))),
        body(sni((0, b"a\x00b"))),
        body(sni((0, b"a\r\nb"))),
        body(sni((0, b"\xc3\xa9"))),
        body(extension(0, b"\x00\x01\x00")),
    ],
)
def test_bodies_that_do_not_parse(content: bytes) -> None:
    with refusal("malformed"):
        read_hello(hello(content))


# Any octets


mutated = st.builds(
    lambda at, junk, cut, size: reframed(REAL[:at] + junk + REAL[at + cut :], size),
    st.integers(5, len(REAL)),
    st.binary(max_size=4),
    st.integers(0, 4),
    st.sampled_from([9, 50, 16384]),
) | st.builds(
    lambda at, junk, cut: REAL[:at] + junk + REAL[at + cut :],
    st.integers(0, 60),
    st.binary(max_size=4),
    st.integers(0, 4),
)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"\x16\x03\x01" + tail) | mutated, st.data())
@settings(max_examples=400, deadline=None)
def test_an_outcome_never_changes_when_more_octets_come(data: bytes, draw: st.DataObject) -> None:
    length = draw.draw(st.integers(0, len(data)))
    before, after = outcome(data[:length]), outcome(data)
    if isinstance(before, NeedMore):
        assert before.total > length
        if before.total > len(data):
            assert isinstance(after, NeedMore | str)
    else:
        assert after == before


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


@given(
    st.none() | st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=5),
    st.none() | names,
    st.integers(6, 16384),
)
@quick
def test_what_is_built_is_read(protocols: list[bytes] | None, name: str | None, size: int) -> None:
    extensions = extension(43, b"\x02\x03\x04")
    extensions += b"" if protocols is None else alpn(*protocols)
    extensions += b"" if name is None else sni((0, name.encode()))
    expected = Hello(None if protocols is None else tuple(protocols), name)
    assert read_hello(reframed(hello(body(extensions)), size)) == expected

"""XCLIENT as Dovecot speaks it over POP3."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.xclient import Xclient, XclientError, command_lines, offered, parse

quick = settings(max_examples=150, deadline=None)


@contextmanager
def refusal(reason: str) -> Iterator[None]:
    with pytest.raises(XclientError) as caught:
        yield
    assert caught.value.reason == reason


def forward(data: bytes) -> bytes:
    return b"FORWARD=" + base64.b64encode(data)


def received(lines: list[bytes]) -> Xclient:
    """What a server knows after all of the commands."""
    said: dict[str, Any] = {}
    for line in lines:
        part = parse(line[8:-2])
        said |= {field.name: value for field in fields(part) if (value := getattr(part, field.name)) not in (None, ())}
    return Xclient(**said)


@pytest.mark.parametrize(
    ("banner", "answer"),
    [
        (b"+OK [XCLIENT] Dovecot (Debian) ready.\r\n", True),
        (b"+OK [XCLIENT]\r\n", True),
        (b"+OK [XCLIENT]", True),
        (b"+OK [XCLIENT]\n", True),
        (b"+OK ready [XCLIENT]\r\n", False),
        (b"+OK [XCLIENTS] ready\r\n", False),
        (b"+OK [XCLIENT]x\r\n", False),
        (b"+OK\r\n", False),
        (b"-ERR [XCLIENT] no\r\n", False),
        (b"", False),
    ],
)
def test_offered(banner: bytes, answer: bool) -> None:
    assert offered(banner) is answer


def test_parse_everything() -> None:
    line = (
        b"ADDR=192.0.2.7 PORT=4711 DESTADDR=2001:DB8::1 DESTPORT=995 SESSION=q/7+a=b: TTL=4 "
        b"CLIENT-TRANSPORT=TLS DESTNAME=mail.example.com "
        + forward(b"k=v\x01t1\x01n\x011\x01r\tflag\tj=a=b\tp=\xc3\xb6")
    )
    everything = Xclient(
        addr="192.0.2.7",
        port=4711,
        dest_addr="2001:db8::1",
        dest_port=995,
        session="q/7+a=b:",
        ttl=4,
        client_transport="TLS",
        dest_name="mail.example.com",
        forward=(("k", "v\t1\n\x01\r"), ("flag", ""), ("j", "a=b"), ("p", "\xf6")),
    )
    assert parse(line) == everything
    assert None not in [getattr(everything, field.name) for field in fields(Xclient)]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (b"", Xclient()),
        (b"  FOO=1  BAR ADDR \xff=\x00 =x ", Xclient()),
        (b"addr=::1 Port=1", Xclient("::1", 1)),
        (b"ADDR=[2001:db8::1]", Xclient("2001:db8::1")),
        (b"PORT=1 PORT=2", Xclient(port=2)),
        (b"PORT=65535 DESTPORT=0001", Xclient(port=65535, dest_port=1)),
        (b"TTL=0", Xclient(ttl=0)),
        (b"TTL=4294967295", Xclient(ttl=4294967295)),
        (b"SESSION=" + b"x" * 64, Xclient(session="x" * 64)),
    ],
)
def test_parse(arguments: bytes, what: Xclient) -> None:
    assert parse(arguments) == what


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (b"ADDR=", "address"),
        (b"ADDR=mail.example", "address"),
        (b"ADDR=192.0.2.07", "address"),
        (b"ADDR=[::1", "address"),
        (b"ADDR=\xff", "address"),
        (b"DESTADDR=fe80::1%eth0", "address"),
        (b"ADDR=IPV6:::1", "address"),
        (b"PORT=", "port"),
        (b"PORT=0", "port"),
        (b"PORT=65536", "port"),
        (b"PORT=+1", "port"),
        (b"DESTPORT=1_0", "port"),
        (b"PORT=" + b"9" * 5000, "port"),
        (b"TTL=-1", "ttl"),
        (b"TTL=4294967296", "ttl"),
        (b"SESSION=", "atom"),
        (b"SESSION=" + b"x" * 65, "atom"),
        (b"SESSION=a\x00b", "atom"),
        (b"SESSION=a\rb", "atom"),
        (b"CLIENT-TRANSPORT=\xc3\xb6", "atom"),
        (b"DESTNAME=", "atom"),
        (b"DESTNAME=a..b", "atom"),
        (b"DESTNAME=.a", "atom"),
        (b"DESTNAME=a/b", "atom"),
        (b"DESTNAME=a\n", "atom"),
        (b"DESTNAME=" + b"x" * 256, "atom"),
        (b"FORWARD=", "forward"),
        (b"FORWARD=Q", "forward"),
        (b"FORWARD=a-_b", "forward"),
        (forward(b"\xff=1"), "forward"),
        (forward(b"=1"), "forward"),
        (forward(b"a=1\t"), "forward"),
        (forward(b"a=\x00"), "forward"),
        (forward(b"a=\x010"), "forward"),
        (forward(b"a=\x01z"), "forward"),
        (forward(b"a=\x01"), "forward"),
        (b"PORT=0 PORT=1", "port"),
    ],
)
def test_parse_refuses(arguments: bytes, reason: str) -> None:
    with refusal(reason):
        parse(arguments)


def test_one_line_when_it_fits() -> None:
    assert command_lines(Xclient()) == []
    what = Xclient("192.0.2.7", 4711, session="abc", ttl=3, forward=(("k", "v\t1"), ("j", "2")))
    assert command_lines(what) == [
        b"XCLIENT ADDR=192.0.2.7 PORT=4711 SESSION=abc TTL=3 FORWARD=az12AXQxCWo9Mg==\r\n",
    ]


def test_a_long_forward_travels_in_a_line_of_its_own() -> None:
    what = Xclient("192.0.2.7", 4711, forward=(("k", "x" * 740),))
    first, second = command_lines(what)
    assert first == b"XCLIENT ADDR=192.0.2.7 PORT=4711\r\n"
    assert second.startswith(b"XCLIENT FORWARD=")
    assert len(second) <= 1024
    with refusal("overlong"):
        command_lines(Xclient(forward=(("k", "x" * 800),)))


def test_the_limit_counts_the_crlf() -> None:
    what = Xclient("192.0.2.7", 4711)
    whole = b"XCLIENT ADDR=192.0.2.7 PORT=4711\r\n"
    assert command_lines(what, len(whole)) == [whole]
    assert command_lines(what, len(whole) - 1) == [b"XCLIENT ADDR=192.0.2.7\r\n", b"XCLIENT PORT=4711\r\n"]
    with refusal("overlong"):
        command_lines(what, len(b"XCLIENT ADDR=192.0.2.7\r\n") - 1)


def test_an_address_is_written_without_its_zone() -> None:
    assert command_lines(Xclient("fe80::1%eth0")) == [b"XCLIENT ADDR=fe80::1\r\n"]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (Xclient("mail.example"), "address"),
        (Xclient("\u0661"), "atom"),
        (Xclient(port=0), "port"),
        (Xclient(ttl=-1), "ttl"),
        (Xclient(session="a b"), "atom"),
        (Xclient(session="a\r\nDELE"), "atom"),
        (Xclient(session=""), "atom"),
        (Xclient(client_transport="\xf6"), "atom"),
        (Xclient(dest_name="a b"), "atom"),
        (Xclient(forward=(("", "v"),)), "forward"),
        (Xclient(forward=(("a=b", "v"),)), "forward"),
        (Xclient(forward=(("a", "\x00"),)), "forward"),
        (Xclient(forward=(("a", "\ud800"),)), "forward"),
    ],
)
def test_nothing_is_sent_that_would_not_be_taken(what: Xclient, reason: str) -> None:
    with refusal(reason):
        command_lines(what)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
atoms = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
addresses = st.none() | st.ip_addresses().filter(lambda a: not getattr(a, "ipv4_mapped", None)).map(str)
ports = st.none() | st.integers(1, 65535)
anything = st.builds(
    Xclient,
    addr=addresses,
    port=ports,
    dest_addr=addresses,
    dest_port=ports,
    session=st.none() | atoms,
    ttl=st.none() | st.integers(0, 2**32 - 1),
    client_transport=st.none() | atoms,
    dest_name=st.none() | st.from_regex(r"[a-z0-9]{1,20}(\.[a-z]{2,5}){0,2}", fullmatch=True),
    forward=st.lists(st.tuples(texts.filter(lambda key: key != "" and "=" not in key), texts), max_size=5).map(tuple),
)


@given(anything, st.integers(400, 1024))
@quick
def test_round_trip(what: Xclient, limit: int) -> None:
    lines = command_lines(what, limit)
    for line in lines:
        assert len(line) <= limit
        assert line.startswith(b"XCLIENT ")
        assert line.endswith(b"\r\n")
        assert not {0, 10, 13} & set(line[:-2])
    assert received(lines) == what


words = st.sampled_from(
    [b"ADDR=", b"PORT=", b"SESSION=", b"TTL=", b"DESTNAME=", b"FORWARD=", b"FORWARD=YT1", b" ", b"x"]
)


@given(st.lists(words | st.binary(max_size=6), max_size=12).map(b"".join))
@settings(max_examples=300, deadline=None)
def test_any_arguments_are_parsed_or_refused_and_what_is_parsed_can_be_sent_on(arguments: bytes) -> None:
    try:
        what = parse(arguments)
    except XclientError:
        return
    assert received(command_lines(what)) == what


def test_a_mapped_address_is_the_ipv4_address_it_is() -> None:
    said = parse(b"ADDR=::ffff:192.0.2.1 DESTADDR=[::ffff:c000:202]")
    assert (said.addr, said.dest_addr) == ("192.0.2.1", "192.0.2.2")

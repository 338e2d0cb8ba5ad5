"""Byte-stuffing.

The law: ``unstuff`` of what ``stuff`` makes (terminator taken off) is the message, except that a message which is
neither empty nor ends with CRLF gains a CRLF: without it the terminator could not stand on a line of its own.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.dots import Stuffer, Unstuffer, stuff, unstuff
from popproxy.wire.framer import BodyScanner

octets = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"a", b"\r", b"\n", b".", b"\r\n", b"\r\n.", b".."]), max_size=25).map(b"".join),
)
sizes = st.lists(st.integers(0, 5), max_size=40)


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    cut = []
    for size in sizes:
        cut.append(data[:size])
        data = data[size:]
    return [*cut, data]


def lawful(message: bytes) -> bytes:
    return message if message == b"" or message.endswith(b"\r\n") else message + b"\r\n"


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),  # PROTOCOL 4.2: the first octet of a message is at the beginning of a line
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..\r\n", b"...\r\n.\r\n"),
        (b"a\r\n.b\r\n..\r\n", b"a\r\n..b\r\n...\r\n.\r\n"),
        (b"a.\r\n", b"a.\r\n.\r\n"),
        (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
        (b"a\n.b\r\n", b"a\n.b\r\n.\r\n"),  # PROTOCOL 4.2: a bare LF ends no line
        (b"a\r.b\r\n", b"a\r.b\r\n.\r\n"),
        (b"a\r", b"a\r\r\n.\r\n"),
        (b"a\n", b"a\n\r\n.\r\n"),
        (b"\n", b"\n\r\n.\r\n"),
        (b"\0.\r\n", b"\0.\r\n.\r\n"),
    ],
)
def test_stuff(message: bytes, wire: bytes) -> None:
    assert stuff(message) == wire
    assert unstuff(wire[:-3]) == lawful(message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", b""),
        (b"..", b"."),
        (b".", b""),
        (b".a", b"a"),
        (b"a\r\n..\r\n", b"a\r\n.\r\n"),
        (b"a\r\n.b", b"a\r\nb"),  # a sender that does not stuff loses its dot, as at every client
        (b"a\n..b", b"a\n..b"),
    ],
)
def test_unstuff(body: bytes, message: bytes) -> None:
    assert unstuff(body) == message


def test_a_dot_at_every_chunk_edge() -> None:
    """PROTOCOL 4.2: the state between two reads is the last two octets."""
    message = b".a\r\n.b\r\n\r\n..\r\n"
    wire = stuff(message)
    for first in range(len(message) + 1):
        stuffer = Stuffer()
        assert stuffer.feed(message[:first]) + stuffer.feed(message[first:]) + stuffer.finish() == wire
    for first in range(len(wire) - 2):
        unstuffer = Unstuffer()
        assert unstuffer.feed(wire[:first]) + unstuffer.feed(wire[first:-3]) == message


def test_an_empty_chunk_changes_nothing() -> None:
    stuffer, unstuffer = Stuffer(), Unstuffer()
    assert stuffer.feed(b"") == b""
    assert unstuffer.feed(b"") == b""
    assert stuffer.feed(b".") == b".."
    assert unstuffer.feed(b"..") == b"."


@settings(max_examples=300, deadline=None)
@given(octets)
def test_the_law(message: bytes) -> None:
    wire = stuff(message)
    assert wire.endswith(b".\r\n")
    assert unstuff(wire[:-3]) == lawful(message)


@settings(max_examples=200, deadline=None)
@given(octets)
def test_a_stuffed_message_ends_exactly_where_it_ends(message: bytes) -> None:
    """No message can carry a terminator within itself."""
    wire = stuff(message)
    assert BodyScanner().scan(wire + b"+OK\r\n") == len(wire)


@settings(max_examples=200, deadline=None)
@given(octets)
def test_a_strict_body_passes_both_ways_unchanged(message: bytes) -> None:
    wire = stuff(message)
    assert stuff(unstuff(wire[:-3])) == wire


@settings(max_examples=300, deadline=None)
@given(octets, sizes)
def test_stuffing_does_not_depend_on_the_chunks(message: bytes, sizes: list[int]) -> None:
    stuffer = Stuffer()
    assert b"".join(map(stuffer.feed, chunks(message, sizes))) + stuffer.finish() == stuff(message)


@settings(max_examples=300, deadline=None)
@given(octets, sizes)
def test_unstuffing_does_not_depend_on_the_chunks(body: bytes, sizes: list[int]) -> None:
    unstuffer = Unstuffer()
    assert b"".join(map(unstuffer.feed, chunks(body, sizes))) == unstuff(body)

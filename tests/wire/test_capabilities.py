"""Capability sets: order kept, names without case, nothing invented."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.capabilities import Capabilities

LINES = [b"TOP", b"user", b"SASL PLAIN  LOGIN", b"LOGIN-DELAY 60 USER", b"IMPLEMENTATION Example-1.0"]
tags = st.from_regex(rb"[A-Z][A-Z0-9-]{0,8}", fullmatch=True)
words = st.from_regex(rb"[!-~]{1,6}", fullmatch=True)
sets = st.dictionaries(tags, st.lists(words, max_size=3).map(tuple), max_size=6).map(lambda d: Capabilities(d.items()))


def test_parse_keeps_order_and_parameters() -> None:
    found = Capabilities.parse(LINES)
    assert list(found) == [b"TOP", b"USER", b"SASL", b"LOGIN-DELAY", b"IMPLEMENTATION"]
    assert found.parameters(b"SASL") == (b"PLAIN", b"LOGIN")
    assert found.parameters(b"TOP") == ()
    assert found.parameters(b"STLS") == ()
    assert b"USER" in found
    assert b"STLS" not in found
    assert len(found) == 5


def test_what_is_no_capability_line_is_left_out() -> None:
    """RFC 2449 section 9: a tag is printable ASCII and does not begin with a dot."""
    assert list(Capabilities.parse([b"", b"   ", b".", b"..TOP", b"\xff", b"T\0P", b"\x01", b"UIDL"])) == [b"UIDL"]


def test_a_name_given_twice_keeps_its_place_and_the_last_parameters() -> None:
    found = Capabilities.parse([b"SASL PLAIN", b"TOP", b"sasl LOGIN"])
    assert found.lines() == [b"SASL LOGIN", b"TOP"]


def test_with_and_without_make_new_sets() -> None:
    first = Capabilities.parse([b"TOP", b"SASL PLAIN"])
    second = first.with_(b"sasl", b"LOGIN").with_(b"PIPELINING")
    assert second.lines() == [b"TOP", b"SASL LOGIN", b"PIPELINING"]
    assert second.without(b"top", b"NOT-THERE").lines() == [b"SASL LOGIN", b"PIPELINING"]
    assert first.lines() == [b"TOP", b"SASL PLAIN"]


def test_only_is_the_intersection_by_name() -> None:
    assert Capabilities.parse(LINES).only([b"UIDL", b"TOP", b"SASL"]).lines() == [b"TOP", b"SASL PLAIN LOGIN"]


def test_the_reply() -> None:
    assert Capabilities().reply() == b"+OK Capability list follows\r\n.\r\n"
    shown = Capabilities.parse([b"TOP", b"EXPIRE 0"]).reply()
    assert shown == b"+OK Capability list follows\r\nTOP\r\nEXPIRE 0\r\n.\r\n"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(b"", ()), (b".", ()), (b"A B", ()), (b"A\r\n.", ()), (b"A", (b"",)), (b"A", (b"\r\n.\r\n",)), (b"A", (b"a b",))],
)
def test_nobody_can_make_one_that_breaks_the_reply(name: bytes, parameters: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="is no capability: write words without white space"):
        Capabilities([(name, parameters)])
    with pytest.raises(ValueError, match="is no capability"):
        Capabilities().with_(name, *parameters)


def test_equality_is_that_of_sets_and_hashes_agree() -> None:
    one = Capabilities.parse([b"TOP", b"UIDL"])
    other = Capabilities.parse([b"uidl", b"top"])
    assert one == other
    assert hash(one) == hash(other)
    assert one != Capabilities.parse([b"TOP", b"UIDL x"])
    assert one != [b"TOP", b"UIDL"]


def test_repr_shows_the_lines() -> None:
    assert repr(Capabilities.parse([b"SASL PLAIN"])) == "Capabilities(['SASL PLAIN'])"


@settings(max_examples=150, deadline=None)
@given(sets)
def test_what_is_written_is_read_back_in_order(capabilities: Capabilities) -> None:
    again = Capabilities.parse(capabilities.lines())
    assert again == capabilities
    assert list(again) == list(capabilities)
    assert capabilities.reply().count(b"\r\n") == len(capabilities) + 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=8))
def test_any_lines_parse_to_a_reply_that_is_framed(lines: list[bytes]) -> None:
    found = Capabilities.parse(lines)
    assert len(found) <= len(lines)
    assert found.reply().find(b"\r\n.\r\n") == len(found.reply()) - 5
    assert Capabilities.parse(found.lines()) == found


@settings(max_examples=100, deadline=None)
@given(sets, sets)
def test_the_algebra(one: Capabilities, other: Capabilities) -> None:
    both = one.only(other)
    assert set(both) == set(one) & set(other)
    assert set(one.without(*other)) == set(one) - set(other)
    assert all(both.parameters(name) == one.parameters(name) for name in both)

"""Errors that know the reply they become."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.errors import Code, Refusal, WireError
from popproxy.wire.replies import parse_status


def test_a_refusal_without_code() -> None:
    assert Refusal("No such message").line() == b"-ERR No such message\r\n"


@pytest.mark.parametrize("code", Code)
def test_a_refusal_with_code_is_read_back(code: Code) -> None:
    line = Refusal("Try later", code).line()
    assert line == b"-ERR [" + code.value + b"] Try later\r\n"
    status = parse_status(line[:-2])
    assert status is not None
    assert (status.ok, status.code, status.text) == (False, code.value, b"Try later")


def test_the_codes_are_those_of_the_rfcs() -> None:
    assert {code.value for code in Code} == {b"AUTH", b"SYS/TEMP", b"SYS/PERM", b"IN-USE", b"LOGIN-DELAY", b"UTF8"}


def test_the_private_reason_stays_private() -> None:
    assert b"scanner" not in Refusal("Refused by policy", Code.SYS_PERM, "scanner found X").line()


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=600), st.sampled_from([None, *Code]))
def test_any_text_becomes_one_ascii_line(text: str, code: Code | None) -> None:
    line = Refusal(text, code).line()
    assert line.endswith(b"\r\n")
    assert all(0x20 <= octet < 0x7F for octet in line[:-2])
    assert len(line) <= 512


def test_a_wire_error_has_a_kind_for_counters() -> None:
    error = WireError("overlong", "line of more than 10 octets")
    assert error.kind == "overlong"
    assert str(error) == "line of more than 10 octets"
    assert isinstance(error, ValueError)

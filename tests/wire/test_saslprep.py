"""SASLprep: the examples of RFC 4013, and what holds for any text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.sasl import SaslError
from popproxy.wire.sasl.saslprep import saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b\u3000c", "a b c"),
        ("\u0627b"[:1] + "1\u0628", "\u06271\u0628"),
        ("\U0001f511", "\U0001f511"),
        (" p ", " p "),
    ],
)
def test_prepared(text: str, prepared: str) -> None:
    assert saslprep("password", text) == prepared


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\u0007", "prohibits"),
        ("a\x7f", "prohibits"),
        ("a\u0085", "prohibits"),
        ("\ue000", "prohibits"),
        ("\ufffd", "prohibits"),
        ("\ufdd0", "prohibits"),
        ("\ud800", "prohibits"),
        ("\u200e", "prohibits"),
        ("\u2ff0", "prohibits"),
        ("\U000e0001", "prohibits"),
        ("\u06271", "directions"),
        ("a\u0627", "directions"),
        ("\u0627a\u0627", "directions"),
        ("", "nothing is left"),
        ("\u00ad", "nothing is left"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(SaslError, match=says) as caught:
        saslprep("user name", text)
    assert caught.value.reason == "identity"
    assert "user name" in str(caught.value)


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_what_is_prepared_stays(text: str) -> None:
    try:
        prepared = saslprep("password", text)
    except SaslError:
        return
    assert saslprep("password", prepared) == prepared
    assert unicodedata.ucd_3_2_0.normalize("NFKC", prepared) == prepared
    assert not set("\0\r\n") & set(prepared)

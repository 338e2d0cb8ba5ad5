"""APOP (RFC 1939 section 7) and CRAM-MD5 (RFC 2195): the answers are taken apart, never judged."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popproxy.wire.sasl import Challenge, Complete, CramMd5Server, Identity, SaslError, Secret, answer, timestamp

RFC_2195 = b"b913a602c7eda7a495b4e6e7334d3890"
RFC_1939 = b"c4c9334bac560ecc979e58001b3e22fb"


def test_the_digests_of_the_rfcs_are_what_the_words_say() -> None:
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert hmac.new(b"tanstaaftanstaaf", challenge, "md5").hexdigest().encode() == RFC_2195
    assert hashlib.md5(b"<1896.697170952@dbc.mtview.ca.us>tanstaaf").hexdigest().encode() == RFC_1939


def test_cram_md5() -> None:
    server = CramMd5Server(b"abc-_1")
    assert server.start(None) == Challenge(b"<abc-_1@pop3>")
    identity = Identity("tim", "", RFC_2195, Secret.DIGEST)
    assert server.respond(b"tim " + RFC_2195) == Complete(identity, b"<abc-_1@pop3>")
    with pytest.raises(SaslError):
        server.respond(b"tim " + RFC_2195)
    assert RFC_2195.decode() not in repr(identity)


def test_the_server_speaks_first() -> None:
    for initial in (b"", b"tim " + RFC_2195):
        server = CramMd5Server(b"n")
        with pytest.raises(SaslError, match="without an initial response"):
            server.start(initial)
        with pytest.raises(SaslError):
            server.respond(b"tim " + RFC_2195)
    with pytest.raises(SaslError):
        CramMd5Server(b"n").respond(b"tim " + RFC_2195)


def test_a_name_may_hold_spaces_and_a_digest_capitals() -> None:
    assert answer("t ï m ".encode() + RFC_1939.upper()) == Identity("t ï m", "", RFC_1939, Secret.DIGEST)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "syntax"),
        (RFC_1939, "syntax"),
        (b"tim", "syntax"),
        (b"tim " + RFC_1939[:-1], "syntax"),
        (b"tim " + RFC_1939 + b"0", "syntax"),
        (b"tim " + b"g" * 32, "syntax"),
        (b"tim\t" + RFC_1939, "syntax"),
        (b" " + RFC_1939, "identity"),
        (b"t\xff " + RFC_1939, "identity"),
        (b"t\r\n " + RFC_1939, "identity"),
        (b"t\0 " + RFC_1939, "identity"),
    ],
)
def test_what_is_no_answer(text: bytes, reason: str) -> None:
    with pytest.raises(SaslError) as caught:
        answer(text)
    assert caught.value.reason == reason


@given(st.binary(max_size=60))
def test_any_octets(text: bytes) -> None:
    try:
        who = answer(text)
    except SaslError:
        return
    assert who.authcid.encode() + b" " + who.secret == text.lower() or who.secret == text[-32:].lower()


def test_a_timestamp_is_a_message_id() -> None:
    assert timestamp(b"x") == b"<x@pop3>"

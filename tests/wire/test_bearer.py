"""OAUTHBEARER (RFC 7628) and XOAUTH2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.sasl import (
    INVALID_TOKEN,
    Challenge,
    Complete,
    Identity,
    OAuthBearerClient,
    OAuthBearerServer,
    SaslError,
    Secret,
    XOAuth2Client,
    XOAuth2Server,
)
from popproxy.wire.sasl.bearer import document

TOKEN = b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
RFC = (
    b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer " + TOKEN + b"\x01\x01"
)
GOOGLE = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01"
SERVERS = [OAuthBearerServer, XOAuth2Server]


@contextmanager
def refusal(reason: str) -> Iterator[None]:
    with pytest.raises(SaslError) as caught:
        yield
    assert caught.value.reason == reason
    assert "Bearer t" not in str(caught.value)


def token(user: str, secret: bytes, authzid: str = "") -> Identity:
    return Identity(user, authzid, secret, Secret.TOKEN)


@pytest.mark.parametrize(
    ("make", "message", "identity"),
    [
        (OAuthBearerServer, RFC, token("user@example.com", TOKEN)),
        (OAuthBearerServer, b"n,,\x01auth=Bearer t\x01\x01", token("", b"t")),
        (OAuthBearerServer, b"y,a=a=2Cb=3D,\x01auth=bearer t\x01x=\x01\x01", token("a,b=", b"t")),
        (OAuthBearerServer, "n,a=jö,\x01auth=Bearer t\x01\x01".encode(), token("jö", b"t")),
        (XOAuth2Server, GOOGLE, token("someuser@example.com", b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")),
        (XOAuth2Server, b"user=a,=b\x01auth=BEARER t\x01\x01", token("a,=b", b"t")),
    ],
)
def test_in_one_step_and_in_two(make: Any, message: bytes, identity: Identity) -> None:
    assert make().start(message) == Complete(identity)
    server = make()
    assert server.start(None) == Challenge(b"")
    assert server.respond(message) == Complete(identity)
    assert json.loads(server.refused())["status"] == "invalid_token"
    with refusal("sequence"):
        server.respond(message)
    with refusal("sequence"):
        server.start(message)


def test_a_token_of_16_kib() -> None:
    secret = b"e" * 16_384
    assert XOAuth2Server().start(b"user=joe\x01auth=Bearer " + secret + b"\x01\x01") == Complete(token("joe", secret))
    message = OAuthBearerClient(token("joe", secret)).initial()
    assert OAuthBearerServer().start(message) == Complete(token("joe", secret))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "syntax"),
        (b"\x01", "syntax"),
        (b"n,a=joe,", "syntax"),
        (b"n,a=joe,auth=Bearer t\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer t\x01", "syntax"),
        (b"n,a=joe,\x01\x01\x01", "syntax"),
        (b"n,a=joe,\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer \x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer  t\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Basic dA==\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer t u\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer t\r\nQUIT\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer t\xff\x01\x01", "syntax"),
        (b"n,a=joe,\x01auth=Bearer t\x01auth=Bearer u\x01\x01", "syntax"),
        (b"n,a=joe,\x01host\x01auth=Bearer t\x01\x01", "syntax"),
        (b"n,a=joe,\x01host=a\0b\x01auth=Bearer t\x01\x01", "syntax"),
        (b"p=tls-exporter,a=joe,\x01auth=Bearer t\x01\x01", "syntax"),
        (b"n,a=j=oe,\x01auth=Bearer t\x01\x01", "syntax"),
        (b"n,a=j\xffoe,\x01auth=Bearer t\x01\x01", "identity"),
        (b"n,a=j\r\noe,\x01auth=Bearer t\x01\x01", "identity"),
        (b"n,a=,\x01auth=Bearer t\x01\x01", "identity"),
    ],
)
def test_oauthbearer_refuses(message: bytes, reason: str) -> None:
    with refusal(reason):
        OAuthBearerServer().start(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "syntax"),
        (b"\x01", "syntax"),
        (b"user=joe\x01auth=Bearer t\x01", "syntax"),
        (b"user=joe\x01auth=Bearer t\x01\x01\x01", "syntax"),
        (b"user=joe\x01auth=Bearer t\x01x\x01", "syntax"),
        (b"auth=Bearer t\x01user=joe\x01\x01", "syntax"),
        (b"user=joe\x01auth=Bearer\x01\x01", "syntax"),
        (b"user=joe\x01auth=Bearer t\nu\x01\x01", "syntax"),
        (b"user=\x01auth=Bearer t\x01\x01", "identity"),
        (b"user=j\xff\x01auth=Bearer t\x01\x01", "identity"),
        (b"user=j\r\n\x01auth=Bearer t\x01\x01", "identity"),
        (b"user=j\0\x01auth=Bearer t\x01\x01", "identity"),
    ],
)
def test_xoauth2_refuses(message: bytes, reason: str) -> None:
    with refusal(reason):
        XOAuth2Server().start(message)


@pytest.mark.parametrize("make", SERVERS)
def test_answers_only_where_a_challenge_was(make: Any) -> None:
    with refusal("sequence"):
        make().respond(GOOGLE)


@given(st.sampled_from(SERVERS), st.binary(max_size=60) | st.binary(max_size=20).map(lambda more: RFC[:-2] + more))
@settings(max_examples=200, deadline=None)
def test_whatever_a_client_sends_the_identity_is_safe(make: Any, message: bytes) -> None:
    try:
        step = make().start(message)
    except SaslError as error:
        assert str(error)
        return
    assert isinstance(step, Complete)
    who = step.identity
    assert who.kind is Secret.TOKEN
    assert who.secret in message
    assert not set(b"\0\r\n\x01") & set(who.secret)


# Client side


def test_oauthbearer_client() -> None:
    assert OAuthBearerClient(token("joe", b"t")).initial() == b"n,a=joe,\x01auth=Bearer t\x01\x01"
    assert OAuthBearerClient(token("a,=", b"t", "")).initial() == b"n,a=a=2C=3D,\x01auth=Bearer t\x01\x01"
    assert OAuthBearerClient(token("joe", b"t", "ann")).initial() == b"n,a=ann,\x01auth=Bearer t\x01\x01"
    assert OAuthBearerClient(token("", b"t")).initial() == b"n,,\x01auth=Bearer t\x01\x01"


def test_xoauth2_client() -> None:
    assert XOAuth2Client(token("joe", b"t")).initial() == b"user=joe\x01auth=Bearer t\x01\x01"
    for identity in (token("", b"t"), token("joe", b"t", "ann"), token("j\x01", b"t")):
        with refusal("identity"):
            XOAuth2Client(identity)


@pytest.mark.parametrize("make", [OAuthBearerClient, XOAuth2Client])
@pytest.mark.parametrize(
    "identity", [Identity("a", "", b"p"), Identity("a", kind=Secret.NONE), token("a", b"t t"), token("a", b"t\x01")]
)
def test_a_token_mechanism_needs_a_token(make: Any, identity: Identity) -> None:
    with refusal("identity"):
        make(identity)


@pytest.mark.parametrize(("make", "answer"), [(OAuthBearerClient, b"\x01"), (XOAuth2Client, b"")])
def test_an_error_document_is_answered_once(make: Any, answer: bytes) -> None:
    client = make(token("joe", b"t"))
    assert client.reads_challenges
    assert not client.failed
    assert client.respond(b'{"status":"invalid_token","scope":"mail"}') == answer
    assert client.failed
    assert json.loads(client.document) == {"status": "invalid_token", "scope": "mail"}
    with refusal("sequence"):
        client.respond(b"")


@pytest.mark.parametrize(
    ("challenge", "kept"),
    [
        (b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}', True),
        (b'{"status":"invalid_token","openid-configuration":"https://example.com/.well-known"}', True),
        (b"", False),
        (b"{}", False),
        (b"[]", False),
        (b'"status"', False),
        (b'{"status":400}', False),
        (b'{"status":"' + b"x" * 2000 + b'"}', False),
        (b"[" * 6000, False),
        (b"\xff", False),
        (b"{", False),
    ],
)
def test_documents(challenge: bytes, kept: bool) -> None:
    assert json.loads(document(challenge)) == (json.loads(challenge) if kept else json.loads(INVALID_TOKEN))


def test_a_document_keeps_only_what_clients_know() -> None:
    kept = document(b'{"status":"x","token":"secret","scope":5,"schemes":"bearer\\r\\n-ERR"}')
    assert json.loads(kept) == {"status": "x", "schemes": "bearer\r\n-ERR"}
    assert not set(b"\r\n") & set(kept)

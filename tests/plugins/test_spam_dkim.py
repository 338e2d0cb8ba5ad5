"""spam: octets that are not edited stay octets: signatures over them still verify, by dkimpy."""

from __future__ import annotations

from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from popproxy_plugins.spam import Spam, SpamConfig
from popproxy_plugins.spam.plugin import Turn, Writer
from popproxy_plugins.spam.verdict import Scored, Unscanned

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
RECORD = b"v=DKIM1; k=rsa; p=" + b"".join(
    KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .splitlines()[1:-1]
)
FIELDS = (
    b"From: Robin <robin@example.com>\r\nTo: joe@example.com\r\n"
    b"Subject: hi\r\nDate: Mon, 1 Jan 2024 10:00:00 +0000\r\n"
)
BODIES = [
    b"",
    b"plain\r\n",
    b"no end of line",
    b"trailing  \t\r\n\r\n\r\n",
    b".\r\n..\r\n.dots\r\n",
    b"gr\xc3\xbc\xdf\xff\r\n",
    b"x" * 5000 + b"\r\n",
    b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b--\r\n",
]
SPAM = Scored(9.0, True, 6.0, ("A_B",))


def record(name: bytes, timeout: int = 5) -> bytes:
    assert name == b"s._domainkey.example.com."
    return RECORD


def signed(body: bytes, signs: list[bytes], canonicalize: tuple[bytes, bytes]) -> bytes:
    message = FIELDS + b"\r\n" + body
    return dkim.sign(message, b"s", b"example.com", PEM, canonicalize=canonicalize, include_headers=signs) + message


def delivered(message: bytes, judged: Scored | Unscanned, size: int, **options: Any) -> bytes:
    plugin = Spam(SpamConfig.model_validate(options))
    marks = plugin._marks
    body_filter = Writer(Turn(judged), lambda turn, header: marks.write(header, judged), marks.growth, False)
    pieces = [body_filter.feed(message[place : place + size]) for place in range(0, len(message), size)]
    return b"".join(pieces) + body_filter.finish()


@pytest.mark.parametrize("canonicalize", [(b"simple", b"simple"), (b"relaxed", b"relaxed")])
@pytest.mark.parametrize("judged", [SPAM, Scored(0.0, False), Unscanned.LATE])
@pytest.mark.parametrize("size", [1, 100_000])
def test_marking_breaks_no_signature(judged: Scored | Unscanned, canonicalize: tuple[bytes, bytes], size: int) -> None:
    for body in BODIES:
        message = signed(body, [b"from", b"to", b"subject", b"date"], canonicalize)
        assert dkim.verify(message, dnsfunc=record)
        assert dkim.verify(delivered(message, judged, size), dnsfunc=record), body


@pytest.mark.parametrize("canonicalize", [(b"simple", b"simple"), (b"relaxed", b"relaxed")])
def test_a_tag_breaks_a_signature_of_the_subject_and_no_other(canonicalize: tuple[bytes, bytes]) -> None:
    options = {"actions": [{"at": 5, "tag": "[SPAM] "}]}
    for body in BODIES:
        message = signed(body, [b"from", b"date"], canonicalize)
        assert dkim.verify(delivered(message, SPAM, 100, **options), dnsfunc=record), body
        message = signed(body, [b"from", b"subject"], canonicalize)
        assert not dkim.verify(delivered(message, SPAM, 100, **options), dnsfunc=record), body
        assert dkim.verify(delivered(message, Unscanned.LATE, 100, **options), dnsfunc=record), body

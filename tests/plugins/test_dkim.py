"""What is not edited stays what it was: a DKIM signature (RFC 6376) still verifies behind the headers plugin."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dkim.canonicalization import CanonicalizationPolicy
from popproxy_plugins.headers import Headers, HeadersConfig

from popproxy.api import Command, Edit, Fail, MessageView, Plugin, PluginConfig, Replace, SessionView
from popproxy.wire.dots import stuff
from tests.core.rig import Rig, pieces, plugin
from tests.letters import DIFFICULT, as_sent

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
)
PUBLIC = KEY.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)
RECORD = b"v=DKIM1; k=rsa; p=" + base64.b64encode(PUBLIC)
SIGNED = [b"from", b"to", b"subject", b"date"]
HEAD = (
    b"From: robin@example.org\r\nTo: alice@example.org\r\n"
    b"Subject: signed\r\nDate: Fri, 27 Nov 2026 10:00:00 +0000\r\n"
)
SMALL = [pytest.param(letter, id=name) for name, letter in DIFFICULT if len(letter) < 100_000]
BODIES = {
    "plain": b"Spaces  count ,\r\n and so do\r\n\r\n.dots\r\n..\r\n",
    "empty": b"",
    "blank lines at the end": b"text\r\n\r\n\r\n",
    "trailing spaces": b"text   \r\n\t\r\nmore \t\r\n",
    "eight bits": bytes(range(128, 256)) + b"\r\n" + "ж\r\n".encode(),
    "looks like a header": b"X-Spam: in the body\r\nSubject: in the body\r\n\r\n",
    "large": b"x" * 70 + b"\r\n.\r\n" * 20_000,
}
CANONICAL = [(b"simple", b"simple"), (b"relaxed", b"simple"), (b"simple", b"relaxed"), (b"relaxed", b"relaxed")]
UNTOUCHED: list[dict[str, Any]] = [
    {"remove": "X-Spam*"},
    {"add": "X-Fetched-By", "value": "{user} of {listener}"},
    {"set": "X-Spam-Flag", "value": "NO"},
    {"rewrite": "X-Other", "match": ".*", "with": "changed"},
]


def signed(body: bytes, canonical: tuple[bytes, bytes] = CANONICAL[0]) -> bytes:
    message = HEAD + b"X-Spam-Level: 5\r\nX-Other: folded\r\n\tvalue\r\n\r\n" + body
    how = {"canonicalize": canonical, "include_headers": SIGNED}
    signature: bytes = dkim.sign(message, b"letters", b"example.org", PEM, **how)
    return signature + message


def verifies(message: bytes) -> bool:
    return bool(dkim.verify(message, dnsfunc=lambda name, **_: RECORD))


def body_hash_holds(message: bytes) -> bool:
    """RFC 6376 section 3.7, step 1."""
    field = re.sub(rb"\s", b"", message[: message.index(b"\r\n\r\n")].partition(b"DKIM-Signature:")[2])
    found = re.search(rb"bh=([A-Za-z0-9+/=]+)", field)
    policy = re.search(rb";c=([a-z/]+)", field)
    assert found is not None and policy is not None
    body = message[message.index(b"\r\n\r\n") + 4 :]
    canonical = CanonicalizationPolicy.from_c_value(policy[1]).canonicalize_body(body)
    return sha256(canonical).digest() == base64.b64decode(found[1])


def retrieved(message: bytes, *plugins: Plugin[Any], size: int = 4096) -> bytes:
    """What a client gets of it, stuffing and terminator taken off."""
    rig = Rig(*plugins).login().client(b"RETR 1\r\n")
    for piece in pieces(b"+OK\r\n" + stuff(message), size):
        rig.upstream(piece)
    reply = rig.said()
    assert reply.startswith(b"+OK\r\n") and reply.endswith(b"\r\n.\r\n")
    assert not rig.meter.errors
    return (b"\r\n" + reply[5:-3]).replace(b"\r\n.", b"\r\n")[2:]


def headers(*rules: dict[str, Any]) -> Headers:
    return Headers(HeadersConfig.model_validate({"rules": rules}))


@pytest.mark.parametrize("canonical", CANONICAL)
@pytest.mark.parametrize("body", BODIES)
def test_the_whole_signature_verifies_when_no_signed_field_is_edited(
    body: str, canonical: tuple[bytes, bytes]
) -> None:
    message = signed(BODIES[body], canonical)
    assert verifies(message), "the harness itself"
    out = retrieved(message, headers(*UNTOUCHED))
    assert out != message and b"X-Popproxy-Padding" in out and b"X-Fetched-By: joe of pop3" in out
    assert verifies(out)


@pytest.mark.parametrize("canonical", CANONICAL)
@pytest.mark.parametrize("body", BODIES)
def test_the_body_hash_holds_when_signed_fields_are_edited(body: str, canonical: tuple[bytes, bytes]) -> None:
    message = signed(BODIES[body], canonical)
    out = retrieved(message, headers({"rewrite": "Subject", "match": "^", "with": "[EXT] "}, *UNTOUCHED))
    assert b"Subject: [EXT] signed\r\n" in out
    assert body_hash_holds(message) and body_hash_holds(out)
    assert not verifies(out), "the harness itself: it would see an edit"
    damaged = out.replace(b"\r\n\r\n", b"\r\n\r\nmore\r\n", 1)
    assert not body_hash_holds(damaged)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_whatever_the_pieces(size: int) -> None:
    assert verifies(retrieved(signed(BODIES["plain"]), headers(*UNTOUCHED), size=size))


def test_behind_an_edit_of_on_message() -> None:
    def tag(session: SessionView, command: Command, message: MessageView) -> Edit:
        return Edit([("X-Tag", "1")], ["X-Spam*"])

    out = retrieved(signed(BODIES["plain"]), plugin(growth=lambda *_: 100, on_message=tag), headers(*UNTOUCHED))
    assert b"X-Tag: 1\r\n" in out and verifies(out)


def test_behind_a_plugin_that_fails() -> None:
    class Broken(Plugin[PluginConfig]):
        fail = Fail.OPEN

        def growth(self, session: SessionView) -> int:
            return 100

        def on_message(self, session: SessionView, command: Command, message: MessageView) -> Replace:
            raise ValueError("no")

    rig = Rig(Broken(PluginConfig())).login().client(b"RETR 1\r\n")
    message = signed(BODIES["plain"])
    reply = rig.upstream(b"+OK\r\n" + stuff(message)).said()
    assert rig.meter.errors
    assert verifies((b"\r\n" + reply[5:-3]).replace(b"\r\n.", b"\r\n")[2:])


@pytest.mark.parametrize("letter", SMALL)
def test_the_body_of_every_difficult_letter_stays(letter: bytes) -> None:
    message = as_sent(letter)
    end = re.search(rb"\n\r?\n", b"\n" + message)
    body = message[end.end() - 1 :] if end else b""
    rules = [{"rewrite": "Subject", "match": "^", "with": "[EXT] "}, *UNTOUCHED]
    made = HeadersConfig.model_validate({"rules": rules, "room": 200_000})
    assert retrieved(message, Headers(made)).endswith(body)

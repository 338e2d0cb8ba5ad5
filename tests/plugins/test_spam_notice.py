"""spam: the notice in place of a message, which fits into what was announced, however small the message is."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.spam.actions import NOTICE
from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.marks import Marks
from popproxy_plugins.spam.notice import notice
from popproxy_plugins.spam.verdict import Scored

from popproxy.api import Header

ORIGINAL = (
    b"Received: from evil\r\nFrom: Evil <evil@example.com>\r\nTo: joe@example.com\r\n"
    b"Date: Mon, 1 Jan 2024 10:00:00 +0000\r\n"
    b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@example.com>\r\nContent-Type: text/html\r\n"
    b"garbage http://evil.example.com\r\n\r\n"
)
SCORED = Scored(20.0, True, 6.0, ("BAYES_99",))


def marks(text: bool | str = True, tag: str = "[SPAM] ", **options: Any) -> Marks:
    return Marks(SpamConfig.model_validate({"actions": [{"at": 5, "tag": tag, "replace": text}], **options}))


def made(original: bytes = ORIGINAL, octets: int = 4000, text: str = NOTICE, writer: Marks | None = None) -> bytes:
    writer = writer or marks()
    room = octets + writer.growth
    out = notice(Header(original), octets, room, text, SCORED, writer)
    assert len(out) <= room
    return out


def test_it_stands_in_the_list_as_the_message_would_and_says_what_happened() -> None:
    message = message_from_bytes(made(), policy=policy.default)
    assert message["From"] == "Evil <evil@example.com>"
    assert message["Subject"] == "[SPAM] grüße"
    assert message["Date"] == "Mon, 01 Jan 2024 10:00:00 +0000"
    assert message["Message-ID"] == "<1@example.com>"
    assert message["X-Spam-Flag"] == "YES"
    assert message["X-Spam-Status"] == "Yes, score=20.00 required=5.00 tests=BAYES_99"
    assert message["Content-Type"] == 'text/plain; charset="utf-8"'
    assert message["Received"] is None
    text = message.get_content()
    assert "Subject: grüße" in text
    assert "Score:   20.00" in text
    assert b"garbage" not in made()


def test_a_text_of_the_operators_own() -> None:
    out = made(text="Gesperrt: {subject} ({octets} Octets, {score})\n{{}}\n" + "Wort " * 100)
    body = out.partition(b"\r\n\r\n")[2].decode()
    assert body.startswith("Gesperrt: grüße (4000 Octets, 20.00)\r\n{}\r\nWort ")
    assert max(map(len, body.splitlines())) <= 200
    assert body.endswith("Wort\r\n")


@pytest.mark.parametrize("octets", [0, 1, 2, 50, 100, 200, 400])
def test_a_small_message_has_a_shorter_notice(octets: int) -> None:
    out = made(ORIGINAL[:octets], octets)
    assert out.startswith(b"X-Spam-Flag: YES\r\n")
    assert b"\r\n\r\n" in out
    assert b"Content-Type: text/plain; charset=utf-8\r\n" in out


def test_long_fields_are_cut_between_words_when_there_is_no_room() -> None:
    subject = b"Subject: " + b"\r\n ".join(b"=?utf-8?q?=C3=BC%d?=" % n for n in range(40)) + b"\r\n"
    out = made(b"From: a@b\r\n" + subject + b"\r\n", 200)
    value = Header(out).get_all("Subject")[0]
    assert value.startswith("[SPAM] =?utf-8?q?=C3=BC0?= =?utf-8?q?=C3=BC1?=")
    assert value.endswith("?=")


def test_control_characters_and_unreadable_octets_do_no_harm() -> None:
    out = made(b"From: a\0b\rc\r\nSubject: \xff\x1b[31m\r\n\r\n")
    assert Header(out).get_all("From") == ["a b c"]
    body = out.partition(b"\r\n\r\n")[2]
    assert b"\x1b" not in body
    assert b"From:    a b c\r\n" in body


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"From", b"To", b"Cc", b"Subject", b"Date", b"Message-ID", b"X"]),
        st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 500, b"\xc3\xbc" * 300, b"a " * 300, b"\xff" * 800])),
    ),
    max_size=8,
).map(lambda fields: b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n")


@settings(max_examples=300, deadline=None)
@given(
    HEADERS,
    st.integers(0, 3000),
    st.sampled_from([NOTICE, "{subject}" * 20, "ü" * 690]),
    st.sampled_from(["", "Ж" * 76]),
)
def test_it_always_fits(original: bytes, octets: int, text: str, tag: str) -> None:
    writer = marks(text, tag, symbols=300, fields={"status": "X-" + "s" * 70})
    out = made(original, octets, text, writer)
    head, _, body = out.partition(b"\r\n\r\n")
    assert Header(head + b"\r\n\r\n").get_all("Content-Type") == ["text/plain; charset=utf-8"]
    assert not body or body.endswith(b"\r\n")
    assert max(map(len, out.split(b"\r\n"))) <= 998

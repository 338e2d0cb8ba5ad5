"""The mailbox of the demo: a handful of friendly letters, the same octets every time."""

from __future__ import annotations

import base64
import os
import random
from email.utils import formatdate
from pathlib import Path

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""The line that every spam filter takes for spam, as EICAR is a virus."""

_FIRST = 1_700_000_000  # the second of the first delivery
_ATTACHMENT = 768_000  # octets before base64, about 1 MB after

_PLAIN = "text/plain; charset=us-ascii"


def write_sample(directory: Path) -> None:
    """Write the demo Maildir: new/, cur/ and tmp/ are made where missing, earlier copies are replaced."""
    for folder in ("tmp", "new", "cur"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for number, (subject, content_type, body) in enumerate(_letters(), 1):
        delivered = _FIRST + number * 3600
        letter = _header(number, delivered, subject, content_type) + body
        path = directory / "new" / f"{delivered}.M{number}P1.sample"
        path.write_bytes(letter.encode())
        os.utime(path, (delivered, delivered))


def _letters() -> list[tuple[str, str, str]]:
    """Subject, content type and body of each letter."""
    return [
        ("Welcome to popproxy", _PLAIN, _WELCOME),
        ("A letter in two dresses", 'multipart/alternative; boundary="dress"', _ALTERNATIVE),
        ("One megabyte of noise", 'multipart/mixed; boundary="noise"', _attachment()),
        # "Schöne Grüße aus Åre" (RFC 2047)
        ("=?utf-8?B?U2Now7ZuZSBHcsO8w59lIGF1cyDDhXJl?=", "text/plain; charset=utf-8", _GREETINGS),
        ("You have won a test", _PLAIN, f"No filter likes the next line.\n\n{GTUBE}\n"),
        ("A dot comes first", _PLAIN, _DOTS),
        ("Nothing to say", _PLAIN, ""),
        ("How to go on", _PLAIN, _GO_ON),
    ]


def _header(number: int, delivered: int, subject: str, content_type: str) -> str:
    return (
        "Return-Path: <robin@example.org>\n"
        f"Date: {formatdate(delivered)}\n"
        "From: Robin Sample <robin@example.org>\n"
        "To: Alice Example <alice@example.org>\n"
        f"Subject: {subject}\n"
        f"Message-ID: <letter-{number}@sample.example.org>\n"
        "MIME-Version: 1.0\n"
        f"Content-Type: {content_type}\n"
        "Content-Transfer-Encoding: 8bit\n"
        "\n"
    )


def _attachment() -> str:
    noise = base64.encodebytes(random.Random(1939).randbytes(_ATTACHMENT)).decode("ascii")
    return (
        "--noise\nContent-Type: text/plain\n\nThe attachment is noise, but always the same noise.\n"
        '--noise\nContent-Type: application/octet-stream; name="noise.bin"\n'
        'Content-Disposition: attachment; filename="noise.bin"\n'
        f"Content-Transfer-Encoding: base64\n\n{noise}--noise--\n"
    )


_WELCOME = """\
Hello Alice,

this mailbox is a Maildir on your disk. A small POP3 server reads it, and
popproxy stands between that server and you. Nothing here is precious: read,
delete, look at the metrics, and see what the log says about your session.
"""

_ALTERNATIVE = """\
--dress
Content-Type: text/plain; charset=us-ascii

The same words, once plain.
--dress
Content-Type: text/html; charset=us-ascii

<p>The same words, once in <b>HTML</b>.</p>
--dress--
"""

_GREETINGS = """\
Käse, Smörgås, ψωμί, хліб, 饺子: the body of this letter is UTF-8,
its subject is an encoded word, so any mail reader can show it.
"""

_DOTS = """\
.
The line above is one dot. On the wire it is two, or the letter would end there.
..two dots
...and three.
"""

_GO_ON = """\
Put popproxy in front of your own server next: the README tells how in a minute.
"""

"""Difficult messages, the same octets on every run, and a Maildir of them.

The second element of each pair is the file as it is stored; on the wire LF becomes CRLF and a last line
without an end gets one.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

FIRST_SECOND = 1_600_000_000
"""Delivery of the first message; each following one came a second later."""

SERVERS_MAY_SKIP = frozenset({"file_of_no_octets"})
"""Names of messages that a server may refuse to list at all."""


def write_maildir(directory: Path, letters: Iterable[tuple[str, bytes]] | None = None) -> None:
    """Store ``letters`` (all of DIFFICULT unless given) in new/, so that any server lists them in this order.

    Seconds rise in the name and in the modification time; the name of the message is its host part.
    """
    for folder in ("tmp", "new", "cur"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for number, (name, message) in enumerate(DIFFICULT if letters is None else letters, 1):
        second = FIRST_SECOND + number
        path = directory / "new" / f"{second}.M{number:06}P1.{name}"
        path.write_bytes(message)
        os.utime(path, (second, second))


def as_sent(message: bytes) -> bytes:
    """The octets of a stored message on the wire, before byte-stuffing: what LIST counts."""
    lines = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return lines if not lines or lines.endswith(b"\r\n") else lines + b"\r\n"


_noise = random.Random(6856)


def _head(subject: str, *more: str) -> bytes:
    lines = (
        "From: Robin Sample <robin@example.org>",
        "To: Alice Example <alice@example.org>",
        f"Subject: {subject}",
        f"Message-ID: <{subject.replace(' ', '-')}@letters.example.org>",
        *more,
        "",
        "",
    )
    return "\n".join(lines).encode()


def _text(octets: int) -> bytes:
    """Readable lines, ``octets`` long when each LF counts as CRLF, the last one whole."""
    line = b"The quick brown fox jumps over the lazy dog, and again, and again.\n"
    lines, rest = divmod(octets, len(line) + 1)
    if rest in (1, 2, 3):  # too short for one more line of its own: take a line back
        lines, rest = lines - 1, rest + len(line) + 1
    return line * lines + (b"x" * (rest - 2) + b"\n" if rest else b"")


def _big() -> Iterator[tuple[str, bytes]]:
    coded = base64.encodebytes(_noise.randbytes(4_000_000))
    attachment = ("Content-Type: application/octet-stream", "Content-Transfer-Encoding: base64")
    yield "five_megabytes_of_base64", _head("five megabytes of base64", *attachment) + coded
    yield "one_line_of_two_megabytes", _head("one line of two megabytes") + b"a" * 2_000_000 + b"\n"
    yield "random_octets", _head("random octets") + _noise.randbytes(1_500_000)
    yield "a_million_dots", _head("a million dots") + b".\n" * 500_000


def _dots() -> Iterator[tuple[str, bytes]]:
    cases = {
        "line_of_one_dot": b"before\n.\nafter\n",
        "line_of_two_dots": b"before\n..\nafter\n",
        "line_of_three_dots": b"before\n...\nafter\n",
        "dots_before_text": b".a\n..b\n...c\n .d\n",
        "nothing_but_dots": b".\n.\n.\n",
        "dot_is_last_line": b"text\n.\n",
        "dot_is_last_octet": b"text\n.",
        "two_dots_are_last": b"text\n..",
        "terminator_in_crlf_text": b"before\r\n.\r\nafter\r\n",
        "terminator_is_the_end": b"before\r\n.\r\n",
        "terminator_twice": b"\r\n.\r\n\r\n.\r\n",
        "terminator_with_lf": b"before\n.\nQUIT\n",
        "terminator_with_cr": b"before\r.\rafter\n",
        "terminator_cut": b"before\r\n.\r",
        "terminator_half_lf": b"before\r\n.\nafter\n.\r\nend\n",
        "dot_after_cr": b"before\r.after\n\r.\n",
        "dot_and_space": b". \n.\t\n.\r \n",
        "dot_of_utf8": "\N{FULLWIDTH FULL STOP}\n\N{IDEOGRAPHIC FULL STOP}\n".encode(),
    }
    for name, body in cases.items():
        yield name, _head(name) + body
    yield "first_octet_is_a_dot", b".From: robin@example.org\n\nbody\n"
    yield "message_is_a_dot", b"."
    yield "message_is_a_dot_line", b".\n"
    yield "message_is_the_terminator", b"\r\n.\r\n"
    yield "header_line_with_a_dot", _head("dot in header")[:-1] + b".X-Dot: 1\n.\n\nbody\n"


def _line_ends() -> Iterator[tuple[str, bytes]]:
    crlf = _head("crlf file").replace(b"\n", b"\r\n")
    yield "crlf_file", crlf + b"one\r\ntwo\r\n"
    yield "crlf_file_no_last_end", crlf + b"one\r\ntwo"
    yield "crlf_header_lf_body", crlf + b"one\ntwo\n"
    yield "lf_header_crlf_body", _head("lf header crlf body") + b"one\r\ntwo\r\n"
    cases = {
        "mixed_line_ends": b"lf\ncrlf\r\ncr\rlfcr\n\rcrcrlf\r\r\nend\n",
        "bare_cr_in_text": b"one\rtwo\rthree\n",
        "bare_cr_is_last": b"text\r",
        "two_cr_are_last": b"text\r\r",
        "cr_before_crlf": b"text\r\r\nmore\r\r\r\n",
        "lines_of_cr": b"\r\n\r\r\n\r\r\r\n\r",
        "only_line_ends": b"\n\n\n\n\n",
        "only_crlf": b"\r\n\r\n\r\n",
        "no_last_line_end": b"one\ntwo",
        "lines_of_spaces": b" \n  \n\t\n \t \n",
        "trailing_spaces": b"text   \nmore\t\n-- \nRobin\n",
        "blank_lines_at_the_end": b"text\n\n\n\n",
        "unicode_line_ends": "a\x0bb\x0cc\x1cd\x1de\x85f\u2028g\u2029h\n".encode(),
    }
    for name, body in cases.items():
        yield name, _head(name) + body


def _octets() -> Iterator[tuple[str, bytes]]:
    cases = {
        "nul_in_body": b"one\0two\0\nthree\n",
        "lines_of_nul": b"\0\n\0\0\n\0",
        "every_octet": bytes(range(256)) + b"\n",
        "control_characters": bytes(range(1, 10)) + b"\x0b\x0c" + bytes(range(14, 32)) + b"\x7f\n",
        "ctrl_z": b"before\n\x1a\nafter\n",
        "latin_1_body": "Grüße aus Malmö\n".encode("latin-1"),
        "utf8_body": "Grüße, ψωμί, хліб, 饺子, 🥖\n".encode(),
        "broken_utf8_body": b"\xc3\n\xe2\x82\n\xf0\x9f\x92\n\xc0\xaf\n\xff\xfe\n",
        "utf16_body": "\ufeffline\r\n.\r\nline\r\n".encode("utf-16-le"),
        "telnet_commands": b"\xff\xf4\xff\xfd\x06\n\xff\xff\n",
        "looks_like_replies": b"+OK 2 320\n-ERR no such message\n+ \n+OK\n1 120\n2 200\n",
        "looks_like_commands": b"QUIT\nDELE 1\nRETR 1\nSTLS\n",
    }
    for name, body in cases.items():
        yield name, _head(name) + body
    utf8 = "From: Bäcker <bäcker@example.org>\nSubject: Brötchen 🥖\n\nGrüße\n"
    yield "utf8_header", utf8.encode()
    yield "latin_1_header", "Subject: Brötchen\n\nGrüße\n".encode("latin-1")
    yield "byte_order_mark_first", b"\xef\xbb\xbf" + _head("byte order mark first") + b"text\n"
    yield "nul_in_header", b"Subject: a\0b\nX-\0: c\n\ntext\n"
    yield "cr_in_header", b"Subject: a\rX-Injected: b\n\ntext\n"


def _long_lines() -> Iterator[tuple[str, bytes]]:
    for length in (510, 512, 998, 999, 1000, 2048, 5000, 70_000):
        yield f"line_of_{length}", _head(f"line of {length}") + b"b" * length + b"\nshort\n"
    yield "long_line_of_dots", _head("long line of dots") + b"." * 70_000 + b"\n"
    yield "long_header_line", _head("long header line", "X-Long: " + "h" * 70_000) + b"text\n"
    yield "header_folded_500_times", _head("folded", "X-Folded: a" + "\n b" * 500) + b"text\n"


def _shapes() -> Iterator[tuple[str, bytes]]:
    yield "empty_body", _head("empty body")
    yield "header_without_blank_line", _head("header without blank line")[:-1]
    yield "header_without_line_end", _head("header without line end")[:-2]
    yield "no_header", b"\nonly a body\n"
    yield "no_header_crlf", b"\r\nonly a body\r\n"
    yield "only_a_blank_line", b"\n"
    yield "one_octet", b"x"
    yield "one_cr", b"\r"
    yield "one_nul", b"\0"
    yield "text_without_header", b"This is no header at all\nnor is this\n"
    yield "begins_with_a_fold", b" folded into nothing\nSubject: fold first\n\ntext\n"
    yield (
        "mbox_from_line",
        b"From robin@example.org Tue Nov 14 22:13:20 2023\n" + _head("mbox") + b"From here\n>From\n",
    )
    yield "blank_line_of_spaces", b"Subject: a\n \nX-Still: header\n\t\n\ntext\n"
    yield "odd_folding", b"Subject:\n a\n\n\tb\nX-A:\n\t\n \n c\nX-B :d\n\ntext\n"
    yield "header_name_missing", b": no name\nSubject: a\nno colon\n\ntext\n"
    yield "header_twice", _head("first", "Subject: second", "Subject: third") + b"text\n"
    many = (f"X-Header-{number}: value {number}" for number in range(2000))
    yield "two_thousand_headers", _head("two thousand headers", *many) + b"text\n"
    yield "content_length_lies", _head("content length lies", "Content-Length: 3", "Lines: 1") + b"text\n" * 9
    yield "dkim_signature", _dkim()
    yield "file_of_no_octets", b""


def _dkim() -> bytes:
    signature = base64.b64encode(_noise.randbytes(256)).decode("ascii")
    folded = "\n\t".join(signature[at : at + 60] for at in range(0, len(signature), 60))
    head = (
        "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=example.org; s=letters;\n"
        "\th=from:to:subject; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\n"
        f"\tb={folded}\n"
    )
    return head.encode("ascii") + _head("signed") + b"Spaces  count ,\n and so do\n\n.dots\n\n\n"


def _mime() -> Iterator[tuple[str, bytes]]:
    mixed = ("MIME-Version: 1.0", 'Content-Type: multipart/mixed; boundary="b"')
    part = b"--b\nContent-Type: text/plain\n\npart\n"
    yield (
        "preamble_with_a_header",
        _head("preamble", *mixed) + b"Subject: not me\n\n--B\n--b \n" + part + b"--b--\n",
    )
    yield "epilogue_with_a_part", _head("epilogue", *mixed) + part + b"--b--\n" + part + b"--b--\n"
    yield "boundary_never_ends", _head("no end", *mixed) + part + b"--b"
    yield "boundary_never_begins", _head("no begin", *mixed) + b"text\n"
    dotted = ("MIME-Version: 1.0", 'Content-Type: multipart/mixed; boundary="."')
    yield "boundary_is_a_dot", _head("dot boundary", *dotted) + b"--.\n\n.\n--.--\n.\n"
    twice = (*mixed, 'Content-Type: text/plain; boundary="c"')
    yield "content_type_twice", _head("content type twice", *twice) + part + b"--c\n\ntext\n--c--\n--b--\n"
    nested = b"text\n"
    for depth in range(60):
        kind = f'Content-Type: multipart/mixed; boundary="n{depth}"\n\n--n{depth}\n'
        nested = kind.encode() + nested + f"--n{depth}--\n".encode()
    yield "nested_sixty_deep", _head("nested", "MIME-Version: 1.0")[:-1] + nested
    inner = _head("inner").replace(b"\n", b"\r\n") + b".\r\n"
    forwarded = ("MIME-Version: 1.0", "Content-Type: message/rfc822")
    yield "message_in_a_message", _head("outer", *forwarded) + inner
    uu = b"begin 644 a.txt\n#0V%T\n`\nend\n"
    yield "uuencoded", _head("uuencoded") + uu


def _edges() -> Iterator[tuple[str, bytes]]:
    """Bodies whose last octets fall on, and next to, the edges of the chunks people read."""
    for size in (16_384, 65_536, 262_144):
        for more in range(-5, 6):
            name = f"body_of_{size}{more:+}" if more else f"body_of_{size}"
            yield name.replace("+", "_plus_").replace("-", "_less_"), _head(name) + _text(size + more)


DIFFICULT: list[tuple[str, bytes]] = [
    *_shapes(),
    *_dots(),
    *_line_ends(),
    *_octets(),
    *_long_lines(),
    *_mime(),
    *_edges(),
    *_big(),
]
"""(name, message as stored); names are unique and fit into a file name."""

"""A tag in front of the Subject, and how to know that it is there already."""

from __future__ import annotations

import re
from binascii import a2b_base64, a2b_qp
from encodings import normalize_encoding
from encodings.aliases import aliases

from popproxy.api import Header

_WORD = r"=\?([!->@-~]+)\?([bBqQ])\?([!->@-~]*)\?="
_ENCODED = re.compile(_WORD)
_BETWEEN = re.compile(rf"(?<=\?=)[ \t\r\n]+(?={_WORD})")
_CHARSETS = frozenset(aliases) | frozenset(aliases.values()) | {"cp874", "koi8_t", "koi8_u"}
"""What Python may be asked for: it keeps each name that it was ever asked for, also those a sender made up."""
_READ = 998
"""Characters of a Subject that are decoded: one line of RFC 5322 section 2.1.1."""
_SEEN = 100
"""Characters at its beginning in which the tag is looked for: one that a sender put where nobody looks is none."""


def put_tag(header: Header, tag: str) -> bool:
    """Put ``tag`` before the Subject; whether that was needed.

    Nothing changes when the first 100 characters of the Subject hold the tag, whoever put it there: so not even a reply
    to a tagged message has it twice. A message without a Subject gets one.
    """
    values = header.get_all("Subject")
    wanted = _plain(tag)
    if any(wanted in _plain(decoded(value[:_READ])[:_SEEN]) for value in values[:1]):
        return False
    if not header.prefix("Subject", tag.strip()):
        header.add("Subject", tag.strip())
    return True


def decoded(value: str) -> str:
    """``value`` with its RFC 2047 encoded-words read; one that cannot be read stays as it was sent."""
    return _ENCODED.sub(_read, _BETWEEN.sub("", value))


def _read(word: re.Match[str]) -> str:
    charset, encoding, text = word.groups()
    charset = charset.partition("*")[0]
    if normalize_encoding(charset.lower()) not in _CHARSETS:
        return word[0]
    try:
        octets = a2b_base64(text + "=" * (-len(text) % 4)) if encoding in "bB" else a2b_qp(text, header=True)
        return octets.decode(charset, "replace")
    except (ValueError, LookupError):
        return word[0]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()

"""The header of one message (RFC 5322 section 2.2): changed where asked, octet for octet the same elsewhere.

Law: every field keeps its raw octets until an operation names it. A line ends at LF, a line that begins with SP or
TAB continues the one before, an empty line (CRLF or a bare LF) ends the header: the most lenient reading a mail
client has, so that nothing a client takes for body is edited. A line that is no field (mbox ``From ``, garbage) is
kept where it stands and has no name.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache

_FIELD = re.compile(rb"(?!\Z)(?:([!-9;-~]++)[ \t]*+:)?+[^\n]*+(?:\n[ \t][^\n]*+)*+\n?")
_LINE_END = re.compile(rb"\r?\n")
_NAME = re.compile(r"[!-9;-~]{1,76}\Z")
_FORBIDDEN = re.compile(r"[\r\n\0]")
_WORD = re.compile(r"[ \t]*[^ \t]+")
_PLAIN = re.compile(r"[\t -~]{0,900}\Z")
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_LINE = 78
_ENCODED_WORD = 75


def header_end(message: bytes | bytearray, start: int = 0, limit: int | None = None) -> int:
    """Offset just behind the empty line that ends the header, or -1 when it is not among the first ``limit`` octets.

    ``start`` is where an earlier search of the same, then shorter message stopped, less 2.
    """
    if start <= 0:
        start = 0
        if message.startswith(b"\r\n", 0, limit):
            return 2
        if message.startswith(b"\n", 0, limit):
            return 1
    strict = message.find(b"\n\r\n", start, limit)
    bare = message.find(b"\n\n", start, limit if strict < 0 else strict + 1)
    if bare >= 0:
        return bare + 2
    return strict + 3 if strict >= 0 else -1


class Header:
    """The fields of one header in order.

    Names compare without case. Where an operation takes a ``pattern``, it is a name or a glob (``X-Spam-*``).
    Values are unstructured text: what is not printable ASCII travels as RFC 2047 encoded-words, long values are
    folded at white space. ValueError for CR, LF or NUL in a value and for a name that is not 1 to 76 printable ASCII
    characters without space and colon: no operation can inject a field.
    """

    __slots__ = ("_fields", "_rest", "changed")

    def __init__(self, block: bytes = b"") -> None:
        """``block`` is the header with its empty line, which may be missing. Octets behind that are kept."""
        end = header_end(block)
        if end >= 0:
            end -= 2 if (b"\n" + block[:end]).endswith(b"\n\r\n") else 1
        else:
            end = len(block)
        self._rest = block[end:]
        self._fields = [(name and name.lower(), raw) for name, raw in _split(block[:end])]
        self.changed = False
        """Whether an operation has changed anything."""

    def __bytes__(self) -> bytes:
        return b"".join(raw for _, raw in self._fields) + self._rest

    def __contains__(self, pattern: str) -> bool:
        matches = _matcher(pattern)
        return any(name is not None and matches(name) for name, _ in self._fields)

    def __repr__(self) -> str:
        return f"Header({self.names()})"

    @staticmethod
    def check(name: str, value: str = "") -> None:
        """ValueError unless a field of this name and value can be made: for the validators of a plugin's config."""
        _compose(name, value)

    def names(self) -> list[str]:
        """The names of all fields in order, in lower case."""
        return [name.decode("ascii") for name, _ in self._fields if name is not None]

    def get_all(self, name: str) -> list[str]:
        """The values of all fields called ``name``: unfolded, white space at the ends taken off, encoded-words as sent.

        8-bit octets are read as UTF-8, those that are none become surrogates (``surrogateescape``).
        """
        key = name.lower().encode()
        return [_value(raw) for known, raw in self._fields if known == key]

    def add(self, name: str, value: str, *, top: bool = True) -> None:
        """A new field: above all others (behind a ``From `` line), or below them with ``top=False``."""
        raw = _compose(name, value)
        self._insert(self._top() if top else len(self._fields), name, raw)

    def remove(self, pattern: str) -> int:
        """Drop every field that matches ``pattern``; the number of them."""
        matches = _matcher(pattern)
        kept = [(name, raw) for name, raw in self._fields if name is None or not matches(name)]
        count = len(self._fields) - len(kept)
        if count:
            self._fields = kept
            self.changed = True
        return count

    def replace(self, name: str, value: str) -> int:
        """Give the first field called ``name`` this value and drop the others; the number found. Adds nothing."""
        raw = _compose(name, value)
        key = name.lower().encode()
        places = [place for place, (known, _) in enumerate(self._fields) if known == key]
        if places:
            self._fields[places[0]] = (key, raw)
            for place in reversed(places[1:]):
                del self._fields[place]
            self.changed = True
        return len(places)

    def rewrite(self, name: str, change: Callable[[str], str], room: int | None = None) -> int:
        """Call ``change`` with each value of ``name`` (as get_all gives it); the number of those that were changed.

        A field for which it returns the very value it was given keeps its octets, and so does one with whose change
        all of them together would add more than ``room`` octets.
        """
        key = name.lower().encode()
        count = added = 0
        for place, (known, raw) in enumerate(self._fields):
            if known != key:
                continue
            value = _value(raw)
            new = change(value)
            if new == value:
                continue
            made = _compose(_spelling(raw), new)
            if room is None or added + len(made) - len(raw) <= room:
                added += len(made) - len(raw)
                self._fields[place] = (key, made)
                count += 1
        self.changed = self.changed or count > 0
        return count

    def prefix(self, name: str, text: str) -> int:
        """Put ``text`` before the value of the first field called ``name``, whose octets stay, and drop the others.

        The number found; adds nothing. What the field grows by depends on ``text`` alone, but for at most 4 octets:
        a space in front, a fold behind it where the line would be longer than 78.
        """
        composed = _compose(name, text)[len(name) + 1 : -2]
        key = name.lower().encode()
        places = [place for place, (known, _) in enumerate(self._fields) if known == key]
        if places:
            raw = self._fields[places[0]][1]
            spelling, _, value = raw.partition(b":")
            value = value.lstrip(b" \t")
            if not _PLAIN.match(text) and value.lstrip().startswith(b"=?") and composed.endswith(b"?="):
                # White space between two encoded-words is not shown (RFC 2047 section 6.2): it goes into the first.
                composed = b" " + b" ".join(_encoded_words(text.strip(" \t") + " "))
            first = value.partition(b"\n")[0].rstrip(b"\r")
            begun = len(spelling) + 1 + len(composed) - composed.rfind(b"\n") - 1
            if first:
                value = (b" " if begun + 1 + len(first) <= _LINE else b"\r\n ") + value
            self._fields[places[0]] = (key, spelling + b":" + composed + value)
            for place in reversed(places[1:]):
                del self._fields[place]
            self.changed = True
        return len(places)

    def rename(self, name: str, new: str) -> int:
        """Call every field ``name`` ``new``; the octets from the colon on stay. The number of them."""
        _check_name(new)
        key = name.lower().encode()
        count = 0
        for place, (known, raw) in enumerate(self._fields):
            if known == key:
                self._fields[place] = (new.lower().encode(), new.encode() + raw[raw.index(b":") :])
                count += 1
        self.changed = self.changed or count > 0
        return count

    def _top(self) -> int:
        """Behind an mbox ``From `` line, and behind white space that would continue a field put before it."""
        if not self._fields:
            return 0
        name, raw = self._fields[0]
        return int(name is None and raw.startswith((b"From ", b" ", b"\t")))

    def _insert(self, place: int, name: str, raw: bytes) -> None:
        if place > 0:
            above, octets = self._fields[place - 1]
            if not octets.endswith(b"\n"):
                self._fields[place - 1] = (above, octets + b"\r\n")
        self._fields.insert(place, (name.lower().encode(), raw))
        self.changed = True


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise ValueError(
            f"{name!r} is no header name: write 1 to 76 printable ASCII characters without space and colon, like X-Name"
        )


def _split(block: bytes) -> list[tuple[bytes | None, bytes]]:
    return [(match.group(1), match.group()) for match in _FIELD.finditer(block)]


def _value(raw: bytes) -> str:
    text = _LINE_END.sub(b"", raw.partition(b":")[2])
    return text.strip(b" \t").decode("utf-8", "surrogateescape")


def _spelling(raw: bytes) -> str:
    """The name as it was sent."""
    return raw.partition(b":")[0].rstrip(b" \t").decode("ascii")


@lru_cache(maxsize=512)
def _matcher(pattern: str) -> Callable[[bytes], object]:
    """A test of lower-case names."""
    lowered = pattern.lower()
    if not any(sign in lowered for sign in "*?["):
        return lowered.encode().__eq__
    return re.compile(translate(lowered).encode()).match


def _compose(name: str, value: str) -> bytes:
    """The field as it travels: lines of at most 78 octets where white space allows, of 998 always (section 2.1.1).

    Plugins write the same few fields into every message, so short ones are remembered.
    """
    return _remembered(name, value) if len(value) <= _LINE else _composed(name, value)


@lru_cache(maxsize=1024)
def _remembered(name: str, value: str) -> bytes:
    return _composed(name, value)


def _composed(name: str, value: str) -> bytes:
    _check_name(name)
    if _FORBIDDEN.search(value):
        raise ValueError(f"the value of {name} holds CR, LF or NUL: write one line of text")
    lines: list[bytes] = []
    line = name.encode() + b":"
    for place, piece in enumerate(_pieces(value)):
        too_long = len(line) + len(piece) > _LINE
        if too_long and (place > 0 or len(piece) <= _LINE):
            lines.append(line)
            line = piece
        else:
            line += piece
    lines.append(line)
    return b"\r\n".join(lines) + b"\r\n"


def _pieces(value: str) -> list[bytes]:
    """The words of ``value``, each behind its white space; none longer than 964 octets, white space above 64 is one SP.

    A run of words that cannot travel as they are becomes encoded-words. White space between two encoded-words is not
    shown (RFC 2047 section 6.2), so that beside one that was there before goes into the encoded text.
    """
    words: list[str] = _WORD.findall(" " + value.strip(" \t"))
    pieces: list[bytes] = []
    place = 0
    while place < len(words):
        word = words[place]
        text = word.lstrip(" \t")
        lead = word[: len(word) - len(text)]
        separator = (lead if len(lead) <= 64 else " ").encode()
        place += 1
        if _PLAIN.match(text):
            pieces.append(separator + text.encode())
            continue
        if place > 1 and _is_encoded(words[place - 2]):
            text = lead + text
        while place < len(words) and not _PLAIN.match(words[place].lstrip(" \t")):
            text += words[place]
            place += 1
        if place < len(words) and _is_encoded(words[place]):
            text += words[place][: len(words[place]) - len(words[place].lstrip(" \t"))]
        encoded = _encoded_words(text)
        pieces.append(separator + encoded[0])
        pieces += [b" " + more for more in encoded[1:]]
    return pieces


def _is_encoded(word: str) -> bool:
    bare = word.strip(" \t")
    return bare.startswith("=?") and bare.endswith("?=")


def _encoded_words(text: str) -> list[bytes]:
    """RFC 2047 encoded-words of at most 75 octets, split between characters; Q or B, whichever is shorter."""
    characters = [character.encode("utf-8", "surrogateescape") for character in text]
    charset = b"utf-8"
    if any("\udc80" <= character <= "\udcff" for character in text):
        charset = b"unknown-8bit"  # RFC 1428: octets whose charset nobody knows
    octets = b"".join(characters)
    quoted = sum(_q_size(character) for character in characters) <= (len(octets) + 2) // 3 * 4
    opening = b"=?" + charset + (b"?q?" if quoted else b"?b?")
    room = _ENCODED_WORD - len(opening) - 2
    words: list[bytes] = []
    word = b""
    size = 0
    for character in characters:
        grown = size + _q_size(character) if quoted else (len(word) + len(character) + 2) // 3 * 4
        if grown > room:
            words.append(_encoded(opening, word, quoted))
            word = b""
            grown = _q_size(character) if quoted else 4 if len(character) <= 3 else 8
        word += character
        size = grown
    words.append(_encoded(opening, word, quoted))
    return words


def _q_size(character: bytes) -> int:
    return sum(1 if octet in _Q_SAFE or octet == 0x20 else 3 for octet in character)


def _encoded(opening: bytes, octets: bytes, quoted: bool) -> bytes:
    if not quoted:
        return opening + b2a_base64(octets, newline=False) + b"?="
    text = b"".join(
        b"_" if octet == 0x20 else bytes((octet,)) if octet in _Q_SAFE else b"=%02X" % octet for octet in octets
    )
    return opening + text + b"?="

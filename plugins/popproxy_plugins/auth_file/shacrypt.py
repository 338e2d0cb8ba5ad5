"""SHA-crypt: the ``$5$`` and ``$6$`` hashes of crypt(3), after Ulrich Drepper's specification (2008).

Written here because Python has no crypt module any more, and what stands in for it is older than its maintenance.
"""

from __future__ import annotations

import hashlib
import re
from hmac import compare_digest

ROUNDS = 5000
"""What is meant when a hash names none."""
LEAST = 1000
"""What fewer rounds are computed as, whatever a hash says."""
MOST = 10_000_000
"""Rounds that are computed; the specification allows a hundred times as many, which take minutes."""

_FORM = re.compile(r"\$([56])\$(?:rounds=(\d{1,9})\$)?([^$\0-\x20]{0,16})\$([./0-9A-Za-z]+)", re.ASCII)
_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAMES = {"5": "sha256", "6": "sha512"}
_LENGTHS = {"5": 43, "6": 86}


def valid(text: str) -> bool:
    """Whether ``text`` is a hash that check() can judge."""
    match = _FORM.fullmatch(text)
    return match is not None and len(match[4]) == _LENGTHS[match[1]] and _rounds(match[2]) <= MOST


def check(text: str, password: bytes) -> bool:
    """Whether ``text``, which is valid(), is a hash of ``password``."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("no SHA-crypt hash")
    made = _digest(_NAMES[match[1]], password, match[3].encode(), _rounds(match[2]))
    return compare_digest(_text(match[1], made), match[4])


def make(kind: str, password: bytes, salt: str, rounds: int = ROUNDS) -> str:
    """The hash of ``password``: ``kind`` 5 is SHA-256, 6 SHA-512; ``salt`` has up to 16 characters ``./0-9A-Za-z``."""
    told = "" if rounds == ROUNDS else f"rounds={rounds}$"
    return f"${kind}${told}{salt}${_text(kind, _digest(_NAMES[kind], password, salt.encode(), rounds))}"


def _rounds(given: str | None) -> int:
    return ROUNDS if given is None else min(max(int(given), LEAST), 999_999_999)


def _digest(name: str, password: bytes, salt: bytes, rounds: int) -> bytes:
    digest = hashlib.sha512 if name == "sha512" else hashlib.sha256
    length = len(password)
    b = digest(password + salt + password).digest()
    parts = [password, salt, _repeated(b, length)]
    bits = length
    while bits:
        parts.append(b if bits & 1 else password)
        bits >>= 1
    a = digest(b"".join(parts)).digest()
    p = _repeated(digest(password * length).digest(), length)
    s = _repeated(digest(salt * (16 + a[0])).digest(), len(salt))
    # What surrounds the digest of the round before comes again every 2 * 3 * 7 rounds.
    turns = [(s if number % 3 else b"") + (p if number % 7 else b"") for number in range(42)]
    around = [(p + turn, b"") if number & 1 else (b"", turn + p) for number, turn in enumerate(turns)]
    for number in range(rounds):
        before, behind = around[number % 42]
        a = digest(before + a + behind).digest()
    return a


def _repeated(octets: bytes, length: int) -> bytes:
    return (octets * (length // len(octets) + 1))[:length]


def _text(kind: str, octets: bytes) -> str:
    """The base64 of crypt(3): groups of three octets in the specification's own order."""
    step, groups, turn = (21, 21, _turn_512) if kind == "6" else (10, 10, _turn_256)
    out: list[str] = []
    for group in range(groups):
        i, j, k = turn(group, step)
        out.append(_group(octets[i] << 16 | octets[j] << 8 | octets[k], 4))
    if kind == "6":
        out.append(_group(octets[63], 2))
    else:
        out.append(_group(octets[31] << 8 | octets[30], 3))
    return "".join(out)


def _turn_512(group: int, step: int) -> tuple[int, int, int]:
    places = (group, group + step, group + 2 * step)
    turn = group % 3
    return places[turn], places[(turn + 1) % 3], places[(turn + 2) % 3]


def _turn_256(group: int, step: int) -> tuple[int, int, int]:
    places = (group, group + step, group + 2 * step)
    turn = -group % 3
    return places[turn], places[(turn + 1) % 3], places[(turn + 2) % 3]


def _group(value: int, characters: int) -> str:
    return "".join(_DIGITS[value >> 6 * place & 63] for place in range(characters))

"""How an event becomes one line of text, whatever its fields hold.

Law: ASCII, one line, harmless types only. What is not text, number, truth, None, or a list or mapping of these is
shown by its type; bytes are hidden, because on the wire secrets are bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Set
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from json.encoder import encode_basestring_ascii as _string
from math import isfinite
from pathlib import PurePath
from typing import Any

Encode = Callable[[str, str, str, Mapping[str, object]], bytes]
"""(time, level, event, fields) to a line with its LF."""

LINE = 32768
"""Octets of the longest line, its LF included; the strings and lists of a longer one are cut."""
_CUT = 512
_MANY = 32
_DEEP = 4
_CUTS = ((_CUT, _MANY), (96, 16), (24, 8))
"""Characters of a string and items of a list that are kept, tried in this order until the line is short enough."""

_SHOWN = (PurePath, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
_BARE = re.compile(r"[!#-<>-~]+")
_FIRST = frozenset({"time", "level", "event"})
_PAINT = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


def shown(value: object) -> object:
    """What may be written of a value that JSON does not know."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, _SHOWN):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value, key=repr)
    return f"<{type(value).__name__} hidden>"


_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=shown).encode


def _value(value: object) -> str:
    """``value`` as JSON; cut and cleaned where JSON cannot have it."""
    try:
        return _dumps(value)
    except (TypeError, ValueError, RecursionError):
        return _dumps(clean(value, _DEEP))


def _mapping(value: Mapping[str, object]) -> str:
    return "{" + ",".join([f"{_string(key)}:{_TEXT[type(part)](part)}" for key, part in value.items()]) + "}"


def _number(value: float) -> str:
    if not isfinite(value):
        raise ValueError("JSON has no such number")
    return repr(value)


_TEXT: dict[type, Callable[[Any], str]] = {
    str: _string, int: repr, float: _number, dict: _mapping, type(None): lambda _: "null",
}  # fmt: skip


@lru_cache(256)
def _frame(level: str, event: str, *names: str) -> str:
    """The line of such an event without its values, for the operator %. Events are few, each has its fields. Raises
    KeyError for a field that would be a second time, level or event."""
    if not _FIRST.isdisjoint(names):
        raise KeyError
    level, event, *words = [_string(word).replace("%", "%%") for word in (level, event, *names)]
    return f'{{"time":%s,"level":{level},"event":{event}' + "".join([f",{name}:%s" for name in words]) + "}"


def as_json(time: str, level: str, event: str, fields: Mapping[str, object], most: int = LINE) -> bytes:
    """``{"time":...,"level":...,"event":...,<fields>}``, at most ``most`` octets of it."""
    try:
        values = [_string(value) if type(value) is str else _TEXT[type(value)](value) for value in fields.values()]
        text = _frame(level, event, *fields) % (_string(time), *values)
        if len(text) < most:
            return text.encode("ascii") + b"\n"
    except (KeyError, TypeError, ValueError, RecursionError):
        # Not of the types that nearly all fields have.
        pass
    record = {"time": time, "level": level, "event": event, **fields}
    text = _value(record)
    for characters, items in _CUTS:
        if len(text) < most:
            break
        text = _dumps(clean(record, _DEEP, characters, items))
    if len(text) >= most:
        detail = f"{len(fields)} fields are too long for a line of {most} octets"
        text = _dumps({"time": time, "level": level, "event": event[:_CUT], "detail": detail})
    return text.encode("ascii") + b"\n"


def console(colour: bool, most: int = LINE) -> Encode:
    """For people: ``12:00:01.123 INFO session client=192.0.2.1 ...``; empty fields are left out."""

    def line(time: str, level: str, event: str, fields: Mapping[str, object]) -> bytes:
        name, label = _word(event), f"{level.upper():7}"
        if colour:
            name, label = f"\x1b[1m{name}\x1b[0m", f"{_PAINT[level]}{label}\x1b[0m"
        text = " ".join((time[11:-1], label, name, *_words(fields)))
        return text[: most - 1].encode("ascii", "backslashreplace") + b"\n"

    return line


def plain_text(event: str, fields: Mapping[str, object], most: int = LINE) -> str:
    """What happened, for people who see time and level elsewhere; ASCII, at most ``most`` octets."""
    return " ".join((_word(event), *_words(fields)))[:most]


def encoded(value: object) -> str:
    """A value as text: strings as they are, the rest as JSON, hidden and cleaned as in a line."""
    return value if isinstance(value, str) else _value(value)


def _words(fields: Mapping[str, object]) -> list[str]:
    return [f"{_word(key)}={_word(value)}" for key, value in fields.items() if value is not None and value != ""]


def _word(value: object) -> str:
    """Plain where that is clear, JSON where it is not, so that no value can look like another field."""
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    if isinstance(value, float) and isfinite(value):
        return f"{value:.3f}"
    if isinstance(value, Mapping) and value and all(isinstance(part, int) for part in value.values()):
        return ",".join(f"{_word(key)}:{part}" for key, part in value.items())
    return _value(value)


def clean(value: object, depth: int, most: int = _CUT, many: int = _MANY) -> object:
    """``value`` with harmless types only, ``depth`` levels of it, strings cut to ``most`` characters and lists to
    ``many`` items."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 64 else "<int hidden>"
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]}... ({len(value)} characters)"
    if isinstance(value, (list, tuple, Mapping)) and not depth:
        return "..."
    if isinstance(value, Mapping):
        kept = list(value.items())[: max(many, _MANY)]
        return {str(clean(key, 0, most))[:most]: clean(part, depth - 1, most, many) for key, part in kept}
    if isinstance(value, (list, tuple)):
        return [clean(part, depth - 1, most, many) for part in value[:many]]
    return clean(shown(value), depth, most, many)

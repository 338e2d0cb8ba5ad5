"""The kinds of values a config is made of: names, durations, sizes, networks (as plugins have them), files, lists.

Every parser raises Wrong, which carries what to write instead. Models are frozen, strict (TOML has types: no
``"1"`` for 1) and refuse unknown keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationInfo, WithJsonSchema

from popproxy.api.options import Duration as Duration
from popproxy.api.options import Network as Network
from popproxy.api.options import Octets, Wrong, shown

Size = Octets


class Model(BaseModel):
    """Base of every table of the config."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


@dataclass(frozen=True, slots=True)
class Context:
    """What validation knows beside the value: relative paths begin at ``base``, the config file's directory."""

    base: Path


def base_of(info: ValidationInfo) -> Path:
    """The directory at which relative paths begin."""
    return info.context.base if isinstance(info.context, Context) else Path.cwd()


T = TypeVar("T")


def _tuple(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, tuple):
        return value
    raise Wrong("must be a list", 'write it in brackets: ["..."]')


Many = Annotated[tuple[T, ...], BeforeValidator(_tuple)]
"""A TOML array."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def name(value: object) -> str:
    """A name of a listener or an upstream. Raises Wrong."""
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise Wrong(
            f"{shown(value)} is no name",
            "write a letter, then at most 63 letters, digits, - or _ (names become metric labels)",
        )
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or _WORD.fullmatch(value) is None:
        raise Wrong(
            f"{shown(value)} is no name for a plugin",
            "write a letter, then at most 63 letters, digits or _ (it becomes part of metric names)",
        )
    return value


Name = Annotated[str, PlainValidator(name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Word = Annotated[str, PlainValidator(_word), WithJsonSchema({"type": "string", "pattern": f"^{_WORD.pattern}$"})]


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise Wrong(f"{shown(value)} is no path", 'write a path like "/etc/popproxy/mail.pem"')
    return base_of(info) / value


def _file(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    trouble = unreadable(path)
    if trouble:
        raise Wrong(trouble, "write the path of a file that the user running popproxy may read")
    return path


def unreadable(path: Path) -> str:
    """Why ``path`` cannot be read as a file; empty when it can."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"cannot read {path}: {error.strerror or error}"
    return ""


PathText = Annotated[Path, PlainValidator(_path), WithJsonSchema({"type": "string"})]
"""A path, relative to the config file."""

ReadableFile = Annotated[Path, PlainValidator(_file), WithJsonSchema({"type": "string"})]
"""The path of a file that must be readable, relative to the config file."""

_MODE = re.compile(r"0?[0-7]{3}")


def _mode(value: object) -> int:
    if not isinstance(value, str) or _MODE.fullmatch(value) is None:
        raise Wrong(f"{shown(value)} is no file mode", 'write three octal digits as a string, like "0660"')
    return int(value, 8)


Mode = Annotated[
    int, PlainValidator(_mode), WithJsonSchema({"type": "string", "pattern": f"^{_MODE.pattern}$"})
]
"""Permissions of a Unix socket."""


def line_text(value: object) -> str:
    """Text that fits behind a status indicator: printable ASCII, at most 500 octets (RFC 2449 section 4)."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is no text", 'write a string like "POP3 ready"')
    if len(value) > 500 or not value.isascii() or not value.isprintable():
        raise Wrong("cannot be sent in a status line", "write at most 500 printable ASCII characters on one line")
    return value


LineText = Annotated[
    str, PlainValidator(line_text), WithJsonSchema({"type": "string", "pattern": "^[ -~]{0,500}$"})
]

"""Kinds of values for plugins' options that pydantic does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema


def _readable(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError('is no path: write a string like "/etc/popproxy/aliases"')
    base: object = getattr(info.context, "base", None)
    path = base / value if isinstance(base, Path) else Path(value)
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror or error}; write the path of a file that popproxy may read"
        ) from error
    return path


ReadableFile = Annotated[Path, PlainValidator(_readable), WithJsonSchema({"type": "string"})]
"""The path of a file that must be there and be readable. A relative one begins at the directory of the config file."""

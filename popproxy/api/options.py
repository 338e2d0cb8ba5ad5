"""Kinds of values for options that pydantic does not have: the proxy's own keys are written the same way."""

from __future__ import annotations

import math
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainValidator, ValidationInfo, WithJsonSchema


class Wrong(ValueError):
    """A value that cannot be used, raised by the parser of one value: what is wrong and what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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


def shown(value: object) -> str:
    """A value of a key that holds no secret, for a message."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 70 else text[:66] + "..." + text[:1]


_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 366 * 86400.0


def duration(value: object) -> float:
    """Seconds of ``600``, ``1.5``, ``"600s"``, ``"10m"``, ``"1h30m"``. Raises Wrong."""
    hint = 'write seconds (600) or a string like "90s", "10m", "1h30m"'
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Wrong(f"{shown(value)} is no duration", hint)
    if isinstance(value, str):
        if _DURATION.fullmatch(value) is None:
            raise Wrong(f"{shown(value)} is no duration", hint)
        value = sum(float(count) * _SECONDS[unit] for count, unit in _DURATION_PART.findall(value))
    if not math.isfinite(value) or not 0 < value <= _LONGEST:
        raise Wrong(f"{shown(value)} seconds are out of range", "write more than 0 and at most 366 days")
    return float(value)


Duration = Annotated[
    float,
    BeforeValidator(duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": f"^{_DURATION.pattern}$"},
            ]
        }
    ),
]
"""Seconds: more than 0, at most 366 days."""

_SIZE = re.compile(r"(\d+) ?(B|KiB|MiB|GiB|kB|MB|GB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def size(value: object) -> int:
    """Octets of ``65536`` or ``"64KiB"``. Raises Wrong."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        return int(found[1]) * _UNITS[found[2]]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise Wrong(f"{shown(value)} is no size", 'write octets (65536) or a string like "64KiB", "1MiB"')


Octets = Annotated[
    int,
    BeforeValidator(size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}
    ),
]
"""A number of octets."""


def network(value: object) -> IPv4Network | IPv6Network:
    """The network of ``"10.0.0.0/8"`` or a single address. Raises Wrong."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is no network", 'write a string like "10.0.0.0/8" or "2001:db8::/32"')
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        wider = ip_network(value, strict=False)
    except ValueError:
        raise Wrong(f"{shown(value)} is no network", 'write it like "10.0.0.0/8" or "2001:db8::/32"') from None
    raise Wrong(f"{shown(value)} has bits set behind its prefix", f'write "{wider}"')


Network = Annotated[
    IPv4Network | IPv6Network, PlainValidator(network), WithJsonSchema({"type": "string", "format": "ip-network"})
]
"""A network, or a single address."""


def _status_text(text: str) -> str:
    # [ would be read as the beginning of a response code (RFC 2449 section 8); a status line has 512 octets.
    if not 0 < len(text) <= 400 or not text.isascii() or not text.isprintable() or text.startswith("["):
        raise ValueError(
            "cannot be sent in a status line: write 1 to 400 printable ASCII characters that do not begin with ["
        )
    return text


StatusText = Annotated[str, AfterValidator(_status_text)]
"""What a client reads behind ``-ERR`` and its response code."""

"""``[overload]``: from which marks on new connections are shed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from popproxy.api.options import Wrong, duration, shown, size
from popproxy.config.values import Model

_SHARE = re.compile(r"(\d{1,2}(?:\.\d+)?|100) ?%")


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a limit that is looked up at the start, more than 0 and at most 1."""

    of: float

    def __str__(self) -> str:
        """As it is written in the config: ``90%``."""
        return f"{self.of * 100:g}%"


MOST = Share(0.9)
"""Where shedding begins when nothing is written: what is left is for the sessions that are open."""


def _share(value: object) -> Share | None:
    found = _SHARE.fullmatch(value) if isinstance(value, str) else None
    share = float(found[1]) / 100 if found else 0.0
    return Share(share) if share else None


def _lag(value: object) -> float | None:
    if value == "off":
        return None
    try:
        return duration(value)
    except Wrong as wrong:
        raise Wrong(wrong.message, f'{wrong.hint}, or "off"') from None


def _memory(value: object) -> int | Share | None:
    if value == "off":
        return None
    share = _share(value)
    if share is not None:
        return share
    try:
        octets = size(value)
    except Wrong:
        octets = 0
    if octets < 1 << 20:
        raise Wrong(f"{shown(value)} is no mark", 'write a size of 1 MiB or more ("2GiB"), a share ("90%") or "off"')
    return octets


def _sockets(value: object) -> Share | None:
    if value == "off":
        return None
    share = _share(value)
    if share is None:
        raise Wrong(f"{shown(value)} is no share", 'write one like "90%", or "off"')
    return share


_PART = {"type": "string", "pattern": f"^(?:{_SHARE.pattern}|off)$"}
LagMark = Annotated[
    float | None,
    PlainValidator(_lag),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
MemoryMark = Annotated[
    int | Share | None,
    PlainValidator(_memory),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1 << 20}, {"type": "string"}]}),
]
SocketsMark = Annotated[Share | None, PlainValidator(_sockets), WithJsonSchema(_PART)]


class Overload(Model):
    """When new connections are shed: while one of these marks is passed, and until what is measured is clearly below
    it again, a new client gets `-ERR [SYS/TEMP]` instead of a greeting (with implicit TLS it is closed at once).
    Sessions that are open go on. See [overload.md](overload.md)."""

    lag: LagMark = Field(
        default="2s",
        validate_default=True,
        examples=["500ms", "off"],
        description="How late the event loop may run, on the average of about a second. `off`: no mark.",
    )
    memory: MemoryMark = Field(
        default="90%",
        validate_default=True,
        examples=["2GiB", "90%", "off"],
        description="Memory of the process (resident): octets, or a share of what its control group may have, of the "
        "machine's memory where no control group says less. `off`: no mark.",
    )
    sockets: SocketsMark = Field(
        default="90%",
        validate_default=True,
        examples=["80%", "off"],
        description="Open descriptors, as a share of the most that the process may have (`RLIMIT_NOFILE`, which "
        "popproxy raises to the hard limit). Each client is counted with the upstream connection that it will have. "
        "`off`: no mark.",
    )

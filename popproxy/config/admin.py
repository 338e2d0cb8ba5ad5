"""The admin listener: ``[admin]``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from popproxy.config.urls import Bind, parse_bind
from popproxy.config.values import Mode, Model


def _binds(value: object) -> tuple[Bind, ...]:
    if isinstance(value, list | tuple):
        return tuple(parse_bind(one) for one in value)
    return (parse_bind(value),)


Binds = Annotated[
    tuple[Bind, ...],
    PlainValidator(_binds),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One address, or a list of them."""


class Admin(Model):
    """The admin listener: `/metrics`, `/healthz` and `/readyz` for everybody who reaches it, and `/v1`, which shows and
    ends sessions, on Unix sockets (docs/admin.md)."""

    bind: Binds = Field(
        default="127.0.0.1:9110",
        validate_default=True,
        examples=["127.0.0.1:9110", ["127.0.0.1:9110", "unix:/run/popproxy/admin.sock"]],
        description="Its address, or a list of addresses; an empty list for none. Without a Unix socket among them, "
        "and also without this table, there is one in the runtime directory, `$RUNTIME_DIRECTORY` (set by systemd) or "
        "`/run/popproxy`, when that is there and can be written: `admin.sock`.",
    )
    unix_mode: Mode = Field(
        default="0660",
        validate_default=True,
        examples=["0660"],
        description="Permissions of its Unix sockets, as octal digits: who may open them may do everything there.",
    )

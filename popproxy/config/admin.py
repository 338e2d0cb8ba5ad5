"""The admin listener: ``[admin]``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, PlainValidator, WithJsonSchema

from popproxy.api.options import shown
from popproxy.config.problems import Wrong
from popproxy.config.secrets import Secret
from popproxy.config.urls import Bind, parse_bind
from popproxy.config.values import Many, Mode, Model, ReadableFile


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


TOKEN = 20
"""Characters of a token at least."""
_HOST = re.compile(r"[A-Za-z0-9_.-]{1,253}")


def _host(value: object) -> str:
    if not isinstance(value, str) or _HOST.fullmatch(value) is None:
        raise Wrong(f"{shown(value)} is no host name", 'write it like "mail.example.com", without a port')
    return value.lower()


HostName = Annotated[
    str, PlainValidator(_host), WithJsonSchema({"type": "string", "pattern": f"^{_HOST.pattern}$"})
]


class Admin(Model):
    """The admin listener: `/metrics`, `/healthz` and `/readyz` for everybody who reaches it; and `/v1`, which shows and
    ends sessions, on Unix sockets, and on ports for who has the token or a client certificate (docs/admin.md)."""

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
    token: Secret | None = Field(
        default=None,
        examples=[{"file": "/etc/popproxy/admin.token"}, {"credential": "admin-token"}],
        description="What opens `/v1` on its ports, as `Authorization: Bearer`: at least 20 characters that nobody can "
        "guess, like those of `openssl rand -hex 32`. A secret.",
    )
    cert: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/admin.pem"],
        description="PEM file, certificate and chain: its ports have TLS. It is read again when it was renewed.",
    )
    key: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/admin.key"],
        description="PEM file with the private key. Without it, the key is read from `cert`.",
    )
    client_ca_file: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/admins-ca.pem"],
        description="PEM file with the authorities whose client certificates open `/v1` on its ports, as the token "
        "does.",
    )
    hosts: Many[HostName] = Field(
        default=(),
        examples=[["mail.example.com"]],
        description="Names by which `/v1` may be asked for on its ports, beside `localhost`, the name of the machine "
        "and IP addresses. Others are refused, so that no web page can lead its name here.",
    )

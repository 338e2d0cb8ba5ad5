"""``[store]``: where is kept what all workers know together, such as counts of limits and bans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from popproxy.api.options import Duration, Wrong, shown
from popproxy.config.listener import Certificate
from popproxy.config.secrets import Secret
from popproxy.config.values import Model, PathText, ReadableFile
from popproxy.state.redis.plan import Place, read_url

_EXAMPLE = '"redis://127.0.0.1:6379/0"'


def store_url(value: object) -> Place:
    """The servers that a URL names. Raises Wrong, never with what may be a password in it."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is no URL", f"write a string like {_EXAMPLE}")
    scheme, separator, rest = value.partition("://")
    if not separator:
        raise Wrong("the URL has no scheme", f"write one like {_EXAMPLE}")
    if "@" in rest:
        raise Wrong(
            "user information in the URL", 'write it as username = "..." and password = { file = "..." } beside it'
        )
    try:
        return read_url(f"{scheme.lower()}://{rest}")
    except ValueError as error:
        message, found, hint = str(error).partition("; ")
        if not found:
            message, _, hint = message.partition(": write ")
            hint = hint and f"write {hint}"
        raise Wrong(message, hint or f"write one like {_EXAMPLE}") from None


def _prefix(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 64 or not value.isprintable() or set(value) & set("{}"):
        raise Wrong(f"{shown(value)} is no prefix", "write 1 to 64 characters without { and }")
    return value


StoreUrl = Annotated[
    Place,
    PlainValidator(store_url),
    WithJsonSchema({"type": "string", "pattern": r"^(?:rediss?(?:\+(?:sentinel|cluster))?|unix)://[^@]+$"}),
]
Prefix = Annotated[
    str, PlainValidator(_prefix), WithJsonSchema({"type": "string", "pattern": "^[^{}]{1,64}$"})
]

KEYS: dict[str, frozenset[str]] = {
    "memory": frozenset(),
    "sqlite": frozenset(("path", "lease")),
    "redis": frozenset((
        "url", "username", "password", "sentinel_username", "sentinel_password", "ca_file", "client_certificate",
        "verify_name", "prefix", "timeout", "lease",
    )),
}  # fmt: skip
"""The keys that have a meaning, by ``use``."""


class Store(Model):
    """Where is kept what all workers know together: counts of limits, sessions of a user, bans. See
    [store.md](store.md)."""

    use: Literal["memory", "sqlite", "redis"] = Field(
        default="memory",
        examples=["sqlite"],
        description="`memory`: in this process, and gone with it. `sqlite`: a file, for all workers of this host. "
        "`redis`: Redis or Valkey, for all machines (`pip install popproxy[redis]`).",
    )
    path: PathText | None = Field(
        default=None,
        examples=["/var/lib/popproxy/store.sqlite"],
        description="sqlite: the file, on a local disk. Without it, `store.sqlite` in the directory for what popproxy "
        "makes (`$STATE_DIRECTORY`, `/var/lib/popproxy`).",
    )
    url: StoreUrl | None = Field(
        default=None,
        examples=[
            "redis://127.0.0.1:6379/0",
            "rediss://store.example.com",
            "unix:///run/redis/redis.sock",
            "redis+sentinel://a:26379,b:26379/service/0",
            "redis+cluster://a:6379,b:6379",
        ],
        description="redis: where it is. `rediss` in the place of `redis` is TLS. Required for redis.",
    )
    username: str | None = Field(
        default=None, min_length=1, examples=["popproxy"], description="redis: user of an ACL. Without it, `default`."
    )
    password: Secret | None = Field(
        default=None, examples=[{"file": "/etc/popproxy/redis"}], description="redis: its password. A secret."
    )
    sentinel_username: str | None = Field(
        default=None, min_length=1, examples=["popproxy"], description="redis: user at the Sentinels."
    )
    sentinel_password: Secret | None = Field(
        default=None,
        examples=[{"file": "/etc/popproxy/sentinel"}],
        description="redis: password at the Sentinels. A secret.",
    )
    ca_file: ReadableFile | None = Field(
        default=None,
        examples=["/etc/popproxy/redis-ca.pem"],
        description="redis with TLS: PEM file with the authorities to trust. Without it, those of the system.",
    )
    client_certificate: Certificate | None = Field(
        default=None,
        examples=[{"cert": "/etc/popproxy/redis.pem", "key": "/etc/popproxy/redis.key"}],
        description="redis with TLS: certificate that is shown to the server; its key must not be encrypted.",
    )
    verify_name: bool = Field(
        default=True,
        description="redis with TLS: whether the certificate must hold the name or address that is connected to. "
        "Sentinels and clusters tell addresses.",
    )
    prefix: Prefix = Field(
        default="popproxy",
        validate_default=True,
        examples=["popproxy-test"],
        description="redis: stands before every key. Proxies with the same prefix share everything.",
    )
    timeout: Duration = Field(
        default=0.5,
        examples=["500ms"],
        description="redis: time for a connection, and for an answer. A login waits for two of them at most, and for "
        "none as soon as the store is known to be down.",
    )
    lease: Duration = Field(
        default=30.0,
        examples=["30s"],
        description="sqlite and redis: what a worker holds (places of sessions) is given back so long after its last "
        "sign of life.",
    )

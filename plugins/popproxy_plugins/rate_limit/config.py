"""The options of the plugin."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from popproxy.api import Duration, Fixed, Network, PluginConfig, Sliding, StatusText, TokenBucket, Window

_NAME = re.compile(r"[a-z0-9_-]{1,40}")
_PREFIX = re.compile(r"address/(\d{1,3})")
_KEYS = ("user", "address", "network", "domain", "listener")
_KNOWN_AT_CONNECT = ("address", "network", "listener")

MOST_LIMITS = 32
"""Limits of one plugin table: all of a moment are asked in one round trip."""


class Prefixes(PluginConfig):
    """How many bits of an address name its network."""

    v4: int = Field(default=24, ge=1, le=32, description="of an IPv4 address")
    v6: int = Field(default=64, ge=1, le=128, description="of an IPv6 address")


class Limit(PluginConfig):
    """So many in a period, for each user, address or whatever `key` says."""

    name: str = Field(
        description="its name in metrics, logs and `popproxy explain`: 1 to 40 of a-z, 0-9, `_` and `-`",
        examples=["logins"],
    )
    key: str = Field(
        description="what is counted by itself: each `user`, `address`, `network` (as `network` says), `domain` "
        "(behind the last `@` of the name) or `listener`; `address/24` is each IPv4 network of 24 bits, "
        "`address/64` and `address/48` each IPv6 network: clients of the other family are not counted",
        examples=["user", "address", "address/24"],
    )
    network: Prefixes = Field(default=Prefixes(), description='with `key = "network"`: how large a network is')
    on: Literal["connect", "login", "success", "failure"] = Field(
        default="login",
        description="what counts: a connection, a `login` that is tried, a login that succeeded, or one that failed "
        "with `[AUTH]`",
    )
    limit: int = Field(ge=1, le=1_000_000_000, description="how many there may be in `per`", examples=[10])
    per: Duration = Field(description="the period: seconds, or a string", examples=["1m", "1d"])
    window: Literal["fixed", "sliding", "bucket"] = Field(
        default="sliding",
        description="`fixed`: in each period, which begin at multiples of it in UTC; `sliding`: in any period, "
        "estimated from two fixed ones; `bucket`: evenly, and `burst` at once",
    )
    burst: int | None = Field(
        default=None, ge=1, description='with `window = "bucket"`: how many at once; `limit` when it is not given'
    )
    fail: Literal["open", "closed"] = Field(
        default="open", description="while the store is down: `open` lets everybody pass, `closed` nobody"
    )
    mode: Literal["enforce", "audit"] = Field(
        default="enforce", description="`audit` counts and logs what would have been refused, and refuses nothing"
    )
    code: Literal["SYS/TEMP", "SYS/PERM", "LOGIN-DELAY"] = Field(
        default="SYS/TEMP", description="the response code of a refusal"
    )
    text: StatusText = Field(
        default="Too many logins, try again later", description="what a client reads who is refused"
    )

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name[:70]!r} is no name: write 1 to 40 of a-z, 0-9, _ and -")
        return name

    @field_validator("key")
    @classmethod
    def _is_key(cls, key: str) -> str:
        bits = _PREFIX.fullmatch(key)
        if key not in _KEYS and (bits is None or not 1 <= int(bits[1]) <= 128):
            raise ValueError(f'{key[:70]!r} is no key: write one of {", ".join(_KEYS)}, or like "address/24"')
        return key

    @model_validator(mode="after")
    def _fits(self) -> Limit:
        if self.on == "connect" and self.prefix_key not in _KNOWN_AT_CONNECT:
            raise ValueError(
                f'nobody knows the {self.key} when a client connects: write on = "login", or another key'
            )
        if self.burst is not None and self.window != "bucket":
            raise ValueError('burst is for window = "bucket": write that, or leave burst out')
        if "network" in self.model_fields_set and self.key != "network":
            raise ValueError('network is for key = "network": write that, or leave network out')
        if self.code == "LOGIN-DELAY" and self.on == "connect":
            raise ValueError('LOGIN-DELAY is about logins (RFC 2449): write code = "SYS/TEMP" with on = "connect"')
        return self

    @property
    def prefix_key(self) -> str:
        """``key`` without the number of bits."""
        return self.key.partition("/")[0]

    @property
    def bits(self) -> tuple[int | None, int | None]:
        """Bits of IPv4 and of IPv6 addresses that count; None where a family is not counted."""
        found = _PREFIX.fullmatch(self.key)
        if found is not None:
            bits = int(found[1])
            return (bits, None) if bits <= 32 else (None, bits)
        return (self.network.v4, self.network.v6) if self.key == "network" else (32, 128)

    @property
    def counts(self) -> Window:
        """What the store counts by."""
        if self.window == "fixed":
            return Fixed(self.limit, self.per)
        if self.window == "sliding":
            return Sliding(self.limit, self.per)
        most = self.burst or self.limit
        return TokenBucket(most, self.per * most / self.limit)


class RateLimitConfig(PluginConfig):
    """The limits, and who has none."""

    limits: tuple[Limit, ...] = Field(
        min_length=1,
        max_length=MOST_LIMITS,
        description="the limits; a client is refused when one of them is reached",
        examples=[[{"name": "logins", "key": "user", "limit": 60, "per": "1h"}]],
    )
    allow: tuple[Network, ...] = Field(
        default=(),
        description="networks and addresses whose clients are neither counted nor refused",
        examples=[["127.0.0.0/8", "10.0.0.0/8"]],
    )

    @field_validator("limits")
    @classmethod
    def _names_differ(cls, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        names = [limit.name for limit in limits]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two limits are called {', '.join(twice)}: give each a name of its own")
        return limits

"""The options of the plugin. The defaults are the ones of the simulation in docs/plugins/brute_force.md."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from popproxy.api import Duration, Network, PluginConfig, StatusText

LONGEST_DELAY = 60.0
MOST = 10_000
"""The largest threshold: as many failures are kept for an address at most, twice."""


class Level(PluginConfig):
    """From how many different failures on; 0 is never."""

    delay: int = Field(default=4, ge=0, le=MOST, description="names with a password: logins are held")
    pairs: int = Field(default=12, ge=0, le=MOST, description="names with a password: refused for a time")
    names: int = Field(default=8, ge=0, le=MOST, description="names: refused for a time")
    passwords: int = Field(default=12, ge=0, le=MOST, description="passwords: refused for a time")


class NetworkLevel(Level):
    """The same for a network, which many people share: by default five times as much."""

    delay: int = Field(default=20, ge=0, le=MOST, description="names with a password: logins are held")
    pairs: int = Field(default=60, ge=0, le=MOST, description="names with a password: refused for a time")
    names: int = Field(default=40, ge=0, le=MOST, description="names: refused for a time")
    passwords: int = Field(default=60, ge=0, le=MOST, description="passwords: refused for a time")


class UserLevel(PluginConfig):
    """A user who is attacked, from addresses where this user has never logged in. 0 is never."""

    delay: int = Field(default=10, ge=0, le=MOST, description="different wrong passwords: such logins are held")
    passwords: int = Field(
        default=20,
        ge=0,
        le=MOST,
        description="different wrong passwords: an address that has `strikes` failures itself is refused",
    )
    strikes: int = Field(
        default=3, ge=1, le=MOST, description="different failures of an address, for any user, that are one too many"
    )
    everybody: int = Field(
        default=0,
        ge=0,
        le=MOST,
        description="different wrong passwords: every such address is refused, also one without failures",
    )


class Known(PluginConfig):
    """A user at an address where this user has logged in before."""

    keep: Duration = Field(default=30 * 86400.0, description="how long that is remembered")
    delay: int = Field(
        default=4, ge=0, le=MOST, description="different wrong passwords from there: logins are held; 0: never"
    )
    passwords: int = Field(
        default=20,
        ge=0,
        le=MOST,
        description="different wrong passwords from there: refused until they are forgotten (`window`); 0: never",
    )
    near: bool = Field(
        default=True,
        description="a user who has logged in from the same network is not held or refused for what others did to "
        "the user or in the network; what the address itself did counts",
    )


class Ban(PluginConfig):
    """How long an address or network is refused."""

    first: Duration = Field(default=600.0, description="the first time")
    factor: float = Field(default=3.0, ge=1.0, le=100.0, description="each further time is so many times as long")
    longest: Duration = Field(default=86400.0, description="the longest time")
    memory: Duration = Field(default=7 * 86400.0, description="for how long a time counts for the next one")

    @model_validator(mode="after")
    def _grows(self) -> Ban:
        if self.longest < self.first:
            raise ValueError("longest is shorter than first: write a longer one")
        return self


class BruteForceConfig(PluginConfig):
    """What an attack is, and what becomes of it."""

    window: Duration = Field(default=3600.0, description="for how long a failure counts")
    delays: tuple[Duration, ...] = Field(
        default=(2.0, 4.0, 8.0, 15.0),
        max_length=32,
        description="how long a login is held before it is tried: at the first failure from `delay` on, the next, "
        "and so on; the last one holds for all further; at most `timeouts.pre_auth`",
    )
    address: Level = Field(
        default=Level(), description="failures from one IPv4 address, or from one IPv6 network of 64 bits"
    )
    network: NetworkLevel = Field(
        default=NetworkLevel(),
        description="failures from one IPv4 network of 24 bits, or from one IPv6 network of 48 bits",
    )
    user: UserLevel = Field(default=UserLevel(), description="failures of one user, from everywhere")
    known: Known = Field(default=Known(), description="users at addresses where they have logged in before")
    ban: Ban = Field(default=Ban(), description="how long refusals last")
    at_once: int = Field(
        default=16,
        ge=1,
        le=MOST,
        description="logins of an address that wait for their outcome at the same time, per worker; more are refused. "
        "Logins from where the user is known are counted for each user",
    )
    allow: tuple[Network, ...] = Field(
        default=(),
        description="networks and addresses that are never held, refused or counted: webmail, monitoring",
        examples=[["127.0.0.0/8", "10.0.0.0/8"]],
    )
    connect: Literal["off", "manual", "all"] = Field(
        default="off",
        description="bans that refuse the connection already, at the price of asking the store at each: none, those "
        "made by `popproxy bans add`, or all (users who are known there are then refused, too)",
    )
    text: StatusText = Field(
        default="Too many failed logins, try again later",
        description="what a client reads who is refused",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="the key of the hashes that stand for names and passwords in the store; a random one that is kept "
        "in the store when it is not given",
    )
    mode: Literal["enforce", "audit"] = Field(
        default="enforce", description="`audit` counts and logs, and holds and refuses nothing"
    )

    @field_validator("delays")
    @classmethod
    def _are_short(cls, delays: tuple[float, ...]) -> tuple[float, ...]:
        if not delays:
            raise ValueError('no delay: write at least one, like "2s"; delay = 0 in address and others switches it off')
        if max(delays) > LONGEST_DELAY:
            raise ValueError(f"{max(delays):g} seconds: no client waits so long; write at most {LONGEST_DELAY:g}")
        return delays

    @field_validator("secret")
    @classmethod
    def _is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < 16:
            raise ValueError("too short: write at least 16 characters, like those of `openssl rand -hex 16`")
        return secret

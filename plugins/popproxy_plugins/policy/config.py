"""The options of the plugin: rules, and what they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from popproxy.api import ConfigNames, Network, PluginConfig, Problem, ReadableFile, StatusText
from popproxy_plugins.policy.hours import hours, zone
from popproxy_plugins.policy.kinds import (
    DAYS_MOST,
    NEVER_DENIED,
    Count,
    Days,
    Expiry,
    Lift,
    Mode,
    Size,
    Some,
    SomeOrAll,
    Text,
    Time,
    Tls,
    command,
    country,
    domain,
    logins,
    mechanism,
)

Words = tuple[str, ...]


class Condition(PluginConfig):
    """For which logins. One match within a key is enough."""

    user: Some[str] | None = Field(
        default=None,
        description="the name matches one of these globs (`*`, `?`, `[...]`), without case",
        examples=[["ann@example.com", "*@archive.example.com"]],
    )
    domain: Some[str] | None = Field(
        default=None,
        description="what stands behind the last `@` of the name is one of these, without case",
        examples=[["example.org"]],
    )
    group: Some[str] | None = Field(
        default=None,
        description="the user is in one of these groups: of `groups`, or of what the look-up of the login said",
        examples=[["staff"]],
    )
    network: Some[Network] | None = Field(
        default=None, description="the client is in one of these networks", examples=[["192.0.2.0/24", "2001:db8::/32"]]
    )
    country: Some[str] | None = Field(
        default=None,
        description="the client is in one of these countries (ISO 3166, two letters), or `unknown`; needs `countries`",
        examples=[["DE", "AT"]],
    )
    listener: Some[str] | None = Field(
        default=None, description="the client came to one of these listeners", examples=[["pop3s"]]
    )
    tls: Tls | None = Field(
        default=None, description="whether the leg has TLS; a version: at least this one", examples=[False]
    )
    mechanism: Some[str] | None = Field(
        default=None,
        description="the client logs in by one of these: `USER` (USER and PASS), `APOP`, or a SASL mechanism",
        examples=[["USER", "PLAIN"]],
    )
    hours: Some[str] | None = Field(
        default=None,
        description="it is one of these times of the week, by the rule's time zone; also over midnight",
        examples=[["Mon-Fri 08:00-18:00", "Sat 22:00-02:00"]],
    )

    @field_validator("country")
    @classmethod
    def _are_countries(cls, names: Words | None) -> Words | None:
        return names and tuple(country(name) for name in names)

    @field_validator("domain")
    @classmethod
    def _are_domains(cls, names: Words | None) -> Words | None:
        return names and tuple(domain(name) for name in names)

    @field_validator("mechanism")
    @classmethod
    def _are_mechanisms(cls, names: Words | None) -> Words | None:
        return names and tuple(mechanism(name) for name in names)

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, windows: Words | None) -> Words | None:
        hours(windows or (), UTC)
        return windows

    def given(self) -> Iterator[tuple[str, Any]]:
        """The keys that are written, and their values."""
        for key in type(self).model_fields:
            value = getattr(self, key)
            if value is not None:
                yield key, value


class Commands(PluginConfig):
    """Which commands behind the login. `QUIT`, `NOOP` and `CAPA` always are allowed."""

    allow: Some[str] | None = Field(
        default=None, description="these and no others", examples=[["STAT", "LIST", "UIDL", "RETR", "TOP"]]
    )
    deny: Some[str] | None = Field(default=None, description="all but these", examples=[["TOP"]])

    @field_validator("allow", "deny")
    @classmethod
    def _are_commands(cls, names: Words | None) -> Words | None:
        return names and tuple(command(name) for name in names)

    @model_validator(mode="after")
    def _is_one_list(self) -> Commands:
        if (self.allow is None) == (self.deny is None):
            raise ValueError('write either allow = ["RETR"], which denies all others, or deny = ["TOP"]')
        kept = [name for name in self.deny or () if name in NEVER_DENIED]
        if kept:
            raise ValueError(f"{kept[0]} cannot be denied, clients need it to leave: write deny without it")
        return self

    def permits(self, command: str) -> bool:
        """Whether ``command`` (its name in upper case) is allowed."""
        if command in NEVER_DENIED:
            return True
        return command in self.allow if self.allow is not None else command not in (self.deny or ())


class LeaveOnServer(PluginConfig):
    """How long messages stay on the server whatever the client says."""

    days: int = Field(
        ge=1, le=DAYS_MOST, strict=True, description="DELE is held back until a message is so old", examples=[14]
    )
    dele: Literal["refuse", "keep"] = Field(
        default="refuse", description="`refuse` it with `-ERR`, or `keep`: `+OK`, and the message stays all the same"
    )


class Rule(PluginConfig):
    """Conditions, and what is set for the logins that meet them. The value `false` lifts what later rules would set."""

    name: str = Field(
        pattern=r"^[a-z0-9_-]{1,40}$",
        description="its name in logs, metrics and `popproxy explain`; unique",
        examples=["office"],
    )
    mode: Mode | None = Field(default=None, description="`enforce` or `audit` for this rule; else that of the plugin")
    when: Condition = Field(default=Condition(), description="it applies where all of these hold")
    unless: Condition = Field(default=Condition(), description="it does not apply where any of these holds")
    timezone: str | None = Field(
        default=None, description="time zone of its hours; else that of the plugin", examples=["America/New_York"]
    )
    text: StatusText | None = Field(
        default=None, description="what the client reads when this rule refuses", examples=["POP only from the office"]
    )
    code: Literal["SYS/PERM", "SYS/TEMP", "IN-USE", "LOGIN-DELAY"] | None = Field(
        default=None, description="response code when this rule refuses a login; the page says which without it"
    )
    store_failure: Literal["open", "closed"] = Field(
        default="open",
        description="what its limits do while the store is down: let everybody pass, or refuse with `[SYS/TEMP]`",
    )

    login: Literal["allow", "deny"] | None = Field(default=None, description="whether POP is allowed at all")
    networks: SomeOrAll[Network] | None = Field(
        default=None, description="from where a login is allowed", examples=[["192.0.2.0/24"]]
    )
    countries: SomeOrAll[str] | None = Field(
        default=None,
        description="from which countries a login is allowed (ISO 3166, two letters, or `unknown`)",
        examples=[["DE", "AT", "CH"]],
    )
    hours: SomeOrAll[str] | None = Field(
        default=None, description="when a login is allowed", examples=[["Mon-Fri 08:00-18:00"]]
    )
    tls: Tls | None = Field(
        default=None, description="TLS that a login needs: `true` for any, or the least version", examples=["TLSv1.2"]
    )
    mechanisms: SomeOrAll[str] | None = Field(
        default=None,
        description="how one may log in: `USER` (USER and PASS), `APOP`, or SASL mechanisms",
        examples=[["OAUTHBEARER", "XOAUTH2"]],
    )

    commands: Annotated[Commands, Lift()] | None = Field(
        default=None, description="which commands are allowed behind the login", examples=[{"deny": ["TOP"]}]
    )
    dele: Literal["allow", "refuse", "keep"] | None = Field(
        default=None,
        description="DELE: `allow`, `refuse` with `-ERR`, or `keep`: `+OK`, and the message stays on the server",
    )
    leave_on_server: Annotated[LeaveOnServer, Lift()] | None = Field(
        default=None, description="DELE only of messages that are old enough", examples=[{"days": 14}]
    )
    expire: Expiry | None = Field(
        default=None, description='EXPIRE in CAPA: days, or `"NEVER"`; 0: messages may go once they are retrieved'
    )
    login_delay: Time | None = Field(
        default=None,
        description="least time between two logins of a user, whole seconds; LOGIN-DELAY in CAPA",
        examples=["5m"],
    )

    max_messages: Count | None = Field(default=None, description="messages retrieved in one session", examples=[500])
    max_octets: Size | None = Field(default=None, description="octets retrieved in one session", examples=["1GB"])
    octets_per_day: Size | None = Field(
        default=None, description="octets a user retrieves in 24 hours, in all sessions", examples=["5GB"]
    )
    max_message_octets: Size | None = Field(
        default=None, description="octets of the largest message that may be retrieved", examples=["50MiB"]
    )
    hide_older: Days | None = Field(
        default=None, description="messages that are more days old than this are not shown", examples=[90]
    )
    hide_larger: Size | None = Field(
        default=None, description="messages with more octets than this are not shown", examples=["100MiB"]
    )
    rate: Size | None = Field(default=None, description="octets a second to one session", examples=["1MiB"])
    user_rate: Size | None = Field(
        default=None, description="octets a second to all sessions of one user in one worker", examples=["2MiB"]
    )
    commands_per_minute: Count | None = Field(
        default=None, description="commands a minute in one session", examples=[600]
    )

    sessions_per_user: Count | None = Field(default=None, description="sessions of one user", examples=[10])
    sessions_per_user_and_address: Count | None = Field(
        default=None, description="sessions of one user from one address", examples=[3]
    )
    sessions_per_address: Count | None = Field(default=None, description="sessions from one address", examples=[50])
    sessions_per_domain: Count | None = Field(
        default=None, description="sessions of all users of one domain", examples=[1000]
    )
    logins: Text | None = Field(
        default=None,
        description='logins of one user in a time: a number, `/`, and `second`, `minute`, `hour`, `day` or a duration',
        examples=["100/day"],
    )

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str | None) -> str | None:
        if name is not None:
            zone(name)
        return name

    @field_validator("countries")
    @classmethod
    def _are_countries(cls, names: Words | None) -> Words | None:
        return names and tuple(country(name) for name in names)

    @field_validator("mechanisms")
    @classmethod
    def _are_mechanisms(cls, names: Words | None) -> Words | None:
        return names and tuple(mechanism(name) for name in names)

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, windows: Words | None) -> Words | None:
        hours(windows or (), UTC)
        return windows

    @field_validator("logins")
    @classmethod
    def _are_logins(cls, written: str | None) -> str | None:
        if written:
            logins(written)
        return written

    @model_validator(mode="after")
    def _contradicts_nothing(self) -> Rule:
        for trouble in contradictions(self):
            raise ValueError(trouble)
        return self

    def sets(self) -> Iterator[tuple[str, Any]]:
        """What the rule sets, in the order of POINTS; False is lifted."""
        for point in POINTS:
            value = getattr(self, point)
            if value is not None:
                yield point, value


POINTS: tuple[str, ...] = tuple(Rule.model_fields)[list(Rule.model_fields).index("login") :]
"""What a rule can set, by key."""


def contradictions(rule: Rule) -> Iterator[str]:
    """What cannot be meant: what is wrong, and what to write instead."""
    given = dict(rule.sets())
    set_ = {point for point, value in given.items() if value is not False}
    never = dict(rule.unless.given())
    for key, value in rule.when.given():
        if _covers(never.get(key), value):
            yield f"it never applies: all of when.{key} is in unless.{key}, too; write one of them otherwise"
    if rule.login == "deny" and len(given) > 1:
        others = ", ".join(point for point in given if point != "login")
        yield f'a login that is denied has no use for {others}: write login = "deny" alone, or leave login out'
    refusing = {point for point in set_ - _SILENT if given[point] not in ("allow", "keep")}
    if (rule.text is not None or rule.code is not None) and not refusing:
        yield "text and code are of no use, the rule refuses nothing: write rules without them, or what is refused"
    if rule.code is not None and not refusing & _AT_LOGIN:
        yield "code is for refused logins, and the rule refuses none: write the rule without code"
    if rule.store_failure == "closed" and not set_ & _STORED:
        counted = ", ".join(point for point in POINTS if point in _STORED)
        yield f"store_failure is of no use, the rule sets none of {counted}: write one of them, or no store_failure"
    if {"dele", "leave_on_server"} <= set(given) and rule.dele != "allow":
        yield f'dele = "{rule.dele}" lets no message go, however old: write dele or leave_on_server, not both'
    if isinstance(rule.commands, Commands) and not rule.commands.permits("DELE") and {"dele", "leave_on_server"} & set_:
        yield "commands denies DELE already: write only one of commands, dele and leave_on_server for it"
    for small, large, why in _ORDERED:
        low, high = given.get(small), given.get(large)
        if low and high and low > high:
            yield f"{small} is more than {large}: {why}; write a smaller {small} or leave it out"
    if rule.hide_larger and rule.max_message_octets and rule.max_message_octets >= rule.hide_larger:
        yield "max_message_octets never counts, hide_larger hides such messages: write a smaller one or leave it out"


_SILENT = {"expire", "hide_older", "hide_larger", "rate", "user_rate"}
"""What is set without ever refusing anything."""
_STORED = {point for point in POINTS if point.startswith("sessions_")} | {"login_delay", "logins", "octets_per_day"}
"""What is counted in the store."""
_AT_LOGIN = _STORED | {"login", "networks", "countries", "hours", "tls", "mechanisms"}
"""What refuses a login."""


def _covers(wide: Any, narrow: Any) -> bool:
    """Whether what meets the key ``narrow`` meets ``wide``, too, as far as words can tell."""
    if isinstance(wide, tuple) and isinstance(narrow, tuple):
        return set(cast(Words, narrow)) <= set(cast(Words, wide))
    return wide is not None and wide == narrow


_ORDERED = (
    ("max_octets", "octets_per_day", "the day's octets end before"),
    ("max_message_octets", "max_octets", "the session's octets end before"),
    ("max_message_octets", "octets_per_day", "the day's octets end before"),
    ("rate", "user_rate", "all sessions of the user together are slower"),
    ("sessions_per_user_and_address", "sessions_per_user", "the user has fewer sessions in all"),
    ("sessions_per_user_and_address", "sessions_per_address", "the address has fewer sessions in all"),
    ("sessions_per_user", "sessions_per_domain", "the domain has fewer sessions in all"),
)
"""Pairs of which the first is never reached when it is the larger one."""


class PolicyConfig(PluginConfig):
    """The rules in their order, and what they have in common."""

    mode: Mode = Field(
        default="enforce",
        description="of rules that do not say otherwise: `enforce`, or `audit`: log and count, change nothing",
    )
    match: Literal["merge", "first"] = Field(
        default="merge",
        description="`merge`: each thing is set by the first rule that applies and sets it. `first`: the first rule "
        "that applies sets everything, later ones do not count",
    )
    timezone: str | None = Field(default=None, description="time zone of all hours", examples=["Europe/Berlin"])
    countries: ReadableFile | None = Field(
        default=None,
        description="MaxMind database of countries; read again when it changes. `pip install popproxy[geo]`",
        examples=["/var/lib/GeoIP/GeoLite2-Country.mmdb"],
    )
    groups: dict[str, Some[str]] = Field(
        default={},
        description="groups by name: globs of their users, without case. Beside those that a look-up names",
        examples=[{"staff": ["*@example.com", "bob@example.org"]}],
    )
    rules: Some[Rule] = Field(description="rules", examples=[[{"name": "no_plaintext", "tls": True}]])

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str | None) -> str | None:
        if name is not None:
            zone(name)
        return name

    @field_validator("rules")
    @classmethod
    def _have_names(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        seen: set[str] = set()
        for rule in rules:
            if rule.name in seen:
                raise ValueError(f"there are two rules named {rule.name!r}: write another name for one of them")
            seen.add(rule.name)
        return rules

    def problems(self, names: ConfigNames) -> Iterator[Problem]:
        """What the rules need and do not have: listeners, hours a time zone, countries a database."""
        for number, rule in enumerate(self.rules):
            place = ("rules", number)
            for part, condition in (("when", rule.when), ("unless", rule.unless)):
                for nth, name in enumerate(condition.listener or ()):
                    yield from names.listener((*place, part, "listener", nth), name)
            if self.timezone is None and rule.timezone is None:
                yield from (Problem((*place, *where), *_NO_ZONE) for where in uses(rule, "hours"))
            if self.countries is None:
                yield from (Problem((*place, *where), *_NO_DATABASE) for where in uses(rule, "country"))
            if self.match == "merge" and not any(rule.sets()):
                yield Problem(place, "sets nothing, so it has no effect", 'write what it sets, or match = "first"')


_NO_ZONE = ("needs timezone", 'write timezone = "Europe/Berlin" in the plugin\'s table or in the rule')
_NO_DATABASE = (
    "needs countries",
    'write countries = "/var/lib/GeoIP/GeoLite2-Country.mmdb" in the plugin\'s table',
)


def uses(rule: Rule, key: Literal["hours", "country"]) -> Iterator[tuple[str, ...]]:
    """Where ``rule`` looks at the clock or at countries."""
    own = "countries" if key == "country" else key
    if getattr(rule, own):
        yield (own,)
    for part, condition in (("when", rule.when), ("unless", rule.unless)):
        if getattr(condition, key):
            yield (part, key)

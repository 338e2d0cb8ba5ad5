"""Which rule decides what, for one session. Pure: rules and facts in, a Decision out.

Two worlds are decided at once: the real one of the rules that are enforced, and the tried one in which the rules that
are audited count as well. What an audited rule would decide differs from what counts, and takes nothing away from it.

The rules that can apply are found by the user's name, domain and groups first, so a thousand rules for a thousand users
cost what one costs; the same set of rules gives the same Decision object again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from popproxy.api import Network
from popproxy_plugins.policy.config import POINTS, Commands, LeaveOnServer, PolicyConfig, Rule
from popproxy_plugins.policy.hours import Hours, hours, zone
from popproxy_plugins.policy.kinds import Logins, logins
from popproxy_plugins.policy.match import Facts, Look, Names, Tests

T = TypeVar("T")
KEPT = 4096
"""Decisions that are kept, per worker and moment (connect, login)."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a rule says of itself. ``number`` counts from 1; ``closed``: its limits refuse while the store is down."""

    name: str
    number: int
    audit: bool = False
    text: str | None = None
    code: str | None = None
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Decided(Generic[T]):
    """A value, and the rule that set it."""

    value: T
    rule: Head


@dataclass(frozen=True, slots=True)
class Settings:
    """What is set; None where nothing restricts. Sizes in octets, times in seconds.

    ``tls``: True for any, or the least version. ``lifted``: what a rule set to ``false``, and which.
    """

    login: Decided[Literal["allow", "deny"]] | None = None
    networks: Decided[tuple[Network, ...]] | None = None
    countries: Decided[frozenset[str]] | None = None
    hours: Decided[Hours] | None = None
    tls: Decided[bool | str] | None = None
    mechanisms: Decided[frozenset[str]] | None = None
    commands: Decided[Commands] | None = None
    dele: Decided[Literal["allow", "refuse", "keep"]] | None = None
    leave_on_server: Decided[LeaveOnServer] | None = None
    expire: Decided[int | Literal["NEVER"]] | None = None
    login_delay: Decided[float] | None = None
    max_messages: Decided[int] | None = None
    max_octets: Decided[int] | None = None
    octets_per_day: Decided[int] | None = None
    max_message_octets: Decided[int] | None = None
    hide_older: Decided[int] | None = None
    hide_larger: Decided[int] | None = None
    rate: Decided[int] | None = None
    user_rate: Decided[int] | None = None
    commands_per_minute: Decided[int] | None = None
    sessions_per_user: Decided[int] | None = None
    sessions_per_user_and_address: Decided[int] | None = None
    sessions_per_address: Decided[int] | None = None
    sessions_per_domain: Decided[int] | None = None
    logins: Decided[Logins] | None = None
    lifted: tuple[tuple[str, Head], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """``enforced`` is what counts. ``audited`` is what rules in audit mode would set in its place: to be logged and
    counted, and nothing else. ``applied``: all rules that apply, in their order."""

    enforced: Settings = Settings()
    audited: Settings = Settings()
    applied: tuple[Head, ...] = ()


_Entry = tuple[int, frozenset[str], frozenset[str]]
_NONE: frozenset[str] = frozenset()


class Compiled:
    """A rule at work."""

    __slots__ = ("by_name", "head", "points", "sets", "unless", "when")

    def __init__(self, rule: Rule, number: int, config: PolicyConfig) -> None:
        name = rule.timezone or config.timezone
        clock = zone(name) if name is not None else None
        audit = (rule.mode or config.mode) == "audit"
        self.head = Head(rule.name, number, audit, rule.text, rule.code, rule.store_failure == "closed")
        self.when = Tests(rule.when, clock)
        self.unless = Tests(rule.unless, clock)
        self.by_name = self.when.by_name or self.unless.by_name
        self.sets: tuple[tuple[str, Any], ...] = tuple(
            (point, False if value is False else _value(point, value, clock)) for point, value in rule.sets()
        )
        self.points = frozenset(point for point, _ in self.sets)

    def applies(self, look: Look) -> bool | None:
        """Whether the rule is for these facts; None when that is open."""
        when = self.when.all_hold(look)
        if when is False:
            return False
        unless = self.unless.none_holds(look)
        return when if unless is True else unless


def _value(point: str, value: Any, clock: Any) -> Any:
    """A value of the config as decisions have it."""
    if point in ("countries", "mechanisms"):
        return frozenset(value)
    if point == "hours":
        return hours(value, clock)
    return logins(value) if point == "logins" else value


class Rules:
    """All rules of a plugin, compiled."""

    __slots__ = ("_before", "_by_group", "_everybody", "_index", "_kept", "_kept_before", "first", "groups", "items")

    def __init__(self, config: PolicyConfig) -> None:
        self.first = config.match == "first"
        self.items = [Compiled(rule, number, config) for number, rule in enumerate(config.rules, 1)]
        self.groups: Mapping[str, Names] = {group: Names(globs) for group, globs in config.groups.items()}
        self._index: dict[str, list[int]] = {}
        self._everybody: list[int] = []
        for place, rule in enumerate(self.items):
            self._file(place, rule)
        self._by_group = any(key.startswith("* ") for key in self._index)
        self._before = list(self._anonymous())
        self._kept: dict[tuple[int, ...], Decision] = {}
        self._kept_before: dict[tuple[int, ...], Decision] = {}

    def _file(self, place: int, rule: Compiled) -> None:
        """Put a rule where the names, domains or groups it is for will find it."""
        when = rule.when
        if when.names is not None and when.names.indexable:
            keys = [*when.names.exact, *("*@" + domain for domain in when.names.domains)]
        elif when.domains is not None:
            keys = ["*@" + domain for domain in when.domains]
        elif when.groups is not None:
            keys = ["* " + group for group in when.groups]
        else:
            self._everybody.append(place)
            return
        for key in keys:
            self._index.setdefault(key, []).append(place)

    def _anonymous(self) -> Iterator[_Entry]:
        """The rules that can decide something before the user is known, each with what it cannot decide in the real
        and in the tried world: what rules before it may set for some users."""
        real: set[str] = set()
        tried: set[str] = set()
        for place, rule in enumerate(self.items):
            points = frozenset(POINTS) if self.first else rule.points
            if rule.by_name:
                tried |= points
                if not rule.head.audit:
                    real |= points
            elif not points <= real or not points <= tried:
                yield place, frozenset(real), frozenset(tried)

    def candidates(self, look: Look) -> Sequence[int]:
        """Places of the rules that can apply to a user who is known, in order."""
        index = self._index
        if not index or look.name is None:
            return self._everybody
        hits = set(index.get(look.name, ()))
        if look.domain is not None:
            hits.update(index.get("*@" + look.domain, ()))
        if self._by_group:
            for group in look.groups:
                hits.update(index.get("* " + group, ()))
        return sorted(hits.union(self._everybody)) if hits else self._everybody

    def decide(self, facts: Facts) -> Decision:
        """See decide()."""
        look = Look(facts, self.groups)
        items = self.items
        if look.name is None:
            kept = self._kept_before
            found = [(entry, items[entry[0]].applies(look)) for entry in self._before]
        else:
            kept = self._kept
            found = [((place, _NONE, _NONE), items[place].applies(look)) for place in self.candidates(look)]
        key = tuple(
            entry[0] if applies else ~entry[0] for entry, applies in found if applies is not False
        )
        decision = kept.get(key)
        if decision is None:
            if len(kept) >= KEPT:
                kept.clear()
            kept[key] = decision = self._settled([(entry, applies) for entry, applies in found if applies is not False])
        return decision

    def _settled(self, found: Sequence[tuple[_Entry, bool | None]]) -> Decision:
        real = self._world([(place, real, applies) for (place, real, _), applies in found], audit=False)
        tried = self._world([(place, tried, applies) for (place, _, tried), applies in found], audit=True)
        audited = {point: decided for point, decided in tried.items() if decided.rule.audit}
        applied = tuple(self.items[place].head for (place, _, _), applies in found if applies)
        return Decision(_settings(real), _settings(audited), applied)

    def _world(
        self, found: Sequence[tuple[int, frozenset[str], bool | None]], audit: bool
    ) -> dict[str, Decided[Any]]:
        """What each point is set to when rules in audit mode count (``audit``), and when they do not."""
        decided: dict[str, Decided[Any]] = {}
        open_: set[str] = set()
        for place, others, applies in found:
            rule = self.items[place]
            if rule.head.audit and not audit:
                continue
            if applies:
                for point, value in rule.sets:
                    if point not in decided and point not in open_ and point not in others:
                        decided[point] = Decided(value, rule.head)
            else:
                open_ |= rule.points
            if self.first:
                break
        return decided


def decide(rules: Rules, facts: Facts) -> Decision:
    """What the session may do.

    Before the login (``facts.user`` None) only that is decided which no rule for certain users could decide otherwise;
    the same is asked again at the login.
    """
    return rules.decide(facts)


def _settings(decided: Mapping[str, Decided[Any]]) -> Settings:
    lifted = tuple((point, found.rule) for point, found in decided.items() if found.value is False)
    return Settings(**{point: found for point, found in decided.items() if found.value is not False}, lifted=lifted)

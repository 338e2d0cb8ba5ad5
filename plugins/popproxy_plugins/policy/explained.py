"""What the rules make of a login, in words: for ``popproxy explain``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, cast

from popproxy_plugins.policy.config import POINTS, Commands, LeaveOnServer, PolicyConfig
from popproxy_plugins.policy.decide import Compiled, Decided, Decision, Head, Rules, Settings
from popproxy_plugins.policy.hours import DAYS, Hours, zone
from popproxy_plugins.policy.kinds import Logins
from popproxy_plugins.policy.match import Look

SHOWN = 20
"""Rules that do not apply and are shown, with the keys that do not hold."""

_MATCH = {
    "merge": "merge: each thing is set by the first rule that applies and sets it",
    "first": "first: the first rule that applies sets everything",
}
_OCTETS = ("max_octets", "octets_per_day", "max_message_octets", "hide_larger")


def steps_of(config: PolicyConfig, rules: Rules, decision: Decision, look: Look) -> Iterator[str]:
    """What is known of the login, what is set by which rule, and why the other rules do not count."""
    yield _MATCH[config.match]
    yield ", ".join(_known(config, look))
    yield from _settings(decision.enforced)
    for text in _settings(decision.audited):
        yield f"would be {text}; audited only"
    if not decision.applied:
        yield "no rule applies"
    yield from _others(rules, look)


def _known(config: PolicyConfig, look: Look) -> Iterator[str]:
    """The facts that rules can look at."""
    facts = look.facts
    if config.timezone is not None:
        now = datetime.fromtimestamp(facts.now, zone(config.timezone))
        yield f"at {DAYS[now.weekday()]} {now:%Y-%m-%d %H:%M} {config.timezone}"
    if config.countries is not None:
        yield f"country {look.country}"
    yield f"groups {' '.join(sorted(look.groups)) or 'none'}"
    yield f"tls {facts.tls or 'none'}"
    yield f"mechanism {facts.mechanism or 'not known (--mechanism)'}"


def _settings(found: Settings) -> Iterator[str]:
    lifted = dict(found.lifted)
    for point in POINTS:
        decided: Decided[Any] | None = getattr(found, point)
        if decided is not None:
            yield f"{point}: {_value(point, decided.value)}, by rule {_named(decided.rule)}"
        elif point in lifted:
            yield f"{point}: not restricted, by rule {_named(lifted[point])}"


def _named(head: Head) -> str:
    return f"{head.number} ({head.name})"


def _value(point: str, value: Any) -> str:
    """A value as it is written in the config."""
    match value:
        case bool():
            return "any" if value else "none"
        case tuple() | frozenset():
            return ", ".join(sorted(map(str, cast("Iterable[object]", value))))
        case Hours():
            return f"{value.written} {value.zone}"
        case Commands(allow=None, deny=deny):
            return f"all but {', '.join(deny or ())}"
        case Commands(allow=allow):
            return f"only {', '.join(allow or ())}"
        case LeaveOnServer():
            told = "refused" if value.dele == "refuse" else "answered +OK and dropped"
            return f"{value.days} days; before that DELE is {told}"
        case Logins():
            return f"{value.count} in {value.seconds:g} seconds"
        case _:
            unit = _unit(point)
            return f"{value:g} {unit}" if point == "login_delay" else f"{value} {unit}".rstrip()


def _unit(point: str) -> str:
    if point in _OCTETS:
        return "octets"
    if point in ("rate", "user_rate"):
        return "octets a second"
    return {"login_delay": "seconds", "hide_older": "days"}.get(point, "")


def _others(rules: Rules, look: Look) -> Iterator[str]:
    """Rules that do not apply, and why not; how many are for other users altogether."""
    candidates = set(rules.candidates(look))
    shown = 0
    foreign = 0
    ended: Head | None = None
    for place, rule in enumerate(rules.items):
        if place not in candidates:
            foreign += 1
            continue
        applies = rule.applies(look)
        if applies:
            if rules.first and ended is not None:
                yield f"rule {_named(rule.head)} does not count: rule {_named(ended)} came first"
            elif rules.first and not rule.head.audit:
                ended = rule.head
            continue
        shown += 1
        if shown <= SHOWN:
            yield f"rule {_named(rule.head)} {_why(rule, look)}"
    if shown > SHOWN:
        yield f"rules that do not apply, not shown: {shown - SHOWN}"
    if foreign:
        yield f"{foreign} {'rule is' if foreign == 1 else 'rules are'} for other users, domains or groups"


def _why(rule: Compiled, look: Look) -> str:
    """The keys because of which ``rule`` does not apply, or is open."""
    when = [(f"when.{key}", test(look)) for key, test in rule.when.keys]
    unless = [(f"unless.{key}", test(look)) for key, test in rule.unless.keys]
    unmet = [key for key, found in when if found is False] + [key for key, found in unless if found]
    if unmet:
        return f"does not apply: {', '.join(unmet)}"
    unknown = [key for key, found in (*when, *unless) if found is None]
    return f"may apply, not known: {', '.join(unknown)}"

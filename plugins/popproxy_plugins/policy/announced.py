"""What is announced: only what the rules allow, and how long messages and clients have to wait (RFC 2449)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from typing import Any

from popproxy.api import Capabilities
from popproxy_plugins.policy import admission
from popproxy_plugins.policy.decide import Decided, Rules, Settings, decide
from popproxy_plugins.policy.match import Facts, Look

POINTS = (*admission.POINTS, "commands", "expire", "hide_older", "login_delay")
"""Settings that change what is announced."""
OPTIONAL = (b"TOP", b"UIDL")
"""Capabilities that are commands."""
_NEVER = b"NEVER"


def before(rules: Rules, facts: Facts, shown: Capabilities) -> Capabilities:
    """The list before the login; ``facts`` without a user, with the TLS that the leg has now.

    EXPIRE and LOGIN-DELAY are those of the user whom they are hardest for, with ``USER`` where users differ (RFC 2449
    sections 6.5 and 6.7)."""
    facts = replace(facts, tls=facts.tls or "")
    shown = _logins(rules, facts, shown)
    look = Look(facts, rules.groups)
    commands = list(_possible(rules, look, "commands"))
    for name in OPTIONAL:
        word = name.decode("ascii")
        if name in shown and commands and all(one is not None and not one.permits(word) for one in commands):
            shown = shown.without(name)
    days = {_days(expire, older) for expire, older in _pairs(rules, look)}
    shown = _expire(shown, days)
    return _delay(shown, {_seconds(delay) for delay in _possible(rules, look, "login_delay")})


def behind(settings: Settings, shown: Capabilities) -> Capabilities:
    """The list of a user who is logged in."""
    mechanisms = settings.mechanisms
    if mechanisms is not None:
        shown = _without(shown, lambda name: name not in mechanisms.value)
    commands = settings.commands
    if commands is not None:
        shown = shown.without(*(name for name in OPTIONAL if not commands.value.permits(name.decode("ascii"))))
    shown = _expire(shown, {_days(_value(settings.expire), _value(settings.hide_older))})
    return _delay(shown, {_seconds(_value(settings.login_delay))})


def _value(decided: Decided[Any] | None) -> Any:
    return None if decided is None else decided.value


def _logins(rules: Rules, facts: Facts, shown: Capabilities) -> Capabilities:
    """Without the mechanisms by which nobody can log in on this leg."""

    def useless(mechanism: str) -> bool:
        found = replace(facts, mechanism=mechanism)
        return admission.denied(decide(rules, found).enforced, Look(found, rules.groups)) is not None

    return _without(shown, useless)


def _without(shown: Capabilities, useless: Callable[[str], bool]) -> Capabilities:
    """Without the mechanisms that are ``useless``."""
    if b"USER" in shown and useless("USER"):
        shown = shown.without(b"USER")
    if b"SASL" in shown:
        kept = [name for name in shown.parameters(b"SASL") if not useless(name.decode("ascii", "replace").upper())]
        shown = shown.with_(b"SASL", *kept) if kept else shown.without(b"SASL")
    return shown


def _possible(rules: Rules, look: Look, point: str) -> Iterator[Any]:
    """All values that ``point`` may be set to by rules that count, None for not at all."""
    for rule in rules.items:
        if rule.head.audit:
            continue
        applies = rule.applies(look)
        if applies is False:
            continue
        sets = dict(rule.sets)
        if point in sets or rules.first:
            value = sets.get(point)
            yield None if value is False else value
            if applies:
                return
    yield None


def _pairs(rules: Rules, look: Look) -> list[tuple[Any, Any]]:
    """Each value of expire with each of hide_older: who of the users gets which does not matter for the least."""
    older = list(_possible(rules, look, "hide_older"))
    return [(expire, one) for expire in _possible(rules, look, "expire") for one in older]


def _days(expire: Any, older: Any) -> float | None:
    """After how many days messages are out of reach: infinite for never, None where the rules say nothing."""
    said = [float("inf") if one == "NEVER" else float(one) for one in (expire, older) if one is not None]
    return min(said) if said else None


def _seconds(delay: Any) -> int:
    return 0 if delay is None else ceil(delay)


def _expire(shown: Capabilities, days: set[float | None]) -> Capabilities:
    """EXPIRE is what the upstream says or less: a proxy cannot make a server keep what it deletes."""
    if days == {None}:
        return shown
    words = shown.parameters(b"EXPIRE")
    theirs = _number(words[:1])
    said = {_least(one, theirs) for one in days}
    values = [one for one in said if one is not None]
    if not values:
        return shown
    least = min(values)
    word = _NEVER if least == float("inf") else b"%d" % int(least)
    user = (b"USER",) if len(said) > 1 or b"USER" in words[1:] else ()
    return shown.with_(b"EXPIRE", word, *user)


def _least(days: float | None, theirs: float | None) -> float | None:
    both = [one for one in (days, theirs) if one is not None]
    return min(both) if both else None


def _number(words: tuple[bytes, ...]) -> float | None:
    """What the upstream's EXPIRE says; None when it has none, or says what nobody can read."""
    if not words:
        return None
    if words[0].upper() == _NEVER:
        return float("inf")
    return float(int(words[0])) if words[0].isdigit() and len(words[0]) < 10 else None


def _delay(shown: Capabilities, delays: set[int]) -> Capabilities:
    """LOGIN-DELAY is the upstream's or more."""
    words = shown.parameters(b"LOGIN-DELAY")
    theirs = int(words[0]) if words and words[0].isdigit() and len(words[0]) < 10 else 0
    said = {max(one, theirs) for one in delays}
    most = max(said)
    if not most:
        return shown
    user = (b"USER",) if len(said) > 1 or b"USER" in words[1:] else ()
    return shown.with_(b"LOGIN-DELAY", b"%d" % most, *user)

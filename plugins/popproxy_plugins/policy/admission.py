"""May this login be? Every answer here is found in the facts and costs no call of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from popproxy.api import Code, Refuse
from popproxy_plugins.policy.decide import Decided, Settings
from popproxy_plugins.policy.hours import Hours
from popproxy_plugins.policy.ledger import CODES, Act
from popproxy_plugins.policy.match import Look, inside, secure

POINTS = ("login", "networks", "countries", "hours", "tls", "mechanisms")
"""In the order in which they are looked at."""

_TEXTS = {
    "login": "Login is not allowed",
    "networks": "Login is not allowed from here",
    "countries": "Login is not allowed from here",
    "hours": "Login is not allowed at this time",
    "tls": "Login needs TLS, or a newer version of it",
    "mechanisms": "Login is not allowed by this mechanism",
}


def denied(settings: Settings, look: Look, points: Sequence[str] = POINTS) -> Act | None:
    """The first of ``points`` at which ``settings`` refuse this login."""
    for point in points:
        decided: Decided[Any] | None = getattr(settings, point)
        if decided is not None and refuses(point, decided.value, look):
            return refusing(decided, point, _TEXTS[point], Code.SYS_PERM)
    return None


def refuses(point: str, value: Any, look: Look) -> bool:
    """Whether ``point``, set to ``value``, refuses a login with the facts of ``look``. What is not known yet refuses
    nobody."""
    facts = look.facts
    if point == "login":
        return bool(value == "deny")
    if point == "networks":
        return not inside(facts.client, value)
    if point == "countries":
        return look.country not in value
    if point == "hours":
        hours: Hours = value
        return not hours.holds(facts.now)
    if point == "tls":
        return facts.tls is not None and not secure(facts.tls, value)
    return facts.mechanism is not None and facts.mechanism not in value


def refusing(decided: Decided[Any], point: str, text: str, code: Code) -> Act:
    """The refusal of a login with the words of the rule, where it has some."""
    head = decided.rule
    return Act(head, point, "deny", head.text or text, code if head.code is None else CODES[head.code])


def refusal(act: Act, *, limited: bool = False) -> Refuse:
    """``act`` as a verdict."""
    return Refuse(act.text, act.code, reason=act.reason, limited=limited)

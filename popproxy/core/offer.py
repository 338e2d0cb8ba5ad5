"""Which mechanisms a client is offered: those that can succeed, on this leg, with these upstreams and plugins.

The rule, in one place (docs/protocol.md has it for operators):

- USER, PLAIN and LOGIN when the default upstream takes passwords; OAUTHBEARER and XOAUTH2 when it takes tokens. When a
  plugin looks at logins it may route them, so then any upstream counts as the default one does.
- All of these also when a plugin names them (USER for the three), because it makes something else of the credentials.
- SCRAM, CRAM-MD5 and APOP when a plugin names them; SCRAM only where a plugin can be asked for a verifier.

What is not offered is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from popproxy.api.plugin import MECHANISMS
from popproxy.api.views import SessionView
from popproxy.core import hooks
from popproxy.core.chain import Chain, Entry, Subscriber
from popproxy.core.effects import Effect
from popproxy.core.hooks import Lie
from popproxy.core.login import Knowledge
from popproxy.core.mechanisms import PASSWORDS, TOKENS, USER, spoken
from popproxy.core.meter import SessionMeter
from popproxy.core.plan import SessionPlan
from popproxy.wire.sasl import HASHES, SERVER_MECHANISMS

APOP = "APOP"
SASL: tuple[str, ...] = tuple(name.decode("ascii") for name in SERVER_MECHANISMS)
"""The proxy's own side of AUTH, in the order of the list; what is not here is unknown."""


class Host(Protocol):
    """The session, as far as this needs it."""

    plan: SessionPlan
    view: SessionView
    knowledge: Knowledge
    meter: SessionMeter
    clock: Callable[[], float]
    effects: list[Effect]

    def ask(self, answer: Callable[[object], None]) -> int:
        """See Session."""
        ...


_WITH_PASSWORDS = frozenset({USER, "PLAIN", "LOGIN"})


def taken(plan: SessionPlan, knowledge: Knowledge) -> frozenset[str]:
    """What the upstreams make possible, whatever plugins there are. Made anew when an upstream says another thing."""
    found = knowledge.offers.get(plan.ways)
    if found is None:
        upstream = set[str]()
        for name, _ in plan.ways:
            upstream.update(spoken(plan.upstreams[name], knowledge.get(name)))
        found = frozenset() if upstream.isdisjoint(PASSWORDS) else _WITH_PASSWORDS
        if not upstream.isdisjoint(TOKENS):
            found = found.union(TOKENS)
        knowledge.offers[plan.ways] = found
    return found


def offered(host: Host) -> frozenset[str]:
    """Names of SASL, and USER and APOP. Whether the leg is good enough for credentials is not looked at."""
    found, chain = taken(host.plan, host.knowledge), host.plan.chain
    if not chain.subscribers:
        return found
    # The user is not known yet: a plugin that works for some users only counts as one that looks.
    chain = chain.select(host.view, None)
    for subscriber in chain.subscribers:
        found |= _named(host, subscriber, chain)
    return found | _WITH_PASSWORDS if USER in found else found


def _named(host: Host, subscriber: Subscriber, chain: Chain) -> frozenset[str]:
    """What this plugin makes possible. A lie about it is the plugin's failure; it then makes nothing possible."""
    try:
        names = subscriber.plugin.mechanisms
        if not isinstance(names, frozenset | set):
            raise Lie(f"mechanisms is no frozenset of names but {type(names).__name__}")
        if not names <= set(MECHANISMS):
            raise Lie(f"mechanisms names what there is not; there are {', '.join(MECHANISMS)}")
    except hooks.CONTAINED as error:
        hooks.report(host, Entry(subscriber, "mechanisms", type, False), error)
        return frozenset()
    return frozenset(name for name in names if name not in HASHES or chain["on_verifier"])

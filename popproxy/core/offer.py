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


def offered(host: Host) -> frozenset[str]:
    """Names of SASL, and USER and APOP. Whether the leg is good enough for credentials is not looked at."""
    plan, chain = host.plan, host.plan.chain.select(host.view, None)
    # The user is not known yet: a plugin that works for some users only counts as one that looks.
    looks = bool(plan.chain.hooks["on_login"])
    upstream = set[str]()
    for name in plan.upstreams if looks else (plan.default_upstream,):
        upstream.update(spoken(plan.upstreams[name], host.knowledge.get(name)))
    found: set[str] = set()
    for subscriber in chain.subscribers:
        found |= _named(host, subscriber, chain)
    if USER in found or not upstream.isdisjoint(PASSWORDS):
        found |= {USER, "PLAIN", "LOGIN"}
    if not upstream.isdisjoint(TOKENS):
        found |= set(TOKENS)
    return frozenset(found)


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

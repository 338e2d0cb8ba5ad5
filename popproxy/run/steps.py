"""What the plugins say they would do for a user name, asked one behind the other as a login asks them.

The plugins are those of a plan: made, never started. What one of them raises is shown in its place (promise 7), by
type and line: its text may hold a secret.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from popproxy.api.explained import Explained
from popproxy.api.plugin import Plugin, overrides
from popproxy.api.views import SessionView
from popproxy.config.plan import ListenerPlan, Plan
from popproxy.core.chain import Chain
from popproxy.core.entrance import shown
from popproxy.core.hooks import CONTAINED, told


@dataclass(frozen=True, slots=True)
class StepView:
    """One plugin: its steps in words, and the name, the upstream and the key for sticky balancing behind it.

    ``failed`` says why it could not be explained. ``silent``: it looks at logins and does not explain itself, so what
    stands behind it may be otherwise. ``refused``: the login ends here. ``groups``: those the user is in behind it.
    """

    plugin: str
    steps: tuple[str, ...]
    user: str
    upstream: str
    failed: str = ""
    silent: bool = False
    refused: bool = False
    key: str | None = None
    groups: tuple[str, ...] = ()


def walk(plan: Plan, listener: ListenerPlan, view: SessionView, user: str) -> tuple[StepView, ...]:
    """The plugins that have a say in the login of ``user`` (octets that are no UTF-8 as surrogates), in their order.

    ``view`` is the session as it is before them: its groups hold until a plugin says others.

    ``when`` is judged by the name the client gave, as in a session. Plugins that have nothing to say are left out.
    """
    chain = listener.session.chain.select(view, shown(user))
    return tuple(_steps(plan, chain, view, user))


def _steps(plan: Plan, chain: Chain, view: SessionView, user: str) -> Iterator[StepView]:
    at_login = {entry.subscriber.name for entry in chain["on_login"]}
    upstream, routed, key = plan.default_upstream, None, None
    groups = tuple(sorted(view.groups))
    for subscriber in chain.subscribers:
        plugin = subscriber.plugin
        here = StepView(subscriber.name, (), text(user), upstream, key=key, groups=groups)
        if not overrides(type(plugin), "explain"):
            if subscriber.name in at_login:
                yield replace(here, silent=True)
            continue
        found = _asked(plugin, replace(view, upstream=routed, groups=frozenset(groups), slots={}), user)
        if isinstance(found, str):
            yield replace(here, failed=found)
            continue
        if found is None:
            continue
        if found.upstream is not None and found.upstream not in plan.upstreams:
            yield replace(here, failed=f"routes to {text(found.upstream)!r}, which is not configured", refused=True)
            return
        user = user if found.user is None else found.user
        routed = found.upstream or routed
        upstream = routed or upstream
        key = key if found.key is None else found.key
        groups = groups if found.groups is None else tuple(text(group) for group in found.groups)
        steps = tuple(text(step) for step in found.steps)
        yield StepView(subscriber.name, steps, text(user), upstream, refused=found.refused, key=key, groups=groups)
        if found.refused:
            return


def _asked(plugin: Plugin[Any], view: SessionView, user: str) -> Explained | None | str:
    """What the plugin says; a string says why it says nothing."""
    try:
        found: object = plugin.explain(view, user)
    except CONTAINED as error:
        return f"{type(error).__name__}: {told(error)}"
    if found is None or isinstance(found, Explained):
        return found
    if inspect.iscoroutine(found):
        found.close()
    return f"explain returned {type(found).__name__}; allowed: Explained or None"


def text(name: str) -> str:
    """``name`` for people: octets that are no UTF-8, control characters and lone surrogates as escapes."""
    try:
        name = shown(name)
    except UnicodeEncodeError:
        name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in name)

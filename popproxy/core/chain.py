"""The plugin chain: who is called at which hook, in which order, and what a failure means.

Requests run in the order of the plugin tables, replies and bodies in reverse. What no plugin subscribes to is an
empty tuple, so a hook nobody uses costs one truth test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from popproxy.api.plugin import HOOKS, REVERSED, Fail, Plugin, is_async, subscribes
from popproxy.api.views import SessionView
from popproxy.core.conditions import Condition


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One configured plugin. ``name`` is unique in the config and a metric label; ``deadline`` in seconds."""

    name: str
    plugin: Plugin[Any]
    fail: Fail = Fail.OPEN
    deadline: float = 10.0
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A hook of one subscriber, bound."""

    subscriber: Subscriber
    hook: str
    call: Callable[..., Any]
    awaits: bool


_REMEMBERED = 256
"""Chains of each kind that are made of one and remembered; plugins come in few combinations."""


class Chain:
    """Entries by hook, in call order. Immutable, but for the chains made of it, which it remembers."""

    __slots__ = ("_narrower", "_selected", "conditional", "hooks", "subscribers")

    def __init__(self, subscribers: Sequence[Subscriber] = ()) -> None:
        self._narrower: dict[frozenset[tuple[str, str]], Chain] = {}
        self._selected: dict[tuple[str, ...], Chain] = {}
        self.subscribers = tuple(subscribers)
        self.conditional = any(subscriber.when is not None for subscriber in subscribers)
        self.hooks: dict[str, tuple[Entry, ...]] = {}
        for hook in HOOKS:
            entries = [
                Entry(subscriber, hook, getattr(subscriber.plugin, hook), is_async(type(subscriber.plugin), hook))
                for subscriber in subscribers
                if subscribes(subscriber.plugin, hook)
            ]
            self.hooks[hook] = tuple(reversed(entries) if hook in REVERSED else entries)

    def __getitem__(self, hook: str) -> tuple[Entry, ...]:
        return self.hooks[hook]

    def select(self, view: SessionView, user: str | None) -> Chain:
        """The chain for this session: subscribers whose condition holds. Itself when no plugin has a ``when``."""
        if not self.conditional:
            return self
        applying = tuple(s.name for s in self.subscribers if s.when is None or s.when.applies(view, user))
        known = self._selected.get(applying)
        if known is None:
            known = Chain([s for s in self.subscribers if s.name in applying])
            if len(self._selected) < _REMEMBERED:
                self._selected[applying] = known
        return known

    def without(self, left_out: frozenset[tuple[str, str]]) -> Chain:
        """The chain without these hooks, each as (name of the subscriber, hook)."""
        known = self._narrower.get(left_out)
        if known is not None:
            return known
        made = Chain()
        made.subscribers = self.subscribers
        made.conditional = self.conditional
        for hook, entries in self.hooks.items():
            made.hooks[hook] = tuple(entry for entry in entries if (entry.subscriber.name, hook) not in left_out)
        if len(self._narrower) < _REMEMBERED:
            self._narrower[left_out] = made
        return made

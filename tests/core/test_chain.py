"""The chain: order, subscription, and which plugins a session has."""

from __future__ import annotations

from typing import Any

from popproxy.api import Plugin, PluginConfig, SessionView
from popproxy.api.plugin import HOOKS, REVERSED
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.conditions import condition
from tests.core.rig import plugin


async def waits(*_: object) -> None: ...


def nothing(*_: object) -> None: ...


def test_requests_run_forward_and_replies_in_reverse() -> None:
    hooks: dict[str, Any] = dict.fromkeys(HOOKS, nothing)
    chain = Chain([Subscriber("a", plugin(**hooks)), Subscriber("b", plugin(**hooks))])
    for hook in HOOKS:
        names = [entry.subscriber.name for entry in chain[hook]]
        assert names == (["b", "a"] if hook in REVERSED else ["a", "b"]), hook
        assert all(entry.hook == hook for entry in chain[hook])


def test_only_what_is_overridden_is_called() -> None:
    class Base(Plugin[PluginConfig]):
        def on_command(self, session: SessionView, command: object) -> None: ...

    class Derived(Base):
        pass

    chain = Chain([Subscriber("a", Derived(PluginConfig())), Subscriber("b", plugin(on_connect=waits))])
    assert [hook for hook in HOOKS if chain[hook]] == ["on_connect", "on_command"]
    assert [entry.awaits for entry in (*chain["on_connect"], *chain["on_command"])] == [True, False]


def test_what_an_instance_skips_is_not_called() -> None:
    class Sometimes(Plugin[PluginConfig]):
        def __init__(self, config: PluginConfig, *, quiet: bool = False) -> None:
            super().__init__(config)
            if quiet:
                self.skips = frozenset({"on_command"})

        def on_command(self, session: SessionView, command: object) -> None: ...

        def on_connect(self, session: SessionView) -> None: ...

    config = PluginConfig()
    chain = Chain([Subscriber("a", Sometimes(config)), Subscriber("b", Sometimes(config, quiet=True))])
    assert [entry.subscriber.name for entry in chain["on_command"]] == ["a"]
    assert [entry.subscriber.name for entry in chain["on_connect"]] == ["a", "b"]


def test_the_empty_chain() -> None:
    chain = Chain()
    assert all(chain[hook] == () for hook in HOOKS)
    assert chain.select(SessionView("1", "pop3"), None) is chain


def test_selection_by_condition() -> None:
    always = Subscriber("always", plugin(on_connect=nothing))
    joes = Subscriber("joes", plugin(on_connect=nothing), when=condition(users=["joe"]))
    chain = Chain([always, joes])
    view = SessionView("1", "pop3")
    assert chain.conditional
    assert [entry.subscriber.name for entry in chain.select(view, None)["on_connect"]] == ["always"]
    assert [entry.subscriber.name for entry in chain.select(view, "joe")["on_connect"]] == ["always", "joes"]
    assert Chain([always]).select(view, "joe").subscribers == (always,)
    assert chain.select(view, "joe") is chain.select(view, "joe"), "made once, not for every session"

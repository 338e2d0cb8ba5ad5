"""unneeded and SessionView.sent: what plugins are asked, and what they are not, behind the login."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Command, Fail, HeaderFilter, Hide, SessionView
from popproxy.api.plugin import OPTIONAL
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.transaction import Transaction
from tests.core.rig import Rig, plugin


def raises(*_: object) -> Any:
    raise ValueError("no")


def everything(calls: list[str], **more: Any) -> Any:
    """A plugin with every hook behind the login, each of which notes that it was called."""

    def noted(name: str, value: Any = None) -> Any:
        def hook(*_: object) -> Any:
            calls.append(name)
            return value

        return hook

    values = {"growth": 0, "pace": (), "wants_message": True}
    return plugin(**{**{name: noted(name, values.get(name)) for name in sorted(OPTIONAL)}, **more})


def stage(rig: Rig) -> Transaction:
    found = rig.s._stage
    assert isinstance(found, Transaction)
    return found


def test_what_is_not_needed_is_never_called_and_costs_nothing() -> None:
    calls: list[str] = []
    rig = Rig(everything(calls, unneeded=lambda session: OPTIONAL)).login()
    assert stage(rig).plain and stage(rig).numbering is None
    rig.client(b"LIST\r\nRETR 1\r\n")
    assert rig.asked() == b"LIST\r\nRETR 1\r\n", "no listing of our own"
    rig.upstream(b"+OK\r\n1 5\r\n.\r\n+OK\r\nx\r\n.\r\n")
    assert calls == []
    assert rig.meter.calls == [("p1", "unneeded", "modify")]


def test_each_session_is_asked_once_and_answered_for_itself() -> None:
    def unneeded(session: SessionView) -> frozenset[str]:
        asked.append(session.user or "")
        return OPTIONAL - {"on_command"} if session.user == "joe" else frozenset()

    calls: list[str] = []
    asked: list[str] = []
    made = everything(calls, unneeded=unneeded)
    Rig(made).login(b"joe").client(b"NOOP\r\n").upstream(b"+OK\r\n").client(b"NOOP\r\n")
    assert (calls, asked) == (["on_command", "on_command"], ["joe"])
    calls.clear()
    Rig(made).login(b"ann").client(b"NOOP\r\n").upstream(b"+OK\r\n")
    assert calls == ["growth", "pace", "on_command", "on_reply"]
    assert asked == ["joe", "ann"]


def test_one_plugin_says_nothing_for_another() -> None:
    seen: list[str] = []
    rig = Rig(
        plugin(unneeded=lambda session: frozenset({"on_command"}), on_command=raises),
        plugin(on_command=lambda session, command: seen.append(command.name)),
    ).login()
    rig.client(b"NOOP\r\n")
    assert seen == ["NOOP"]
    assert rig.meter.errors == []


@pytest.mark.parametrize("broken", [raises, lambda session: frozenset({"on_close"}), lambda session: ["on_command"]])
def test_a_failure_closed_refuses_the_session(broken: Any) -> None:
    rig = Rig(plugin(Fail.CLOSED, unneeded=broken, growth=raises)).start()
    rig.client(b"USER joe\r\nPASS x\r\n").connected().upstream(b"+OK\r\n").upstream(b"+OK\r\n")
    rig.ended("policy")
    assert rig.meter.errors == [("p1", "unneeded", "fail_closed")], "nothing else was asked"


@pytest.mark.parametrize("broken", [raises, lambda session: frozenset({"on_close"}), lambda session: 5])
def test_a_failure_open_needs_all_hooks(broken: Any) -> None:
    calls: list[str] = []
    rig = Rig(everything(calls, unneeded=broken)).login().client(b"NOOP\r\n")
    assert calls == ["growth", "pace", "on_command"]
    assert rig.meter.errors == [("p1", "unneeded", "fail_open")]


def test_the_narrower_chain_is_made_once() -> None:
    both = plugin(on_command=raises, on_reply=raises)
    chain = Chain([Subscriber("a", both), Subscriber("b", plugin(on_reply=raises))])
    left = frozenset({("a", "on_reply")})
    narrow = chain.without(left)
    assert [entry.subscriber.name for entry in narrow["on_reply"]] == ["b"]
    assert len(chain["on_reply"]) == 2 and len(narrow["on_command"]) == 1
    assert chain.without(frozenset(left)) is narrow


def test_sent_is_true_at_every_hook() -> None:
    said: dict[str, int] = {}

    def note(hook: str, value: Any = None) -> Any:
        def noted(session: SessionView, *_: object) -> Any:
            said[hook] = session.sent
            return value

        return noted

    rig = Rig(
        plugin(
            unneeded=note("unneeded", frozenset()),
            growth=note("growth", 0),
            on_maildrop=note("on_maildrop", Hide(frozenset())),
            on_command=note("on_command"),
            on_reply=note("on_reply"),
            wants_message=note("wants_message", True),
            open_body=note("open_body", HeaderFilter(lambda header: None)),
            on_message=note("on_message"),
            on_capabilities=note("on_capabilities"),
        )
    ).login()
    before = len(rig.all_client)
    assert said == {"unneeded": before, "growth": before}
    rig.client(b"NOOP\r\nRETR 1\r\n")
    # The reply to NOOP and what follows it come in one piece: nothing of that has left the session at on_reply.
    rig.upstream(b"+OK noop\r\n+OK\r\n1 9\r\n.\r\n").upstream(b"+OK\r\n1 a\r\n.\r\n")
    rig.upstream(b"+OK\r\na: b\r\n\r\nc\r\n.\r\n")
    behind = before + len(b"+OK noop\r\n")
    assert {said[hook] for hook in ("on_maildrop", "wants_message", "open_body", "on_message")} == {behind}
    rig.client(b"NOOP\r\n")
    assert said["on_command"] == len(rig.all_client)
    rig.client(b"CAPA\r\n").upstream(b"+OK noop\r\n").upstream(b"+OK\r\n.\r\n")
    assert said["on_capabilities"] == behind + len(rig.all_client[behind:].partition(b"+OK Capa")[0])


def test_commands_know_what_was_sent() -> None:
    sent: list[int] = []

    def on_command(session: SessionView, command: Command) -> None:
        sent.append(session.sent)

    rig = Rig(plugin(on_command=on_command)).login()
    start = len(rig.all_client)
    rig.client(b"RETR 1\r\n").upstream(b"+OK\r\n" + b"x" * 1000 + b"\r\n.\r\n").client(b"NOOP\r\n")
    assert sent == [start, start + 1010]

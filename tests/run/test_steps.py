from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import Explained, Plugin, PluginConfig, SessionView
from popproxy.api.verdicts import LoginVerdict
from popproxy.config.load import load
from popproxy.config.plan import ListenerPlan, Plan
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.conditions import Condition, condition
from popproxy.run.explain import Assumed, Explanation, explain, render
from popproxy.run.steps import StepView, text, walk

CONFIG = """
default_upstream = "main"
[[listener]]
name = "pop3s"
bind = ["[::]:995"]
tls = "implicit"
[[listener]]
name = "inside"
bind = ["127.0.0.1:110"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["pop3s://a"]
[upstream.other]
servers = ["pop3s://b"]
"""


class Says(Plugin[PluginConfig]):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, said: Any) -> None:
        super().__init__(PluginConfig())
        self.said = said
        self.asked: list[tuple[str, str | None, str | None]] = []

    def explain(self, session: SessionView, user: str) -> Explained | None:
        self.asked.append((user, session.user, session.upstream))
        if isinstance(self.said, BaseException):
            raise self.said
        found: Explained | None = self.said
        return found


class Silent(Plugin[PluginConfig]):
    """Looks at logins and does not explain itself."""

    def on_login(self, session: SessionView, credentials: object) -> LoginVerdict:
        raise AssertionError("explain must not call hooks")


class Lying(Plugin[PluginConfig]):
    """Gives steps of the wrong type."""

    def explain(self, session: SessionView, user: str) -> Explained | None:
        return Explained("hunter2")  # type: ignore[arg-type]


class Deaf(Plugin[PluginConfig]):
    """Has no say in logins."""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "popproxy.toml").write_text(CONFIG)
    return load(tmp_path / "popproxy.toml").plan


def chained(plan: Plan, *plugins: Plugin[Any], when: dict[int, Condition] | None = None) -> Plan:
    """``plan`` with these plugins, named p0, p1 and so on."""
    when = when or {}
    chain = Chain([Subscriber(f"p{place}", plugin, when=when.get(place)) for place, plugin in enumerate(plugins)])
    listeners: list[ListenerPlan] = [
        replace(listener, session=replace(listener.session, chain=chain)) for listener in plan.listeners
    ]
    return replace(plan, listeners=tuple(listeners), plugins=chain.subscribers)


def walked(plan: Plan, user: str = "joe@example.com") -> tuple[StepView, ...]:
    listener = plan.listeners[0]
    return walk(plan, listener, SessionView("explain", listener.name, client="192.0.2.7", user=user), user)


def explained(plan: Plan, user: str = "joe@example.com") -> Explanation:
    return explain(plan, user, "127.0.0.1")


def test_name_and_upstream_feed_the_next(plan: Plan) -> None:
    first = Says(Explained(("add the domain",), user="joe@example.com"))
    second = Says(Explained(("by domain",), upstream="other"))
    third = Says(Explained(("nothing",)))
    steps = walked(chained(plan, first, second, Deaf(PluginConfig()), third), "joe")
    assert steps == (
        StepView("p0", ("add the domain",), "joe@example.com", "main"),
        StepView("p1", ("by domain",), "joe@example.com", "other"),
        StepView("p3", ("nothing",), "joe@example.com", "other"),
    )
    assert first.asked == [("joe", "joe", None)]
    assert second.asked == [("joe@example.com", "joe", None)]
    assert third.asked == [("joe@example.com", "joe", "other")]


def test_when_is_judged_by_the_name_the_client_gave(plan: Plan) -> None:
    rename = Says(Explained(("rename",), user="joe@example.org"))
    old, new = Says(Explained(("old",))), Says(Explained(("new",)))
    when = {1: condition(domains=["example.com"]), 2: condition(domains=["example.org"])}
    explanation = explained(chained(plan, rename, old, new, when=when))
    assert [step.plugin for step in explanation.listeners[0].steps] == ["p0", "p1"]
    assert [skipped.name for skipped in explanation.listeners[0].skipped] == ["p2"]
    assert new.asked == []


def test_each_listener_has_its_own_steps(plan: Plan) -> None:
    router = Says(Explained(("inside",), upstream="other"))
    explanation = explained(chained(plan, router, when={0: condition(listeners=["inside"])}))
    assert [listener.upstream for listener in explanation.listeners] == ["main", "other"]
    assert [upstream.name for upstream in explanation.upstreams] == ["main", "other"]


def test_a_plugin_that_raises_is_contained_and_shown_without_its_words(plan: Plan) -> None:
    after = Says(Explained(("after",)))
    chain = chained(plan, Says(RuntimeError("hunter2")), Says(SystemExit("hunter2")), Lying(PluginConfig()), after)
    steps = walked(chain)
    assert [step.plugin for step in steps] == ["p0", "p1", "p2", "p3"]
    assert steps[0].failed.startswith("RuntimeError: raised at ")
    assert "test_steps.py:" in steps[0].failed
    assert steps[1].failed.startswith("SystemExit: raised at ")
    assert steps[2].failed == (
        "TypeError: Explained takes steps (a tuple of str), user, upstream, key (str or None), refused (bool), "
        "groups (a tuple of str, or None)"
    )
    assert after.asked == [("joe@example.com", "joe@example.com", None)]
    explanation = explained(chain)
    for shown in (render(explanation), json.dumps(explanation.as_dict())):
        assert "cannot be explained" in shown or '"failed": "RuntimeError' in shown
        assert "hunter2" not in shown
    assert explanation.upstreams[0].routed_by == ("p0", "p1", "p2")


@pytest.mark.parametrize(("kind", "said"), [("str", "text"), ("int", 5)])
def test_a_wrong_answer_is_shown(plan: Plan, kind: str, said: object) -> None:
    steps = walked(chained(plan, Says(said)))
    assert steps[0].failed == f"explain returned {kind}; allowed: Explained or None"


def test_a_coroutine_is_closed_and_shown(plan: Plan) -> None:
    async def never() -> None: ...

    steps = walked(chained(plan, Says(never())))
    assert steps[0].failed == "explain returned coroutine; allowed: Explained or None"


def test_an_unknown_upstream_refuses_as_a_session_does(plan: Plan) -> None:
    after = Says(Explained(("after",)))
    explanation = explained(chained(plan, Says(Explained(("route",), upstream="nowhere")), after))
    (step,) = explanation.listeners[0].steps
    assert (step.failed, step.refused) == ("routes to 'nowhere', which is not configured", True)
    assert (explanation.listeners[0].login, explanation.listeners[0].upstream) == (None, None)
    assert explanation.upstreams == ()
    assert after.asked == []
    assert "\n  goes as  refused\n" in render(explanation)


def test_a_refusal_ends_the_walk(plan: Plan) -> None:
    after = Says(Explained(("after",)))
    steps = walked(chained(plan, Says(Explained(("no such user",), refused=True)), after))
    assert [(step.plugin, step.refused) for step in steps] == [("p0", True)]
    assert after.asked == []


def test_a_plugin_that_does_not_explain_itself_is_named(plan: Plan) -> None:
    explanation = explained(chained(plan, Silent(PluginConfig()), Deaf(PluginConfig())))
    assert explanation.listeners[0].steps == (StepView("p0", (), "joe@example.com", "main", silent=True),)
    assert explanation.upstreams[0].routed_by == ("p0",)
    assert "p0  does not explain itself: it may refuse, rename or route\n" in render(explanation)


def test_a_plugin_that_leaves_logins_out_is_left_out(plan: Plan) -> None:
    plugin = Silent(PluginConfig())
    plugin.skips = frozenset({"on_login"})
    assert explained(chained(plan, plugin)).listeners[0].steps == ()


def test_a_plugin_with_nothing_to_say_is_left_out(plan: Plan) -> None:
    explanation = explained(chained(plan, Says(None)))
    assert explanation.listeners[0].steps == ()
    assert (explanation.listeners[0].login, explanation.listeners[0].upstream) == ("joe@example.com", "main")
    assert "\n  goes as  joe@example.com at main\n" in render(explanation)


def test_the_text_of_the_steps(plan: Plan) -> None:
    plugins = [
        Says(Explained(("lower-case: joe", "add_domain: joe@example.com"), user="joe@example.com")),
        Says(Explained((), upstream="other")),
    ]
    shown = render(explained(chained(plan, *plugins), "JOE"))
    assert shown.count(
        "  steps\n"
        "    p0  lower-case: joe\n"
        "        add_domain: joe@example.com\n"
        "        = joe@example.com at main\n"
        "    p1  = joe@example.com at other\n"
        "  goes as  joe@example.com at other\n"
    ) == 2


def test_a_name_that_is_no_utf_8_goes_on_as_it_is_and_is_shown_as_escapes(plan: Plan) -> None:
    same = Says(Explained(("say \x1b[2J\udcfe\n",)))
    (step,) = walked(chained(plan, same), "joe\udcff")
    assert same.asked[0][0] == "joe\udcff"
    assert step.user == "joe\\xff"
    assert step.steps == ("say \\x1b[2J\\xfe\\n",)
    assert text("\ud800") == "\\ud800"


class Asks(Plugin[PluginConfig]):
    """Keeps the session it is asked about."""

    def __init__(self, groups: tuple[str, ...] | None = None) -> None:
        super().__init__(PluginConfig())
        self.groups = groups
        self.seen: list[tuple[float, str | None, frozenset[str]]] = []

    def explain(self, session: SessionView, user: str) -> Explained | None:
        self.seen.append((session.began, session.mechanism, session.groups))
        return Explained(("looked",), groups=self.groups)


def test_what_is_assumed_is_what_plugins_see_until_one_says_other_groups(plan: Plan) -> None:
    one, two, three = Asks(), Asks(("dev", "ops")), Asks()
    assumed = Assumed(1_767_268_800.0, "XOAUTH2", ("staff",))
    explanation = explain(chained(plan, one, two, three), "joe", "127.0.0.1", "pop3s", None, assumed)
    given = (1_767_268_800.0, "XOAUTH2")
    assert [plugin.seen for plugin in (one, two, three)] == [
        [(*given, frozenset({"staff"}))],
        [(*given, frozenset({"staff"}))],
        [(*given, frozenset({"dev", "ops"}))],
    ]
    assert [step.groups for step in explanation.listeners[0].steps] == [("staff",), ("dev", "ops"), ("dev", "ops")]
    shown = render(explanation)
    assert shown.startswith("joe from 127.0.0.1\nat 2026-01-01T12:00:00+00:00\nlogs in by XOAUTH2\nin groups staff\n")
    assert "= joe at main, groups dev, ops\n" in shown
    told = json.loads(json.dumps(explanation.as_dict()))
    assert (told["at"], told["mechanism"], told["groups"]) == ("2026-01-01T12:00:00+00:00", "XOAUTH2", ["staff"])
    assert told["listeners"][0]["steps"][1]["groups"] == ["dev", "ops"]


def test_a_plugin_may_say_that_there_are_no_groups(plan: Plan) -> None:
    last = Asks()
    explain(chained(plan, Asks(()), last), "joe", "127.0.0.1", "pop3s", None, Assumed(groups=("staff",)))
    assert last.seen == [(0.0, None, frozenset())]

"""What clients are offered: what can succeed, by the rule at the head of core/offer.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from popproxy.api import Plugin
from popproxy.api.plugin import MECHANISMS
from popproxy.core.conditions import condition
from popproxy.core.login import Knowledge
from popproxy.core.offer import SASL, offered
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from tests.core.rig import Rig, plugin

PASSWORDS = {"USER", "PLAIN", "LOGIN"}
TOKENS = {"OAUTHBEARER", "XOAUTH2"}


def makes(*names: str, **hooks: Any) -> Plugin[Any]:
    made = plugin(**hooks)
    made.mechanisms = frozenset(names)
    return made


def nothing(*_: object) -> None: ...


@pytest.mark.parametrize(
    ("known", "policy", "names"),
    [
        (None, {}, PASSWORDS),
        ([b"TOP"], {}, PASSWORDS),
        ([b"USER", b"SASL XOAUTH2"], {}, PASSWORDS | TOKENS),
        ([b"SASL SCRAM-SHA-256"], {}, PASSWORDS),
        ([b"SASL OAUTHBEARER"], {}, TOKENS),
        ([b"SASL CRAM-MD5 XOAUTH2"], {}, TOKENS),
        (None, {"mechanism": "xoauth2"}, TOKENS),
        ([b"USER", b"SASL PLAIN"], {"mechanism": "oauthbearer"}, TOKENS),
        ([b"SASL XOAUTH2"], {"mechanism": "plain"}, PASSWORDS),
        ([b"SASL XOAUTH2"], {"mechanism": "scram-sha-256"}, PASSWORDS),
    ],
)
def test_by_what_the_default_upstream_takes(known: Any, policy: Any, names: set[str]) -> None:
    assert offered(Rig(known=known, policy=UpstreamPolicy("main", "off", **policy)).s) == names


def test_a_plugin_that_looks_at_logins_may_route_them_to_any_upstream() -> None:
    tokens, any_ = UpstreamPolicy("main", "off", mechanism="xoauth2"), UpstreamPolicy("other", "off")
    for first, second in ((tokens, any_), (any_, tokens)):
        upstreams = {"main": replace(first, name="main"), "other": replace(second, name="other")}
        assert offered(Rig(plugin(on_login=nothing), upstreams=upstreams, known=None).s) == PASSWORDS | TOKENS
        alone = TOKENS if first is tokens else PASSWORDS
        assert offered(Rig(upstreams=upstreams, known=None).s) == alone
        assert offered(Rig(plugin(on_command=nothing), upstreams=upstreams, known=None).s) == alone
        # Whether it works for this user nobody knows yet.
        some = Rig(plugin(on_login=nothing), upstreams=upstreams, known=None, when=condition(domains=["example.com"]))
        assert offered(some.s) == PASSWORDS | TOKENS


def test_a_plugin_may_say_that_it_turns_passwords_into_something_else() -> None:
    assert offered(Rig(plugin(on_login=nothing), known=[b"SASL XOAUTH2"]).s) == TOKENS
    assert offered(Rig(makes("USER", on_login=nothing), known=[b"SASL XOAUTH2"]).s) == PASSWORDS | TOKENS


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_plugin_makes_possible_what_it_names(name: str) -> None:
    assert offered(Rig(makes(name, on_verifier=nothing)).s) == PASSWORDS | {name}
    assert name in ("APOP", "USER") or name in SASL


def test_scram_needs_somebody_who_is_asked_for_a_verifier() -> None:
    assert offered(Rig(makes("SCRAM-SHA-256", "CRAM-MD5")).s) == PASSWORDS | {"CRAM-MD5"}
    assert "SCRAM-SHA-256" in offered(Rig(makes("SCRAM-SHA-256"), plugin(on_verifier=nothing)).s)


def test_a_plugin_for_some_users_makes_nothing_possible_before_the_user_is_known() -> None:
    assert offered(Rig(makes("CRAM-MD5"), when=condition(users=["joe"])).s) == PASSWORDS
    assert offered(Rig(makes("CRAM-MD5"), when=condition(listeners=["pop3"])).s) == PASSWORDS | {"CRAM-MD5"}


@pytest.mark.parametrize(
    ("mechanisms", "says"),
    [
        ("CRAM-MD5", "no frozenset of names but str"),
        (["CRAM-MD5"], "no frozenset of names but list"),
        (None, "no frozenset of names but NoneType"),
        (frozenset({"CRAM-MD5", "NTLM"}), "names what there is not"),
        (frozenset({5}), "names what there is not"),
    ],
)
def test_promise_7_a_lie_about_mechanisms_makes_nothing_possible(mechanisms: Any, says: str) -> None:
    liar = plugin()
    liar.mechanisms = mechanisms
    rig = Rig(liar, makes("APOP"))
    assert offered(rig.s) == PASSWORDS | {"APOP"}
    rig.drain()
    assert rig.meter.errors == [("p1", "mechanisms", "fail_open")]
    assert says in rig.notes("plugin_error")[0]["detail"]


def test_promise_7_mechanisms_that_raise() -> None:
    class Raises(Plugin[Any]):
        """Cannot even say what it is."""

        @property
        def mechanisms(self) -> frozenset[str]:  # type: ignore[override]
            raise ValueError("no")

    rig = Rig(Raises(None))
    assert offered(rig.s) == PASSWORDS
    assert rig.meter.errors == [("p1", "mechanisms", "fail_open")]


def test_what_an_upstream_says_later_counts_at_once() -> None:
    rig = Rig(known=None)
    knowledge = rig.knowledge
    assert offered(rig.s) == PASSWORDS
    knowledge.learn("main", Capabilities.parse([b"SASL XOAUTH2"]), 1000.0)
    assert offered(rig.s) == TOKENS
    knowledge.learn("main", Capabilities.parse([b"USER", b"SASL XOAUTH2"]), 1001.0)
    assert offered(rig.s) == PASSWORDS | TOKENS
    knowledge.learn("other", Capabilities.parse([b"SASL XOAUTH2"]), 1002.0)
    assert offered(rig.s) == PASSWORDS | TOKENS
    knowledge.forget("main")
    assert offered(rig.s) == PASSWORDS


def test_sessions_of_other_plans_with_the_same_upstreams_are_offered_their_own() -> None:
    first = Rig(known=[b"SASL XOAUTH2"])
    assert offered(first.s) == TOKENS
    for other, names in (
        (Rig(policy=UpstreamPolicy("main", "off", mechanism="plain")), PASSWORDS),
        (Rig(default_upstream="other"), PASSWORDS),
        (Rig(makes("USER")), PASSWORDS | TOKENS),
    ):
        other.s.knowledge = first.knowledge
        first.knowledge.forget("other")
        assert offered(other.s) == names
        assert offered(first.s) == TOKENS


def test_what_is_forgotten_for_want_of_places_is_offered_no_more() -> None:
    rig = Rig(known=None)
    rig.s.knowledge = knowledge = Knowledge(places=1)
    knowledge.learn("main", Capabilities.parse([b"SASL XOAUTH2"]), 0.0)
    assert offered(rig.s) == TOKENS
    knowledge.learn("main a.example  ", None, 0.0)
    assert offered(rig.s) == PASSWORDS

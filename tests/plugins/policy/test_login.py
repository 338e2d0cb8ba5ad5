"""Who gets in: what is refused on the facts alone, when, with which words, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.policy import Policy, PolicyConfig

from popproxy.api import Code, ConfigNames
from tests.plugins.policy.rig import Rig
from tests.plugins.policy.test_country import made

DENY: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"login": "deny"}, {}, "Login is not allowed"),
    ({"networks": ["198.51.100.0/24"]}, {}, "Login is not allowed from here"),
    ({"hours": ["Mon-Sun 13:00-14:00"]}, {}, "Login is not allowed at this time"),
    ({"tls": True}, {}, "Login needs TLS, or a newer version of it"),
    ({"tls": "TLSv1.3"}, {"tls": "TLSv1.2"}, "Login needs TLS, or a newer version of it"),
    ({"mechanisms": ["OAUTHBEARER"]}, {}, "Login is not allowed by this mechanism"),
]
"""It is noon in UTC, a Thursday."""


@pytest.mark.parametrize(("setting", "where", "text"), DENY, ids=[str(next(iter(case[0]))) for case in DENY])
def test_refused_before_the_password_is_looked_at(setting: dict[str, Any], where: dict[str, Any], text: str) -> None:
    rig = Rig({"name": "no", "when": {"user": ["joe"]}, **setting}, timezone="UTC")
    session = rig.session(**where)
    assert rig.connect(session) is None
    refused = rig.ask(session)
    assert refused is not None
    assert (refused.text, refused.code) == (text, Code.SYS_PERM)
    assert refused.reason == f"policy rule no: {next(iter(setting))}"
    assert not refused.limited
    assert rig.counted("no", "deny") == 1
    assert rig.store.runs == 0
    assert rig.login(rig.session(**where), "ann") is None


ALLOW: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"networks": ["192.0.2.0/24"]}, {}, {}),
    ({"hours": ["Thu 11:00-13:00"]}, {}, {}),
    ({"tls": True}, {"tls": "TLSv1.2"}, {}),
    ({"tls": "TLSv1.2"}, {"tls": "TLSv1.3"}, {}),
    ({"mechanisms": ["OAUTHBEARER"]}, {}, {"mechanism": "OAUTHBEARER"}),
]


@pytest.mark.parametrize(("setting", "where", "how"), ALLOW, ids=[str(next(iter(case[0]))) for case in ALLOW])
def test_let_in(setting: dict[str, Any], where: dict[str, Any], how: dict[str, Any]) -> None:
    rig = Rig({"name": "yes", **setting}, timezone="UTC")
    session = rig.session(**where)
    assert rig.connect(session) is None
    assert rig.login(session, **how) is None
    assert rig.counted("yes", "deny") == 0


def test_the_words_of_the_rule() -> None:
    rig = Rig({"name": "no", "login": "deny", "text": "POP is over, use IMAP", "code": "SYS/TEMP"})
    refused = rig.ask(rig.session())
    assert refused is not None
    assert (refused.text, refused.code) == ("POP is over, use IMAP", Code.SYS_TEMP)


def test_refused_at_once_when_no_login_could_change_it() -> None:
    rig = Rig({"name": "office", "networks": ["198.51.100.0/24"]})
    refused = rig.connect(rig.session())
    assert refused is not None
    assert refused.reason == "policy rule office: networks"
    assert rig.connect(rig.session("198.51.100.7")) is None
    assert rig.counted("office", "deny") == 1


def test_not_refused_at_once_while_a_login_could_change_it() -> None:
    rig = Rig(
        {"name": "boss", "when": {"user": ["boss"]}, "login": "allow", "networks": False},
        {"name": "office", "networks": ["198.51.100.0/24"]},
    )
    session = rig.session()
    assert rig.connect(session) is None
    assert rig.ask(session, "joe") is not None
    assert rig.login(session, "boss") is None
    assert rig.counted("boss", "allow") == 1


def test_tls_may_still_begin() -> None:
    rig = Rig({"name": "tls", "tls": True})
    assert rig.connect(rig.session()) is None
    assert rig.ask(rig.session()) is not None


def test_groups_of_a_plugin_behind_this_one() -> None:
    rig = Rig({"name": "students", "when": {"group": ["students"]}, "login": "deny"})
    session = rig.session()
    assert rig.ask(session) is None
    refused = rig.prove(session, groups=["students"])
    assert refused is not None
    assert refused.reason == "policy rule students: login"
    assert rig.login(session, groups=["staff"]) is None


def test_rules_about_nothing_but_logins_have_no_hook_behind_it() -> None:
    rig = Rig({"name": "no", "when": {"user": ["joe"]}, "login": "deny"})
    assert {"on_login_result", "on_command", "on_maildrop", "on_reply", "pace"} <= rig.policy.skips
    assert "on_connect" in rig.policy.skips


def test_countries_of_the_database(tmp_path: Path) -> None:
    database = made(tmp_path / "countries.mmdb")
    rig = Rig({"name": "home", "countries": ["DE"], "text": "Only from home"}, countries=str(database))
    assert rig.connect(rig.session("192.0.2.1")) is None
    refused = rig.connect(rig.session("192.0.2.200"))
    assert refused is not None
    assert (refused.text, refused.reason) == ("Only from home", "policy rule home: countries")
    assert rig.connect(rig.session("203.0.113.1")) is not None


def test_a_database_that_is_none_is_found_by_check(tmp_path: Path) -> None:
    path = tmp_path / "countries.mmdb"
    path.write_bytes(b"nothing")
    rules = [{"name": "home", "countries": ["DE"]}]
    policy = Policy(PolicyConfig.model_validate({"rules": rules, "countries": str(path)}))
    assert [problem.key for problem in policy.check(ConfigNames())] == [("countries",)]


def test_explain_says_what_the_login_would_meet() -> None:
    rig = Rig(
        {"name": "boss", "when": {"user": ["boss"]}, "mechanisms": ["OAUTHBEARER"]},
        {"name": "office", "hours": ["Thu 11:00-13:00"], "text": "At lunch time only"},
        timezone="UTC",
    )
    session = rig.session()
    within = rig.policy.explain(session, "joe")
    assert not within.refused
    assert "hours: Thu 11:00-13:00 UTC, by rule 2 (office)" in within.steps
    session.began += 2 * 3600
    late = rig.policy.explain(session, "joe")
    assert late.refused
    assert late.steps[-1] == "refused by hours of rule 2 (office): At lunch time only"
    session.began -= 2 * 3600
    assert not rig.policy.explain(session, "boss").refused
    session.mechanism = "PLAIN"
    assert rig.policy.explain(session, "boss").refused
    assert rig.store.runs == 0

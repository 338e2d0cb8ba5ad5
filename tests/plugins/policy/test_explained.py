"""What is said of a login: which rule decides each thing, and why the others do not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from popproxy_plugins.policy.config import PolicyConfig
from popproxy_plugins.policy.decide import Rules, decide
from popproxy_plugins.policy.explained import SHOWN, steps_of
from popproxy_plugins.policy.match import Facts, Look

FRIDAY = datetime(2026, 11, 27, 7, 30, tzinfo=UTC).timestamp()
ANN = Facts(
    "Ann@a.example", frozenset({"looked-up"}), ip_address("192.0.2.1"), "pop3s", "TLSv1.3", "PLAIN", FRIDAY
)


def told(facts: Facts, *rules: dict[str, Any], **options: Any) -> list[str]:
    config = PolicyConfig.model_validate({"rules": rules, **options})
    compiled = Rules(config)
    return list(steps_of(config, compiled, decide(compiled, facts), Look(facts, compiled.groups)))


def test_each_thing_has_its_rule() -> None:
    lines = told(
        ANN,
        {"name": "office", "when": {"domain": ["a.example"]}, "networks": ["192.0.2.0/24"], "rate": False},
        {"name": "all", "rate": "1MiB", "dele": "keep", "logins": "100/day", "login_delay": "5m", "tls": True},
        {"name": "week", "hours": ["Mon-Fri 08:00-18:00"], "commands": {"deny": ["TOP", "LAST"]}, "max_octets": "1kB"},
        {"name": "late", "leave_on_server": {"days": 3}, "mechanisms": ["XOAUTH2", "PLAIN"], "hide_older": 90},
        timezone="Europe/Berlin",
        groups={"staff": ["*@A.example"]},
    )
    assert lines == [
        "merge: each thing is set by the first rule that applies and sets it",
        "at Fri 2026-11-27 08:30 Europe/Berlin, groups looked-up staff, tls TLSv1.3, mechanism PLAIN",
        "networks: 192.0.2.0/24, by rule 1 (office)",
        "hours: Mon-Fri 08:00-18:00 Europe/Berlin, by rule 3 (week)",
        "tls: any, by rule 2 (all)",
        "mechanisms: PLAIN, XOAUTH2, by rule 4 (late)",
        "commands: all but TOP, LAST, by rule 3 (week)",
        "dele: keep, by rule 2 (all)",
        "leave_on_server: 3 days; before that DELE is refused, by rule 4 (late)",
        "login_delay: 300 seconds, by rule 2 (all)",
        "max_octets: 1000 octets, by rule 3 (week)",
        "hide_older: 90 days, by rule 4 (late)",
        "rate: not restricted, by rule 1 (office)",
        "logins: 100 in 86400 seconds, by rule 2 (all)",
    ]


def test_why_a_rule_does_not_apply() -> None:
    lines = told(
        replace(ANN, mechanism=None),
        {"name": "far", "when": {"network": ["198.51.100.0/24"], "listener": ["pop3s", "pop3"]}, "rate": 1},
        {"name": "but", "unless": {"listener": ["pop3s"], "tls": "TLSv1.2"}, "rate": 2},
        {"name": "old", "when": {"mechanism": ["USER"]}, "rate": 3},
        {"name": "other", "when": {"user": ["bob"]}, "rate": 4},
    )
    assert lines[1:] == [
        "groups looked-up, tls TLSv1.3, mechanism not known (--mechanism)",
        "no rule applies",
        "rule 1 (far) does not apply: when.network",
        "rule 2 (but) does not apply: unless.listener, unless.tls",
        "rule 3 (old) may apply, not known: when.mechanism",
        "1 rule is for other users, domains or groups",
    ]


def test_first_says_which_rule_came_first() -> None:
    rules = ({"name": "boss", "when": {"user": ["ann@*"]}}, {"name": "all", "login": "deny"})
    assert told(ANN, *rules, match="first")[2:] == ["rule 2 (all) does not count: rule 1 (boss) came first"]
    assert told(replace(ANN, user="eve"), *rules, match="first")[2:] == [
        "login: deny, by rule 2 (all)",
        "rule 1 (boss) does not apply: when.user",
    ]


def test_what_is_audited_is_said_to_be() -> None:
    lines = told(ANN, {"name": "try", "login": "deny", "mode": "audit"}, {"name": "real", "dele": "keep"})
    assert lines[2:] == ["dele: keep, by rule 2 (real)", "would be login: deny, by rule 1 (try); audited only"]


def test_a_thousand_rules_stay_short() -> None:
    many = [{"name": f"n{n}", "when": {"network": [f"10.0.{n}.0/24"]}, "rate": 1} for n in range(SHOWN + 7)]
    others = [{"name": f"u{n}", "when": {"user": [f"u{n}"]}, "rate": 1} for n in range(900)]
    lines = told(ANN, *many, *others)
    assert lines[-2:] == ["rules that do not apply, not shown: 7", "900 rules are for other users, domains or groups"]
    assert len(lines) == 3 + SHOWN + 2

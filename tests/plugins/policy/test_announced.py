"""What CAPA says is what will be: EXPIRE, LOGIN-DELAY, commands and mechanisms (RFC 2449 sections 6.5 and 6.7)."""

from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Capabilities, SessionView
from popproxy.api.plugin import subscribes
from tests.plugins.policy.rig import Rig

THEIRS = ["TOP", "UIDL", "USER", "SASL PLAIN LOGIN OAUTHBEARER", "STLS"]


def shown(rig: Rig, session: SessionView, *more: str) -> list[str]:
    """The capabilities that a client reads."""
    given = Capabilities.parse(line.encode() for line in (*THEIRS, *more))
    if not subscribes(rig.policy, "on_capabilities"):
        return [line.decode() for line in given.lines()]
    said = rig.policy.on_capabilities(session, given)
    return [line.decode() for line in (given if said is None else said).lines()]


def one(lines: list[str], name: str) -> str | None:
    """The line of this capability."""
    return next((line for line in lines if line.split()[0] == name), None)


EXPIRE: list[tuple[list[dict[str, Any]], str, str | None, str | None]] = [
    ([{"expire": 30}], "", "EXPIRE 30", "EXPIRE 30"),
    ([{"expire": "NEVER"}], "", "EXPIRE NEVER", "EXPIRE NEVER"),
    ([{"expire": 30}], "EXPIRE NEVER", "EXPIRE 30", "EXPIRE 30"),
    ([{"expire": 30}], "EXPIRE 7", "EXPIRE 7", "EXPIRE 7"),
    ([{"expire": "NEVER"}], "EXPIRE 0", "EXPIRE 0", "EXPIRE 0"),
    ([{"expire": "NEVER"}], "EXPIRE 5 USER", "EXPIRE 5 USER", "EXPIRE 5 USER"),
    ([{"hide_older": 60}], "", "EXPIRE 60", "EXPIRE 60"),
    ([{"hide_older": 60, "expire": "NEVER"}], "", "EXPIRE 60", "EXPIRE 60"),
    ([{"expire": 30, "when": {"user": ["ann"]}}], "", "EXPIRE 30 USER", None),
    ([{"expire": 30, "when": {"user": ["ann"]}}], "EXPIRE NEVER", "EXPIRE 30 USER", "EXPIRE NEVER"),
    ([{"expire": 30, "when": {"user": ["joe"]}}, {"expire": 7}], "", "EXPIRE 7 USER", "EXPIRE 30"),
    ([{"expire": 30, "when": {"user": ["joe"]}}, {"expire": 30}], "", "EXPIRE 30", "EXPIRE 30"),
    ([{"expire": 30, "when": {"listener": ["other"]}}], "EXPIRE 90", "EXPIRE 90", "EXPIRE 90"),
    ([{"expire": 30, "mode": "audit"}], "EXPIRE 90", "EXPIRE 90", "EXPIRE 90"),
    ([{"login_delay": "5m"}], "EXPIRE 9 USER", "EXPIRE 9 USER", "EXPIRE 9 USER"),
]


@pytest.mark.parametrize(("rules", "theirs", "before", "behind"), EXPIRE)
def test_expire_is_the_least(
    rules: list[dict[str, Any]], theirs: str, before: str | None, behind: str | None
) -> None:
    rig = Rig(*({"name": f"r{number}", **rule} for number, rule in enumerate(rules)))
    more = [theirs] if theirs else []
    assert one(shown(rig, rig.session(), *more), "EXPIRE") == before
    assert one(shown(rig, rig.enter(), *more), "EXPIRE") == behind


DELAY: list[tuple[list[dict[str, Any]], str, str | None, str | None]] = [
    ([{"login_delay": "5m"}], "", "LOGIN-DELAY 300", "LOGIN-DELAY 300"),
    ([{"login_delay": "1.5s"}], "", "LOGIN-DELAY 2", "LOGIN-DELAY 2"),
    ([{"login_delay": "5m"}], "LOGIN-DELAY 900", "LOGIN-DELAY 900", "LOGIN-DELAY 900"),
    ([{"login_delay": "5m"}], "LOGIN-DELAY 60", "LOGIN-DELAY 300", "LOGIN-DELAY 300"),
    ([{"login_delay": "5m", "when": {"user": ["ann"]}}], "", "LOGIN-DELAY 300 USER", None),
    ([{"login_delay": "5m", "when": {"user": ["joe"]}}], "LOGIN-DELAY 60", "LOGIN-DELAY 300 USER", "LOGIN-DELAY 300"),
    ([{"login_delay": 9, "when": {"user": ["joe"]}}, {"login_delay": 90}], "", "LOGIN-DELAY 90 USER", "LOGIN-DELAY 9"),
    ([{"login_delay": False, "when": {"user": ["joe"]}}, {"login_delay": "1h"}], "", "LOGIN-DELAY 3600 USER", None),
    ([{"login_delay": "5m", "mode": "audit"}], "", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "theirs", "before", "behind"), DELAY)
def test_login_delay_is_the_largest(
    rules: list[dict[str, Any]], theirs: str, before: str | None, behind: str | None
) -> None:
    rig = Rig(*({"name": f"r{number}", **rule} for number, rule in enumerate(rules)))
    more = [theirs] if theirs else []
    assert one(shown(rig, rig.session(), *more), "LOGIN-DELAY") == before
    assert one(shown(rig, rig.enter(), *more), "LOGIN-DELAY") == behind


def test_denied_commands_are_not_announced() -> None:
    everybody = Rig({"name": "no", "commands": {"deny": ["TOP"]}})
    assert one(shown(everybody, everybody.session()), "TOP") is None
    assert one(shown(everybody, everybody.session()), "UIDL") == "UIDL"
    assert one(shown(everybody, everybody.enter()), "TOP") is None
    some = Rig({"name": "no", "when": {"user": ["joe"]}, "commands": {"allow": ["RETR"]}})
    assert one(shown(some, some.session()), "TOP") == "TOP"
    assert one(shown(some, some.enter()), "TOP") is None
    assert one(shown(some, some.enter()), "UIDL") is None
    assert one(shown(some, some.enter("ann")), "UIDL") == "UIDL"


def test_mechanisms_that_are_denied_to_the_user_are_not_announced_behind_the_login() -> None:
    rig = Rig({"name": "tokens", "when": {"user": ["joe"]}, "mechanisms": ["OAUTHBEARER"]})
    lines = shown(rig, rig.enter("joe", mechanism="OAUTHBEARER"))
    assert (one(lines, "USER"), one(lines, "SASL")) == (None, "SASL OAUTHBEARER")
    assert one(shown(rig, rig.enter("ann")), "SASL") == "SASL PLAIN LOGIN OAUTHBEARER"


def test_mechanisms_that_are_denied_to_everybody_are_not_announced() -> None:
    rig = Rig({"name": "tokens", "mechanisms": ["OAUTHBEARER"]})
    lines = shown(rig, rig.session())
    assert (one(lines, "USER"), one(lines, "SASL")) == (None, "SASL OAUTHBEARER")
    some = Rig({"name": "tokens", "when": {"user": ["joe"]}, "mechanisms": ["OAUTHBEARER"]})
    assert one(shown(some, some.session()), "SASL") == "SASL PLAIN LOGIN OAUTHBEARER"
    exempt = Rig(
        {"name": "joe", "when": {"user": ["joe"]}, "mechanisms": ["PLAIN", "OAUTHBEARER"]},
        {"name": "tokens", "mechanisms": ["OAUTHBEARER"]},
    )
    assert one(shown(exempt, exempt.session()), "SASL") == "SASL PLAIN LOGIN OAUTHBEARER"


def test_where_tls_is_needed_a_clear_leg_has_no_logins() -> None:
    rig = Rig({"name": "tls", "tls": True})
    lines = shown(rig, rig.session())
    assert (one(lines, "USER"), one(lines, "SASL"), one(lines, "STLS")) == (None, None, "STLS")
    assert one(shown(rig, rig.session(tls="TLSv1.3")), "USER") == "USER"


def test_a_rule_by_mechanism() -> None:
    rig = Rig({"name": "plain", "when": {"mechanism": ["PLAIN", "LOGIN", "USER"]}, "tls": True})
    lines = shown(rig, rig.session())
    assert (one(lines, "USER"), one(lines, "SASL")) == (None, "SASL OAUTHBEARER")


def test_in_audit_mode_nothing_is_announced_otherwise() -> None:
    rig = Rig(
        {"name": "a", "mechanisms": ["OAUTHBEARER"], "commands": {"deny": ["TOP"]}, "expire": 1, "login_delay": "1h"},
        mode="audit",
    )
    assert shown(rig, rig.session()) == THEIRS
    assert shown(rig, rig.enter()) == THEIRS


def test_nobody_who_says_nothing_of_it_is_asked() -> None:
    assert "on_capabilities" in Rig({"name": "few", "sessions_per_user": 1}).policy.skips

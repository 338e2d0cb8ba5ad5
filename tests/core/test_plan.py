"""What a session is born with cannot be changed, and stands on sane ground."""

from __future__ import annotations

import dataclasses

import pytest

from popproxy.core.effects import Note, Returned
from popproxy.core.limits import BURST, KEPT, Limits, Timeouts
from popproxy.core.plan import SessionPlan, UpstreamPolicy


def test_credentials_are_safe_unless_somebody_says_otherwise() -> None:
    plan = SessionPlan("pop3", {"main": UpstreamPolicy("main")}, "main")
    assert plan.auth_before_tls is False
    assert plan.upstreams["main"].tls == "starttls"
    assert (plan.bare_lf, plan.opened, plan.verbs, plan.capabilities) == (False, frozenset(), {}, frozenset())
    assert plan.pipelining


@pytest.mark.parametrize("value", [Limits(), Timeouts(), UpstreamPolicy("a"), SessionPlan("a", {}, "b")])
def test_nothing_can_be_changed(value: object) -> None:
    assert dataclasses.is_dataclass(value)
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 1)


def test_budgets_are_what_the_rfcs_ask_for() -> None:
    limits, times = Limits(), Timeouts()
    assert limits.line >= 255, "RFC 2449 section 4"
    assert limits.auth_line >= 12288, "RFC 4752 and others: 16 KiB tokens exist"
    assert limits.reply >= 512, "RFC 2449 section 4"
    assert times.idle >= 600, "RFC 1939 section 3"
    assert times.update >= times.command
    assert 0 < BURST < KEPT


def test_plain_effects() -> None:
    assert Returned() == Returned(None, None)
    assert Note("info", "x").fields == {}

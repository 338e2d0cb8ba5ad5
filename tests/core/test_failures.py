"""The table of faults: complete, and what it means for a client."""

from __future__ import annotations

import pytest

from popproxy.api import Code
from popproxy.core.failures import RULES, Failure, Kind
from popproxy.core.phases import REASONS


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_promise_8_trouble_is_never_the_clients_fault(kind: Kind) -> None:
    failure = Failure(kind, "10.0.0.1: secret plan")
    assert failure.rule is RULES[kind]
    assert failure.rule.ends in REASONS
    refusal = failure.refusal()
    assert refusal.code is (Code.SYS_PERM if kind is Kind.CREDENTIALS else Code.SYS_TEMP)
    assert "secret" not in refusal.text
    assert refusal.reason == failure.detail


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.RESET, Kind.PROTOCOL, Kind.UNASKED, Kind.COMMAND_TIMEOUT])
def test_what_may_have_had_an_effect_is_not_tried_again(kind: Kind) -> None:
    assert not RULES[kind].retry


@pytest.mark.parametrize("kind", [Kind.DNS, Kind.REFUSED, Kind.CONNECT_TIMEOUT, Kind.GREETING, Kind.NO_STLS, Kind.TLS])
def test_what_had_no_effect_may_be_tried_elsewhere(kind: Kind) -> None:
    assert RULES[kind].retry


@pytest.mark.parametrize("kind", Kind)
def test_what_may_be_tried_anyway_may_be_tried_early(kind: Kind) -> None:
    rule = RULES[kind]
    assert rule.early or not rule.retry


@pytest.mark.parametrize("kind", [Kind.CREDENTIALS, Kind.BUSY, Kind.DOWN, Kind.INTERNAL, Kind.COMMAND_TIMEOUT])
def test_what_is_not_the_servers_fault_does_not_count_against_it(kind: Kind) -> None:
    assert not RULES[kind].health and not RULES[kind].early

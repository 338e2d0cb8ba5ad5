"""An attack on a fleet, small: ``python -m tests.bench.spray`` is the large one, whose figures are in the docs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from popproxy_plugins.brute_force import BruteForceConfig

from tests.bench.spray import KINDS, NEWCOMERS, Report, Scale, Spray, text
from tests.plugins.driving import drive

SMALL = Scale(users=200, targets=10, attackers=100, hours=1.0, pause=60.0)


@pytest.fixture(scope="module")
def report() -> Report:
    report = drive(Spray(SMALL).run())
    assert report is not None
    return report


def test_no_real_user_is_refused(report: Report) -> None:
    assert report.refused == 0
    for kind in KINDS:
        assert report.users[kind].logins > 0, kind


def test_the_attack_does_not_get_through(report: Report) -> None:
    assert report.tried == 100 * 60
    # Three failures of each address, and what was under way before the users were known to be attacked.
    assert 100 <= report.through <= 100 * 3 + 10 * 20


def test_who_is_at_home_does_not_even_wait(report: Report) -> None:
    assert not report.users["at home"].held


def test_newcomers_behind_an_attacker_are_the_only_ones_who_may_be_refused() -> None:
    """Nothing tells them from the attack, but that it is not after them."""
    report = drive(Spray(replace(SMALL, newcomers=100)).run())
    assert report is not None
    assert report.users[NEWCOMERS].logins > 100
    assert report.refused == len(report.users[NEWCOMERS].refusals) <= 10


def test_without_limits_everything_gets_through() -> None:
    """So that it is the plugin that stops it, and not the test."""
    off = {"delay": 0, "pairs": 0, "names": 0, "passwords": 0}
    config = BruteForceConfig(address=off, network=off, user={"delay": 0, "passwords": 0})  # type: ignore[arg-type]
    scale = Scale(users=100, targets=5, attackers=20, hours=0.25)
    report = drive(Spray(scale, config).run())
    assert report is not None
    assert report.through == report.tried == 20 * 15
    assert "(100.0 %)" in text(scale, report, 1.0)

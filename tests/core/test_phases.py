"""The table of phases: every phase is there, none is a trap, and the session never leaves it (other tests)."""

from __future__ import annotations

import pytest

from popproxy.core.phases import REASONS, TRANSITIONS, Phase


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(Phase)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CLOSED])
def test_everything_may_end(phase: Phase) -> None:
    assert Phase.CLOSED in TRANSITIONS[phase]


def test_closed_is_the_end() -> None:
    assert TRANSITIONS[Phase.CLOSED] == frozenset()


def test_every_phase_can_be_reached() -> None:
    reached = {Phase.GREETING}
    while (more := reached.union(*(TRANSITIONS[phase] for phase in reached))) != reached:
        reached = more
    assert reached == set(Phase)


def test_promise_1_update_is_reached_from_transaction_only() -> None:
    assert [phase for phase in Phase if Phase.UPDATE in TRANSITIONS[phase]] == [Phase.TRANSACTION]


def test_promise_4_transaction_is_reached_by_a_login_only() -> None:
    ways = {phase for phase in Phase if Phase.TRANSACTION in TRANSITIONS[phase]}
    assert ways == {Phase.LOGGING_IN, Phase.STREAMING}


def test_words_are_unique() -> None:
    assert len(set(REASONS)) == len(REASONS)
    assert len({phase.value for phase in Phase}) == len(Phase)

"""The pace of a user, over sessions that come and go."""

from __future__ import annotations

import gc

from popproxy_plugins.policy.paces import _KEPT, Paces


def test_who_comes_again_at_once_finds_what_was_spent() -> None:
    paces = Paces()
    paces.of("ann", 100.0, 100).pace.spend(300, 0.0)
    gc.collect()
    assert paces.of("ann", 100.0, 100).pace.spend(0, 0.0) == 2.0
    assert paces.of("bob", 100.0, 100).pace.spend(0, 0.0) == 0.0


def test_what_is_kept_is_bounded_and_what_is_held_stays() -> None:
    paces = Paces()
    held = paces.of("ann", 1.0, 1)
    for number in range(3 * _KEPT):
        paces.of(f"user{number}", 1.0, 1)
    gc.collect()
    assert len(paces) == _KEPT + 1
    assert paces.of("ann", 1.0, 1) is held

"""Any octets from both peers, in any order and any pieces, with every outcome of every effect: the promises hold."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.chaos import Chaos, Tape


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_promises_1_to_7_whatever_the_peers_and_plugins_do(tape: bytes) -> None:
    Chaos(Tape(tape)).run()


def test_promises_1_to_7_in_long_sessions() -> None:
    chance = random.Random(20260101)
    for number in range(600):
        tape = chance.randbytes(chance.choice((60, 200, 600)))
        try:
            Chaos(Tape(tape)).run()
        except BaseException as error:
            raise AssertionError(f"session {number}: {tape.hex()}") from error

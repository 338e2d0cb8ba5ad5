"""The upstream's part of a login dialogue, line by line."""

from __future__ import annotations

from typing import Any

from popproxy.core.leg import Dialogue, Heard, Result, Say, StartTls
from popproxy.wire.replies import says_ok
from popproxy.wire.sasl import Derivation


def talk(dialogue: Dialogue, *answers: bytes | None) -> tuple[list[bytes | None], Result]:
    """What it says (None for StartTls), and what it comes to. An answer is a line, or lines with a listing."""
    said: list[bytes | None] = []
    given: Any = None
    rest = list(answers)
    while True:
        try:
            step = dialogue.send(given)
        except StopIteration as stop:
            assert not rest, "it ended before all answers were given"
            return said, stop.value
        if isinstance(step, Derivation):
            given = Heard(step.compute(), None)
            continue
        said.append(step.data if isinstance(step, Say) else None)
        assert rest, f"it says {step}, and nobody answers"
        answer = rest.pop(0)
        if isinstance(step, StartTls):
            given = None
            continue
        assert answer is not None
        line, *listed = answer.split(b"\n")
        given = Heard(line + b"\r\n", says_ok(line + b"\r\n"), tuple(listed))

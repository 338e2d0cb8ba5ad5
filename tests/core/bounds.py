"""What a session holds, and what it may hold at most (core/limits.py)."""

from __future__ import annotations

from typing import Any

from popproxy.core.authorization import Authorization
from popproxy.core.body import Collect, Filtered
from popproxy.core.limits import BURST, HEADER, KEPT
from popproxy.core.message import Spooled
from popproxy.core.session import Session
from popproxy.core.transaction import Transaction


def held(session: Session) -> int:
    """Octets of peers that stand in the session now, without a spool's."""
    stage: Any = session._stage
    if isinstance(stage, Authorization):
        leg = stage._entrance._leg
        upstream = 0 if leg is None else len(leg._buffer) + sum(map(len, leg._body))
        return len(stage._buffer) + upstream
    assert isinstance(stage, Transaction)
    answers = stage.answers
    total = len(stage.rest) + sum(len(line) for line, _ in stage.backlog)
    total += len(answers.held) + len(answers.careful.hold)
    sink = answers.sink
    if isinstance(sink, Collect):
        total += sum(map(len, sink._parts))
    filtered = sink._filtered if isinstance(sink, Spooled) else sink
    if isinstance(filtered, Filtered):
        total += sum(len(part) for entry in filtered._stages for part in getattr(entry, "_kept", ()))
    return total


def most(session: Session, chunk: int, filters: int = 0, maildrop: bool = False) -> int:
    """The documented bound, for chunks of at most ``chunk`` octets."""
    limits = session.plan.limits
    client = max(limits.auth_line, limits.line * (1 + limits.pipeline)) + chunk
    upstream = limits.reply + max(limits.listing * (16 if maildrop else 1), HEADER) + chunk
    return client + upstream + filters * KEPT + BURST

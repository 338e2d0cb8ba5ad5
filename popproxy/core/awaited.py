"""Who is to move in a session, for those who look at it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mover = Literal["client", "upstream", "proxy"]


@dataclass(frozen=True, slots=True)
class Awaited:
    """Who is to move, and for how many ``seconds`` already (None: nobody noted it). The ``client`` sends nothing, or
    takes nothing; the ``upstream`` has not answered; the ``proxy`` itself dials, looks something up or looks at a
    message."""

    mover: Mover
    seconds: float | None = None

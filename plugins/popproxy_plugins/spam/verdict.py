"""What is known of a message: a score, or why there is none. Plain values, the same for every source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import isfinite

SCORE_LIMIT = 99_999.0
"""The largest score, either way, that is believed and shown."""
_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,64}\Z")
_SYMBOLS = 64


@dataclass(frozen=True, slots=True)
class Scored:
    """A verdict. ``spam`` is what its author thinks, ``required`` the author's own threshold, if it told one.

    ``symbols`` are names of the rules that hit. Raises ValueError for a score that is no finite number.
    """

    score: float
    spam: bool
    required: float | None = None
    symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for number in (self.score, self.required or 0.0):
            if not isfinite(number) or abs(number) > SCORE_LIMIT:
                raise ValueError(f"a score of {number!r}")


class Unscanned(Enum):
    """Why a message has no verdict, in the words its reader sees."""

    NOTHING = "the header holds no verdict"
    TOO_LARGE = "the message is too large"
    LATE = "the scanner did not answer in time"
    BUSY = "too many messages wait for the scanner"
    AWAY = "the scanner could not be reached"
    WRONG = "the scanner gave no valid answer"
    HEADER = "its header is too large"
    PART = "only a part was retrieved"
    FAILED = "the scan failed"


class ScanFailed(Exception):
    """There is no verdict: ``why`` may be shown, the text is for the log. Neither holds any of the message."""

    def __init__(self, why: Unscanned, detail: str) -> None:
        super().__init__(detail)
        self.why = why


def symbols_of(names: list[str]) -> tuple[str, ...]:
    """The names that look like rules of a scanner; the first 64 of them."""
    return tuple(name for name in names if _SYMBOL.match(name))[:_SYMBOLS]

"""The verdict that somebody before us wrote into the header.

Fields are read by the shape of their value, so that any name may be configured. Law: of each name the topmost
``trust`` fields count, and of all that count the worst verdict holds. Mail systems put their fields above what was
there, and most take away what a sender forged; where one does not, a forged verdict can only make things worse for
the forger.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from popproxy.api import Header
from popproxy_plugins.spam.verdict import SCORE_LIMIT, Scored, symbols_of

NAMES = (
    "X-Spam-Status",
    "X-Spam-Flag",
    "X-Spam-Score",
    "X-Spam-Level",
    "X-Spam-Bar",
    "X-Spam",
    "X-Spamd-Result",
    "X-Rspamd-Score",
    "X-Rspamd-Action",
)
"""What SpamAssassin, rspamd and Exim write."""

_READ = 998
_NUMBER = r"[-+]?\d{1,9}(?:\.\d{1,9})?"
_RESULT = re.compile(rf"[\w.-]{{1,64}}: *(true|false) *\[ *({_NUMBER}) */ *({_NUMBER}) *\]", re.ASCII | re.IGNORECASE)
_SCORE = re.compile(rf"\b(?:score|hits)= ?({_NUMBER})(?![\w.])", re.ASCII | re.IGNORECASE)
_REQUIRED = re.compile(rf"\brequired= ?({_NUMBER})(?![\w.])", re.ASCII | re.IGNORECASE)
_TESTS = re.compile(r"\btests=\[?", re.ASCII | re.IGNORECASE)
_PLAIN = re.compile(rf"({_NUMBER})(?: */ *({_NUMBER}))?(?:[ \t(;,]|\Z)", re.ASCII)
_BAR = re.compile(r"([*+/-])\1*(?:[ \t(]|\Z)")
_SPAM = re.compile(
    r"(?:yes|true|spam|reject|add header|rewrite subject|quarantine|discard)\b", re.ASCII | re.IGNORECASE
)
_HAM = re.compile(r"(?:no|false|ham|no action|greylist|soft reject)\b", re.ASCII | re.IGNORECASE)


def read(header: Header, names: Sequence[str] = NAMES, trust: int = 1, flag_score: float = 5.0) -> Scored | None:
    """The worst verdict among the first ``trust`` fields of each name; None when none can be read.

    ``flag_score`` is the score of a message that is called spam without a number; one that is called ham has 0.
    """
    there = set(header.names())
    names = [name for name in names if name.lower() in there]
    found = [verdict for name in names for value in header.get_all(name)[:trust] if (verdict := _one(value))]
    if not found:
        return None
    spam = any(flag for _, flag, _ in found)
    scored = [(score, required) for score, _, required in found if score is not None]
    score, required = max(scored, key=lambda pair: pair[0], default=(flag_score if spam else 0.0, None))
    return Scored(score, spam, required, _symbols(header, names, trust))


def _one(value: str) -> tuple[float | None, bool, float | None] | None:
    """Score, whether it is spam, and the threshold, as one value says them."""
    value = value[:_READ]
    if not value:
        return 0.0, False, None  # a level of no stars
    result = _RESULT.match(value)
    if result is not None:
        return _judged(result[2], result[3], result[1].lower() == "true")
    flag = _SPAM.match(value) is not None
    score = _SCORE.search(value)
    if score is not None:
        required = _REQUIRED.search(value)
        return _judged(score[1], None if required is None else required[1], flag)
    if flag or _HAM.match(value):
        return None, flag, None
    plain = _PLAIN.match(value)
    if plain is not None:
        return _judged(plain[1], plain[2], False)
    bar = _BAR.match(value)
    if bar is not None:
        length = len(bar[0].rstrip(" \t("))
        return {"*": 1.0, "+": 1.0, "/": 0.0, "-": -1.0}[bar[1]] * length, False, None
    return None


def _judged(score: str, required: str | None, flag: bool) -> tuple[float | None, bool, float | None] | None:
    number, needed = float(score), None if required is None else float(required)
    if max(abs(number), abs(needed or 0.0)) > SCORE_LIMIT:
        return None
    return number, flag or (needed is not None and number >= needed), needed


def _symbols(header: Header, names: Sequence[str], trust: int) -> tuple[str, ...]:
    """The names behind ``tests=``."""
    for name in names:
        for value in header.get_all(name)[:trust]:
            tests = _TESTS.search(value)
            if tests is None:
                continue
            found: list[str] = []
            for word in re.split(r"[,\s\]]+", value[tests.end() : tests.end() + _READ]):
                if "=" in word:
                    break
                found.append(word)
            return symbols_of([word for word in found if word.lower() != "none"])
    return ()

"""Regular expressions that cannot stall a session: ``bounded_pattern`` refuses those that may need too many steps.

Python's matcher backtracks, and nothing can interrupt it. So the pattern is judged when it is configured: walking its
parse tree from the end, each choice (an alternative, one more round of a repetition) is certain when the next
character decides it, and costs a factor otherwise. The product bounds the number of ways the matcher can try; a
repetition around an uncertain part makes it exponential, several uncertain repetitions polynomial.

The bound errs on the safe side: it refuses patterns that would do no harm. Possessive repetitions and atomic groups
(``++``, ``(?>...)``, Python 3.11) are certain, which is how such a pattern is written instead.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

STEPS = 1 << 17
"""Ways to try that are accepted: two repetitions over a name of 320 characters that share characters, not three."""

_CURE = (
    "let a repetition exclude what stands behind it ([^@]+@), or write it possessive (++, *+) or atomic (?>...)"
)
_ENDLESS = STEPS + 1
_PARSER: Any = importlib.import_module("re._parser")
_SPREAD = 16
"""Characters of a wide range beyond Latin-1 that stand for it."""

Chars = frozenset[str]
_NONE: Chars = frozenset()


def bounded_pattern(pattern: str, longest: int) -> re.Pattern[str]:
    """``pattern`` compiled, for ``match`` and ``fullmatch`` of texts of at most ``longest`` characters.

    Raises ValueError for what is no regular expression, with the position of the fault, and for one that may need more
    than STEPS attempts; the text says what to write instead.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            compiled = re.compile(pattern)
            attempts = _Judge(pattern, longest).attempts()
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is nested too deeply or repeats too often") from error
    if attempts > STEPS:
        raise ValueError(f"{pattern!r} may take for ever on a text of {longest} characters: {_CURE}")
    return compiled


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part of a pattern may begin with, whether it may be empty, and in how many ways it may be tried."""

    first: Chars
    empty: bool
    ways: int

    def entry(self, after: Chars) -> Chars:
        """What the text may go on with where this part stands before ``after``."""
        return self.first | after if self.empty else self.first


class _Judge:
    """One pattern. Sets of characters are represented by the sample of those that can tell its parts apart."""

    def __init__(self, pattern: str, longest: int) -> None:
        self._tree: Any = _PARSER.parse(pattern)
        self._longest = longest
        flags = self._tree.state.flags | _scoped(self._tree)
        self._any_case = bool(flags & re.IGNORECASE)
        self._ascii = bool(flags & re.ASCII)
        written = {char for code in _codes(self._tree) for char in _cases(chr(code))}
        self._sample = sorted({chr(code) for code in range(256)} | set("ſKİжЖ٣中\u2028\u3000\U0001f4e7") | written)
        self._all = frozenset(self._sample)

    def attempts(self) -> int:
        """In how many ways the whole may be tried; capped behind STEPS."""
        return self._sequence(self._tree, _NONE).ways

    def _sequence(self, items: Any, after: Chars) -> _Part:
        """``items`` one behind the other; ``after`` is what the text may go on with behind them."""
        whole = _Part(_NONE, True, 1)
        for op, value in reversed(list(items)):
            part = self._part(str(op), value, whole.entry(after))
            first = part.first | whole.first if part.empty else part.first
            whole = _Part(first, part.empty and whole.empty, _capped(part.ways * whole.ways))
        return whole

    def _part(self, op: str, value: Any, after: Chars) -> _Part:
        match op:
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                return _Part(frozenset(char for char in self._sample if self._matches(op, value, char)), False, 1)
            case "AT":
                return _Part(_NONE, True, 1)
            case "SUBPATTERN":
                return self._sequence(value[-1], after)
            case "BRANCH":
                return _branch([self._sequence(branch, after) for branch in value[1]], after)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, items = value
                return self._repeat(least, most, items, after)
            case "ATOMIC_GROUP":
                return self._sequence(value, _NONE)
            case "POSSESSIVE_REPEAT":
                body = self._sequence(value[2], _NONE)
                return _Part(body.first, body.empty or value[0] == 0, body.ways)
            case "ASSERT" | "ASSERT_NOT":
                return _Part(_NONE, True, self._sequence(value[1], _NONE).ways)
            case "GROUPREF":
                return _Part(self._all, True, 1)
            case _:
                return _Part(self._all, True, _ENDLESS)

    def _repeat(self, least: Any, most: Any, items: Any, after: Chars) -> _Part:
        most = min(int(most), max(self._longest, int(least)))
        again = self._sequence(items, _NONE).first if most > 1 else _NONE
        body = self._sequence(items, again | after)
        certain = least == most or not (body.empty or body.first & after)
        # An uncertain body is tried anew in every round.
        ways = body.ways ** min(most, STEPS.bit_length())
        return _Part(body.first, body.empty or least == 0, _capped(ways * (1 if certain else most - int(least) + 1)))

    def _matches(self, op: str, value: Any, char: str) -> bool:
        cases = _cases(char) if self._any_case else {char}
        return any(self._is(op, value, case) for case in cases)

    def _is(self, op: str, value: Any, char: str) -> bool:
        match op:
            case "LITERAL":
                return ord(char) == int(value)
            case "NOT_LITERAL":
                return ord(char) != int(value)
            case "RANGE":
                return bool(value[0] <= ord(char) <= value[1])
            case "CATEGORY":
                return self._in_category(str(value), char)
            case "IN":
                negated = bool(value) and str(value[0][0]) == "NEGATE"
                return negated != any(self._is(str(kind), inner, char) for kind, inner in value[negated:])
            case _:
                return True

    def _in_category(self, name: str, char: str) -> bool:
        if self._ascii and not char.isascii():
            return True
        kind = name.removeprefix("CATEGORY_")
        negated = kind.startswith("NOT_")
        tests = {"DIGIT": char.isdecimal(), "SPACE": char.isspace(), "WORD": char.isalnum() or char == "_"}
        return tests[kind.removeprefix("NOT_")] != negated


def _branch(branches: list[_Part], after: Chars) -> _Part:
    """Alternatives: one way when the next character decides between them, else all their ways."""
    uncertain = any(one.entry(after) & other.entry(after) for one, other in combinations(branches, 2))
    uncertain = uncertain or sum(branch.empty for branch in branches) > 1
    ways = [branch.ways for branch in branches]
    return _Part(
        frozenset[str]().union(*(branch.first for branch in branches)),
        any(branch.empty for branch in branches),
        _capped(sum(ways) if uncertain else max(ways)),
    )


def _capped(ways: int) -> int:
    return min(ways, _ENDLESS)


def _cases(char: str) -> set[str]:
    """What a pattern that ignores case may take for ``char``; single characters only, as the matcher does."""
    return {case for case in (char, char.lower(), char.upper(), char.casefold(), char.title()) if len(case) == 1}


def _inside(items: Any) -> Iterator[tuple[str, Any]]:
    """Every node of the tree."""
    for op, value in items:
        name = str(op)
        yield name, value
        match name:
            case "SUBPATTERN" | "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT" | "ASSERT" | "ASSERT_NOT":
                yield from _inside(value[-1])
            case "ATOMIC_GROUP" | "IN":
                yield from _inside(value)
            case "BRANCH":
                for branch in value[1]:
                    yield from _inside(branch)
            case _:
                pass


def _scoped(tree: Any) -> int:
    """Flags that hold in a part of the pattern, like ``(?i:...)``."""
    flags = 0
    for op, value in _inside(tree):
        if op == "SUBPATTERN":
            flags |= value[1]
    return flags


def _codes(tree: Any) -> Iterator[int]:
    """Characters that the pattern names, and some that stand for its ranges."""
    for op, value in _inside(tree):
        if op in ("LITERAL", "NOT_LITERAL"):
            yield value
        elif op == "RANGE":
            low, high = value
            yield from {low, high, *range(low, high, max(1, (high - low) // _SPREAD))}

"""Values: what they have in common with frozen dataclasses."""

from __future__ import annotations

import ast
from dataclasses import field, fields
from pathlib import Path

import pytest

import popproxy
from popproxy.wire.values import value


@value
class Pair:
    left: int
    right: tuple[str, ...] = ()
    note: str = field(default="", compare=False)


def test_they_are_what_is_in_them() -> None:
    one, same, other = Pair(1, ("a",)), Pair(1, ("a",), "told later"), Pair(1)
    assert one == same and hash(one) == hash(same) and one != other
    assert len({one, same, other}) == 2
    assert repr(other) == "Pair(left=1, right=(), note='')"
    assert [each.name for each in fields(Pair)] == ["left", "right", "note"]
    match one:
        case Pair(left, (word,)):
            assert (left, word) == (1, "a")


def test_they_hold_nothing_else() -> None:
    with pytest.raises(AttributeError):
        setattr(Pair(1), "middle", 2)  # noqa: B010  # the type checker would not let it pass


def test_the_type_checker_guards_them() -> None:
    """Who turned that off would have values that anybody may change, and nobody told."""
    decorator = ast.parse(Path(popproxy.__path__[0], "wire", "values.py").read_text())
    [made] = [node for node in decorator.body if isinstance(node, ast.FunctionDef)]
    assert "frozen_default=True" in ast.unparse(made.decorator_list[0])

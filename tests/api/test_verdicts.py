"""Verdicts: a closed union of values; their defaults are the safe ones."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, is_dataclass
from types import NoneType
from typing import Any, get_args

import pytest

from popproxy.api import (
    Answer,
    Code,
    Dates,
    Edit,
    Grow,
    Hangup,
    Hide,
    Hold,
    Keep,
    Refuse,
    Rename,
    Replace,
    Rewrite,
    Route,
    ServerAddress,
    Sizes,
    Verdict,
    Verifier,
    parse,
    verdicts,
)

ALL = [
    Refuse(),
    Hold(2),
    Rewrite(parse(b"NOOP")),
    Answer(True),
    Keep(),
    Hangup(),
    Verifier(b"salt", 4096, b"s" * 32, b"k" * 32),
    Rename("joe"),
    Route(),
    Hide(frozenset({1})),
    Sizes({1: 2}),
    Grow(64),
    Dates(frozenset({1})),
    Edit(),
    Replace(b""),
]
UNIONS = {name: getattr(verdicts, name) for name in vars(verdicts) if name.endswith("Verdict") and name != "Verdict"}


def test_the_union_is_closed() -> None:
    assert {type(verdict) for verdict in ALL} == set(get_args(Verdict))


def test_what_a_hook_may_return_is_part_of_the_union_or_none() -> None:
    assert len(UNIONS) == 8
    for union in UNIONS.values():
        assert NoneType in get_args(union)
        assert set(get_args(union)) - {NoneType} <= set(get_args(Verdict))


def test_every_verdict_can_be_returned_somewhere() -> None:
    returned = {kind for union in UNIONS.values() for kind in get_args(union)} - {NoneType}
    assert returned == set(get_args(Verdict))


@pytest.mark.parametrize("verdict", ALL)
def test_a_verdict_is_a_frozen_value(verdict: Any) -> None:
    fields: tuple[str, ...] = type(verdict).__match_args__
    assert is_dataclass(type(verdict))
    assert verdict == type(verdict)(*(getattr(verdict, name) for name in fields))
    with pytest.raises(FrozenInstanceError):
        setattr(verdict, fields[0], None)


def test_a_refusal_says_nothing_about_its_reason() -> None:
    refusal = Refuse(reason="listed at example.org")
    assert refusal.code is Code.SYS_PERM
    assert "example" not in refusal.text


def test_a_route_keeps_what_it_does_not_name() -> None:
    assert Route() == Route(None, None, None, None)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Route(server="192.0.2.1"),
        lambda: Route(key=7),
        lambda: ServerAddress(None),
        lambda: ServerAddress("a", "110"),
        lambda: ServerAddress("a", 110, True),
    ],
)
def test_a_route_of_wrong_types_fails_where_it_is_made(made: Any) -> None:
    with pytest.raises(TypeError, match="must be"):
        made()

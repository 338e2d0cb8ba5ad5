"""pydantic's errors, as a plugin's model may raise them, in an operator's words."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError, field_validator

from popproxy.api.plugin import PluginConfig
from popproxy.config.report import Report
from popproxy.config.translate import nearest, toml


class Colour(Enum):
    RED = "red"


class Http(PluginConfig):
    kind: Literal["http"]
    url: str = Field(min_length=3)


class Unix(PluginConfig):
    kind: Literal["unix"]
    path: str = Field(max_length=4)


class Options(PluginConfig):
    count: int = Field(default=1, gt=0, lt=10)
    share: float = Field(default=0.5, le=1)
    names: list[str] = Field(default_factory=list, max_length=1)
    pattern: re.Pattern[str] | None = None
    colour: Colour = Colour.RED
    table: dict[str, int] = Field(default_factory=dict)
    secret: SecretStr | None = None
    target: Annotated[Http | Unix, Field(discriminator="kind")] | None = None
    even: int = 2
    plain: bytes = b""

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Odd numbers are not taken.")
        if value > 100:
            raise ValueError("TOO big: write less")
        return value


def said(options: dict[str, Any]) -> list[str]:
    """Key, message and hint for each problem with ``options``."""
    report = Report("f", "", {"plugin": [options]})
    try:
        Options.model_validate(options)
    except ValidationError as error:
        report.invalid(("plugin", 0), Options, error)
    return [str(problem).removeprefix("f: plugin[#1].") for problem in report.error().problems]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"count": 0}, "count: 0 is out of range; write more than 0"),
        ({"count": 10}, "count: 10 is out of range; write less than 10"),
        ({"count": "x"}, "count: must be a whole number, not a string; write count = 1"),
        ({"count": 1.5}, "count: must be a whole number, not 1.5; write count = 1"),
        ({"share": 1.5}, "share: 1.5 is out of range; write at most 1.0"),
        ({"share": []}, "share: must be a number, not a list; write share = 0.5"),
        ({"names": ["a", "b"]}, "names: needs at most 1 entry; write more or less"),
        ({"names": "a"}, "names: must be a list, not a string; write a list"),
        ({"names": [1]}, "names[#1]: must be a string, not a whole number; write a string"),
        ({"names": [1.5]}, "names[#1]: must be a string, not a number with a fraction; write a string"),
        ({"pattern": "("}, 'pattern: "(" is no regular expression: missing ), unterminated subpattern at position 0; '
                           "correct it"),
        ({"colour": "blue"}, 'colour: "blue" is not one of the choices; write "red"'),
        ({"table": 1}, "table: must be a table, not a whole number; write a table"),
        ({"table": {"a": "x"}}, "table.a: must be a whole number, not a string; write a whole number"),
        ({"secret": 20021}, "secret: must be a string, not a whole number; write a string"),
        ({"target": {"kind": "http", "url": "a"}}, "target.url: needs at least 3 characters; write more or less"),
        ({"target": {"kind": "unix", "path": "12345"}}, "target.path: needs at most 4 characters; write more or less"),
        ({"target": {"kind": "http", "url": "abc", "x": 1}}, "target.x: unknown key; write one of: kind, url"),
        ({"even": 3}, "even: odd numbers are not taken; write even = 2"),
        ({"even": 102}, "even: TOO big: write less"),
        ({"cuont": 1}, "cuont: unknown key; did you mean count?"),
    ],
)
def test_words(options: dict[str, Any], problem: str) -> None:
    assert said(options) == [problem]


def test_a_wrong_tag_of_a_union_stays_understandable() -> None:
    assert said({"target": {"kind": "tcp"}}) == [
        'target: kind says nothing that is known; write kind = "http" or "unix"'
    ]
    assert said({"target": {"url": "x"}}) == ["target: kind says nothing that is known"]


def test_nearest() -> None:
    assert nearest("lisener", ["listener", "log"]) == "did you mean listener?"
    assert nearest("cert", ["certificates", "minimum"]) == "did you mean certificates?"
    assert nearest("zzz", ["b", "a"]) == "write one of: a, b"
    assert nearest("zzz", []) == "leave it out"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (600.0, "600"),
        (0.5, "0.5"),
        ('a"b', '"a\\"b"'),
        (["a", 1], '["a", 1]'),
        ({"a": [{"b": False}]}, "{ a = [{ b = false }] }"),
        ({}, "{}"),
    ],
)
def test_toml(value: object, text: str) -> None:
    assert toml(value) == text

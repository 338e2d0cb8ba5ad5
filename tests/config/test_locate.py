from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.config.locate import Locator, Path

TEXT = '''\
top = 1
"quoted key" = "a # b"

[[listener]]           # first
name = "one"
bind = [
  "[::]:995",          # ] in a comment
  "127.0.0.1:110",
]
proxy_protocol = { trusted = ["10.0.0.0/8"] }

[[listener]]
name = """
[not.a.table]
key = 1
"""
[listener.proxy_protocol]
trusted = [
  "10.0.0.0/8" ]

[upstream.'a.b']
servers = ['x', \'\'\'y
z\'\'\', "\\"]"]
a.b.c = 1979-05-27 07:32:00
[upstream.d]
certificates = [
  { cert = "1" },
  { cert = "2", key = [[1], [2,
    3]] },
]
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("quoted key",), 2),
        (("listener",), 4),
        (("listener", 0), 4),
        (("listener", 0, "name"), 5),
        (("listener", 0, "bind"), 6),
        (("listener", 0, "bind", 0), 7),
        (("listener", 0, "bind", 1), 8),
        (("listener", 0, "proxy_protocol", "trusted", 0), 10),
        (("listener", 1), 12),
        (("listener", 1, "name"), 13),
        (("listener", 1, "proxy_protocol"), 17),
        (("listener", 1, "proxy_protocol", "trusted", 0), 19),
        (("upstream", "a.b"), 21),
        (("upstream", "a.b", "servers", 2), 23),
        (("upstream", "a.b", "a", "b", "c"), 24),
        (("upstream", "d", "certificates", 0, "cert"), 27),
        (("upstream", "d", "certificates", 1, "key", 1, 0), 28),
        (("upstream", "d", "certificates", 1, "key", 1, 1), 29),
    ],
)
def test_line_of_a_key(path: Path, line: int) -> None:
    assert Locator(TEXT).line(path) == line


def test_a_missing_key_has_the_line_of_what_is_around_it() -> None:
    locator = Locator(TEXT)
    assert locator.line(("listener", 1, "missing", "deeper")) == 12
    assert locator.line(("nowhere",)) == 1


def test_an_empty_text_has_one_line() -> None:
    assert Locator("").line(("a",)) == 1


_scalars = st.one_of(
    st.integers().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(['"a"', "'b'", '"""c\n#d"""', "'''e\n]'''", "1.5", "1979-05-27", '"\\"}"', "'#'", '""""q"""']),
)
_blank = st.sampled_from(["", " ", "\n", " # ]}\n", "\n\n\t"])
_inline = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.tuples(_blank, st.lists(st.tuples(inner, _blank), max_size=3)).map(
            lambda parts: "[" + parts[0] + ",".join(value + blank for value, blank in parts[1]) + "]"
        ),
        st.lists(inner.filter(lambda value: "\n" not in value), max_size=3).map(
            lambda values: "{" + ", ".join(f"in{number} = {value}" for number, value in enumerate(values)) + "}"
        ),
    ),
    max_leaves=6,
)
_tables = st.lists(
    st.tuples(
        st.sampled_from(["[t{0}]", "[[array]]", "[t{0}.'x y']", '[[ array . "sub" ]]']), st.lists(_inline, max_size=3)
    ),
    max_size=5,
)


def _text(tables: list[tuple[str, list[str]]]) -> str:
    lines = ["first = 1", "[[array]]"]
    for number, (header, values) in enumerate(tables):
        lines.append(header.format(number))
        lines += [f"key{number}_{place} = {value} # c" for place, value in enumerate(values)]
    return "\n".join(lines)


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*path, index))


@given(_tables)
@settings(max_examples=150, deadline=None)
def test_every_key_of_any_toml_is_found_on_a_line_that_holds_it(tables: list[tuple[str, list[str]]]) -> None:
    text = _text(tables)
    lines = text.split("\n")
    locator = Locator(text)
    for path in _paths(tomllib.loads(text)):
        line = lines[locator.line(path) - 1]
        if isinstance(path[-1], str):
            assert path[-1] in line

"""The options of a plugin as Markdown, from its model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from types import ModuleType
from typing import Literal

import pytest
from pydantic import Field, SecretStr

from popproxy.api import Fail, Plugin, PluginConfig, SessionView
from popproxy.api.verdicts import ConnectVerdict
from popproxy.config.problems import Wrong
from popproxy.config.reference import plugin_reference, with_reference


class Colour(Enum):
    """An enumeration is written as strings."""

    RED = "red"
    BLUE = "blue"


class Part(PluginConfig):
    """A part of
    the whole."""

    size: int = Field(ge=1, examples=[3], description="How large. Very.")
    parts: tuple[Part, ...] = Field(default=(), description="parts inside")


class Whole(PluginConfig):
    """Not shown: the page says it."""

    password: SecretStr | None = Field(default=None, description="a secret")
    kind: Literal["a", "b|c"] = Field(default="b|c", description="which | one")
    only: Literal["x"] = Field(default="x", description="no choice")
    colour: Colour = Field(default=Colour.RED, description="which colour")
    both: int | str = Field(default=5, examples=[1, "two"], description="either")
    ratio: float = Field(default=1.5, description="how much")
    names: tuple[str, ...] = Field(default=("a", "b"), description="several")
    table: dict[str, int] = Field(default={}, description="by name")
    kept: bool = Field(alias="keep", description="with another name")
    part: Part | None = Field(default=None, description="one part")


class Gadget(Plugin[Whole]):
    """A plugin."""

    fail = Fail.CLOSED

    def on_connect(self, session: SessionView) -> ConnectVerdict:
        return None


class Plain(Plugin[PluginConfig]):
    """No option, no hook."""


@pytest.fixture(autouse=True)
def module() -> Iterator[None]:
    made = ModuleType("gadget")
    made.Gadget, made.Plain = Gadget, Plain  # type: ignore[attr-defined]
    sys.modules["gadget"] = made
    yield
    del sys.modules["gadget"]


TABLE = """\
<!-- options: made by `popproxy config reference --plugin gadget:Gadget`; do not edit -->
Hooks: `on_connect`. When it fails: `fail = "closed"` (refuses with `-ERR [SYS/TEMP]`), unless its table says otherwise.

| Key | Type | Default | Description |
|---|---|---|---|
| `password` | secret | none | a secret |
| `kind` | `"a"` or `"b\\|c"` | `"b\\|c"` | which \\| one |
| `only` | `"x"` | `"x"` | no choice |
| `colour` | `"red"` or `"blue"` | `"red"` | which colour |
| `both` | whole number or string | `5` | either. Examples: `1`, `"two"`. |
| `ratio` | number | `1.5` | how much |
| `names` | list of strings | `["a", "b"]` | several |
| `table` | table | none | by name |
| `keep` | boolean | **required** | with another name |
| `part` | table | none | one part |

### `part`

A part of the whole.

| Key | Type | Default | Description |
|---|---|---|---|
| `size` | whole number | **required** | How large. Very. Example: `3`. |
| `parts` | list of tables | `[]` | parts inside |

<!-- end of options -->
"""


def test_the_options_of_a_plugin() -> None:
    assert plugin_reference("gadget:Gadget") == TABLE


def test_a_plugin_without_options() -> None:
    lines = plugin_reference("gadget:Plain").splitlines()
    assert lines[1].startswith('Hooks: none. When it fails: `fail = "open"` (the session goes on without it)')
    assert lines[3] == "It has no options."


def test_a_page_keeps_what_stands_around_them() -> None:
    begin, end = TABLE.splitlines()[0], TABLE.splitlines()[-1]
    assert with_reference(f"# Gadget\n\n{begin}\nold\n{end}\nmore\n", "gadget:Gadget") == f"# Gadget\n\n{TABLE}more\n"
    assert with_reference(TABLE, "gadget:Gadget") == TABLE


@pytest.mark.parametrize("page", ["", "# Gadget\n", TABLE.replace(":Gadget", ":Plain"), TABLE.replace("end of", "")])
def test_a_page_without_a_place_for_them(page: str) -> None:
    with pytest.raises(Wrong) as caught:
        with_reference(page, "gadget:Gadget")
    assert TABLE.splitlines()[0] in caught.value.hint


def test_an_unknown_plugin() -> None:
    with pytest.raises(Wrong, match="there is no plugin 'nothing'"):
        plugin_reference("nothing")

"""pydantic's errors in an operator's words: what is wrong with the key, and what to write instead.

Values are repeated only for keys with a fixed choice of values or a pattern; those never hold a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from popproxy.api.options import Wrong, shown
from popproxy.api.plugin import PluginConfig

TABLE_KEYS = ["use", "name", "when", "fail", "deadline"]
"""Keys of every plugin table, beside the plugin's own."""

_EXPECTED = {
    "string": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a table",
    "mapping": "a table",
    "model": "a table",
    "model_attributes": "a table",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "is_instance": "another kind of value",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_LENGTHS = {
    "too_short": ("min_length", "at least", "entry", "entries"),
    "too_long": ("max_length", "at most", "entry", "entries"),
    "string_too_short": ("min_length", "at least", "character", "characters"),
    "string_too_long": ("max_length", "at most", "character", "characters"),
}


_TOML = (
    ("Illegal character '\\n'", "end the string with a quote on the line where it begins"),
    ("Unterminated string", "end the string with the quotes it begins with"),
    ("Unclosed array", "end the list that begins above with ]"),
    ("Unclosed inline table", "end the table that begins above with }"),
    ("Invalid value", 'write strings in quotes, like tls = "implicit", and true and false in small letters'),
    ("Expected '=' after a key", 'write key = value, and sections in brackets, like [tls] or [[listener]]'),
    ("Invalid statement", 'write key = value, and sections in brackets, like [tls] or [[listener]]'),
    ("Cannot overwrite a value", "the key stands there twice: leave one out"),
    ("Cannot declare", "the table stands there twice: make it one, or write [[...]] where several are meant"),
    ("Invalid initial character for a key part", "write { ... } on one line; longer ones as tables of their own"),
    ("Invalid hex value", "write \\\\ for each backslash, or the string in single quotes"),
    ("Unescaped '\\' in a string", "write \\\\ for each backslash, or the string in single quotes"),
)
"""What tomllib says, and what is most often meant by it."""
_ABOVE = "write it above the first table: TOML takes it for a key of the table it stands in"
_ELSEWHERE = {"workers": _ABOVE, "default_upstream": _ABOVE}
_PEERS = {"listen": "bind", "address": "bind", "port": "bind", "host": "servers", "server": "servers", "url": "servers"}
"""What other proxies call it."""


def toml_hint(message: str) -> str:
    """What to write instead of what tomllib refuses with ``message``."""
    return next((hint for start, hint in _TOML if message.startswith(start)), "see https://toml.io/en/v1.0.0")


def words(error: ErrorDetails, model: type[BaseModel], keys: tuple[str | int, ...]) -> tuple[str, str]:
    """Message and hint for one error at ``keys``, which begin inside ``model``."""
    kind, context = error["type"], error.get("ctx", {})
    wrong = context.get("error")
    if isinstance(wrong, Wrong):
        return wrong.message, wrong.hint
    if kind == "extra_forbidden":
        return "unknown key", _known(str(keys[-1]), _keys_around(model, keys))
    example = _example(model, keys)
    if kind == "missing":
        return "is missing", f"write {example}" if example else "write it"
    return _value(kind, context, error["input"], example) or _other(
        _sentence(str(wrong) if wrong is not None else error["msg"]), example
    )


def _other(message: str, example: str) -> tuple[str, str]:
    if "write " in message:
        return message, ""
    return message, f"write {example}" if example else "see the plugin's documentation"


def _known(wrong: str, known: list[str]) -> str:
    if _PEERS.get(wrong) in known:
        return f"did you mean {_PEERS[wrong]}?"
    return _ELSEWHERE.get(wrong) or nearest(wrong, known)


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A hint for a name that is not in ``known``: the one that was meant, or all."""
    names = sorted(known)
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wrong.lower(), lower, 1)
    meant = [lower[name] for name in close] or [
        name for name in names if len(wrong) > 2 and name.startswith(wrong.lower())
    ]
    if meant:
        return f"did you mean {meant[0]}?"
    return f"write one of: {', '.join(names)}" if names else "leave it out"


def toml(value: object) -> str:
    """``value`` as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _value(kind: str, context: Mapping[str, Any], given: object, example: str) -> tuple[str, str] | None:
    """Words for a value of the wrong kind or size."""
    instead = f"write {example}" if example else ""
    if kind == "literal_error" or kind == "enum":
        choices = str(context["expected"]).replace("'", '"')
        return f"{_quoted(given)} is not one of the choices", f"write {choices}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        name = str(context["discriminator"]).strip("'")
        tags = str(context.get("expected_tags", "")).replace("'", '"')
        return f"{name} says nothing that is known", f"write {name} = {tags.replace(', ', ' or ')}" if tags else instead
    if kind == "int_from_float":
        return f"must be a whole number, not {shown(given)}", instead or "write a whole number"
    stem, _, last = kind.rpartition("_")
    if last in ("type", "parsing", "of") and stem in _EXPECTED:
        return f"must be {_EXPECTED[stem]}, not {_kind(given)}", instead or f"write {_EXPECTED[stem]}"
    if kind in _BOUNDS:
        name, text = _BOUNDS[kind]
        return f"{shown(given)} is out of range", f"write {text} {context[name]}"
    if kind in _LENGTHS:
        name, text, one, many = _LENGTHS[kind]
        bound = context[name]
        return f"needs {text} {bound} {one if bound == 1 else many}", instead or "write more or less"
    if kind == "string_pattern_mismatch":
        return f"{_quoted(given)} does not match {context['pattern']}", instead or "write it so that it matches"
    if kind == "pattern_regex":
        return f"{_quoted(given)} is no regular expression{_regex_fault(given)}", instead or "correct it"
    return None


def _quoted(given: object) -> str:
    return json.dumps(given, ensure_ascii=False) if isinstance(given, str) and len(given) <= 70 else shown(given)


def _kind(given: object) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    kinds: list[tuple[type, str]] = [
        (str, "a string"),
        (int, "a whole number"),
        (float, "a number with a fraction"),
        (Mapping, "a table"),
        (list, "a list"),
        (tuple, "a list"),
    ]
    return next((text for kind, text in kinds if isinstance(given, kind)), f"a {type(given).__name__}")


def _regex_fault(given: object) -> str:
    """Why re does not take it; pydantic does not tell."""
    try:
        re.compile(given if isinstance(given, str | bytes) else "")
    except re.error as error:
        return f": {error}"
    return ""


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of ``model`` by the key that is written for each."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _keys_around(model: type[BaseModel], keys: tuple[str | int, ...]) -> list[str]:
    around = model_at(model, keys[:-1])
    known = list(fields(around)) if around is not None else []
    return known + TABLE_KEYS if around is model and issubclass(model, PluginConfig) else known


def _example(model: type[BaseModel], keys: tuple[str | int, ...]) -> str:
    """``key = value`` as its model shows it; for an element of a list, the list."""
    names = [index for index, key in enumerate(keys) if isinstance(key, str)]
    if not names:
        return ""
    last = names[-1]
    around = model_at(model, keys[:last])
    name = str(keys[last])
    field = fields(around).get(name) if around is not None else None
    if field is None:
        return ""
    value = _shown_value(field)
    return "" if value is None else f"{name} = {toml(value)}"


def _shown_value(field: FieldInfo) -> object:
    if field.examples:
        example: object = field.examples[0]
        return example
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return choices[0]
    return field.default if isinstance(field.default, bool | int | float | str) and not field.is_required() else None


def model_at(model: type[BaseModel], keys: Iterable[str | int]) -> type[BaseModel] | None:
    """The model of the table at ``keys`` inside ``model``; None where there is none."""
    found: type[BaseModel] | None = model
    for key in keys:
        if isinstance(key, int):
            continue
        if found is None or key not in fields(found):
            return None
        found = model_in(fields(found)[key].annotation)
    return found


def model_in(annotation: object) -> type[BaseModel] | None:
    """The model in an annotation like ``tuple[Model, ...]`` or ``Model | None``; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part)) is not None), None)

"""The documentation of every key as Markdown, from the models: docs/configuration.md is this text, the options in
docs/plugins/NAME.md are tables between two markers in hand-written pages."""

from __future__ import annotations

import json
import re
from typing import Any

from popproxy.api.plugin import HOOKS, Fail, overrides
from popproxy.config import registry
from popproxy.config.problems import Wrong
from popproxy.config.schema import cleaned, schema
from popproxy.config.translate import toml

_HEAD = """\
# Configuration

<!-- Made by `popproxy config reference`; do not edit. -->

popproxy reads one TOML file: `popproxy serve --config F`, else `$POPPROXY_CONFIG`, else
`/etc/popproxy/popproxy.toml`. `popproxy check` reports every mistake at once, `popproxy config example` prints a file
to begin with, `popproxy config schema` the JSON Schema for editors (`#:schema ./popproxy.schema.json` on line 1).

- Unknown keys are mistakes. Relative paths begin at the directory of the file.
- Durations are seconds (`600`) or strings (`"90s"`, `"10m"`, `"1h30m"`).
- Sizes are octets (`65536`) or strings (`"64KiB"`, `"1MiB"`).
- Secrets are written as `{ file = "/path" }`, `{ env = "NAME" }`, `{ credential = "NAME" }` (systemd's
  `LoadCredential=`) or as a string. They are read at start and at reload, and never shown. Plugins' options that
  are declared as secrets are written the same way.
- The options of the plugins that come with popproxy are on pages of their own: [plugins/](plugins/).
"""
_TITLES = {
    "listener": "[[listener]]",
    "upstream": "[upstream.NAME]",
    "plugin": "[[plugin]]",
}


def reference() -> str:
    """The Markdown text."""
    whole = schema()
    definitions = whole["$defs"]
    parts = [_HEAD]
    top = {name: node for name, node in whole["properties"].items() if not _tables(node)}
    rows = _rows(top, whole.get("required", []), definitions)
    parts.append(f"## Top level\n\nAbove the first table.\n\n{rows}")
    for name, node in whole["properties"].items():
        for table in _tables(node):
            parts.append(_section(_TITLES.get(name, f"[{name}]"), name, table, definitions, 2, frozenset()))
    return "\n".join(parts)


_BEGIN = "<!-- options: made by `popproxy config reference --plugin {}`; do not edit -->"
_END = "<!-- end of options -->"
_FAILURES = {Fail.OPEN: "the session goes on without it", Fail.CLOSED: "refuses with `-ERR [SYS/TEMP]`"}


def plugin_reference(use: str) -> str:
    """The options of a plugin: tables between the markers of its page. Raises Wrong for an unknown one."""
    plugin = registry.find(use)
    whole = cleaned(plugin.config_model.model_json_schema())
    definitions = whole.get("$defs", {})
    hooks = ", ".join(f"`{hook}`" for hook in HOOKS if overrides(plugin, hook)) or "none"
    fails = f'`fail = "{plugin.fail.value}"` ({_FAILURES[plugin.fail]})'
    parts = [_BEGIN.format(use), f"Hooks: {hooks}. When it fails: {fails}, unless its table says otherwise.\n"]
    properties = whole.get("properties", {})
    if properties:
        parts.append(_rows(properties, whole.get("required", []), definitions))
        parts += _inner("", properties, definitions, 3, frozenset())
    else:
        parts.append("It has no options.\n")
    return "\n".join([*parts, _END]) + "\n"


def with_reference(page: str, use: str) -> str:
    """``page`` with the options of ``use`` between its markers. Raises Wrong when it has none."""
    begin = _BEGIN.format(use)
    found = re.search(f"^{re.escape(begin)}\n.*?^{re.escape(_END)}\n", page, re.DOTALL | re.MULTILINE)
    if found is None:
        raise Wrong("has no place for the options", f"write into it, on lines of their own: {begin} and {_END}")
    return page[: found.start()] + plugin_reference(use) + page[found.end() :]


def _tables(node: dict[str, Any]) -> list[str]:
    """Names of the models that ``node`` holds."""
    named = list(node.get("patternProperties", {}).values())
    items = node.get("items", {})
    inside = [node, items, *items.get("anyOf", []), *named, *node.get("anyOf", [])]
    return [part["$ref"].rpartition("/")[2] for part in inside if "$ref" in part]


def _section(
    title: str, path: str, name: str, definitions: dict[str, Any], level: int, around: frozenset[str]
) -> str:
    """A table with its keys, then the tables inside it. ``around`` names those it stands in: one may hold itself."""
    node = definitions[name]
    text = " ".join(node.get("description", "").split())
    rows = _rows(node["properties"], node.get("required", []), definitions)
    inner = _inner(f"{path}.", node["properties"], definitions, level + 1, around | {name})
    return "\n".join([f"{'#' * level} `{title}`\n\n{text}\n\n{rows}", *inner])


def _inner(
    prefix: str, properties: dict[str, Any], definitions: dict[str, Any], level: int, around: frozenset[str]
) -> list[str]:
    """A section for each table among the values of ``properties``."""
    return [
        _section(prefix + key, prefix + key, table, definitions, level, around)
        for key, node in properties.items()
        for table in _tables(node)
        if table not in around and "properties" in definitions[table]
    ]


def _rows(properties: dict[str, Any], required: list[str], definitions: dict[str, Any]) -> str:
    rows = ["| Key | Type | Default | Description |", "|---|---|---|---|"]
    for key, node in properties.items():
        if key in required:
            default = "**required**"
        elif "default" in node and not isinstance(node["default"], dict):
            default = _cell(f"`{toml(node['default'])}`")
        else:
            default = "none"
        text = node.get("description", "")
        examples = [f"`{toml(example)}`" for example in node.get("examples", [])]
        if examples:
            text = f"{text.rstrip('.')}. Example{'s' if len(examples) > 1 else ''}: {', '.join(examples)}."
        rows.append(f"| `{key}` | {_kind(node, definitions)} | {default} | {_cell(text)} |")
    return "\n".join(rows) + "\n"


def _kind(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The type of a value in words."""
    if "$ref" in node:
        return _kind(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "enum" in node or "const" in node:
        choices = node.get("enum") or [node["const"]]
        return _cell(" or ".join(f"`{json.dumps(choice)}`" for choice in choices))
    if node.get("writeOnly"):
        return "secret"
    if "anyOf" in node:
        return _union(node["anyOf"], definitions)
    if node.get("type") == "object":
        return "table"
    if node.get("type") == "array":
        inner = node.get("items", {})
        if "anyOf" in inner:
            return "list of " + " or ".join(f"{_kind(choice, definitions)}s" for choice in inner["anyOf"])
        return f"list of {_kind(inner, definitions)}s" if "enum" not in inner else "list of strings"
    return str(node.get("type", "any")).replace("integer", "whole number")


def _union(choices: list[dict[str, Any]], definitions: dict[str, Any]) -> str:
    """The config's own durations, sizes and secrets by name; the kinds of any other union in turn."""
    if choices[-1] == {"const": False}:
        return f"{_union(choices[:-1], definitions)} or `false`"
    kinds = [choice.get("type") for choice in choices]
    if "pattern" in choices[-1] and kinds in (["number", "string"], ["integer", "string"]):
        return "duration" if kinds[0] == "number" else "size"
    if len(kinds) > 2 and kinds[0] == "string" and set(kinds[1:]) == {"object"}:
        return "secret"
    return " or ".join(dict.fromkeys(_kind(choice, definitions) for choice in choices))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

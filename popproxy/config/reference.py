"""The documentation of every key as Markdown, from the models: docs/configuration.md is this text."""

from __future__ import annotations

import json
from typing import Any

from popproxy.config.schema import schema
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
    parts.append("## Top level\n\nAbove the first table.\n\n" + _rows(top, whole.get("required", [])))
    for name, node in whole["properties"].items():
        for table in _tables(node):
            parts.append(_section(_TITLES.get(name, f"[{name}]"), name, table, definitions, 2))
    return "\n".join(parts)


def _tables(node: dict[str, Any]) -> list[str]:
    """Names of the models that ``node`` holds."""
    named = list(node.get("patternProperties", {}).values())
    inside = [node, node.get("items", {}), *named, *node.get("anyOf", [])]
    return [part["$ref"].rpartition("/")[2] for part in inside if "$ref" in part]


def _section(title: str, path: str, name: str, definitions: dict[str, Any], level: int) -> str:
    """A table with its keys, then the tables inside it."""
    node = definitions[name]
    text = " ".join(node.get("description", "").split())
    parts = [f"{'#' * level} `{title}`\n\n{text}\n\n{_rows(node['properties'], node.get('required', []))}"]
    for key, inner in node["properties"].items():
        for table in _tables(inner):
            where = f"{path}.{key}"
            parts.append(_section(where, where, table, definitions, level + 1))
    return "\n".join(parts)


def _rows(properties: dict[str, Any], required: list[str]) -> str:
    rows = ["| Key | Type | Default | Description |", "|---|---|---|---|"]
    for key, node in properties.items():
        if key in required:
            default = "**required**"
        elif "default" in node and not isinstance(node["default"], dict):
            default = f"`{toml(node['default'])}`"
        else:
            default = "none"
        text = node.get("description", "")
        examples = [f"`{toml(example)}`" for example in node.get("examples", [])]
        if examples:
            text += f" Example{'s' if len(examples) > 1 else ''}: {', '.join(examples)}."
        rows.append(f"| `{key}` | {_kind(node)} | {default} | {_cell(text)} |")
    return "\n".join(rows) + "\n"


def _kind(node: dict[str, Any]) -> str:
    """The type of a value in words."""
    if "enum" in node:
        return _cell(" or ".join(f"`{json.dumps(choice)}`" for choice in node["enum"]))
    if "$ref" in node or node.get("type") == "object":
        return "table"
    if "anyOf" in node:
        kinds = [choice.get("type") for choice in node["anyOf"]]
        return {"number": "duration", "integer": "size"}.get(kinds[0], "secret")
    if node.get("type") == "array":
        inner = node.get("items", {})
        return f"list of {_kind(inner)}s" if "enum" not in inner else "list of strings"
    return str(node.get("type", "any")).replace("integer", "whole number")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

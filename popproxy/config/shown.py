"""The config as it may be shown: everything that is in force, and no secret.

Law: what has the type of a secret is ``<secret>``, and so is every text under a key that is declared with such a type,
whatever it has become since; of a plugin's options also every text that may be one, by the name of its key or of a key
around it, because a plugin's author may have forgotten the type. URLs lose their user information.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr

from popproxy.config.models import Config
from popproxy.config.secrets import is_secret
from popproxy.core.chain import Subscriber

HIDDEN = "<secret>"

_HINTS = re.compile(
    r"secret|passw|passphrase|pwd|^pass$|token|credential|key|salt|auth|cookie|bearer|header|private|signature|hash|pin$",
    re.IGNORECASE,
)
"""Names of keys whose texts may be secrets."""
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_IN_QUERY = re.compile(r"(?<=[?&;])([^=&;\s]*=)[^&;#\s]*")


def shown(config: Config, plugins: Sequence[Subscriber]) -> dict[str, Any]:
    """Plain data, fit for JSON. Plugins come with all their options, those that were left out as well."""
    found = _table(config.model_copy(update={"plugin": ()}), False)
    tables = [
        {
            "use": table.use,
            "name": subscriber.name,
            "fail": subscriber.fail.value,
            "deadline": subscriber.deadline,
            "when": None if table.when is None else _value(table.when, False),
            "options": _table(subscriber.plugin.config, True),
        }
        for table, subscriber in zip(config.plugin, plugins, strict=True)
    ]
    return {**found, "plugin": tables}


def _table(model: BaseModel, careful: bool) -> dict[str, Any]:
    """``careful``: texts may be secrets although their type does not say so."""
    found: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        hinted = careful and _HINTS.search(name) and not _closed(field.annotation)
        if hinted or is_secret(field.annotation):
            found[name] = _hidden(value)
        else:
            found[name] = _value(value, careful)
    for name, value in (model.model_extra or {}).items():
        found[name] = _hidden(value) if careful and _HINTS.search(name) else _value(value, careful)
    return found


def _closed(annotation: object) -> bool:
    """Whether every text that a key may hold is known."""
    if get_origin(annotation) is Literal:
        return True
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return bool(parts) and all(map(_closed, parts))


def _value(value: object, careful: bool) -> Any:
    if isinstance(value, SecretStr | SecretBytes | bytes | bytearray):
        return HIDDEN
    if isinstance(value, BaseModel):
        return _table(value, careful)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return _value(value.value, careful)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {
            _text(str(name)): _hidden(item) if careful and _HINTS.search(str(name)) else _value(item, careful)
            for name, item in value.items()
        }
    if isinstance(value, Sequence):
        return [_value(item, careful) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_value(item, careful) for item in value), key=str)
    if isinstance(value, Path) or not careful:
        return _text(str(value))
    # A class of the plugin's own: what its text would tell is not known.
    return f"<{type(value).__name__}>"


def _hidden(value: object) -> Any:
    """All texts hidden, at any depth; numbers and paths are no secrets."""
    if isinstance(value, BaseModel):
        return {name: _hidden(getattr(value, name)) for name in type(value).model_fields}
    if value is None or isinstance(value, bool | int | float) or value in ("", (), []):
        return value
    if isinstance(value, Path):
        return _text(str(value))
    if isinstance(value, Mapping):
        return {_text(str(name)): _hidden(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_hidden(item) for item in value]
    return HIDDEN


def _text(text: str) -> str:
    """``text`` without what stands before the host of a URL, and without the values of its query."""
    if "://" not in text:
        return text
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub("", text))

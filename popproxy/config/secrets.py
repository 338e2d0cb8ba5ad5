"""Secrets: literal, or by file, environment or systemd credential. Their repr shows nothing.

A secret is read when the config is loaded, again at each reload.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args, get_origin

from pydantic import BeforeValidator, SecretBytes, SecretStr, ValidationInfo, WithJsonSchema
from pydantic import Secret as AnySecret

from popproxy.config.problems import Wrong
from popproxy.config.values import base_of

SOURCES = ("file", "env", "credential")
_HINT = 'write { file = "/path" }, { env = "NAME" }, { credential = "NAME" } or a string'


def reveal(value: object, base: Path) -> object:
    """The secret that a source table names; any other value as it is. Raises Wrong, never with the secret in it.

    ``base`` is where relative paths begin. One line end behind the content of a file or credential is taken off.
    """
    if not isinstance(value, Mapping):
        return value
    if len(value) != 1 or next(iter(value)) not in SOURCES:
        raise Wrong("a secret names exactly one source", _HINT)
    source, where = next(iter(value.items()))
    if not isinstance(where, str) or not where or "\0" in where:
        raise Wrong(f"the {source} of a secret must be a string", _HINT)
    if source == "env":
        return _environment(where)
    if source == "credential":
        return _read(_credential(where))
    return _read(base / where)


def _environment(name: str) -> str:
    secret = os.environ.get(name)
    if not secret:
        raise Wrong(f"the environment variable {name} is not set or empty", "set it where popproxy is started")
    return secret


def _credential(name: str) -> Path:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise Wrong(
            f"the credential {name} needs $CREDENTIALS_DIRECTORY, which only systemd sets",
            f"start popproxy as a service with LoadCredential={name}:/path",
        )
    if "/" in name or name in (".", ".."):
        raise Wrong(f"{name!r} is no credential name", "write the ID of LoadCredential=, without a path")
    return Path(directory) / name


def _read(path: Path) -> str:
    try:
        secret = path.read_text("utf-8")
    except OSError as error:
        raise Wrong(
            f"cannot read {path}: {error.strerror or error}", "write a file that popproxy may read"
        ) from None
    except UnicodeDecodeError:
        raise Wrong(f"{path} is not UTF-8 text", "write the secret as one line of text") from None
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise Wrong(f"{path} is empty", "write the secret into it as one line of text")
    return secret


def is_secret(annotation: object) -> bool:
    """Whether a key of this type may hold a secret: by itself, in a list, or as a value of a table. What a model inside
    of it says of its own keys does not count."""
    # By the attribute: a `type X = ...` has a value, a NewType a supertype.
    named = getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
    if named is not None:
        return is_secret(named)
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, SecretStr | SecretBytes | AnySecret):
        return True
    return any(is_secret(part) for part in get_args(annotation))


def reveal_all(annotation: object, value: object, base: Path) -> object:
    """``value`` of a key of this type with all secrets in it revealed. Raises Wrong as ``reveal`` does."""
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if is_secret(part)]
    if not parts:
        return reveal(value, base) if is_secret(annotation) else value
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return value
        return {name: reveal_all(parts[-1], item, base) for name, item in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset):
        return [reveal_all(parts[0], item, base) for item in value] if isinstance(value, list) else value
    # One of several types; more than one with secrets would leave it to chance which is meant.
    return reveal_all(parts[0], value, base)


def _secret(value: object, info: ValidationInfo) -> object:
    if isinstance(value, SecretStr):
        return value
    secret = reveal(value, base_of(info))
    if not isinstance(secret, str) or not secret:
        raise Wrong("is no secret", _HINT)
    return SecretStr(secret)


Secret = Annotated[
    SecretStr,
    BeforeValidator(_secret),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                *(
                    {
                        "type": "object",
                        "properties": {source: {"type": "string"}},
                        "required": [source],
                        "additionalProperties": False,
                    }
                    for source in SOURCES
                ),
            ]
        }
    ),
]
"""A key that holds a secret."""

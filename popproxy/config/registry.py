"""Plugins by name: entry points of the group ``popproxy.plugins``, first-party ones like a stranger's.

Only what the config names is imported; ``package.module:Class`` names a class that is installed nowhere.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from popproxy.api.plugin import Plugin, PluginConfig
from popproxy.config.problems import Wrong
from popproxy.config.secrets import is_secret, reveal_all
from popproxy.config.translate import TABLE_KEYS, fields

GROUP = "popproxy.plugins"


def known() -> dict[str, EntryPoint]:
    """The installed plugins by name. Nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def find(use: str) -> type[Plugin[Any]]:
    """The class that ``use`` names, imported. Raises Wrong for one that is unknown, broken or no plugin."""
    if ":" in use:
        found = _imported(use, use)
    else:
        entry = known().get(use)
        if entry is None:
            names = ", ".join(sorted(known())) or "none"
            raise Wrong(
                f"there is no plugin {use!r}", f'write one of: {names}; or "package.module:Class" for your own'
            )
        found = _imported(entry.value, use)
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        raise Wrong(f"{use!r} is no plugin", "name a subclass of popproxy.api.Plugin")
    taken = sorted(set(TABLE_KEYS) & set(fields(found.config_model)))
    if taken:
        raise Wrong(
            f"the plugin {use!r} has options named like keys of every plugin table: {', '.join(taken)}",
            "rename them in the plugin",
        )
    return found


def _imported(target: str, use: str) -> object:
    """The object behind ``module:attribute``. Whatever a stranger's module raises becomes one Wrong."""
    module, _, attribute = target.partition(":")
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Wrong(
            f"the plugin {use!r} needs the module {error.name!r}, which is not installed",
            f"install it into the environment of popproxy, or add its folder to PYTHONPATH; or correct {use!r}",
        ) from error
    except Exception as error:
        raise Wrong(
            f"the plugin {use!r} cannot be imported: {type(error).__name__}: {error}", "correct the plugin"
        ) from error
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise Wrong(f"the module {module!r} has no {attribute!r}", "correct the class name behind the colon")
    return found


def reveal_options(model: type[PluginConfig], options: dict[str, Any], base: Path) -> list[tuple[str, Wrong]]:
    """Replace in ``options`` the source tables of keys that ``model`` declares as SecretStr or SecretBytes, or as lists
    or tables of them.

    ``base`` is where relative paths begin. Returns what went wrong, by key.
    """
    problems: list[tuple[str, Wrong]] = []
    for name, field in fields(model).items():
        if name in options and is_secret(field.annotation):
            try:
                options[name] = reveal_all(field.annotation, options[name], base)
            except Wrong as wrong:
                problems.append((name, wrong))
    return problems


def made(plugin: type[Plugin[Any]], options: BaseModel, use: str) -> Plugin[Any]:
    """An instance of ``plugin``. Raises Wrong when its constructor does."""
    try:
        return plugin(options)
    except Exception as error:
        raise Wrong(
            f"the plugin {use!r} refuses its options: {type(error).__name__}: {error}", "see its documentation"
        ) from error

"""``popproxy.api.__all__`` is the whole public surface."""

from __future__ import annotations

import inspect
import types
import typing

import popproxy.api as api


def test_all_is_sorted_and_without_doubles() -> None:
    assert list(api.__all__) == sorted(set(api.__all__), key=lambda name: (not name.isupper(), name))


def test_all_is_the_truth() -> None:
    public = {name: value for name, value in vars(api).items() if not name.startswith("_")}
    assert {name for name, value in public.items() if not isinstance(value, types.ModuleType)} == set(api.__all__)


def test_every_export_is_made_in_the_house() -> None:
    for name in api.__all__:
        value = getattr(api, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__.startswith(("popproxy.api.", "popproxy.wire.")), name
            assert inspect.getdoc(value), name


def test_what_a_hook_takes_and_returns_can_be_imported() -> None:
    """A plugin author can annotate every hook from popproxy.api alone."""
    exported = [getattr(api, name) for name in api.__all__]
    for hook, method in vars(api.Plugin).items():
        if hook.startswith(("on_", "open_")):
            hints = typing.get_type_hints(method)
            for kind in {part for hint in hints.values() for part in (typing.get_args(hint) or (hint,))}:
                if isinstance(kind, type) and kind.__module__ not in ("builtins", "types"):
                    assert kind in exported, (hook, kind)

"""The base class refuses at import what could only fail in production."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from popproxy.api import BodyFilter, Command, Fail, Plugin, PluginConfig, Refuse, Services, SessionSummary, SessionView
from popproxy.api.plugin import HOOKS, REVERSED, SYNC_ONLY, is_async, overrides


class LimitConfig(PluginConfig):
    """One option."""

    per_minute: int = Field(default=60, ge=1)


class Limit(Plugin[LimitConfig]):
    """Overrides one hook."""

    fail = Fail.CLOSED

    async def on_connect(self, session: SessionView) -> Refuse | None:
        return Refuse() if self.config.per_minute > 60 else None


class Bare(Plugin[PluginConfig]):
    """Overrides nothing."""


def test_the_config_model_is_found() -> None:
    assert Limit.config_model is LimitConfig
    assert Bare.config_model is PluginConfig
    assert Limit(LimitConfig(per_minute=5)).config.per_minute == 5


def test_a_subclass_of_a_plugin_inherits_its_config_model() -> None:
    class Stricter(Limit):
        """No brackets."""

    assert Stricter.config_model is LimitConfig
    assert overrides(Stricter, "on_connect")


def test_a_subclass_may_take_a_config_of_its_own() -> None:
    class Wider(LimitConfig):
        burst: int = 1

    class Second(Plugin[Wider]):
        """Another."""

    assert Second.config_model is Wider
    assert Limit.config_model is LimitConfig


def test_a_plugin_without_brackets_has_no_options() -> None:
    plain: Any = type("Plain", (Plugin,), {})
    assert plain.config_model is PluginConfig
    with pytest.raises(ValidationError):
        plain.config_model.model_validate({"anything": 1})


@pytest.mark.parametrize(
    ("options", "where"),
    [({"per_minut": 5}, "per_minut"), ({"per_minute": 0}, "per_minute"), ({"per_minute": "many"}, "per_minute")],
)
def test_the_config_is_strict(options: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LimitConfig.model_validate(options)
    assert [error["loc"] for error in caught.value.errors()] == [(where,)]


def test_the_config_is_frozen() -> None:
    config: Any = LimitConfig()
    with pytest.raises(ValidationError):
        config.per_minute = 2


def test_subscription_is_overriding() -> None:
    assert [hook for hook in HOOKS if overrides(Limit, hook)] == ["on_connect"]
    assert [hook for hook in HOOKS if overrides(Bare, hook)] == []


def test_whether_a_hook_is_async_is_known_from_the_class() -> None:
    class Mixed(Plugin[PluginConfig]):
        """Both kinds."""

        def on_command(self, session: SessionView, command: Command) -> None:
            return None

        async def on_login_result(self, session: SessionView, result: Any) -> None:
            return None

    assert is_async(Mixed, "on_login_result")
    assert not is_async(Mixed, "on_command")
    assert not is_async(Mixed, "on_reply")


@pytest.mark.parametrize("name", ["on_conect", "on_logn", "open_bodies", "on_message_", "on_"])
def test_a_misspelt_hook_is_refused_when_the_class_is_made(name: str) -> None:
    def hook(self: object, session: SessionView) -> None: ...

    with pytest.raises(TypeError) as caught:
        type("Misspelt", (Plugin,), {name: hook})
    assert str(caught.value).startswith(f"Misspelt.{name} is no hook; the hooks are: on_connect, ")


def test_a_name_that_only_looks_like_a_hook_may_be_data() -> None:
    class Data(Plugin[PluginConfig]):
        """on_error is no method."""

        on_error: ClassVar[str] = "drop"

    assert Data.on_error == "drop"


@pytest.mark.parametrize("hook", [*HOOKS, "start", "stop", "explain"])
def test_a_wrong_signature_is_refused_with_the_right_one(hook: str) -> None:
    def wrong(self: object, sesion: SessionView, more: object, yet_more: object, and_more: object) -> None: ...

    wanted = ", ".join(inspect.signature(getattr(Plugin, hook)).parameters)
    with pytest.raises(TypeError) as caught:
        type("Wrong", (Plugin,), {hook: wrong})
    assert str(caught.value) == f"Wrong.{hook} takes (self, sesion, more, yet_more, and_more); write ({wanted})"


@pytest.mark.parametrize("hook", ["on_connect", "start", "explain"])
def test_a_hook_that_is_no_method_is_refused(hook: str) -> None:
    with pytest.raises(TypeError, match=f"Odd.{hook} must be a method"):
        type("Odd", (Plugin,), {hook: 5})


def test_async_is_forbidden_where_it_would_cost_every_message() -> None:
    async def open_body(self: object, session: SessionView, command: Command) -> BodyFilter | None: ...

    async def on_close(self: object, session: SessionView, summary: SessionSummary) -> None: ...

    for name, hook in (("open_body", open_body), ("on_close", on_close)):
        assert name in SYNC_ONLY
        with pytest.raises(TypeError, match=f"Slow.{name} must be a plain def"):
            type("Slow", (Plugin,), {name: hook})


def test_explain_cannot_wait() -> None:
    async def explain(self: object, session: SessionView, user: str) -> None: ...

    with pytest.raises(TypeError, match=r"Slow\.explain must be a plain def: no loop runs"):
        type("Slow", (Plugin,), {"explain": explain})


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook not in SYNC_ONLY])
def test_every_other_hook_may_be_async(hook: str) -> None:
    parameters = inspect.signature(getattr(Plugin, hook)).parameters
    scope: dict[str, Any] = {}
    exec(f"async def hook({', '.join(parameters)}): ...", scope)
    made = type("Free", (Plugin,), {hook: scope["hook"]})
    assert is_async(made, hook)


def test_the_hooks_are_the_methods_of_the_base_class() -> None:
    begins = ("on_", "open_", "wants_", "unneeded", "growth", "pace")
    methods = [name for name in vars(Plugin) if name.startswith(begins)]
    assert list(HOOKS) == methods
    assert set(HOOKS) >= REVERSED | SYNC_ONLY
    assert all(inspect.getdoc(getattr(Plugin, hook)) for hook in HOOKS)


def test_the_base_hooks_do_nothing() -> None:
    plugin = Bare(PluginConfig())
    assert Bare.fail is Fail.OPEN
    for hook in (*HOOKS, "start", "stop", "explain"):
        method = getattr(plugin, hook)
        nothing: object = {"unneeded": frozenset(), "growth": 0, "pace": (), "wants_message": True}.get(hook)
        assert method(*(None for _ in inspect.signature(method).parameters)) == nothing


def test_start_may_be_async() -> None:
    class Slow(Plugin[PluginConfig]):
        """An async life cycle."""

        async def start(self, services: Services) -> None: ...

        def stop(self) -> Awaitable[None] | None:
            return None

    assert inspect.iscoroutinefunction(Slow.start)

"""Plugins by name and by import path; their options, secrets and failures."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.api.plugin import Fail
from popproxy.config import registry
from popproxy.config.load import Loaded
from popproxy.config.problems import Wrong

Bad = Callable[[str], list[str]]
Good = Callable[[str], Loaded]
Module = Callable[[str], str]

_numbers = itertools.count()

TINY = """
from pydantic import Field, SecretStr
from popproxy.api import Fail, Plugin, PluginConfig

class Options(PluginConfig):
    header: str = Field(default="X-Tiny", pattern="^X-")
    key: SecretStr | None = None
    mode: str = Field(default="a", alias="with")

class Tiny(Plugin[Options]):
    fail = Fail.CLOSED

    def on_command(self, session, command):
        return None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Writes a module of its own name and returns that name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(source: str) -> str:
        name = f"local_plugin_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return written


def test_the_first_party_plugins_are_known_and_not_imported() -> None:
    assert "headers" in registry.known()
    found = registry.find("headers")
    assert found.__name__ == "Headers"


def test_a_local_plugin_by_import_path(good: Good, module: Module) -> None:
    name = module(TINY)
    assert name not in sys.modules
    loaded = good(f'[[plugin]]\nuse = "{name}:Tiny"\nheader = "X-Mine"\nwith = "b"\ndeadline = "250ms"')
    (subscriber,) = loaded.plan.plugins
    assert subscriber.name == "Tiny"
    assert subscriber.fail is Fail.CLOSED
    assert subscriber.deadline == 0.25
    assert subscriber.plugin.config.header == "X-Mine"
    assert subscriber.plugin.config.mode == "b"


def test_all_listeners_share_one_instance_of_a_plugin(good: Good, module: Module) -> None:
    loaded = good(
        f'[[plugin]]\nuse = "{module(TINY)}:Tiny"\nwhen = {{ user = ["a*"], tls = true }}\n'
        '[[listener]]\nname = "a"\nbind = ["[::]:1"]\ntls = "implicit"\n'
        '[[listener]]\nname = "b"\nbind = ["[::]:2"]\ntls = "starttls"\n'
    )
    first, second = (listener.session.chain for listener in loaded.plan.listeners)
    assert first is second
    assert first.subscribers == loaded.plan.plugins
    assert [entry.subscriber.name for entry in first["on_command"]] == ["Tiny"]
    assert loaded.plan.plugins[0].when is not None and loaded.plan.plugins[0].when.tls is True


def test_the_operator_may_set_the_fail_mode_and_is_warned_when_loosening_it(good: Good, module: Module) -> None:
    loaded = good(f'[[plugin]]\nuse = "{module(TINY)}:Tiny"\nfail = "open"')
    assert loaded.plan.plugins[0].fail is Fail.OPEN
    assert "plugin[" in loaded.warnings[0].key or "plugin[" in loaded.warnings[1].key


def test_without_a_deadline_the_general_one_holds(good: Good, module: Module) -> None:
    loaded = good(f'[[plugin]]\nuse = "{module(TINY)}:Tiny"\n[timeouts]\nhook = "3s"')
    assert loaded.plan.plugins[0].deadline == 3.0


def test_options_are_validated_by_the_plugins_own_model(bad: Bad, module: Module) -> None:
    name = module(TINY)
    found = bad(f'[[plugin]]\nuse = "{name}:Tiny"\nheder = "X"\nheader = "Y"\nfial = "open"\nwith = 1\nmode = "c"')
    assert [line.replace(f"{name}:Tiny", "tiny") for line in found] == [
        "3: plugin[tiny].heder: unknown key; did you mean header?",
        '4: plugin[tiny].header: "Y" does not match ^X-; write header = "X-Tiny"',
        "5: plugin[tiny].fial: unknown key; did you mean fail?",
        '6: plugin[tiny].with: must be a string, not a whole number; write with = "a"',
        "7: plugin[tiny].mode: unknown key; write one of: deadline, fail, header, key, name, use, when, with",
    ]


def test_options_are_checked_even_when_the_table_itself_is_wrong(bad: Bad, module: Module) -> None:
    found = bad(f'[[plugin]]\nuse = "{module(TINY)}:Tiny"\nfail = "never"\nheader = "Y"')
    assert len(found) == 2


def test_secrets_of_plugins_come_from_everywhere_and_are_never_shown(
    good: Good, module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    monkeypatch.setenv("TINY_KEY", "hunter2")
    hashes = set()
    for written in ('"hunter2"', '{ file = "key" }', '{ env = "TINY_KEY" }', '"another"'):
        loaded = good(f'[[plugin]]\nuse = "{module(TINY)}:Tiny"\nname = "t"\nkey = {written}')
        options = loaded.plan.plugins[0].plugin.config
        assert options.key.get_secret_value() in ("hunter2", "another")
        assert "hunter2" not in repr(loaded) + repr(loaded.config.plugin) + repr(options)
        hashes.add(loaded.plan.hash)
    assert len(hashes) == 1


def test_a_secret_that_cannot_be_read(bad: Bad, module: Module) -> None:
    name = module(TINY)
    (problem,) = bad(f'[[plugin]]\nuse = "{name}:Tiny"\nkey = {{ file = "missing" }}')
    assert problem.startswith(f"3: plugin[{name}:Tiny].key: cannot read ")


@pytest.mark.parametrize(
    ("source", "attribute", "message"),
    [
        ("1 +", "Tiny", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('no luck')", "Tiny", "cannot be imported: RuntimeError: no luck"),
        ("import module_that_is_not_there", "Tiny", "needs the module 'module_that_is_not_there'"),
        ("", "Tiny", "has no 'Tiny'"),
        ("Tiny = 1", "Tiny", "is no plugin"),
        ("class Tiny: pass", "Tiny", "is no plugin"),
        (TINY + "    def on_comand(self, session, command): pass\n", "Tiny", "on_comand is no hook"),
        (TINY + "    def on_close(self, session): pass\n", "Tiny", "write (self, session, summary)"),
        (TINY.replace("mode: str", "when: str").replace(', alias="with"', ""), "Tiny", "options named like keys"),
        (
            TINY + "    def __init__(self, config):\n        raise ValueError('too bad')\n",
            "Tiny",
            "refuses its options: ValueError: too bad",
        ),
    ],
)
def test_a_broken_plugin_is_a_problem_like_any_other(
    bad: Bad, module: Module, source: str, attribute: str, message: str
) -> None:
    (problem,) = bad(f'[[plugin]]\nuse = "{module(source)}:{attribute}"')
    assert message in problem
    assert problem.startswith(("1: ", "2: "))


def test_an_unknown_plugin_lists_the_known_ones() -> None:
    with pytest.raises(Wrong) as caught:
        registry.find("heders")
    assert caught.value.message == "there is no plugin 'heders'"
    assert "headers" in caught.value.hint


NOSY = """
from popproxy.api import ConfigNames, Plugin, PluginConfig, Problem

class Options(PluginConfig):
    to: str = "main"
    rules: tuple[dict[str, str], ...] = ()

class Nosy(Plugin[Options]):
    def check(self, names: ConfigNames):
        if self.config.to == "boom":
            raise ValueError("no idea")
        yield from names.upstream(("to",), self.config.to)
        for place, rule in enumerate(self.config.rules):
            yield from names.listener(("rules", place, "at"), rule["at"])
"""


def test_a_plugin_looks_at_the_names_of_the_config(good: Good, bad: Bad, module: Module) -> None:
    use = f'[[plugin]]\nuse = "{module(NOSY)}:Nosy"\nname = "nosy"\n'
    assert good(use).plan.plugins
    assert bad(use + 'to = "man"\nrules = [\n{ at = "pop3s" },\n{ at = "imap" }]') == [
        "4: plugin[nosy].to: there is no upstream 'man'; did you mean main?",
        "7: plugin[nosy].rules[#2].at: there is no listener 'imap'; write one of: pop3s",
    ]


def test_a_plugin_whose_check_fails_is_one_problem(bad: Bad, module: Module) -> None:
    assert bad(f'[[plugin]]\nuse = "{module(NOSY)}:Nosy"\nname = "nosy"\nto = "boom"') == [
        "1: plugin[nosy]: the plugin's own check failed: ValueError: no idea; correct the plugin"
    ]

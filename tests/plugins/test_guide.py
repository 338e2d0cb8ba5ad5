"""plugins/README.md is true: every Python block runs, every TOML block parses, every hook and name is there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import popproxy.api as api
from popproxy.api.plugin import HOOKS, REVERSED, SYNC_ONLY
from popproxy.core.hooks import ALLOWED

GUIDE = Path(__file__).parents[2] / "plugins" / "README.md"
TEXT = GUIDE.read_text("utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match.group(1), TEXT.count("\n", 0, match.start()) + 2, match.group(2)) for match in FENCE.finditer(TEXT)]
PYTHON = [pytest.param(line, code, id=f"line {line}") for kind, line, code in BLOCKS if kind == "python"]
ROW = re.compile(r"^\| `(\w+)\((.*?)\)` \|[^|]*\| ([^|]*) \| (\w+) \| (\w+) \|$", re.MULTILINE)


@pytest.mark.parametrize(("line", "code"), PYTHON)
def test_a_python_block_runs(line: int, code: str) -> None:
    scope: dict[str, Any] = {"__name__": "guide"}
    exec(compile("\n" * (line - 1) + code, str(GUIDE), "exec"), scope)
    plugins = [value for value in scope.values() if isinstance(value, type) and issubclass(value, api.Plugin)]
    for plugin in plugins:
        if plugin is not api.Plugin:
            assert plugin(plugin.config_model()).config == plugin.config_model()


def test_every_block_says_what_it_is() -> None:
    assert len(PYTHON) >= 10
    assert {kind for kind, _, _ in BLOCKS} == {"python", "toml"}
    assert TEXT.count("\n```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("code", [code for kind, _, code in BLOCKS if kind == "toml"])
def test_a_toml_block_parses(code: str) -> None:
    assert tomllib.loads(code)


def test_the_first_plugin_has_ten_lines() -> None:
    code = next(code for kind, _, code in BLOCKS if kind == "python")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 10
    scope: dict[str, Any] = {}
    exec(code, scope)
    session = api.SessionView("1", "pop3", user="joe")
    plugin = scope["Hello"](api.PluginConfig())
    body_filter = plugin.open_body(session, api.parse(b"RETR 1"))
    greeted = body_filter.feed(b"A: b\r\n\r\nbody") + body_filter.finish()
    assert greeted.endswith(b"\r\nX-Hello: hello joe\r\nA: b\r\n\r\nbody")
    assert len(greeted) == len(b"A: b\r\n\r\nbody") + plugin.growth(session), "promise 9"


def test_every_link_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = link.partition("#")
        assert not path or (GUIDE.parent / path).exists(), link
        assert path or anchor in headings, link


def test_its_contents_name_every_chapter() -> None:
    chapters = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    contents = TEXT[TEXT.index("On this page:") : TEXT.index("## Hooks")]
    assert re.findall(r"\[([^\]]+)\]", contents) == chapters[1:]


def test_the_hook_table_is_the_truth() -> None:
    rows = {row[0]: row for row in ROW.findall(TEXT)}
    assert list(rows) == ["start", *HOOKS, "stop"]
    for hook, parameters, returns, order, is_async in rows.values():
        names = list(api.Plugin.__dict__[hook].__code__.co_varnames)[: api.Plugin.__dict__[hook].__code__.co_argcount]
        assert parameters == ", ".join(names[1:]), hook
        assert order == ("reversed" if hook in REVERSED or hook == "stop" else "list"), hook
        assert is_async == ("no" if hook in SYNC_ONLY else "yes"), hook
        verdicts = re.findall(r"`(\w+)`", returns)
        assert verdicts == [kind.__name__ for kind in ALLOWED.get(hook, ())], hook


def test_the_attributes_of_a_session_exist() -> None:
    named = re.search(r"`SessionView` is for reading: (.*?)\. What", TEXT, re.DOTALL)
    assert named is not None
    session = api.SessionView("1", "pop3")
    names = re.findall(r"`(\w+)`", named.group(1))
    assert len(names) >= 8
    for name in names:
        assert hasattr(session, name), name


def test_it_shows_public_names_only() -> None:
    for kind, line, code in BLOCKS:
        for node in ast.walk(ast.parse(code)) if kind == "python" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("popproxy"):
                assert node.module in ("popproxy.api", "popproxy.api.testing"), line
                assert node.module != "popproxy.api" or {name.name for name in node.names} <= set(api.__all__), line

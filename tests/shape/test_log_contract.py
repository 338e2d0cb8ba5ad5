"""docs/logs.md says what events.py says, and the house logs nothing that is not in it."""

import ast
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from popproxy.run.events import EVENTS, FIELDS, PLUGIN_FIELDS, PLUGINS, USERS, markdown, strangers
from tests.net.running import Setup, running
from tests.run.process import script

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error"}


def test_docs_are_generated() -> None:
    written = (ROOT / "docs" / "logs.md").read_text("ascii")
    assert written == markdown(), "run: python -m popproxy.run.events > docs/logs.md"


def test_the_module_writes_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "popproxy" / "run" / "events.py"), run_name="__main__")
    assert capsys.readouterr().out == markdown()


def test_every_field_is_explained_and_used() -> None:
    used = {field for event in EVENTS.values() for field in event.fields}
    assert used == set(FIELDS)
    assert set(USERS) <= used


def test_events_are_well_formed() -> None:
    for name, event in EVENTS.items():
        assert name.replace("_", "").isalpha() and name.islower()
        assert event.level in LEVELS
        assert len(event.fields) == len(set(event.fields))
        assert not {"time", "level", "event"} & set(event.fields)


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Calls with a level and an event name as literals: ``log.event``, ``note`` and ``Note``."""
    for path in sorted((ROOT / "popproxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called not in ("event", "note", "Note", "_say") or len(node.args) < 2:
                continue
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node, name.value


def plugin_calls() -> Iterator[tuple[str, ast.Call, str, set[str]]]:
    """Log calls of the plugins: where, the call, its plugin, and the names that it may write."""
    root = ROOT / "plugins" / "popproxy_plugins"
    for path in sorted(root.rglob("*.py")):
        plugin = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                of = node.func.value
                owner = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
                logs = node.func.attr in LEVELS and owner in ("log", "_log")
                if logs or node.func.attr == "_tell":
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node, plugin, constants(node.args[0])


def constants(node: ast.expr) -> set[str]:
    """The strings that an expression may be; none for a variable."""
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    return set()


def test_the_plugins_log_what_the_contract_says() -> None:
    written: set[str] = set()
    for where, call, plugin, names in plugin_calls():
        # policy has one place that writes lines for several names; whoever calls it says which.
        assert names or (plugin, ast.unparse(call.args[0])) == ("policy", "event"), f"{where}: say the name itself"
        for name in names:
            event = f"{plugin}.{name}"
            assert event in PLUGINS, f"{where}: {event} is not in popproxy/run/events.py"
            level = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            assert level in (PLUGINS[event].level, "_tell"), f"{where}: {event} is not {level}"
            for keyword in call.keywords:
                assert keyword.arg is None or keyword.arg in PLUGINS[event].fields, f"{where}: field {keyword.arg!r}"
            written.add(event)
    assert written == set(PLUGINS)


def test_every_field_of_a_plugin_is_explained() -> None:
    used = {field for event in PLUGINS.values() for field in event.fields}
    assert used <= set(FIELDS) | set(PLUGIN_FIELDS) and set(PLUGIN_FIELDS) <= used


def test_what_the_contract_does_not_know_is_named() -> None:
    assert strangers({"time": "", "level": "info", "event": "started", "seconds": 1.0, "worker": 0}) == []
    assert strangers({"level": "error", "event": "started", "x": 1}) == ["started: field x", "started: level error"]
    assert strangers({"event": "nothing"}) == ["event nothing"]
    assert strangers({"event": "mine.own", "plugin": "mine", "x": 1}) == []
    odd = {"level": "warning", "event": "policy.denied", "plugin": "policy"}
    assert strangers(odd) == ["policy.denied: level warning"]


def test_the_house_logs_what_the_contract_says() -> None:
    found = 0
    for where, call, name in calls():
        assert name in EVENTS, f"{where}: event {name!r} is not in popproxy/run/events.py"
        for keyword in call.keywords:
            assert keyword.arg is None or keyword.arg in EVENTS[name].fields, f"{where}: field {keyword.arg!r}"
        level = constants(call.args[0])
        assert level <= {EVENTS[name].level, EVENTS[name].also}, f"{where}: {name} is not {level}"
        found += 1
    assert found >= 30


def test_whoever_runs_the_proxy_holds_its_log_against_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields that are not written as such where an event is logged show only when it runs."""
    monkeypatch.setitem(EVENTS, "listening", replace(EVENTS["listening"], fields=("listener", "tls")))
    with pytest.raises(AssertionError, match="listening: field address"):
        with running(Setup(["pop3+clear://127.0.0.1:9"]), tmp_path):
            pass
    with pytest.raises(AssertionError, match="event nothing"):
        with script(tmp_path, """print('{"time":"","level":"info","event":"nothing"}')""") as process:
            process.wait()

"""docs/logs.md says what events.py says, and the house logs nothing that is not in it."""

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from popproxy.run.events import EVENTS, FIELDS, USERS, markdown

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


def test_the_house_logs_what_the_contract_says() -> None:
    found = 0
    for where, call, name in calls():
        assert name in EVENTS, f"{where}: event {name!r} is not in popproxy/run/events.py"
        for keyword in call.keywords:
            assert keyword.arg is None or keyword.arg in EVENTS[name].fields, f"{where}: field {keyword.arg!r}"
        found += 1
    assert found >= 5

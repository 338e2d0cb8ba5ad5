"""``popproxy.api.testing`` alone looks up, into core; nothing that runs in a proxy imports it, or the fakes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOOR = frozenset({"popproxy.api.testing", "popproxy.api.played", "popproxy.api.fakes"})


def imports(path: Path) -> set[str]:
    """What a module imports, by its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("folder", ["popproxy", "plugins/popproxy_plugins"])
def test_nothing_that_runs_imports_it(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module not in DOOR:
            assert not imports(path) & DOOR, module


def test_nothing_else_of_api_looks_up() -> None:
    for path in (ROOT / "popproxy" / "api").glob("*.py"):
        looks_up = {name for name in imports(path) if name.startswith("popproxy.core")}
        assert not looks_up or path.stem == "testing", path


def test_importing_the_worker_does_not_load_it() -> None:
    code = "import sys, popproxy.net.worker; print(*sorted(m for m in sys.modules if m.startswith('popproxy.api')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "popproxy.api.plugin" in loaded
    assert not loaded & DOOR

"""The installer and the fixture that skips: a package that is not here is named, and under CI it is a failure."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration import packages
from tests.integration.conftest import Need

pytestmark = pytest.mark.integration


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that has nothing but the file `present` as mpop and nobody who is root."""
    (tmp_path / "present").touch()
    monkeypatch.setattr(packages, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(packages, "FAILURES", tmp_path / "cache" / "failures.json")
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "INSTALLED", {"mpop": (str(tmp_path / "present"),), "curl": ("/nowhere/curl",)})
    monkeypatch.setattr(packages, "UNPACKED", {"courier-pop": ("usr/bin/none",)})
    monkeypatch.setattr(packages, "NEEDS", {"courier-pop": ("curl", "mpop")})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def test_without_root_it_says_so(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Sequence[str]] = []

    def fails(command: Sequence[str], cwd: Path) -> str:
        calls.append(command)
        return "E: no network"

    monkeypatch.setattr(packages, "_run", fails)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert packages.main() == 0
    failures = json.loads(packages.FAILURES.read_text())
    assert sorted(failures) == ["courier-pop", "curl"]
    assert "not root" in failures["curl"]
    assert failures["courier-pop"] == "E: no network"
    assert not any("install" in command for command in calls), "apt-get install without root"
    assert "curl is not available" in capsys.readouterr().err
    assert packages.lacking("mpop") is None
    assert packages.lacking("courier-pop") == f"courier-pop: E: no network; curl: {failures['curl']}"


def test_one_call_installs_all_and_starts_nothing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []

    def works(command: Sequence[str], cwd: Path) -> None:
        calls.append(tuple(command))
        assert packages.POLICY.read_text().endswith("exit 101\n")
        assert os.access(packages.POLICY, os.X_OK)

    monkeypatch.setattr(packages, "INSTALLED", {"a-package": ("/nowhere/a",), "b-package": ("/nowhere/b",)})
    monkeypatch.setattr(packages, "UNPACKED", {})
    monkeypatch.setattr(packages, "_run", works)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert packages.main() == 0
    (call,) = calls
    assert call[-2:] == ("a-package", "b-package")
    assert {"install", "--no-remove"} <= set(call)
    assert not packages.POLICY.exists(), "our policy-rc.d is still there"
    assert packages.lacking("a-package") == "a-package: installed, but its programs are not there"


def test_a_policy_of_others_stays(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.POLICY.write_text("#!/bin/sh\nexit 7\n")
    monkeypatch.setattr(packages, "UNPACKED", {})
    monkeypatch.setattr(packages, "_run", lambda command, cwd: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert packages.main() == 0
    assert packages.POLICY.read_text() == "#!/bin/sh\nexit 7\n"


@pytest.mark.parametrize("continuous", ["", "true"])
def test_what_is_lacking_is_named(bare: Path, need: Need, monkeypatch: pytest.MonkeyPatch, continuous: str) -> None:
    monkeypatch.setenv("CI", continuous)
    need("mpop")
    outcome = pytest.fail.Exception if continuous else pytest.skip.Exception
    with pytest.raises(outcome, match="needs the Debian package curl: curl: not installed"):
        need("mpop", "curl")

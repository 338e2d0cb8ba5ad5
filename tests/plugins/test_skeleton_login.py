"""plugins/skeleton_login.py is a file to copy: it works as it stands."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import Explained, Password, Route, SessionView, Verified
from popproxy.api.plugin import HOOKS, overrides
from popproxy.api.testing import PlayError, play

SKELETON = Path(__file__).parents[2] / "plugins" / "skeleton_login.py"
MODULE: dict[str, Any] = runpy.run_path(str(SKELETON), run_name="skeleton_login")
SESSION = SessionView("1", "pop3")


def test_its_own_test_passes() -> None:
    runpy.run_path(str(SKELETON), run_name="__main__")


def test_another_password_proves_nothing() -> None:
    config = MODULE["KeysConfig"](password="another")
    with pytest.raises(PlayError, match=r"-ERR \[AUTH\] Authentication failed"):
        play(MODULE["Keys"](config), MODULE["SCRIPT"])


def test_only_who_was_proven_gets_the_password() -> None:
    keys = MODULE["Keys"](MODULE["KeysConfig"]())
    assert keys.on_login(SESSION, Password("joe", b"guess")) is None
    assert keys.on_login(SESSION, Verified("joe", "ann")) == Route(None, Password("joe", b"sesame", "ann"))


def test_it_explains_itself() -> None:
    keys = MODULE["Keys"](MODULE["KeysConfig"]())
    assert isinstance(keys.explain(SESSION, "joe"), Explained)
    assert keys.explain(SESSION, "ann") is None


def test_it_shows_the_hooks_it_uses() -> None:
    assert [hook for hook in HOOKS if overrides(MODULE["Keys"], hook)] == ["on_verifier", "on_login"]

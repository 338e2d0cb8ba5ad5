"""/v1/status, /v1/reload and /v1/drain."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from popproxy.run.fleet import Reloaded
from tests.net.running import Setup
from tests.run.office import Office, office


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with office(Setup(["pop3+clear://127.0.0.1:9"]), tmp_path_factory.mktemp("process")) as made:
        yield made


def test_status(desk: Office) -> None:
    status = desk.get("/v1/status")
    assert (status["state"], status["pid"], status["sessions"]) == ("ready", os.getpid(), 1)
    assert status["workers"][0]["worker"] == 0 and status["reload_ok"] is True


def test_reload(desk: Office) -> None:
    desk.fleet.reloaded = Reloaded("def", (), ("a warning",))
    assert desk.post("/v1/reload") == {"hash": "def", "problems": [], "warnings": ["a warning"], "restart": []}
    desk.fleet.reloaded = Reloaded("abc", [{"message": "no such file", "worker": 0}])
    status, told = desk.ask("POST", "/v1/reload")
    assert (status, told["problems"]) == (422, [{"message": "no such file", "worker": 0}])
    assert "nothing has changed" in told["error"]


def test_drain(desk: Office) -> None:
    status, told = desk.ask("POST", "/v1/drain", {})
    assert (status, told) == (202, {"state": "draining", "sessions": 1})
    assert desk.fleet.drained == ["admin"]


def test_answers_are_not_kept_and_not_guessed_at(desk: Office) -> None:
    _, headers, _ = desk.whole("GET", "/v1/status")
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Type"].startswith("application/json") and headers["Server"] == "popproxy"
    assert not [name for name in headers if name.lower().startswith("access-control")]

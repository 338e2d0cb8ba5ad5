"""``status``, ``reload`` and ``drain``: a real process, and a fleet whose workers cannot do what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from popproxy.run.asked import EX_CONFIG, EX_DATAERR, EX_OK, EX_WRONG
from popproxy.run.cli import main
from popproxy.run.fleet import Reloaded, Status
from popproxy.run.people import process as people
from tests.net.running import Setup
from tests.run.office import Office, office
from tests.run.people.conftest import Typed
from tests.run.process import program

CONFIG = """
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["pop3+clear://127.0.0.1:9"]
[admin]
bind = "unix:{directory}/admin.sock"
[log]
format = "json"
"""


def test_a_process_from_status_to_end(
    tmp_path: Path, typed: Typed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "_PAUSE", 0.05)
    file = tmp_path / "popproxy.toml"
    good = CONFIG.format(directory=tmp_path)
    file.write_text(good)
    config = str(file)
    with program(tmp_path, "serve", "--config", config) as process:
        process.until(lambda: process.lines("started"))
        code, told = typed.json("status", "--config", config)
        assert (code, told["state"], told["pid"], told["config"]) == (EX_OK, "ready", process.popen.pid, config)
        out = typed("status", "--config", config)[1]
        assert out.startswith("popproxy ") and f"pid {process.popen.pid}, since 20" in out
        assert out.splitlines()[-1].split()[2:4] == ["up", "0"]
        # A bad one: what is printed is what `check` prints, and nothing has changed.
        file.write_text(good.replace('"off"', '"of"'))
        assert main(["check", "--config", config]) == EX_CONFIG
        checked = capsys.readouterr().out
        code, out, err = typed("reload", "--config", config)
        assert (code, out) == (EX_CONFIG, checked)
        assert "nothing has changed" in err
        code, bad = typed.json("reload", "--config", config)
        assert (code, bad["ok"], bad["problems"][0]["key"]) == (EX_CONFIG, False, "listener[main].tls")
        code, out, _ = typed("status", "--config", config)
        assert (code, "the last reload was refused" in out) == (EX_OK, True)
        file.write_text(good + 'level = "debug"\n')
        code, out, err = typed("reload", "--config", config)
        assert code == EX_OK and "popproxy: warning: not taken over: [log] level; all else is in force." in err
        assert "\nnot in force before a restart: [log] level\n" in typed("status", "--config", config)[1]
        assert typed.json("reload", "--config", config)[1]["restart"] == ["[log] level"]
        hash = typed.json("status", "--config", config)[1]["hash"]
        assert out == f"the config is in force for new sessions: hash {hash}\n"
        assert hash != told["hash"]
        assert typed("drain", "--wait", "--config", config) == (EX_OK, "popproxy has ended\n", "")
        assert process.wait() == 0


@pytest.fixture
def desk(tmp_path: Path, typed: Typed) -> Iterator[Office]:
    with office(Setup(["pop3+clear://127.0.0.1:9"]), tmp_path) as made:
        typed.place = f"unix:{made.path}"
        yield made


def test_a_worker_that_cannot(desk: Office, typed: Typed) -> None:
    desk.fleet.reloaded = Reloaded("abc", [{"worker": 1, "message": "main: 127.0.0.1:995: address in use\x1b[0m"}])
    code, out, err = typed("reload")
    assert (code, out) == (EX_DATAERR, "worker 1: main: 127.0.0.1:995: address in use\\x1b[0m\n")
    assert "the config before stays in force" in err
    desk.fleet.reloaded = Reloaded("abc", [{"message": "no"}])
    assert typed("reload")[:2] == (EX_DATAERR, "no\n")
    desk.fleet.reloaded = Reloaded("abc", (), ["popproxy.toml:1: tls: there is no certificate"])
    code, out, err = typed("reload")
    assert (code, err) == (EX_OK, "popproxy: warning: popproxy.toml:1: tls: there is no certificate\n")


def test_drain_without_waiting(desk: Office, typed: Typed) -> None:
    assert typed("drain") == (EX_OK, "popproxy takes no more sessions and ends with those that are open: 1\n", "")
    assert typed.json("drain") == (EX_OK, {"state": "draining", "sessions": 1})
    assert desk.fleet.drained == ["admin", "admin"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, EX_OK),
        ({"state": "reloading"}, EX_OK),
        ({"state": "draining"}, EX_WRONG),
        ({"workers": [{"worker": 0, "pid": 7, "up": False, "sessions": 0, "restarts": 3, "generation": 1}]}, EX_WRONG),
    ],
)
def test_the_exit_code_says_whether_it_serves(
    changed: dict[str, Any], code: int, desk: Office, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    status: Status = replace(desk.fleet.status(), **changed)
    monkeypatch.setattr(desk.fleet, "status", lambda: status)
    found, out, _ = typed("status")
    assert found == code
    assert ("DOWN" in out) is ("workers" in changed)

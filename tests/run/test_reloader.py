"""Reloads by themselves: one at a time, told to whoever asked, refused at the end, and nothing swallowed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from popproxy.api.services import Log
from popproxy.config.load import Loaded, load
from popproxy.config.plan import Plan
from popproxy.core.effects import Level
from popproxy.net.binding import BindError
from popproxy.run.reload import ENDING, NO_CONFIG, Refused, Reloader, unchanged
from tests.net.test_tls import make

CONFIG = """
[[listener]]
name = "main"
bind = ["127.0.0.1:0"]
tls = "off"
auth_before_tls = "allow"
[upstream.main]
servers = ["pop3+clear://127.0.0.1:9"]
[timeouts]
idle = {idle}
"""


class Rig:
    """A Reloader whose config and workers are the test's."""

    def __init__(self, directory: Path, again: bool = True) -> None:
        self.path = directory / "popproxy.toml"
        self.lines: list[tuple[str, str, dict[str, object]]] = []
        self.shown: list[tuple[bool, str]] = []
        self.taken: list[Plan] = []
        self.reads: list[int] = []
        self.fault: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = self.most = 0
        self.hash = ""
        self.write(600)
        loaded = load(self.path)
        self.it = Reloader(loaded.plan, self._again if again else None, self._take, self, self)

    def write(self, idle: int, text: str = CONFIG) -> None:
        self.path.write_text(text.format(idle=idle))

    def _again(self) -> tuple[Loaded, Sequence[str]]:
        self.reads.append(threading.get_ident())
        return load(self.path), ["a note"]

    async def _take(self, loaded: Loaded, plan: Plan) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
            if self.fault is not None:
                raise self.fault
            self.taken.append(plan)
        finally:
            self.under_way -= 1

    def event(self, level: Level, name: str, /, **fields: object) -> None:
        self.lines.append((level, name, fields))

    def plugin(self, name: str) -> Log:
        raise AssertionError("no plugin logs here")

    def config(self, digest: str) -> None:
        self.hash = digest

    def reloaded(self, ok: bool, now: float) -> None:
        self.shown.append((ok, self.hash))

    def told(self, name: str) -> list[dict[str, object]]:
        return [fields for _, event, fields in self.lines if event == name]


def scene(play: Callable[[Rig], Coroutine[Any, Any, None]], directory: Path, again: bool = True) -> None:
    async def main() -> None:
        await asyncio.wait_for(play(Rig(directory, again)), 20)

    asyncio.run(main())


def test_those_who_ask_at_once_are_served_one_after_the_other(tmp_path: Path) -> None:
    async def play(rig: Rig) -> None:
        rig.gate.clear()
        asked = [asyncio.ensure_future(rig.it.reload()) for _ in range(3)]
        await asyncio.sleep(0.05)
        rig.it.signalled()
        await asyncio.sleep(0.05)
        assert not rig.reads, "nothing is read before all is open"
        rig.it.open()
        while not rig.under_way:
            await asyncio.sleep(0.01)
        assert rig.it.busy
        rig.write(700)
        rig.gate.set()
        outcomes = await asyncio.gather(*asked)
        assert rig.most == 1 and len(rig.taken) == 3, "HUP found somebody who waits already"
        assert [plan.timeouts.idle for plan in rig.taken] == [600, 700, 700]
        assert all(not outcome.problems and outcome.warnings == ["a note"] for outcome in outcomes)
        assert outcomes[2].hash == rig.hash == rig.taken[2].hash != outcomes[0].hash
        assert threading.get_ident() not in rig.reads and not rig.it.busy
        rig.it.signalled()
        rig.it.signalled()
        while len(rig.taken) < 4:
            await asyncio.sleep(0.01)
        await rig.it.close()
        assert len(rig.taken) == 4 and len(rig.told("config_loaded")) == 4

    scene(play, tmp_path)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (BindError("cannot listen on 127.0.0.1:110: in use"), "cannot listen on 127.0.0.1:110: in use"),
        (OSError(24, "Too many open files"), "[Errno 24] Too many open files"),
        (Refused([{"message": "worker 1 cannot", "worker": 1}]), "worker 1 cannot"),
        (ValueError("a secret of the config"), "internal error: ValueError; the log says where"),
    ],
)
def test_what_cannot_be_put_in_force_changes_nothing_and_is_told(
    fault: BaseException, told: str, tmp_path: Path
) -> None:
    async def play(rig: Rig) -> None:
        rig.it.open()
        before, at = rig.it.plan, rig.it.at
        rig.fault = fault
        outcome = await rig.it.reload()
        assert [problem["message"] for problem in outcome.problems] == [told] and outcome.hash == before.hash
        assert rig.told("config_failed") == [{"config": str(rig.path), "problems": [told]}]
        assert (rig.it.plan, rig.it.at, rig.it.ok) == (before, at, False)
        assert [ok for ok, _ in rig.shown] == [True, False]
        assert bool(rig.told("internal_error")) is isinstance(fault, ValueError)
        assert "a secret" not in str(rig.lines)
        rig.fault = None
        assert not (await rig.it.reload()).problems
        assert rig.it.ok and rig.it.at >= at

    scene(play, tmp_path)


def test_every_problem_of_a_config_is_told_with_its_place(tmp_path: Path) -> None:
    async def play(rig: Rig) -> None:
        rig.it.open()
        rig.write(600, CONFIG + "hok = 1\nconect = 2\n")
        outcome = await rig.it.reload()
        assert [(problem["key"], problem["line"]) for problem in outcome.problems] == [
            ("timeouts.hok", 11), ("timeouts.conect", 12),
        ]  # fmt: skip
        (line,) = rig.told("config_failed")
        assert str(line["problems"]).count(f"{rig.path}:") == 2 and not rig.taken

    scene(play, tmp_path)


def test_at_the_end_what_is_under_way_is_given_up_and_others_are_refused(tmp_path: Path) -> None:
    async def play(rig: Rig) -> None:
        rig.it.open()
        rig.gate.clear()
        asked = asyncio.ensure_future(rig.it.reload())
        waits = asyncio.ensure_future(rig.it.reload())
        while not rig.under_way:
            await asyncio.sleep(0.01)
        await rig.it.close()
        for outcome in (await asked, await waits, await rig.it.reload()):
            assert [problem["message"] for problem in outcome.problems] == [ENDING]
        rig.it.signalled()
        await rig.it.close()
        assert not rig.taken and not rig.under_way and rig.it.ok

    scene(play, tmp_path)


def test_a_reload_goes_on_when_whoever_asked_goes_away(tmp_path: Path) -> None:
    async def play(rig: Rig) -> None:
        rig.it.open()
        rig.gate.clear()
        asked = asyncio.ensure_future(rig.it.reload())
        while not rig.under_way:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        rig.gate.set()
        while not rig.told("config_loaded"):
            await asyncio.sleep(0.01)
        await rig.it.close()

    scene(play, tmp_path)


def test_without_a_config_to_read_there_is_none(tmp_path: Path) -> None:
    async def play(rig: Rig) -> None:
        rig.it.open()
        assert [problem["message"] for problem in (await rig.it.reload()).problems] == [NO_CONFIG]

    scene(play, tmp_path, again=False)


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("", "[log]\nlevel = 'debug'\nusers = 'hashed'\nsalt = 'pepper pepper pepper'\n", ["level", "users", "salt"]),
        ("", "[log]\nformat = 'console'\nfile = '/tmp/log'\n", ["format", "file"]),
        ("[admin]\n", "[admin]\nbind = []\n", ["bind"]),
        ("", "[admin]\nbind = '127.0.0.1:9111'\n", ["bind"]),
        ("[admin]\nbind = []\n", "[admin]\nhosts = ['mail.example']\n", ["bind"]),
        ("[admin]\n", f"[admin]\ntoken = '{'x' * 20}'\nhosts = ['mail.example']\n", ["token", "hosts"]),
        ("[admin]\n", "[admin]\ncert = 'mine.pem'\nclient_ca_file = 'mine.pem'\n", ["cert", "client_ca_file"]),
        ("[admin]\ncert = 'mine.pem'\n", "[admin]\ncert = 'mine.pem'\nkey = 'mine.pem'\n", ["key"]),
        ("[admin]\nbind = 'unix:/a'\n", "[admin]\nbind = 'unix:/a'\nunix_mode = '0600'\n", ["unix_mode"]),
        ("[log]\nlevel = 'info'\n", "[log]\n", []),
    ],
)
def test_what_needs_a_restart_is_told_key_by_key(before: str, after: str, kept: list[str], tmp_path: Path) -> None:
    make(tmp_path / "mine.pem", "mail.example")
    path = tmp_path / "popproxy.toml"
    plans = []
    for text in (before, after):
        path.write_text(CONFIG.format(idle=600) + text)
        plans.append(load(path).plan)
    plan, keys = unchanged(*plans)
    assert [key.rpartition(" ")[2] for key in keys] == kept
    assert all(key.startswith("[log] " if "[log]" in after else "[admin] ") for key in keys)
    assert (plan.admin, plan.log, plan.workers) == (plans[0].admin, plans[0].log, plans[0].workers)


def test_what_needs_a_restart_is_remembered_until_it_is_as_it_was(tmp_path: Path) -> None:
    async def play(rig: Rig) -> None:
        rig.it.open()
        rig.write(600, "workers = 3\n" + CONFIG)
        outcome = await rig.it.reload()
        assert list(outcome.restart) == list(rig.it.waiting) == ["workers"] and rig.it.plan.workers == 1
        assert outcome.warnings[-1].startswith("not taken over: workers; all else is in force")
        rig.fault = OSError(24, "Too many open files")
        rig.write(600)
        assert (await rig.it.reload()).problems and list(rig.it.waiting) == ["workers"]
        rig.fault = None
        assert not (await rig.it.reload()).restart and not rig.it.waiting

    scene(play, tmp_path)


def test_a_config_that_cannot_be_read_to_its_end_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popproxy.run.reload._READ_SECONDS", 0.2)

    async def play(rig: Rig) -> None:
        rig.it.open()
        rig.path.unlink()
        os.mkfifo(rig.path)
        (problem,) = (await rig.it.reload()).problems
        assert str(problem["message"]).startswith("the config could not be read within 0.2 s")
        # So that the thread of this test ends; what it has read is nobody's any more.
        rig.write(700)
        rig.path.unlink()
        rig.write(800)
        monkeypatch.setattr("popproxy.run.reload._READ_SECONDS", 20.0)
        assert not (await rig.it.reload()).problems
        assert [plan.timeouts.idle for plan in rig.taken] == [800]

    scene(play, tmp_path)

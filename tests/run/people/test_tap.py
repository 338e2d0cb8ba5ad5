"""`popproxy tap`: what a terminal shows, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from popproxy.run.cli import main
from popproxy.run.people.tap import render
from popproxy.sample import SampleServer
from tests.net.running import PASSWORD, USER, Setup, sample
from tests.run.office import office


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[SampleServer]:
    with sample(tmp_path, [("one", b"Subject: one\n\nbody\n")]) as server:
        yield server


def url(server: SampleServer) -> str:
    return f"pop3+clear://127.0.0.1:{server.port}"


def test_the_command_prints_it(
    upstream: SampleServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with office(Setup([url(upstream)]), tmp_path) as made, made.proxy.client() as client:
        (row,) = made.get("/v1/sessions")["sessions"]

        def talk() -> None:
            end = time.monotonic() + 20
            while not made.proxy.worker.taps.open and time.monotonic() < end:
                time.sleep(0.01)
            client.user_pass(USER, PASSWORD)
            client.single(b"QUIT")

        talking = threading.Thread(target=talk)
        talking.start()
        assert main(["tap", "--session", row["id"], "--admin", f"unix:{made.path}"]) == 0
        talking.join()
        shown = capsys.readouterr()
        assert "C> PASS <password>" in shown.out and "U> USER alice" in shown.out
        assert shown.err == "popproxy: looking on; secrets are not shown; Ctrl-C ends it\n"
        assert PASSWORD.decode().strip() not in shown.out
        assert main(["tap", "--session", "none", "--admin", f"unix:{made.path}", "--json"]) == 1
        assert main(["tap", "--admin", f"unix:{made.path}"]) == 64


def test_each_line_has_its_session_where_there_are_several() -> None:
    seen: set[str] = set()
    first = {"time": "2026-11-27T10:00:00.123Z", "session": "ab1", "mark": "C>", "text": "NOOP", "worker": 0}
    assert render(first, seen) == "10:00:00.123 C> NOOP\n"
    assert render({**first, "session": "ab2", "text": "\x1b[31m"}, seen) == "10:00:00.123 ab2 C> \\x1b[31m\n"
    assert render(first, seen) == "10:00:00.123 ab1 C> NOOP\n"
    assert render({"time": "", "dropped": 7, "worker": 1}, seen) == "... 7 older lines came too fast and are lost\n"

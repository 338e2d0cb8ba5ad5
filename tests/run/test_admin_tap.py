"""/v1/tap: the transcript over HTTP, of one worker and of several."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from popproxy.run.admin.tap import LOST
from popproxy.sample import SampleServer
from tests.net.running import Setup, eventually, sample
from tests.run.office import Office, office, offices

LETTERS = [("one", b"Subject: one\n\nbody\n")]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[SampleServer]:
    with sample(tmp_path, LETTERS) as server:
        yield server


def url(server: SampleServer) -> str:
    return f"pop3+clear://127.0.0.1:{server.port}"


class Stream:
    """A request whose answer has no end."""

    def __init__(self, made: Office, query: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(made.path))
        self._socket.sendall(f"GET /v1/tap?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.response = HTTPResponse(self._socket)
        self.response.begin()
        self.lines: list[dict[str, Any]] = []

    def until(self, text: str) -> list[dict[str, Any]]:
        """All lines up to one that has ``text``."""
        while not any(text in line.get("text", "") for line in self.lines):
            line = self.response.readline()
            assert line, self.lines
            if line.strip():
                self.lines.append(json.loads(line))
        return self.lines

    def close(self) -> None:
        self.response.close()
        self._socket.close()


@contextmanager
def stream(made: Office, query: str) -> Iterator[Stream]:
    opened = Stream(made, query)
    try:
        assert opened.response.status == 200
        yield opened
    finally:
        opened.close()


def test_lines_come_as_they_are_said_and_the_end_of_the_asker_is_the_end_of_the_tap(
    upstream: SampleServer, tmp_path: Path
) -> None:
    with office(Setup([url(upstream)]), tmp_path) as made:
        taps = made.proxy.worker.taps
        with stream(made, "user=alice") as asked:
            assert asked.response.headers["Content-Type"] == "application/x-ndjson"
            with made.proxy.logged_in() as client:
                client.single(b"QUIT")
            lines = asked.until("session reason=quit")
            assert [line["text"] for line in lines if line["mark"] == "C>"] == ["USER alice", "PASS <password>", "QUIT"]
            assert all(set(line) == {"time", "session", "mark", "text", "worker"} for line in lines)
            assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
            assert len(taps.open) == 1
        eventually(lambda: not taps.open, "an end of the tap")


def test_the_end_of_the_one_session_is_the_end_of_the_answer(upstream: SampleServer, tmp_path: Path) -> None:
    with office(Setup([url(upstream)]), tmp_path) as made, made.proxy.logged_in() as client:
        (row,) = made.get("/v1/sessions")["sessions"]
        with stream(made, f"session={row['id']}") as asked:
            client.single(b"QUIT")
            asked.until("session reason=quit")
            assert asked.response.read() == b""


def test_sessions_of_all_workers_are_looked_at(upstream: SampleServer, tmp_path: Path) -> None:
    with offices([Setup([url(upstream)]), Setup([url(upstream)])], tmp_path) as (made, proxies):
        with stream(made, "ip=127.0.0.1") as asked:
            for number, proxy in enumerate(proxies):
                with proxy.client() as client:
                    client.single(b"QUIT")
                asked.until("session reason=quit")
                assert {line["worker"] for line in asked.lines} == {number}
                asked.lines.clear()
        eventually(lambda: not any(proxy.worker.taps.open for proxy in proxies), "an end of the tap in all workers")


def test_a_mute_worker_may_have_the_session_and_a_dead_one_has_it_no_more(
    upstream: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with offices([Setup([url(upstream)]), Setup([url(upstream)])], tmp_path) as (made, proxies):
        with proxies[1].logged_in() as client:
            (row,) = made.get("/v1/sessions")["sessions"]
            with stream(made, f"session={row['id']}") as asked:
                asked.until("user alice at")
                made.fleet.mute.add(1)
                # Whoever asks meanwhile hears from worker 0 alone, which does not know this tap.
                eventually(lambda: made.get("/v1/sessions")["missing"] == [1], "a mute worker")
                client.single(b"NOOP")
                made.fleet.mute.clear()
                asked.until("NOOP")
                (name,) = proxies[1].worker.taps.open
                proxies[1].call(proxies[1].worker.desk.answer("tap.close", {"tap": name}))
                asked.until(LOST)
                assert asked.response.read() == b""


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("", 400, "write one of: user, session, ip"),
        ("user=a&ip=::1", 400, "write one of: user, session, ip"),
        ("session=none", 404, "there is no session 'none'; `popproxy who` lists those that are open"),
        ("name=a", 400, "there is no parameter 'name': write one of: user, session, ip"),
    ],
)
def test_what_is_wrong_is_said(upstream: SampleServer, tmp_path: Path, query: str, status: int, told: str) -> None:
    with office(Setup([url(upstream)]), tmp_path) as made:
        assert made.ask("GET", f"/v1/tap?{query}") == (status, {"error": told})

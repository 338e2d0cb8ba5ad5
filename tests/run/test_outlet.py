"""Several processes, one pipe, socket or file: every line stays whole, and none is lost when the file is moved."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from popproxy.run.logline import LINE
from popproxy.run.logs import EventLog
from popproxy.run.outlet import Stream
from tests.run.process import ROOT

LINES, PROCESSES = 400, 4

WRITER = """
import sys, time
from pathlib import Path
from popproxy.run.logs import EventLog
slot, target, lines = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = EventLog(Path(target) if target.startswith("/") else int(target), worker=slot, buffer=1 << 30)
for number in range(lines):
    log.event("info", "session", count=number, detail="x" * ((number * 37) % 3000), commands={"RETR": number})
    if target.startswith("/") and number % 20 == 0:
        time.sleep(0.01)
        log.reopen()
log.close(30)
assert log.dropped == 0, log.dropped
"""


def writers(target: str, passed: tuple[int, ...] = ()) -> list[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(slot), target, str(LINES)], pass_fds=passed, env=environment
        )
        for slot in range(PROCESSES)
    ]


def whole(text: bytes) -> dict[int, list[int]]:
    """The numbers of the lines by worker; fails for a line that is not JSON."""
    found: dict[int, list[int]] = {}
    for line in text.splitlines():
        record = json.loads(line)
        assert record["event"] == "session"
        found.setdefault(record["worker"], []).append(record["count"])
    return found


EXPECTED = {slot: list(range(LINES)) for slot in range(PROCESSES)}


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_lines_of_several_processes_never_interleave(kind: str) -> None:
    if kind == "pipe":
        reading, writing = os.pipe()
    else:
        ours, theirs = socket.socketpair()
        reading, writing = ours.detach(), theirs.detach()
    running = writers(str(writing), (writing,))
    os.close(writing)
    text = bytearray()
    while chunk := os.read(reading, 1 << 16):
        text += chunk
    os.close(reading)
    assert [process.wait(30) for process in running] == [0] * PROCESSES
    assert whole(bytes(text)) == EXPECTED


def test_nothing_is_lost_when_the_file_is_moved_away_again_and_again(tmp_path: Path) -> None:
    """What logrotate does: rename, then tell everybody. Lines go to the old file until each has heard of it."""
    path = tmp_path / "log"
    running = writers(str(path))
    moved = 0
    while any(process.poll() is None for process in running):
        if path.exists():
            path.rename(tmp_path / f"log.{moved}")
            moved += 1
        time.sleep(0.01)
    assert [process.wait(30) for process in running] == [0] * PROCESSES
    assert moved > 1
    files = sorted(tmp_path.iterdir(), key=lambda file: int(file.suffix[1:] or 1 << 30))
    found = whole(b"".join(file.read_bytes() for file in files))
    assert {slot: sorted(numbers) for slot, numbers in found.items()} == EXPECTED


class Pieces:
    """A pipe whose writes are recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading, self.writing = os.pipe()
        self.written: list[bytes] = []
        write = os.write

        def record(descriptor: int, data: Any) -> int:
            if descriptor == self.writing:
                self.written.append(bytes(data))
            return write(descriptor, data)

        monkeypatch.setattr("popproxy.run.outlet.os.write", record)


def test_a_write_to_a_pipe_is_whole_lines_of_at_most_pipe_buf(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pieces(monkeypatch)
    stream = Stream(pipe.writing)
    assert stream.longest == select.PIPE_BUF
    lines = [b"x" * size + b"\n" for size in (10, 4000, 84, 1, 4095, 2000, 2000, 94, 5)]
    assert stream.write(lines) == (0, "")
    assert b"".join(pipe.written) == b"".join(lines)
    assert all(piece.endswith(b"\n") and len(piece) <= select.PIPE_BUF for piece in pipe.written)
    assert len(pipe.written) < len(lines)
    stream.close()
    os.fstat(pipe.writing)
    os.close(pipe.reading)
    os.close(pipe.writing)


def test_a_line_that_is_too_long_for_a_pipe_is_cut_and_in_a_file_it_is_not(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    fields = {"detail": "d" * 6000, "problems": ["p" * 300] * 40, "session": "abc"}
    for target in (writing, tmp_path / "log"):
        log = EventLog(target)
        log.event("info", "session", **fields)
        log.close()
    line = os.read(reading, 1 << 16)
    os.close(reading)
    os.close(writing)
    assert len(line) <= select.PIPE_BUF
    assert json.loads(line)["session"] == "abc"
    assert json.loads(line)["detail"].endswith("... (6000 characters)")
    assert json.loads((tmp_path / "log").read_bytes())["detail"] == "d" * 6000
    assert Stream(tmp_path / "log").longest == LINE


def test_a_pipe_that_is_full_loses_nothing_while_somebody_reads() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    log = EventLog(writing)
    for number in range(500):
        log.event("info", "session", count=number, detail="x" * 1000)
    text = bytearray()

    def slow() -> None:
        while chunk := os.read(reading, 3000):
            text.extend(chunk)

    reader = threading.Thread(target=slow)
    reader.start()
    log.close(20)
    assert log.dropped == 0
    os.close(writing)
    reader.join(20)
    os.close(reading)
    assert [json.loads(line)["count"] for line in text.splitlines()] == list(range(500))


def test_the_worker_stands_on_every_line_where_there_are_several(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = EventLog(path, worker=3)
    log.event("info", "session", worker="not me")
    log.plugin("p").info("seen")
    log.close()
    alone = EventLog(tmp_path / "alone")
    alone.event("error", "worker_died", worker=2)
    alone.close()
    first, second = (json.loads(line) for line in path.read_bytes().splitlines())
    assert list(first) == ["time", "level", "event", "worker", "worker_"]
    assert (first["worker"], first["worker_"], second["worker"]) == (3, "not me", 3)
    assert json.loads((tmp_path / "alone").read_bytes())["worker"] == 2

"""The event log: nothing waits, nothing is lost unseen, nothing secret is written."""

import fcntl
import hashlib
import json
import logging
import os
import pty
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from popproxy.api import Log, Password
from popproxy.config.plan import LogPlan
from popproxy.run.logs import EventLog, LibraryHandler, describe, open_log, salt_of

Make = Callable[..., EventLog]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[EventLog] = []

    def build(*args: Any, **kwargs: Any) -> EventLog:
        made.append(EventLog(*args, **kwargs))
        return made[-1]

    yield build
    for log in made:
        log.close(5.0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen within ten seconds"
        time.sleep(0.01)


def fill(writing: int) -> int:
    """Fill the pipe so that the next write waits; the octets in it."""
    os.set_blocking(writing, False)
    filled = 0
    try:
        while True:
            filled += os.write(writing, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
        return filled


def read(reading: int, octets: int) -> bytes:
    found = b""
    while len(found) < octets:
        found += os.read(reading, octets - len(found))
    return found


def test_events_are_json_lines(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "log"
    log = make(path, now=lambda: 1_795_428_672.3456)
    log.event("info", "session", user="someone", commands={"RETR": 2}, tls=None)
    log.event("error", "stopped")
    log.close()
    assert lines(path) == [
        {
            "time": "2026-11-23T10:11:12.345Z", "level": "info", "event": "session", "user": "someone",
            "commands": {"RETR": 2}, "tls": None,
        },
        {"time": "2026-11-23T10:11:12.345Z", "level": "error", "event": "stopped"},
    ]  # fmt: skip
    assert log.dropped == 0


def test_the_clock_moves(tmp_path: Path, make: Make) -> None:
    clock = iter([0.0, 0.25, 59.999, 60.0])
    log = make(tmp_path / "log", now=lambda: next(clock))
    for _ in range(4):
        log.event("info", "listening")
    log.close()
    assert [line["time"] for line in lines(tmp_path / "log")] == [
        "1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.250Z", "1970-01-01T00:00:59.999Z",
        "1970-01-01T00:01:00.000Z",
    ]  # fmt: skip


def test_levels_are_filtered(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", level="warning")
    for level in ("debug", "info", "warning", "error"):
        log.event(level, "listening")
    log.close()
    assert [line["level"] for line in lines(tmp_path / "log")] == ["warning", "error"]


def test_fields_cannot_speak_for_the_log(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", now=lambda: 0.0)
    log.event("info", "listening", time="never", level="error", event="stopped", name="n")
    log.close()
    assert lines(tmp_path / "log") == [
        {
            "time": "1970-01-01T00:00:00.000Z", "level": "info", "event": "listening", "time_": "never",
            "level_": "error", "event_": "stopped", "name": "n",
        }
    ]  # fmt: skip


def test_a_value_is_written_as_it_was(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")
    tally = {"RETR": 1}
    log.event("info", "session", commands=tally)
    tally["RETR"] = 99
    log.close()
    assert lines(tmp_path / "log")[0]["commands"] == {"RETR": 1}


def test_user_names_plain(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", users="plain")
    log.event("info", "session", user="someone", login=None)
    log.close()
    (line,) = lines(tmp_path / "log")
    assert (line["user"], line["login"]) == ("someone", None)


def test_user_names_hashed(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", users="hashed", salt=b"pepper")
    log.event("info", "session", user="someone", login=None, listener="pop3")
    log.event("info", "session", user="\ud800")
    log.close()
    first, second = lines(tmp_path / "log")
    assert first["user"] == hashlib.sha256(b"pepper" + b"someone").hexdigest()[:12]
    assert (first["login"], first["listener"]) == (None, "pop3")
    assert len(second["user"]) == 12
    assert b"someone" not in (tmp_path / "log").read_bytes()


def test_without_a_salt_it_is_a_new_one_at_every_start() -> None:
    plan = LogPlan("json", "info", None, "hashed")
    assert len(salt_of(plan)) == 16
    assert salt_of(plan) != salt_of(plan)


def test_the_salt_of_the_config_makes_hashes_that_stay(tmp_path: Path) -> None:
    plan = LogPlan("json", "info", tmp_path / "log", "hashed", SecretStr("pepper"))
    for worker in (0, 1):
        log = open_log(plan, salt_of(plan), worker)
        log.event("info", "session", user="someone")
        log.close()
    first, second = lines(tmp_path / "log")
    assert first["user"] == second["user"] == hashlib.sha256(b"pepper" + b"someone").hexdigest()[:12]
    assert (first["worker"], second["worker"]) == (0, 1)
    assert "pepper" not in repr(plan)


def test_user_names_left_out(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", users="none")
    log.event("info", "session", user="someone", login="someone", listener="pop3")
    log.plugin("p").info("seen", user="someone")
    log.close()
    first, second = lines(tmp_path / "log")
    assert not {"user", "login"} & (set(first) | set(second))
    assert first["listener"] == "pop3"


@pytest.mark.parametrize("users", ["hashed", "none"])
def test_names_in_the_words_of_others_are_not_plain(tmp_path: Path, make: Make, users: str) -> None:
    log = make(tmp_path / "log", users=users)
    said = "upstream: no mailbox BOB@example.com, nor bob; bobby and bob.x@example.com exist"
    log.event("info", "login_failed", user="bob@example.com", reason=said, detail="what (a+b", client="bob")
    log.event("info", "session", user="kicked", login="(a+b", reason="kicked", detail="what (a+b is")
    log.close()
    first, second = lines(tmp_path / "log")
    assert first["reason"] == "upstream: no mailbox <user>, nor <user>; bobby and <user>.x@example.com exist"
    assert (first["detail"], first["client"]) == ("what (a+b", "bob")
    assert (second["reason"], second["detail"]) == ("kicked", "what <user> is")


def test_secrets_are_hidden(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")
    log.event("info", "login_failed", detail=Password("u", b"hunter2"), reason=b"hunter2")
    log.plugin("p").error("broke", credentials=[Password("u", b"hunter2")])
    log.close()
    assert b"hunter2" not in (tmp_path / "log").read_bytes()
    assert lines(tmp_path / "log")[0]["detail"] == "<Password hidden>"


def test_plugins_have_their_name_on_every_line(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")
    plugin: Log = log.plugin("headers")
    plugin.info("rewritten", count=2)
    plugin.warning("session", plugin="somebody else", level="x")
    plugin.error("broke")
    log.close()
    found = [(line["level"], line["event"], line["plugin"]) for line in lines(tmp_path / "log")]
    assert found == [
        ("info", "headers.rewritten", "headers"),
        ("warning", "headers.session", "headers"),
        ("error", "headers.broke", "headers"),
    ]


def test_lines_of_a_burst_are_written_in_batches(pipe: tuple[int, int], make: Make) -> None:
    reading, writing = pipe
    log = make(writing)
    for number in range(100):
        log.event("info", "session", count=number)
    until(lambda: log._size == 0)
    log.close()
    text = os.read(reading, 1 << 16)
    assert [json.loads(line)["count"] for line in text.splitlines()] == list(range(100))


def test_a_reader_that_sleeps_costs_lines_not_time(pipe: tuple[int, int], make: Make) -> None:
    reading, writing = pipe
    filled = fill(writing)
    log = make(writing, buffer=2000)
    log.event("info", "session", count=-1)
    until(lambda: log._size == 0)
    for number in range(100):
        log.event("info", "session", count=number)
    assert 0 < log.dropped < 100
    lost = log.dropped
    kept = 100 - lost
    assert len(log._lines) == kept and log._size <= 2000
    read(reading, filled)
    text = b""
    while text.count(b"\n") < kept + 2:
        text += os.read(reading, 1 << 16)
    found = [json.loads(line) for line in text.splitlines()]
    assert [line["count"] for line in found[:-1]] == [-1, *range(kept)]
    assert (found[-1]["event"], found[-1]["count"]) == ("log_dropped", lost)
    assert found[-1]["detail"] == "the buffer was full"


def test_close_gives_up_at_its_deadline(pipe: tuple[int, int], make: Make) -> None:
    reading, writing = pipe
    filled = fill(writing)
    log = make(writing)
    log.event("info", "session")
    until(lambda: log._size == 0)
    log.event("info", "session")
    log.event("info", "session")
    log.close(0.01)
    assert log.dropped == 2
    read(reading, filled)


def test_a_line_after_close_is_counted(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")
    log.close()
    log.close()
    log.event("info", "session")
    assert log.dropped == 1
    assert lines(tmp_path / "log") == []


def test_a_pipe_in_non_blocking_mode_is_waited_for(pipe: tuple[int, int], make: Make) -> None:
    reading, writing = pipe
    filled = fill(writing)
    os.set_blocking(writing, False)
    log = make(writing)
    log.event("info", "session", count=7)
    until(lambda: log._size == 0)
    read(reading, filled)
    log.close(5.0)
    assert json.loads(os.read(reading, 1 << 16))["count"] == 7
    assert log.dropped == 0


def test_a_broken_pipe_is_counted(pipe: tuple[int, int], make: Make) -> None:
    reading, writing = pipe
    os.close(reading)
    log = make(writing)
    log.event("info", "session")
    log.event("info", "session")
    until(lambda: log.dropped == 2)
    log.close()


def test_a_torn_line_is_ended_before_the_next(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make(tmp_path / "log")
    write = os.write
    full = threading.Event()

    def disk(descriptor: int, data: bytes) -> int:
        if descriptor != log._outlet.fd:  # type: ignore[attr-defined]
            return write(descriptor, data)
        if not full.is_set():
            full.set()
            return write(descriptor, data[:10])
        if len(data) > 10 and log.dropped == 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("popproxy.run.outlet.os.write", disk)
    log.event("info", "session", count=1)
    until(lambda: log.dropped == 1)
    log.event("info", "session", count=2)
    until(lambda: b"log_dropped" in (tmp_path / "log").read_bytes())
    log.close()
    torn, second, told = (tmp_path / "log").read_bytes().splitlines()
    assert torn == b'{"time":"2'
    assert json.loads(second)["count"] == 2
    assert json.loads(told)["count"] == 1
    assert "No space left" in json.loads(told)["detail"]


def test_reopen_follows_a_rename(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "log"
    log = make(path)
    log.event("info", "session", count=1)
    until(lambda: path.stat().st_size > 0)
    path.rename(tmp_path / "log.1")
    log.reopen()
    until(path.exists)
    log.event("info", "session", count=2)
    log.close()
    assert [line["count"] for line in lines(tmp_path / "log.1")] == [1]
    assert [line["count"] for line in lines(path)] == [2]
    assert path.stat().st_mode & 0o777 & ~0o640 == 0


def test_reopen_that_fails_keeps_the_old_file(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = make(folder / "log")
    kept = tmp_path / "kept"
    folder.rename(kept)
    log.reopen()
    until(lambda: (kept / "log").stat().st_size > 0)
    log.close()
    (line,) = lines(kept / "log")
    assert (line["level"], line["event"]) == ("error", "log_failed")
    assert "No such file" in line["detail"]


def test_reopen_of_a_descriptor_does_nothing(pipe: tuple[int, int], make: Make) -> None:
    reading, writing = pipe
    log = make(writing)
    log.reopen()
    log.event("info", "session", count=1)
    log.close()
    assert json.loads(os.read(reading, 1 << 16))["count"] == 1
    os.fstat(writing)


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing/log"):
        EventLog(tmp_path / "missing" / "log")


def test_console_has_colour_only_on_a_terminal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, terminal = pty.openpty()
    try:
        for environment, colour in (({}, True), ({"NO_COLOR": "1"}, False)):
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            log = make(terminal, form="console")
            log.event("warning", "stopping", signal="TERM")
            log.close()
            text = os.read(leader, 4096)
            assert b"stopping" in text and (b"\x1b[" in text) is colour
    finally:
        os.close(leader)
        os.close(terminal)


def test_colour_can_be_asked_for(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", form="console", colour=True)
    log.event("info", "listening")
    log.close()
    assert b"\x1b[" in (tmp_path / "log").read_bytes()


def test_console_without_a_terminal(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log", form="console", now=lambda: 3661.5)
    log.event("info", "listening", listener="pop3s", address="[::1]:995")
    log.close()
    assert (tmp_path / "log").read_text() == "01:01:01.500 INFO    listening listener=pop3s address=[::1]:995\n"


def test_threads_do_not_mix_their_lines(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")

    def work(number: int) -> None:
        for count in range(200):
            log.event("info", "session", session=str(number), count=count)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = lines(tmp_path / "log")
    for number in range(4):
        assert [line["count"] for line in found if line["session"] == str(number)] == list(range(200))


def boom() -> None:
    raise KeyError("hunter2")


def test_describe_tells_type_and_place_but_no_text() -> None:
    with pytest.raises(KeyError) as caught:
        boom()
    found = describe(caught.value)
    assert found["error"] == "KeyError"
    assert str(found["where"]).startswith(f"test_logs.py:{boom.__code__.co_firstlineno + 1} boom < test_logs.py:")
    assert "hunter2" not in str(found)
    assert describe(ValueError()) == {"error": "ValueError", "where": ""}


def test_what_libraries_log_comes_along(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")
    logger = logging.Logger("asyncio")
    logger.addHandler(LibraryHandler(log))
    logger.info("too quiet")
    logger.warning("slow: %s", 3)
    try:
        boom()
    except KeyError:
        logger.exception("broke")
    logger.error("no exception", exc_info=sys.exc_info())
    log.close()
    found = lines(tmp_path / "log")
    assert [(line["level"], line["event"], line["detail"]) for line in found] == [
        ("warning", "library", "slow: 3"),
        ("error", "library", "broke"),
        ("error", "library", "no exception"),
    ]
    assert found[0]["logger"] == "asyncio"
    assert found[1]["error"] == "KeyError" and "boom" in found[1]["where"]
    assert "error" not in found[2]


def test_the_file_is_not_inherited(tmp_path: Path, make: Make) -> None:
    log = make(tmp_path / "log")
    assert fcntl.fcntl(log._outlet.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC  # type: ignore[attr-defined]

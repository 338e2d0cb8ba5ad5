"""The journal's native protocol, read by systemd's own rules from a real socket."""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Password
from popproxy.config.plan import LogPlan
from popproxy.run.journal import Journal, entry
from popproxy.run.logs import EventLog, open_log

TIME = "2026-11-23T10:11:12.345Z"
NAME = re.compile(rb"[A-Z][A-Z0-9_]{0,63}")


def fields(data: bytes) -> dict[str, list[bytes]]:
    """What systemd-journald makes of a datagram (journald-native.c): fails where it would drop something."""
    found: dict[str, list[bytes]] = {}
    while data:
        line, newline, data = data.partition(b"\n")
        assert newline, "the last field has no LF"
        assert line, "an empty line begins another entry"
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
            assert len(value) == size and end == b"\n", "the length is wrong"
        assert NAME.fullmatch(name), f"the journal drops a field called {name!r}"
        found.setdefault(name.decode(), []).append(value)
    return found


class Journald:
    """A datagram socket as systemd-journald has one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)
        self.passed = 0

    def next(self) -> dict[str, list[bytes]]:
        """The next entry, from the datagram or from the sealed memory whose descriptor it brings."""
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for level, kind, content in ancillary:
            assert (level, kind, data) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")
            self.passed += 1
            (descriptor,) = array.array("i", content[:4])
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            wanted = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            assert seals & wanted == wanted, "systemd takes only what is sealed"
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.close(descriptor)
        return fields(data)

    def close(self) -> None:
        self.socket.close()
        self.path.unlink()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    made = Journald(tmp_path / "socket")
    yield made
    made.socket.close()


@pytest.fixture
def log(journald: Journald) -> Iterator[EventLog]:
    made = EventLog(journald.path, form="journald", worker=2)
    yield made
    made.close()


def test_an_event_is_an_entry(journald: Journald, log: EventLog) -> None:
    log.event("warning", "upstream_retry", session="ab12", user="a b\nc", client_port=1110, upstream=None, tls="",
              commands={"RETR": 2}, detail="two\nlines")  # fmt: skip
    found = journald.next()
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("POPPROXY_TIME")[0])
    assert found == {
        "MESSAGE": [
            b'upstream_retry worker=2 session=ab12 user="a b\\nc" client_port=1110 commands=RETR:2 '
            b'detail="two\\nlines"'
        ],
        "PRIORITY": [b"4"],
        "SYSLOG_IDENTIFIER": [b"popproxy"],
        "POPPROXY_EVENT": [b"upstream_retry"],
        "POPPROXY_WORKER": [b"2"],
        "POPPROXY_SESSION": [b"ab12"],
        "POPPROXY_USER": [b"a b\nc"],
        "POPPROXY_CLIENT_PORT": [b"1110"],
        "POPPROXY_COMMANDS": [b'{"RETR":2}'],
        "POPPROXY_DETAIL": [b"two\nlines"],
    }


@pytest.mark.parametrize(("level", "priority"), [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3")])
def test_levels_are_priorities_of_syslog(level: str, priority: bytes) -> None:
    assert fields(entry(TIME, level, "session", {}))["PRIORITY"] == [priority]


def test_what_is_too_large_for_a_datagram_goes_by_descriptor(journald: Journald) -> None:
    large = "x" * (2 * int(Path("/proc/sys/net/core/wmem_max").read_text()) + 1)
    outlet = Journal(journald.path)
    for detail in (large, "small"):
        assert outlet.write([entry(TIME, "info", "session", {"detail": detail})]) == (0, "")
    assert journald.next()["POPPROXY_DETAIL"] == [large.encode()]
    assert journald.passed == 1
    assert journald.next()["POPPROXY_DETAIL"] == [b"small"]
    assert journald.passed == 1
    outlet.close()


def test_secrets_are_hidden_by_type(journald: Journald, log: EventLog) -> None:
    log.event("info", "session", detail=Password("u", b"hunter2"), reason=b"hunter2")
    found = journald.next()
    assert found["POPPROXY_DETAIL"] == [b'"<Password hidden>"'] and found["POPPROXY_REASON"] == [b'"<bytes hidden>"']
    assert not any(b"hunter2" in value for values in found.values() for value in values)


def test_a_journal_that_is_started_anew_is_found_again(journald: Journald, log: EventLog) -> None:
    log.event("info", "session", count=1)
    assert journald.next()["POPPROXY_COUNT"] == [b"1"]
    journald.close()
    fresh = Journald(journald.path)
    log.event("info", "session", count=2)
    assert fresh.next()["POPPROXY_COUNT"] == [b"2"]
    fresh.socket.close()


def test_lines_that_no_journal_takes_are_counted_and_told(
    journald: Journald, log: EventLog, until: Callable[[Callable[[], bool]], None]
) -> None:
    journald.close()
    log.event("info", "session", count=1)
    until(lambda: log.dropped == 1)
    fresh = Journald(journald.path)
    log.event("info", "session", count=2)
    assert fresh.next()["POPPROXY_COUNT"] == [b"2"]
    told = fresh.next()
    assert told["POPPROXY_EVENT"] == [b"log_dropped"] and told["POPPROXY_COUNT"] == [b"1"]
    assert str(journald.path).encode() in told["POPPROXY_DETAIL"][0]
    fresh.socket.close()


def test_reopen_finds_another_journal(journald: Journald) -> None:
    outlet = Journal(journald.path)
    journald.path.rename(journald.path.with_name("old"))
    fresh = Journald(journald.path)
    outlet.reopen()
    assert outlet.write([entry(TIME, "info", "session", {})]) == (0, "")
    assert fresh.next()["POPPROXY_EVENT"] == [b"session"]
    outlet.close()
    fresh.socket.close()


def test_without_a_journal_standard_error_gets_json_and_is_told_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no-journal"
    log = open_log(LogPlan("journald", "info", None, "plain"), b"salt", journal=path)
    log.event("info", "session", user="someone")
    log.close()
    plain, told, line = capfd.readouterr().err.splitlines()
    assert plain == (
        f"popproxy: no journal at {path}: No such file or directory; standard error gets JSON lines instead; write "
        '[log] format = "json" where systemd-journald does not run'
    )
    assert (json.loads(told)["event"], json.loads(told)["level"]) == ("log_failed", "error")
    assert json.loads(line)["user"] == "someone"


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text())


@settings(max_examples=150, deadline=None)
@given(st.text(), st.dictionaries(st.text(), VALUES, max_size=5))
def test_any_event_is_an_entry_that_the_journal_takes_whole(event: str, given: dict[str, object]) -> None:
    found = fields(entry(TIME, "info", event, given))
    assert len(found["MESSAGE"]) == 1
    shown = [value for value in given.values() if value is not None and value != ""]
    assert sum(len(values) for values in found.values()) == 5 + len(shown)

"""Status lines: what is one, what is none, and what the proxy writes itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.replies import ALL_OK, Status, err, ok, one_line, parse_status, says_ok


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"+OK", Status(True, None, b"")),
        (b"-ERR", Status(False, None, b"")),
        (b"+OK ", Status(True, None, b"")),
        (b"+OK 2 320", Status(True, None, b"2 320")),
        (b"-ERR  two spaces", Status(False, None, b" two spaces")),
        (b"-ERR [AUTH] no", Status(False, b"AUTH", b"no")),
        (b"-ERR [sys/temp] later", Status(False, b"SYS/TEMP", b"later")),
        (b"-ERR [SYS/PERM]", Status(False, b"SYS/PERM", b"")),
        (b"-ERR [X-OWN/DEEPER/STILL] unknown codes pass", Status(False, b"X-OWN/DEEPER/STILL", b"unknown codes pass")),
        (b"-ERR [REFERRAL/joe@mail.example.com:110] x", Status(False, b"REFERRAL/JOE@MAIL.EXAMPLE.COM:110", b"x")),
        (b"-ERR [AUTH]no space", Status(False, None, b"[AUTH]no space")),
        (b"-ERR [] empty", Status(False, None, b"[] empty")),
        (b"-ERR [not a code]", Status(False, None, b"[not a code]")),
        (b"+OK \xff\0\x80", Status(True, None, b"\xff\0\x80")),
    ],
)
def test_status_lines(line: bytes, status: Status) -> None:
    assert parse_status(line) == status
    assert says_ok(line + b"\r\n") is status.ok
    assert says_ok(line) is says_ok(line + b"\n") is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"+",  # a SASL continuation, not a status (PROTOCOL 4.5)
        b"+ ",
        b"+ Z29vZA==",
        b"* BYE",  # PROTOCOL 4.12: a shutdown text of another protocol
        b"+ERR no",  # PROTOCOL 4.4: hmailserver
        b"-OK",
        b"+ok",
        b"-err lower case",
        b"+OKAY",
        b"+OK\tTAB",
        b"+OK-",
        b" +OK",
        b"+OK \r",
        b"+OK a\r\n",
        b"+OK a\nb",
        b"+OK\n",
        b".",
    ],
)
def test_what_is_no_status_line_is_never_taken_for_one(line: bytes) -> None:
    assert parse_status(line) is None
    assert says_ok(line + b"\r\n") is None


def test_ok_and_err_without_text() -> None:
    assert ok() == b"+OK\r\n"
    assert ok("") == b"+OK\r\n"
    assert err("") == b"-ERR \r\n"


def test_text_and_codes() -> None:
    assert ok("POP3 ready") == b"+OK POP3 ready\r\n"
    assert ok(b"2 320") == b"+OK 2 320\r\n"
    assert err("no such message") == b"-ERR no such message\r\n"
    assert err("later", b"SYS/TEMP") == b"-ERR [SYS/TEMP] later\r\n"


def test_no_text_can_begin_a_second_line() -> None:
    assert ok("a\r\n-ERR b") == b"+OK a??-ERR b\r\n"
    assert err(b"a\0b\x7fc\td", b"AUTH") == b"-ERR [AUTH] a?b?c?d\r\n"


def test_a_line_of_ours_is_no_longer_than_the_rfc_allows() -> None:
    assert len(one_line("x" * 1000)) == 480
    assert len(err("x" * 1000, b"LOGIN-DELAY")) <= 512


def test_text_that_is_no_utf_8_is_still_a_line() -> None:
    assert one_line("\udcff") == b"?"
    assert one_line("ü") == "ü".encode()


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=600), st.binary(max_size=600)), st.sampled_from([None, b"AUTH", b"SYS/TEMP"]))
def test_what_we_write_we_read(text: str | bytes, code: bytes | None) -> None:
    for line, good in ((err(text, code), False), (ok(text), True)):
        assert line.endswith(b"\r\n")
        assert line.count(b"\n") == 1
        assert line.count(b"\r") == 1
        status = parse_status(line[:-2])
        assert status is not None
        assert status.ok is good


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_octets_are_a_status_or_none(line: bytes) -> None:
    status = parse_status(line)
    if status is not None:
        assert line.startswith(b"+OK" if status.ok else b"-ERR")
        assert line.endswith(status.text)
        assert b"\r" not in line
        assert b"\n" not in line


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (b"", 0),
        (b"+OK\r\n", 5),
        (b"+OK\r\n+OK 2 messages\r\n", 21),
        (b"+OK\r\n-ERR\r\n", 5),
        (b"+OK\r\n+OK", 5),
        (b"+OK\r\n+OKAY\r\n", 5),
        (b"+OK a\n+OK\r\n", 0),
        (b"+OK a\rb\r\n", 0),
        (b"-ERR\r\n+OK\r\n", 0),
        (b"+OK 1\r\n1 a\r\n.\r\n", 7),
    ],
)
def test_all_ok_covers_whole_positive_lines_only(data: bytes, length: int) -> None:
    match = ALL_OK.match(data)
    assert (match.end() if match else 0) == length


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"+OK", b"-ERR", b" ", b"x", b"\r\n", b"\r", b"\n", b"+ "]), max_size=40))
def test_all_ok_agrees_with_parse_status(parts: list[bytes]) -> None:
    data = b"".join(parts)
    match = ALL_OK.match(data)
    covered = match.end() if match else 0
    for line in data[:covered].split(b"\r\n")[:-1]:
        status = parse_status(line)
        assert status is not None
        assert status.ok
    following = data[covered:].partition(b"\r\n")
    if following[1]:
        status = parse_status(following[0])
        assert status is None or not status.ok

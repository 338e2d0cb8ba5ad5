"""What a command in flight expects back, and which lines may pass without a second look."""

from __future__ import annotations

import pytest

from popproxy.api import parse
from popproxy.core.flight import (
    CAREFUL,
    LOCAL,
    MULTI,
    NUMBERED,
    SINGLE,
    WHOLE_LINES,
    Pending,
    careful_entry,
    common,
    stops,
)
from popproxy.wire.commands import VERBS, Where


@pytest.mark.parametrize("line", WHOLE_LINES)
def test_a_whole_line_is_what_parsing_says(line: bytes) -> None:
    command = parse(line.removesuffix(b"\r"))
    assert WHOLE_LINES[line] == (MULTI if command.multiline else SINGLE, command.verb.index)
    assert Where.TRANSACTION in command.verb.where
    assert not command.verb.fenced
    assert command.name not in ("QUIT", "CAPA")


@pytest.mark.parametrize("name", NUMBERED)
def test_a_numbered_line_is_what_parsing_says(name: bytes) -> None:
    command = parse(name + b" 1")
    assert NUMBERED[name] == (MULTI if command.multiline else SINGLE, command.verb.index)
    assert not command.verb.fenced


def test_the_common_ones_are_there() -> None:
    assert {b"STAT\r", b"LIST\r", b"UIDL\r", b"NOOP\r", b"RSET\r", b"noop\r"} <= set(WHOLE_LINES)
    assert {b"RETR", b"DELE", b"LIST", b"UIDL", b"retr"} <= set(NUMBERED)
    assert b"TOP" not in NUMBERED


def test_a_careful_entry() -> None:
    command = parse(b"CAPA")
    kind, verb, at, pending = careful_entry(command, command, 5.0, lambda good, line, body: None)
    assert (kind, verb, at) == (CAREFUL, VERBS[b"CAPA"].index, 5.0)
    assert isinstance(pending, Pending)
    assert pending.collect is not None


def test_only_a_barrier_stops() -> None:
    command = parse(b"NOOP")
    assert not stops((SINGLE, 0, 0.0, None))
    assert not stops((LOCAL, 0, 0.0, b"+OK\r\n"))
    assert not stops((CAREFUL, 0, 0.0, Pending(command, command)))
    assert stops((CAREFUL, 0, 0.0, Pending(command, command, barrier=True)))


@pytest.mark.parametrize("line", [b"NOOP\r", b"noop\r", b"RETR 1\r", b"dele 4294967295\r", b"LIST 1\r", b"UIDL\r"])
def test_common_lines(line: bytes) -> None:
    command = parse(line[:-1])
    assert common(line) == (MULTI if command.multiline else SINGLE, command.verb.index)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\r", b"NOOP", b"NOOP \r", b"NoOp\r", b"RETR\r", b"RETR \r", b"RETR 0\r", b"RETR 01\r", b"RETR 1",
        b"RETR  1\r",
        b"RETR 1 \r", b"RETR +1\r", b"RETR 12345678901\r", b"RETR 1\r\nRETR 2\r", b"TOP 1 0\r", b"QUIT\r", b"CAPA\r",
        b"LAST\r", b"XSENDER 1\r", b"RETR \xb2\r", b"RETR 1\n\r",
    ],
)  # fmt: skip
def test_lines_that_need_a_second_look(line: bytes) -> None:
    assert common(line) is None

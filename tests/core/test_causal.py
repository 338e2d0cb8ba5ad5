"""An honest upstream behind the proxy: the client reads what it would read without it, however octets are cut and
whichever side is faster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from popproxy.api import BodyFilter, Dates, Hide, Keep
from popproxy.api.plugin import OPTIONAL
from popproxy.core.effects import Await, Dial, Dialed, Returned
from popproxy.core.limits import Limits
from tests.core.bounds import held, most
from tests.core.rig import Rig, plugin
from tests.core.server import Server

COMMANDS = [
    b"STAT", b"LIST", b"LIST 1", b"LIST 9", b"UIDL", b"UIDL 2", b"RETR 1", b"RETR 2", b"RETR 3", b"RETR 4", b"RETR 9",
    b"TOP 2 0", b"DELE 1", b"DELE 2", b"NOOP", b"RSET", b"noop", b"Stat", b"FOO", b"RETR 0", b"PASS x", b"QUIT now",
]  # fmt: skip
OWN = {
    b"FOO": b"-ERR Unknown command\r\n",
    b"RETR 0": b"-ERR Message numbers begin at 1\r\n",
    b"PASS x": b"-ERR PASS is not valid now\r\n",
    b"QUIT now": b"-ERR Wrong number of arguments\r\n",
}


async def waits(*_: object) -> None: ...


def refuses(*_: object) -> Any:
    raise AssertionError("this hook was not to be called")


class Same(BodyFilter):
    """Changes nothing."""


def undated(session: Any, maildrop: Any) -> Any:
    left = frozenset(number for number, entry in maildrop.entries.items() if not entry.dated)
    return Dates(left) if left else None


def dates_first(session: Any, command: Any) -> Any:
    """Whatever names a message waits for its date."""
    entry = session.maildrop.get(command.message)
    if command.message is None or (entry is None and session.maildrop) or (entry is not None and entry.dated):
        return None
    return Dates(frozenset({command.message}))


def keeps_all(session: Any, command: Any) -> Any:
    """In the words of the model."""
    return Keep("marked") if command.name == "DELE" else None


# Each of them must be invisible.
TRANSPARENT: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "sync": [{"on_command": lambda *_: None, "on_reply": lambda *_: None}],
    "async": [{"on_command": waits}, {"on_reply": waits, "on_message": waits}],
    "filter": [{"open_body": lambda *_: Same()}],
    "message": [{"on_message": lambda *_: None, "open_body": lambda *_: Same()}],
    "unneeded": [
        {"unneeded": lambda *_: OPTIONAL, "on_command": refuses, "on_maildrop": refuses, "open_body": refuses},
        {"on_reply": lambda *_: None},
    ],
    "dates": [{"on_maildrop": undated, "on_reply": waits}],
    "dates on command": [{"on_maildrop": lambda *_: None, "on_command": dates_first}, {"on_command": waits}],
    "kept": [{"on_maildrop": lambda *_: None, "on_command": keeps_all}],
    "dated and kept": [{"on_maildrop": undated, "on_command": dates_first}, {"on_command": keeps_all}],
    "maildrop": [{"on_maildrop": lambda *_: Hide(frozenset()), "on_reply": lambda *_: None}],
}
LIMITS = Limits(line=64, pipeline=5, reply=100, bad_commands=999)


class Pair:
    """A session and the model behind it; octets stand still until somebody delivers them."""

    def __init__(self, name: str = "none", pipelining: bool = True, **given: Any) -> None:
        self.name = name
        plugins = [plugin(**hooks) for hooks in TRANSPARENT[name]]
        self.rig = Rig(*plugins, known=None, limits=LIMITS, **given)
        self.server = Server(pipelining)
        self.to_server = b""
        self.to_client = b""
        self.from_client = b""
        self.rig.start()
        self.settle()

    def settle(self) -> None:
        """Effects are carried out at once, hooks return at once."""
        rig = self.rig
        while pending := [effect for effect in rig.effects if isinstance(effect, (Dial, Await))]:
            effect = pending[0]
            rig.effects.remove(effect)
            rig.s.done(effect.id, Dialed("model:110", False) if isinstance(effect, Dial) else Returned())
            rig.drain()
            if isinstance(effect, Dial):
                self.to_client += self.server.greeting
        self.to_server += rig.asked()

    def client(self, octets: int = 1 << 20) -> None:
        """Up to so many octets of the client arrive."""
        if self.rig.s.want_client:
            data, self.from_client = self.from_client[:octets], self.from_client[octets:]
            if data:
                self.rig.client(data)
                self.settle()

    def upstream(self, octets: int = 1 << 20) -> None:
        """Up to so many octets arrive at the server, and of what it says."""
        data, self.to_server = self.to_server[:octets], self.to_server[octets:]
        self.to_client += self.server.feed(data)
        if self.rig.s.want_upstream:
            data, self.to_client = self.to_client[:octets], self.to_client[octets:]
            if data:
                self.rig.upstream(data)
                self.settle()

    def rest(self) -> None:
        """Everything arrives."""
        for _ in range(10_000):
            before = self.moved()
            self.client()
            self.upstream()
            if before == self.moved():
                return
        raise AssertionError("it never comes to rest")

    def moved(self) -> tuple[int, ...]:
        """What any delivery changes."""
        waiting = (self.from_client, self.to_server, self.to_client)
        return (len(self.rig.all_client), len(self.rig.all_upstream), self.rig.s.octets_in, *map(len, waiting))


def direct(lines: list[bytes], pipelining: bool = True) -> bytes:
    """What the client reads, in the end, for these lines behind its login."""
    server = Server(pipelining)
    server.inside = True
    out = b"+OK POP3 ready\r\n+OK\r\n+OK welcome\r\n"
    for line in lines:
        out += OWN[line] if line in OWN else server.answer(line)
        if line == b"QUIT":
            break
    return out


def octets(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in [b"USER joe", b"PASS sesame", *lines])


SCHEDULE = st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=80)


@pytest.mark.parametrize("name", TRANSPARENT)
@given(lines=st.lists(st.sampled_from(COMMANDS), max_size=14), pipelining=st.booleans(), schedule=SCHEDULE)
@settings(max_examples=40, deadline=None)
def test_nothing_depends_on_how_octets_are_cut_or_who_is_faster(
    name: str, lines: list[bytes], pipelining: bool, schedule: list[tuple[bool, int]]
) -> None:
    lines = [*lines, b"QUIT"]
    pair = Pair(name, pipelining)
    pair.from_client = octets(lines)
    for client, size in schedule:
        pair.client(size) if client else pair.upstream(size)
    pair.rest()
    assert pair.rig.all_client == direct(lines, pipelining)
    assert pair.rig.s.reason == "quit"
    assert pair.server.committed
    if "kept" in name:
        assert not pair.server.deleted, "the upstream never hears of it"
    if not any("on_maildrop" in hooks for hooks in TRANSPARENT[name]) or name == "unneeded":
        sent = [line.upper() for line in lines if line not in OWN]
        assert [line.upper() for line in pair.server.lines] == [b"CAPA", b"USER JOE", b"PASS SESAME", *sent]


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_every_command_in_one_session(name: str, size: int) -> None:
    lines = [*COMMANDS, *reversed(COMMANDS), b"QUIT"]
    for pipelining in (True, False):
        pair = Pair(name, pipelining)
        pair.from_client = octets(lines)
        while not pair.rig.closed:
            pair.client(size)
            pair.upstream(size)
        assert pair.rig.all_client == direct(lines, pipelining)


class Honest(RuleBasedStateMachine):
    """Commands, half commands and deliveries in any order: the client never reads anything but what is due."""

    @initialize(name=st.sampled_from(sorted(TRANSPARENT)), pipelining=st.booleans())
    def begin(self, name: str, pipelining: bool) -> None:
        self.pipelining = pipelining
        self.pair = Pair(name, pipelining)
        self.lines: list[bytes] = []
        self.quit = False
        self.pair.from_client = octets([])
        self.pair.rest()

    @precondition(lambda self: not self.quit)
    @rule(line=st.sampled_from(COMMANDS))
    def command(self, line: bytes) -> None:
        self.lines.append(line)
        self.pair.from_client += line + b"\r\n"

    @precondition(lambda self: not self.quit and len(self.lines) > 3)
    @rule()
    def leave(self) -> None:
        self.quit = True
        self.lines.append(b"QUIT")
        self.pair.from_client += b"QUIT\r\n"

    @rule(size=st.integers(1, 80))
    def client_octets(self, size: int) -> None:
        self.pair.client(size)

    @rule(size=st.integers(1, 80))
    def upstream_octets(self, size: int) -> None:
        self.pair.upstream(size)

    @rule()
    def blocked_for_a_moment(self) -> None:
        self.pair.rig.s.client_blocked(True)
        self.pair.rig.drain()
        self.pair.client(10)
        self.pair.rig.s.client_blocked(False)
        self.pair.rig.drain()
        self.pair.settle()

    @rule()
    def all_octets(self) -> None:
        self.pair.rest()
        assert self.pair.rig.all_client == direct(self.lines, self.pipelining)

    @invariant()
    def only_what_is_due(self) -> None:
        if hasattr(self, "pair"):
            assert direct(self.lines, self.pipelining).startswith(self.pair.rig.all_client)
            assert held(self.pair.rig.s) <= most(self.pair.rig.s, 80, 2, maildrop=True)
            assert self.pair.server.committed is (self.pair.server.closed and self.quit)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.all_octets()
            assert self.pair.rig.closed is self.quit


Honest.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHonest = Honest.TestCase

"""The line between supervisor and worker: whole messages, their sockets, and the end of the peer."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.run.channel import Channel, Message, pair
from popproxy.run.process import LoopName, loop_factory

PATIENCE = 20.0
loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def run(loop: LoopName, work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(work(), PATIENCE)

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(main())


class End:
    """One end with what came out of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.taken: list[tuple[Message, list[socket.socket]]] = []
        self.gone = 0
        self._change = asyncio.Event()
        self.channel = Channel(sock, self._take, self._end)

    def _take(self, message: Message, sockets: list[socket.socket]) -> None:
        self.taken.append((message, sockets))
        self._change.set()

    def _end(self) -> None:
        self.gone += 1
        self._change.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._change.clear()
            await self._change.wait()


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    one, other = map(End, pair())
    try:
        yield one, other
    finally:
        for end in (one, other):
            end.channel.close()
            for _, sockets in end.taken:
                for sock in sockets:
                    sock.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


PLAIN = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), PLAIN), max_size=12))
def test_messages_come_whole_and_in_order(messages: list[Message]) -> None:
    async def work() -> None:
        async with ends() as (one, other):
            for message in messages:
                one.channel.send(message)
                other.channel.send(message)
            await other.until(lambda: len(other.taken) == len(messages))
            await one.until(lambda: len(one.taken) == len(messages))
            assert [message for message, _ in other.taken] == [message for message, _ in one.taken] == messages

    run("asyncio", work)


@loops
def test_what_the_peer_does_not_take_yet_is_kept(loop: LoopName) -> None:
    async def work() -> None:
        async with ends() as (one, other):
            large = os.urandom(3 << 20)
            for number in range(4):
                one.channel.send(("large", number, large))
            one.channel.send(("last",))
            await other.until(lambda: len(other.taken) == 5)
            assert all(message[2] == large for message, _ in other.taken[:4])
            assert [message[:2] for message, _ in other.taken] == [*(("large", n) for n in range(4)), ("last",)]

    run(loop, work)


@loops
@pytest.mark.parametrize("count", [1, 3, 450])
def test_sockets_go_with_their_message(loop: LoopName, count: int) -> None:
    """Also with more of them than one system call takes, between large messages."""

    async def work() -> None:
        before = descriptors()
        async with ends() as (one, other):
            listeners = []
            for _ in range(count):
                listener = socket.socket()
                listener.bind(("127.0.0.1", 0))
                listeners.append(listener)
            one.channel.send(("before", os.urandom(1 << 20)))
            one.channel.send(("sockets", 1), listeners[: count // 2])
            one.channel.send(("more", os.urandom(1 << 20)), listeners[count // 2 :])
            one.channel.send(("behind",))
            names = [listener.getsockname() for listener in listeners]
            for listener in listeners:
                listener.close()
            await other.until(lambda: len(other.taken) == 4)
            got = [[sock.getsockname() for sock in sockets] for _, sockets in other.taken]
            assert got == [[], names[: count // 2], names[count // 2 :], []]
            assert all(not os.get_inheritable(sock.fileno()) for _, sockets in other.taken for sock in sockets)
        assert descriptors() == before

    run(loop, work)


@loops
@pytest.mark.parametrize("how", ["close", "half a head", "half a body"])
def test_the_end_of_the_peer_is_told_once(loop: LoopName, how: str) -> None:
    async def work() -> None:
        mine, theirs = pair()
        end = End(mine)
        if how != "close":
            theirs.send(b"\0\0\0" if how == "half a head" else b"\0\0\0\x09\0\0\0\0abc")
        theirs.close()
        await end.until(lambda: end.gone == 1)
        assert end.taken == []
        end.channel.send(("nobody hears it",))
        await asyncio.sleep(0.01)
        assert end.gone == 1
        end.channel.close()

    run(loop, work)


@loops
def test_a_peer_that_went_is_found_by_writing(loop: LoopName, tmp_path: Path) -> None:
    async def work() -> None:
        before = descriptors()
        mine, theirs = pair()
        end = End(mine)
        with (tmp_path / "file").open("wb"), socket.socket() as sock:
            end.channel.send(("it waits", b"x" * (4 << 20)), [sock])
            theirs.close()
            await end.until(lambda: end.gone == 1)
        assert descriptors() == before

    run(loop, work)


def test_nothing_is_told_after_close() -> None:
    async def work() -> None:
        mine, theirs = pair()
        end = End(mine)
        end.channel.close()
        end.channel.close()
        theirs.close()
        await asyncio.sleep(0.01)
        assert end.gone == 0

    run("asyncio", work)

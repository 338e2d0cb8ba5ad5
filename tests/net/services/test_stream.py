"""services.stream: octets both ways, over TCP and Unix sockets, and every way a peer can fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from popproxy.api import StreamFailed
from popproxy.net.services.stream import Connections
from tests.net.running import both_loops
from tests.net.tlspeers import run
from tests.net.upstream import Peer, Upstream, slam, slam_with_reset, stall


@both_loops
def test_both_ways_and_half_closed(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.until_gone()
        peer.send(b"got %d" % len(peer.received))

    async def scene() -> None:
        connections = Connections()
        async with await connections.connect(f"127.0.0.1:{server.port}", 20) as stream:
            await stream.write(b"x" * 300_000)
            await stream.write_eof()
            assert await stream.read(3) == b"got"
            got = b""
            while piece := await stream.read():
                got += piece
            assert got == b" 300000"
        assert not connections._open
        await stream.close()
        with pytest.raises(StreamFailed) as caught:
            await stream.write(b"x")
        assert caught.value.kind == "lost"

    with Upstream(script) as server:
        run(loop, scene)


@both_loops
def test_unix_sockets(loop: str, tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_unix_server(echo, tmp_path / "s")
        async with await Connections().connect(f"unix:{tmp_path}/s", 20) as stream:
            await stream.write(b"ping")
            assert await stream.read() == b"ping"
            assert await stream.read() == b""
        server.close()
        await server.wait_closed()

    run(loop, scene)


@both_loops
def test_a_peer_that_says_nothing_takes_nothing_or_goes_away(loop: str) -> None:
    async def scene() -> None:
        connections = Connections()
        address = f"127.0.0.1:{server.port}"
        async with await connections.connect(address, 0.05) as stream:
            with pytest.raises(StreamFailed, match=f"{address}: read: not done within") as caught:
                await stream.read()
            assert caught.value.kind == "timeout"
        async with await connections.connect(address, 20) as stream:
            assert await stream.read() == b""
        async with await connections.connect(address, 20) as stream:
            assert await stream.read() == b"hello"
            await stream.write(b"end\n")
            with pytest.raises(StreamFailed) as caught:
                await stream.read()
            assert caught.value.kind == "lost"

    def reset(peer: Peer) -> None:
        peer.send(b"hello")
        peer.line()
        slam_with_reset(peer)

    with Upstream(stall, slam, reset) as server:
        run(loop, scene)


@both_loops
def test_nobody_is_there(loop: str, tmp_path: Path) -> None:
    async def scene() -> None:
        for address, kind in (
            ("127.0.0.1:1", "refused"),
            (f"unix:{tmp_path}/none", "refused"),
            ("popproxy.invalid:783", "dns"),
        ):
            with pytest.raises(StreamFailed) as caught:
                await Connections().connect(address, 20)
            assert (caught.value.kind, str(caught.value)[: len(address)]) == (kind, address)

    run(loop, scene)


WRONG = ["", "host", "host:", "host:0", "host:65536", "unix:rel", "::1:783", "a b:1", "[x]:1"]


@pytest.mark.parametrize("address", WRONG)
def test_what_is_no_address(address: str) -> None:
    async def scene() -> None:
        with pytest.raises(ValueError, match="write host:port"):
            await Connections().connect(address, 1)

    run("asyncio", scene)


@both_loops
def test_the_end_of_the_plugin_closes_what_it_left_open(loop: str) -> None:
    async def scene() -> None:
        connections = Connections()
        stream = await connections.connect(f"127.0.0.1:{server.port}", 20)
        connections.close()
        with pytest.raises(StreamFailed):
            await stream.write(b"x")

    with Upstream(stall) as server:
        run(loop, scene)

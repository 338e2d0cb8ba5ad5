"""Who waits in a backlog when the process ends; a start that fails when it wants to accept."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from popproxy.net.listener import Listener
from tests.net.running import Proxy, Setup, both_loops, plan_of
from tests.net.upstream import PATIENCE

NOWHERE = "pop3+clear://127.0.0.1:9"


@contextmanager
def held_up(proxy: Proxy) -> Iterator[None]:
    """The loop accepts nobody in the block, and stops the worker right behind it."""
    waiting, there = threading.Event(), threading.Event()

    async def work() -> None:
        waiting.set()
        assert there.wait(PATIENCE)
        await proxy.worker.stop(0.0)

    stopping = asyncio.run_coroutine_threadsafe(work(), proxy._loop)
    assert waiting.wait(PATIENCE)
    yield
    there.set()
    stopping.result(PATIENCE)


@both_loops
def test_who_waits_at_the_end_is_told_to_try_later(loop: str, tmp_path: Path) -> None:
    proxy = Proxy(plan_of(Setup([NOWHERE], loop), tmp_path), loop, tmp_path / "log")
    proxy.start()
    address = proxy.address()
    with held_up(proxy):
        clients = [socket.create_connection(address, PATIENCE) for _ in range(80)]
    for client in clients:
        with client:
            assert client.recv(100).startswith(b"-ERR [SYS/TEMP]")
            assert client.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)
    proxy.close()
    assert not proxy.faults


@both_loops
def test_who_waits_at_a_socket_of_systemd_is_left_to_the_next_process(loop: str, tmp_path: Path) -> None:
    plan = plan_of(Setup([NOWHERE], loop), tmp_path)
    (where,) = plan.listeners[0].bind
    with socket.create_server(("127.0.0.1", 0)) as systemd:
        proxy = Proxy(plan, loop, tmp_path / "log", {where: systemd.dup()})
        proxy.start()
        with held_up(proxy):
            client = socket.create_connection(systemd.getsockname(), PATIENCE)
        proxy.close()
        systemd.settimeout(PATIENCE)
        accepted, peer = systemd.accept()
        with accepted, client:
            assert peer == client.getsockname()
    assert not proxy.faults


def test_a_start_that_may_not_accept_fails_without_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(_: Listener) -> None:
        raise OSError("no more")

    monkeypatch.setattr(Listener, "open", refused)
    proxy = Proxy(plan_of(Setup([NOWHERE]), tmp_path), "uvloop", tmp_path / "log")
    with pytest.raises(OSError, match="no more"):
        proxy.start()
    gc.collect()
    assert not proxy.faults

"""Clients without end, and what became of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.run.process import PATIENCE
from tests.run.workers import Workers
from tests.wireclient import WireClient


@contextmanager
def load(ours: Workers, threads: int) -> Iterator[tuple[list[int], list[int], list[str]]]:
    """Clients without end: the ports of those who were served, of those who lost their session, and what is wrong."""
    served: list[int] = []
    lost: list[int] = []
    wrong: list[str] = []
    stop = threading.Event()

    def once() -> None:
        client = WireClient(ours.address, timeout=PATIENCE, greet=False)
        port = client.socket.getsockname()[1]
        try:
            with client:
                replies = [client.read_line(), client.user_pass(b"alice", b"secret")]
                replies += [client.single(b"STAT"), client.single(b"QUIT")]
                if not all(reply.startswith(b"+OK") for reply in replies):
                    wrong.append(f"{port}: {replies}")
                served.append(port)
        except (EOFError, ConnectionError):
            # It was accepted by a worker that is dead now, greeted or not.
            lost.append(port)
        except Exception as error:
            wrong.append(f"{port}: {error!r}")

    def run() -> None:
        while not stop.is_set():
            once()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield served, lost, wrong
    finally:
        stop.set()
        for thread in running:
            thread.join(PATIENCE)

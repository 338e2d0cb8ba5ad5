"""Reloads under clients who log in, retrieve and delete all the while: no session is dropped, no message lost or
cut, nothing deleted that nobody asked for, and nothing left over behind them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from popproxy.sample import SampleServer
from tests.letters import write_maildir
from tests.run.process import PATIENCE, Process, program
from tests.run.test_reload import PLUGIN, TABLE, reload
from tests.run.test_serve import address, config, started
from tests.wireclient import WireClient

USERS = [f"user{number}" for number in range(5)]
LETTERS = 30


@cache
def letter(user: str, number: int) -> bytes:
    """Some are larger than all buffers together."""
    lines = 10_000 if number == 3 else 20 * number + 1
    return b"Subject: %b\r\n\r\n" % f"{user} {number}".encode() + b"".join(
        b"%06d of a letter that must arrive whole\r\n" % line for line in range(lines)
    )


@contextmanager
def server(directory: Path) -> Iterator[SampleServer]:
    """A maildrop for each user."""
    drops = {user: directory / user for user in USERS}
    for user, drop in drops.items():
        write_maildir(drop, [(f"u{number:02}", letter(user, number)) for number in range(LETTERS)])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = SampleServer(drops, dict.fromkeys(USERS, "secret"))
    try:
        asyncio.run_coroutine_threadsafe(made.start(), loop).result(PATIENCE)
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


class Reader(threading.Thread):
    """A user's mail program: session behind session until it is told to end. ``left`` are the letters not deleted."""

    def __init__(self, user: str, where: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.user = user
        self.where = where
        self.left = list(range(LETTERS))
        self.sessions = 0
        self.enough = threading.Event()
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                self._session(self.sessions % 4)
                self.sessions += 1
        except BaseException as error:
            self.fault = error

    def _session(self, kind: int) -> None:
        with WireClient(self.where, timeout=PATIENCE) as client:
            assert client.greeting.startswith(b"+OK"), client.greeting
            assert client.user_pass(self.user.encode(), b"secret").startswith(b"+OK")
            count = client.single(b"STAT").split()[1]
            assert count == b"%d" % len(self.left), f"{self.user}: {count!r} messages, not {len(self.left)}"
            for number, of in enumerate(self.left[:5], 1):
                reply = client.multi(b"RETR %d" % number)
                body = reply.partition(b"\r\n")[2].removesuffix(b".\r\n")
                assert body == letter(self.user, of), f"{self.user}: {len(body)} octets of letter {of}"
            assert client.single(b"DELE 1").startswith(b"+OK")
            if kind == 0:
                return  # gone without QUIT: nothing is deleted (RFC 1939 section 6)
            if kind == 1:
                assert client.single(b"RSET").startswith(b"+OK")
            elif kind == 2 or len(self.left) < 8:
                assert client.single(b"NOOP").startswith(b"+OK")
                assert client.single(b"RSET").startswith(b"+OK")
            assert client.single(b"QUIT").startswith(b"+OK")
            if kind == 3 and len(self.left) >= 8:
                del self.left[0]


def held(process: Process) -> tuple[int, int]:
    """Its descriptors and threads."""
    place = Path(f"/proc/{process.popen.pid}")
    return len(os.listdir(place / "fd")), len(os.listdir(place / "task"))


@pytest.mark.parametrize(("loop", "reloads"), [("asyncio", 5), ("uvloop", 20)])
def test_reloads_under_load_cost_nobody_anything(loop: str, reloads: int, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)

    def write_config(number: int) -> str:
        path = Path(config(tmp_path, server=server_url, tail=TABLE.format("mine", "false")))
        bounds = f"max_sessions = {20 + number % 3}\nqueue = 10\n[admin]"
        text = path.read_text().replace("[admin]", bounds)
        path.write_text(text.replace('tls = "off"', f'tls = "off"\ngreeting = "No {number}"'))
        return str(path)

    with server(tmp_path) as upstream:
        server_url = f"pop3+clear://127.0.0.1:{upstream.port}"
        with program(tmp_path, "serve", "--config", write_config(0), "--loop", loop) as process:
            started(process)
            where = address(process)
            with WireClient(where, timeout=PATIENCE):
                reload(process)
            process.until(lambda: process.lines("config_retired"))
            before = held(process)
            readers = [Reader(user, where) for user in USERS]
            for reader in readers:
                reader.start()
            for number in range(1, reloads + 1):
                write_config(number)
                reload(process)
                with WireClient(where, timeout=PATIENCE) as client:
                    assert f"No {number}".encode() in client.greeting
                # Each of them comes to see several configs.
                done = [reader.sessions for reader in readers]
                process.until(
                    lambda done=done: any(reader.fault for reader in readers)
                    or sum(reader.sessions for reader in readers) >= sum(done) + len(USERS)
                )
            for reader in readers:
                reader.enough.set()
            for reader in readers:
                reader.join(PATIENCE)
                assert reader.fault is None, (reader.user, reader.fault)
                assert reader.sessions >= 4
            process.until(lambda: len(process.lines("config_retired")) == reloads + 1)
            process.until(lambda: held(process) == before)
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        for reader in readers:
            drop = tmp_path / reader.user
            assert sum(len(os.listdir(drop / place)) for place in ("cur", "new")) == len(reader.left)
    assert len(process.lines("mine.starts")) == len(process.lines("mine.stops")) == reloads + 2
    reasons = {line["reason"] for line in process.lines("session")}
    assert reasons <= {"quit", "client_eof"}, reasons
    assert not process.lines("internal_error") and not process.lines("upstream_failed")

"""`popproxy tap` as a program over real worker processes: each of them looked at, one of them killed, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from popproxy.run.admin.tap import LOST
from tests.run.leaking import PASSWORD, USER, echo
from tests.run.process import PATIENCE, ROOT
from tests.run.test_admin_workers import ask
from tests.run.workers import Workers, workers
from tests.wireclient import WireClient

# A shell that runs the tests in the background has them ignore what Ctrl-C sends.
TAP = """
import signal, sys
from popproxy.run.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(["tap", *sys.argv[1:]]))
"""


class Looking:
    """A program that looks on. Its lines go to a file."""

    def __init__(self, ours: Workers, socket: Path, out: Path, *whom: str) -> None:
        self._ours = ours
        self._out = out
        command = [sys.executable, "-c", TAP, *whom, "--json", "--admin", f"unix:{socket}"]
        with out.open("wb") as file:
            self.popen = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.read_text().rpartition("\n")[0].splitlines()]

    def until(self, text: str, slots: set[int]) -> None:
        """Lines with ``text`` have come from each of these workers."""
        self._ours.process.until(lambda: slots <= {one.get("worker") for one in self.told() if text in one["text"]})

    def of(self, slot: int) -> str:
        """All from this worker."""
        return "\n".join(one["text"] for one in self.told() if one.get("worker") == slot)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Exit code, and what it had to say."""
        if number is not None:
            self.popen.send_signal(number)
        _, told = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, told


@contextmanager
def looking(ours: Workers, directory: Path, *whom: str) -> Iterator[Looking]:
    made = Looking(ours, directory / "admin.sock", directory / "tap", *whom)
    try:
        yield made
    finally:
        made.popen.kill()
        made.popen.communicate()


def test_looking_on_at_two_workers(tmp_path: Path) -> None:
    socket = tmp_path / "admin.sock"
    admin = json.dumps(["127.0.0.1:0", f"unix:{socket}"])
    with (
        echo() as upstream,
        workers(tmp_path, server=upstream.url, admin=admin) as ours,
        ExitStack() as stack,
    ):
        held: dict[int, tuple[WireClient, str]] = {}

        def everywhere() -> bool:
            """Clients until each worker has one: the kernel decides whose they are."""
            client = stack.enter_context(ours.client())
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            port = client.socket.getsockname()[1]
            (row,) = [row for row in ask(socket, "GET", "/v1/sessions")["sessions"] if row["client_port"] == port]
            held.setdefault(row["worker"], (client, row["id"]))
            return set(held) == {0, 1}

        ours.process.until(everywhere)
        with looking(ours, tmp_path, "--user", "ALI*") as looker:
            looker.until("user alice at", {0, 1})
            # Of those that are there already.
            for client, _ in held.values():
                assert client.single(b"STAT").startswith(b"+OK")
            looker.until("STAT", {0, 1})
            # A worker that takes the place of a dead one is told of the tap.
            ours.process.until(lambda: all(one["sessions"] for one in ask(socket, "GET", "/v1/status")["workers"]))
            ours.back(0, ours.kill(0))
            assert ours.events("worker_died")[0]["sessions"] >= 1
            del held[0]
            ours.process.until(everywhere)
            ours.process.until(lambda: held[0][0].single(b"NOOP") and "NOOP" in looker.of(0))
            assert looker.end(signal.SIGINT) == (0, "")
        assert b"Sesame" not in (tmp_path / "tap").read_bytes()
        for slot, (client, id) in held.items():
            with looking(ours, tmp_path, "--session", id) as looker:
                looker.until("user alice at", {slot})
                client.single(b"NOOP")
                looker.until("NOOP", {slot})
                if slot == 1:
                    assert looker.end(signal.SIGINT) == (0, "")
                else:
                    ours.back(0, ours.kill(0))
                    assert looker.end() == (0, "")
                    assert (looker.told()[-1]["text"], looker.told()[-1]["worker"]) == (LOST, 0)
        ours.end()
    assert not ours.events("internal_error")

"""A process with few descriptors: newcomers are told, nobody is dropped without a word, and it recovers."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.net.upstream import Upstream, answering
from tests.run.process import PATIENCE, get, script
from tests.run.test_serve import address, admin, config, loops, started
from tests.wireclient import WireClient

FEW = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from popproxy.run.cli import main
sys.exit(main(["serve", "--config", {path!r}, "--loop", {loop!r}]))
"""
OVERLOADED = b"-ERR [SYS/TEMP] Overloaded, try again later\r\n"


@pytest.mark.parametrize("tls", ["off", "implicit"])
@loops
def test_descriptors_do_not_run_out(loop: str, tls: str, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        path = config(tmp_path, server=upstream.url, tls=tls)
        with script(tmp_path, FEW.format(path=path, loop=loop)) as process, ExitStack() as stack:
            started(process)
            where = admin(process)
            clients: list[socket.socket] = []
            answers: list[bytes] = []
            for _ in range(130):
                client = stack.enter_context(socket.create_connection(address(process), PATIENCE))
                clients.append(client)
                if tls == "off":
                    answers.append(client.recv(1000))
            if tls == "off":
                greeted = [answer for answer in answers if answer.startswith(b"+OK")]
                assert 20 < len(greeted) < 64, "each with an upstream, below 128"
                assert set(answers[len(greeted) :]) == {OVERLOADED}, "nobody is closed without a word"
                # Everybody who was let in can also log in.
                for client in clients[: len(greeted)]:
                    client.sendall(b"USER alice\r\n")
                    assert client.recv(1000).startswith(b"+OK")
                    client.sendall(b"PASS secret\r\n")
                    assert client.recv(1000).startswith(b"+OK")
            process.until(lambda: len(process.lines("refused")) >= 66)
            assert {line["reason"] for line in process.lines("refused")} == {"overload"}
            (line,) = process.lines("overload")
            assert (line["resource"], line["mark"]) == ("sockets", 115.2)
            assert not process.lines("accept_failed")
            metrics = get(where, "/metrics")[1].decode().replace(".0\n", "\n")
            assert 'popproxy_overload_shedding{resource="sockets"} 1' in metrics
            for client in clients:
                client.close()
            process.until(lambda: process.lines("overload_over"))
            if tls == "off":
                with WireClient(address(process), timeout=PATIENCE) as again:
                    assert again.user_pass(b"alice", b"secret").startswith(b"+OK")
            process.signal(signal.SIGTERM)
            assert process.wait() == 0


def test_without_a_mark_it_is_told_that_they_ran_out(tmp_path: Path) -> None:
    with Upstream(answering()) as upstream:
        path = config(tmp_path, server=upstream.url, tail='[overload]\nsockets = "off"')
        with script(tmp_path, FEW.format(path=path, loop="asyncio")) as process, ExitStack() as stack:
            started(process)
            for _ in range(130):
                stack.enter_context(socket.create_connection(address(process), PATIENCE))
            line = process.until(lambda: process.lines("accept_failed"))[0]
            assert (line["listener"], line["level"]) == ("main", "error")
            assert "open files" in line["detail"]

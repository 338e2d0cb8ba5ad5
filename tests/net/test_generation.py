"""One plan behind another in a running worker: what old sessions keep, what new ones get, what outlives both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from popproxy.api import Command, Plugin, PluginConfig, Services, SessionView
from popproxy.net.binding import BindError
from popproxy.net.tls import TlsConfigError
from popproxy.net.worker import PluginFailed
from tests.net.running import Setup, both_loops, eventually, plan_of, running
from tests.net.test_worker import count_sockets, listener
from tests.net.upstream import Peer, Upstream

LIFE: list[str] = []


class Witness(Plugin[PluginConfig]):
    """Writes down its life, and which of its kind saw whom."""

    def __init__(self, name: str, start: Callable[[], Awaitable[None] | None] | None = None) -> None:
        super().__init__(PluginConfig())
        self.name = name
        self._start = start

    def start(self, services: Services) -> Awaitable[None] | None:
        LIFE.append(f"{self.name} starts")
        return self._start() if self._start is not None else None

    def stop(self) -> None:
        LIFE.append(f"{self.name} stops")

    def on_command(self, session: SessionView, command: Command) -> None:
        LIFE.append(f"{self.name} sees {command.verb.name.decode()}")


@pytest.fixture(autouse=True)
def forget() -> None:
    LIFE.clear()


def saying(text: bytes) -> Callable[[Peer], None]:
    """Logs everybody in and answers every command with ``text``."""

    def script(peer: Peer) -> None:
        peer.login()
        while True:
            peer.line()
            peer.send(b"+OK " + text + b"\r\n")

    return script


@both_loops
def test_old_sessions_keep_plan_plugins_and_upstream_and_new_ones_get_the_new(loop: str, tmp_path: Path) -> None:
    with Upstream(saying(b"old")) as old, Upstream(saying(b"new")) as new:
        first = Setup([old.url], loop, plugins=[Witness("a"), Witness("b")], listener='greeting = "First"')
        with running(first, tmp_path) as proxy, proxy.logged_in() as before, proxy.client() as late:
            second = replace(first, servers=[new.url], plugins=[Witness("c")], listener='greeting = "Second"')
            proxy.adopt(plan_of(second, tmp_path))
            with proxy.logged_in() as after:
                assert b"First" in before.greeting and b"Second" in after.greeting
                assert before.single(b"NOOP") == b"+OK old\r\n"
                assert after.single(b"NOOP") == b"+OK new\r\n"
                assert late.user_pass(b"alice", b"x").startswith(b"+OK")
                assert late.single(b"NOOP") == b"+OK old\r\n"
                assert [generation.number for generation in proxy.worker.generations] == [2, 1]
                assert proxy.worker.sessions == 3 == len(list(proxy.worker.pumps()))
                assert "b stops" not in LIFE
                late.close()
                before.close()
                eventually(lambda: len(proxy.worker.generations) == 1, "end of the first generation")
                assert LIFE[-2:] == ["b stops", "a stops"]
                assert after.single(b"RSET") == b"+OK new\r\n"
                assert [seen for seen in LIFE if "RSET" in seen] == ["c sees RSET"]
                assert "a sees NOOP" in LIFE and LIFE.count("c sees NOOP") == 1
    assert LIFE[-1] == "c stops"


async def refuse() -> None:
    await asyncio.sleep(0)
    raise ValueError("my file is missing")


@pytest.mark.parametrize("fault", ["plugin", "port", "certificate"])
@both_loops
def test_what_cannot_be_prepared_leaves_everything_as_it_was(loop: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Upstream(saying(b"old")) as upstream, socket.create_server(("127.0.0.1", 0)) as other:
        setup = Setup([upstream.url], loop, listeners=listener("main", "127.0.0.1:0"), plugins=[Witness("a")])
        with running(setup, tmp_path) as proxy, proxy.logged_in() as before:
            binds = ["127.0.0.1:0", f"unix:{path}", "127.0.0.1:0"]
            start = None
            if fault == "plugin":
                start = refuse
            elif fault == "port":
                binds.append(f"127.0.0.1:{other.getsockname()[1]}")
            bad = replace(
                setup,
                listeners=listener("main", *binds).replace('"off"', '"starttls"'),
                plugins=[Witness("b"), Witness("c", start)],
            )
            plan = plan_of(bad, tmp_path)
            if fault == "certificate":
                (tmp_path / "proxy.pem").write_text("half of i")
            address, sockets = proxy.address(), count_sockets()
            told = r"my file is missing|in use|is not PEM"
            with pytest.raises((PluginFailed, BindError, TlsConfigError), match=told):
                proxy.adopt(plan)
            assert count_sockets() == sockets and not path.exists()
            tried = ["b starts", "c starts", "c stops", "b stops"] if fault == "plugin" else []
            assert ["a starts", *tried] == LIFE
            assert before.single(b"NOOP") == b"+OK old\r\n"
            assert proxy.address() == address
            with proxy.logged_in() as after:
                assert after.single(b"NOOP") == b"+OK old\r\n"
            assert len(proxy.worker.generations) == 1

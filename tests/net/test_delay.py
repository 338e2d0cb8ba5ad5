"""Refuse.delay and Hold over real sockets: it costs no task, and a client that goes away costs nothing."""

from __future__ import annotations

import time
from pathlib import Path

from popproxy.api import Code, Credentials, Hold, Plugin, PluginConfig, Refuse, SessionView
from tests.net.running import Setup, both_loops, eventually, reset, running
from tests.net.upstream import PATIENCE, Peer, Upstream


class Waits(Plugin[PluginConfig]):
    """Lets clients wait: by their name, in seconds."""

    def on_login(self, session: SessionView, credentials: Credentials) -> Refuse:
        return Refuse("No", Code.AUTH, delay=float(credentials.user))


@both_loops
def test_who_waits_costs_no_task_and_may_go_away(loop: str, tmp_path: Path) -> None:
    async def tasks() -> int:
        return len(proxy.worker.generations[0].tasks)

    setup = Setup(["pop3+clear://127.0.0.1:1"], loop, plugins=[Waits(PluginConfig())])
    with running(setup, tmp_path) as proxy:
        before = proxy.call(tasks())
        began = time.monotonic()
        clients = [proxy.client() for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(b"USER %b\r\nPASS x\r\n" % (b"0.3" if number < 5 else b"50"))
        proxy.wait("login_failed", 20)
        assert proxy.call(tasks()) == before
        for client in clients[:5]:
            assert client.read_line() == b"+OK\r\n"
            assert client.read_line() == b"-ERR [AUTH] No\r\n"
            client.close()
        assert time.monotonic() - began > 0.3
        for client in clients[5:]:
            reset(client)
        eventually(lambda: proxy.worker.sessions == 0, "end of the sessions")
        assert {line["reason"] for line in proxy.lines("session")} <= {"client_reset", "client_eof"}


class Holds(Plugin[PluginConfig]):
    """Lets logins wait: by their name, in seconds."""

    def on_login(self, session: SessionView, credentials: Credentials) -> Hold:
        assert abs(session.began - time.time()) < 3600, "seconds since the epoch"
        return Hold(float(credentials.user), "slowly")


def serve(peer: Peer) -> None:
    """Logs in and waits for the end."""
    peer.login()
    peer.until_gone()


@both_loops
def test_who_is_held_costs_no_task_and_no_connection_and_logs_in_later(loop: str, tmp_path: Path) -> None:
    async def tasks() -> int:
        return len(proxy.worker.generations[0].tasks)

    with Upstream(serve) as upstream:
        setup = Setup([upstream.url], loop, plugins=[Holds(PluginConfig())])
        with running(setup, tmp_path) as proxy:
            before = proxy.call(tasks())
            clients = [proxy.client() for _ in range(10)]
            for client in clients[1:]:
                client.send(b"USER 50\r\nPASS x\r\n")
            proxy.wait("login_held", 9)
            assert proxy.call(tasks()) == before
            assert not upstream.peers
            began = time.monotonic()
            clients[0].send(b"USER 0.3\r\nPASS x\r\n")
            assert clients[0].read_line() == b"+OK\r\n"
            assert clients[0].read_line() == b"+OK welcome\r\n"
            assert time.monotonic() - began > 0.29
            for client in clients[1:6]:
                reset(client)
            eventually(lambda: proxy.worker.sessions == 5, "end of those that went away")
            proxy.stop(PATIENCE)
            for client in clients[6:]:
                assert client.read_line() == b"+OK\r\n"
                assert client.read_line().startswith(b"-ERR [SYS/TEMP] "), "a shutdown does not wait for them"
                client.close()
            clients[0].close()
            assert len(upstream.peers) == 1

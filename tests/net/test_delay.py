"""Refuse.delay over real sockets: it costs no task, and a client that goes away costs nothing."""

from __future__ import annotations

import time
from pathlib import Path

from popproxy.api import Code, Credentials, Plugin, PluginConfig, Refuse, SessionView
from tests.net.running import Setup, both_loops, eventually, reset, running


class Waits(Plugin[PluginConfig]):
    """Lets clients wait: by their name, in seconds."""

    def on_login(self, session: SessionView, credentials: Credentials) -> Refuse:
        return Refuse("No", Code.AUTH, delay=float(credentials.user))


@both_loops
def test_who_waits_costs_no_task_and_may_go_away(loop: str, tmp_path: Path) -> None:
    async def tasks() -> int:
        return len(proxy.worker._tasks)

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

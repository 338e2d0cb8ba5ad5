"""All services together, in a worker: what a plugin holds is open while it lives and closed behind its stop()."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

from popproxy.api import (
    Credentials,
    Fail,
    HttpReply,
    Lookup,
    Plugin,
    PluginConfig,
    Refuse,
    Services,
    SessionView,
    WatchedFile,
)
from tests.net.running import PASSWORD, Setup, both_loops, running
from tests.net.services.test_http import answers
from tests.net.upstream import Peer, Upstream, answering, slam, stall

REPLY = b"HTTP/1.1 200 OK\r\nX-User: %s\r\nContent-Length: 0\r\n\r\n"


class Asks(Plugin[PluginConfig]):
    """Asks a server who may log in, and uses everything else at least once."""

    lookup: Lookup[str, str]
    words: WatchedFile[bytes]

    def __init__(self, port: int, path: Path) -> None:
        super().__init__(PluginConfig())
        self.port = port
        self.path = path
        self.stopped: list[str] = []

    async def start(self, services: Services) -> None:
        self.services = services
        self.backend = services.metrics.backend()
        self.lookup = services.lookup("users", self.fetch, backend=self.backend)
        self.words = await services.file(self.path, bytes.upper)
        self.stream = await services.stream(f"127.0.0.1:{self.port}")

    async def fetch(self, user: str) -> str | None:
        with self.backend.asked():
            reply: HttpReply = await self.services.http.request("GET", f"http://127.0.0.1:{self.port}/{user}")
        return reply.header("X-User")

    async def on_login(self, session: SessionView, credentials: Credentials) -> Refuse | None:
        known = await self.lookup.get(credentials.user)
        allowed = await self.services.threads.run(self.words.value.split)
        return None if known is not None and known.encode() in allowed else Refuse("No")

    def stop(self) -> Awaitable[None]:
        async def work() -> None:
            # Still open: a plugin may say goodbye.
            self.stopped.append((await self.services.http.request("GET", f"http://127.0.0.1:{self.port}/bye")).headers[0][1])

        return work()


@both_loops
def test_a_plugin_with_every_service(loop: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"joe eve")
    with (
        Upstream(stall, answers(REPLY % b"JOE", REPLY % b"bye")) as source,
        Upstream(answering(), answering()) as mail,
    ):
        plugin = Asks(source.port, tmp_path / "words")
        with running(Setup([mail.url], loop, plugins=[plugin], fail=Fail.CLOSED, deadline=10.0), tmp_path) as proxy:
            for _ in range(2):
                proxy.logged_in().close()
                proxy.session()
            assert proxy.sample("plugin_asks_users_lookups_total", result="found") == 1
            assert proxy.sample("plugin_asks_users_lookups_total", result="cached") == 1
            assert proxy.sample("plugin_asks_file_loads_total", result="ok") == 1
            assert proxy.sample("auth_cache_requests_total", backend="asks", result="miss") == 1
            assert proxy.sample("auth_cache_requests_total", backend="asks", result="hit") == 1
            assert proxy.sample("auth_backend_duration_seconds_count", backend="asks") == 1
            assert proxy.total("auth_backend_errors_total") == 0
        assert plugin.stopped == ["bye"]
        assert len(source.peers) == 2


@both_loops
def test_a_source_that_is_down_is_trouble_and_not_a_wrong_password(loop: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"joe")

    def once(peer: Peer) -> None:
        answers(REPLY % b"bye")(peer)

    with Upstream(stall, slam, slam, once) as source, Upstream(answering()) as mail:
        plugin = Asks(source.port, tmp_path / "words")
        with running(Setup([mail.url], loop, plugins=[plugin], fail=Fail.CLOSED, deadline=10.0), tmp_path) as proxy:
            client = proxy.client()
            assert client.user_pass(b"alice", PASSWORD).startswith(b"-ERR [SYS/TEMP] ")
            client.close()
            assert proxy.wait("plugin_error")["error"] == "LookupFailed"
            assert proxy.sample("plugin_asks_users_lookups_total", result="failed") == 1
            assert proxy.sample("auth_backend_errors_total", backend="asks", reason="lost") == 1
            assert proxy.sample("auth_backend_duration_seconds_count", backend="asks") == 1
        assert not mail.peers

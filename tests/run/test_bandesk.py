"""/v1/bans over the admin listener, asked as ``popproxy bans`` asks it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

import pytest
from popproxy_plugins.brute_force.bans import parse_network, put

from popproxy.api.fakes import FakeClock, FakeStore
from popproxy.api.store import Put, Store
from popproxy.config.urls import Bind
from popproxy.net.desk import Desk
from popproxy.run.admin import Admin
from popproxy.run.admin.api import Api
from popproxy.run.bandesk import BanDesk
from popproxy.run.bans import BansError, SocketDesk
from popproxy.run.client import UnixConnection
from tests.run.office import Desks


class Running:
    """An admin listener on a loop of its own in a thread."""

    def __init__(self, path: Path, stores: dict[str, Store], bind: Bind | None = None) -> None:
        self.path = path
        desk = Desk()
        BanDesk(desk, lambda: stores)
        self.admin = Admin(lambda accept: (b"", "text/plain"), lambda: None, private=Api(Desks([desk])).routes)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.call(self.admin.start(bind or Bind("unix", path=str(path), mode=0o600)))

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def close(self) -> None:
        self.call(self.admin.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()

    def ask(self, method: str, target: str, body: str | None = None) -> tuple[int, Any]:
        connection = UnixConnection(self.path)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@contextmanager
def running(path: Path, stores: dict[str, Store], bind: Bind | None = None) -> Iterator[Running]:
    made = Running(path, stores, bind)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
def store() -> FakeStore:
    return FakeStore(FakeClock())


def test_bans_come_and_go(path: Path, store: FakeStore) -> None:
    with running(path, {"guard": store}) as admin:
        desk = SocketDesk(path, "guard")
        assert desk.bans() == []
        desk.add(parse_network("192.0.2.7"), 3600.0, "said so")
        automatic = put(parse_network("2001:db8::/64"), "auto", "8 names", 5.0, 60.0)
        admin.call(store.run(automatic, Put("known x", b"1", 60.0)))
        first, second = desk.bans()
        assert abs(first.pop("since") - time()) < 60
        assert first == {"network": "192.0.2.7/32", "by": "manual", "reason": "said so", "seconds": 3600}
        assert second == {"network": "2001:db8::/64", "by": "auto", "reason": "8 names", "since": 5, "seconds": 60}
        assert desk.remove(parse_network("192.0.2.7"))
        assert not desk.remove(parse_network("192.0.2.7"))
        assert [ban["network"] for ban in desk.bans()] == ["2001:db8::/64"]


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "told"),
    [
        ("PUT", "/v1/bans", "no JSON", 400, "the body is no JSON"),
        ("PUT", "/v1/bans", "[]", 400, "the body is no JSON object"),
        ("PUT", "/v1/bans", '{"network": 5, "seconds": 1}', 400, "are strings"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7"}', 400, "seconds is a number"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7", "seconds": true}', 400, "seconds is a number"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7", "seconds": -1}', 400, "seconds is a number"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7", "seconds": 1e999}', 400, "seconds is a number"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7", "seconds": 1e12}', 400, "seconds is a number"),
        ("PUT", "/v1/bans", '{"network": "10.0.0.0/8", "seconds": 1}', 400, "/32, /24"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7", "seconds": 1, "plugin": "x"}', 404, "write one of: guard"),
        ("PUT", "/v1/bans", '{"network": "192.0.2.7", "seconds": 1, "plugin": []}', 404, "write one of: guard"),
        ("DELETE", "/v1/bans?network=joe", None, 400, "is no address and no network"),
        ("DELETE", "/v1/bans", None, 400, "is no address and no network"),
        ("GET", "/v1/bans?plugin=x", None, 404, "write one of: guard"),
    ],
)
def test_what_is_wrong_is_told(
    path: Path, store: FakeStore, method: str, target: str, body: str | None, status: int, told: str
) -> None:
    with running(path, {"guard": store}) as admin:
        found, said = admin.ask(method, target, body)
        assert found == status
        assert told in said["error"]
        assert admin.ask("GET", "/v1/bans") == (200, {"bans": [], "missing": []})


def test_a_store_that_is_down(path: Path, store: FakeStore) -> None:
    with running(path, {"guard": store}):
        store.down = True
        with pytest.raises(BansError, match="the store is down"):
            SocketDesk(path, "guard").bans()


def test_no_plugin_and_several(path: Path, store: FakeStore) -> None:
    with running(path, {}) as admin:
        assert admin.ask("GET", "/v1/bans") == (404, {"error": "no plugin here bans"})
    with running(path, {"a": store, "b": store}) as admin:
        assert admin.ask("GET", "/v1/bans") == (404, {"error": "write one of: a, b"})
        assert admin.ask("GET", "/v1/bans?plugin=b") == (200, {"bans": [], "missing": []})


def test_a_port_of_the_network_has_no_bans(path: Path, store: FakeStore) -> None:
    with running(path, {"guard": store}, Bind("inet", "127.0.0.1", 0)) as admin:
        host, _, port = admin.admin.address.rpartition(":")

        async def get() -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /v1/bans HTTP/1.0\r\n\r\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line

        assert b" 404 " in admin.call(get())


def test_nobody_is_there(path: Path) -> None:
    with pytest.raises(BansError, match="is popproxy running"):
        SocketDesk(path, "guard").bans()

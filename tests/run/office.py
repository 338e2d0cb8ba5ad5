"""An administrator's view of running workers: the admin listener with /v1 on a Unix socket, over a Fleet of the test's
own, on the loop of the first worker."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from popproxy.config.urls import Bind
from popproxy.net.desk import Desk
from popproxy.run.admin import Admin
from popproxy.run.admin.api import Api
from popproxy.run.client import UnixConnection
from popproxy.run.fleet import Answer, Reloaded, Status, asked
from tests.net.running import Proxy, Setup, running


class Desks:
    """run.fleet.Fleet over desks that are on one loop. ``mute`` are slots that do not answer."""

    def __init__(self, desks: Sequence[Desk]) -> None:
        self.desks = list(desks)
        self.mute: set[int] = set()
        self.reloaded = Reloaded("abc")
        self.drained: list[str] = []

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float = 2.0) -> list[Answer]:
        """See Fleet."""
        return [
            Answer(slot, None, 504, "mute") if slot in self.mute else await asked(desk, slot, question, arguments)
            for slot, desk in enumerate(self.desks)
        ]

    async def reload(self) -> Reloaded:
        """See Fleet."""
        return self.reloaded

    def drain(self, reason: str) -> None:
        """See Fleet."""
        self.drained.append(reason)

    def status(self) -> Status:
        """See Fleet."""
        workers = [
            {"worker": slot, "pid": os.getpid(), "up": True, "sessions": 1, "restarts": 0, "generation": 1}
            for slot in range(len(self.desks))
        ]
        return Status("ready", "0", os.getpid(), "/etc/popproxy.toml", "abc", time.time(), time.time(), True, workers)


class Office:
    """Asks. ``proxy`` is the first worker's."""

    def __init__(self, proxy: Proxy, fleet: Desks, path: Path) -> None:
        self.proxy = proxy
        self.fleet = fleet
        self.path = path
        self.api = Api(fleet)
        self.admin = Admin(lambda accept: (b"", "text/plain"), lambda: None, private=self.api.routes)
        proxy.call(self.admin.start(Bind("unix", path=str(path), mode=0o600)))

    def close(self) -> None:
        """No more questions."""
        self.proxy.call(self.admin.stop())

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}) -> tuple[int, Any]:
        """Status, and what the answer says. ``body`` is JSON, or octets as they are."""
        status, _, told = self.whole(method, path, body, headers)
        return status, told

    def whole(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, http.client.HTTPMessage, Any]:
        """The same with the headers."""
        connection = UnixConnection(self.path)
        octets = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, octets, dict(headers))
            response = connection.getresponse()
            return response.status, response.headers, json.loads(response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """What GET answers, which is 200."""
        status, told = self.ask("GET", path)
        assert status == 200, told
        return told

    def post(self, path: str, body: object = None) -> Any:
        """What POST answers, which is 200."""
        status, told = self.ask("POST", path, body)
        assert status == 200, told
        return told


def server_path(upstream: str, server: str, what: str) -> str:
    """The path of something done to a server."""
    return f"/v1/upstreams/{upstream}/servers/{quote(server, safe='')}/{what}"


@contextmanager
def office(setup: Setup, directory: Path) -> Iterator[Office]:
    """A worker and its office."""
    with running(setup, directory) as proxy:
        made = Office(proxy, Desks([proxy.worker.desk]), directory / "admin.sock")
        try:
            yield made
        finally:
            made.close()


@contextmanager
def offices(setups: Sequence[Setup], directory: Path) -> Iterator[tuple[Office, list[Proxy]]]:
    """Several workers and one office. Each has its own loop, as each has its own process elsewhere."""
    with ExitStack() as stack:
        proxies = []
        for number, setup in enumerate(setups):
            (directory / str(number)).mkdir()
            proxies.append(stack.enter_context(running(setup, directory / str(number))))
        made = Office(proxies[0], Apart(proxies), directory / "admin.sock")
        stack.callback(made.close)
        yield made, proxies


class Apart(Desks):
    """Desks on loops of their own."""

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        super().__init__([proxy.worker.desk for proxy in proxies])
        self._proxies = proxies

    async def ask(self, question: str, arguments: Mapping[str, Any], deadline: float = 2.0) -> list[Answer]:
        """See Fleet."""
        async def one(slot: int, proxy: Proxy) -> Answer:
            if slot in self.mute:
                return Answer(slot, None, 504, "mute")
            work = asked(proxy.worker.desk, slot, question, arguments)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, proxy._loop))

        return list(await asyncio.gather(*(one(slot, proxy) for slot, proxy in enumerate(self._proxies))))

"""The admin listener: /metrics, /healthz and /readyz over HTTP, and under /v1 what can be asked and changed.

Law: neither a scrape nor a long answer holds up the event loop, both are made in the one thread of this room. aiohttp
is imported when the listener starts: the command line does without it.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from popproxy.config.urls import Bind
from popproxy.net.binding import BindError
from popproxy.run.admin.server import Server

if TYPE_CHECKING:
    from aiohttp import web

    from popproxy.config.plan import AdminPlan
    from popproxy.run.admin.access import Access, EventLog, Tls

CONNECTIONS = 64
"""HTTP connections held at once on each address."""
IDLE = 75.0
"""Seconds for a whole request to arrive, for its answer to be taken, and between two requests; a quarter more at
most."""


class Admin:
    """All its addresses. Every method belongs to the event loop's thread.

    ``render`` makes the exposition and its content type for an Accept header; it is called in a thread, one call
    at a time. ``gather`` is awaited on the loop before that, for what others have to tell. ``ready`` gives None, or why
    the process takes no sessions; it is called on the loop. ``private`` makes further routes: on a Unix socket its mode
    says who may use them, on a port what ``open`` was given does. ``refused`` is told of each request for them that was
    refused, by why.
    """

    def __init__(
        self,
        render: Callable[[str], tuple[bytes, str]],
        ready: Callable[[], str | None],
        connections: int = CONNECTIONS,
        idle: float = IDLE,
        private: Callable[[], Sequence[web.RouteDef]] | None = None,
        gather: Callable[[], Awaitable[None]] | None = None,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._refused = refused
        self._gather = gather
        self._render = render
        self._private = private
        self._routes: Sequence[web.RouteDef] | None = None
        self._access: Access | None = None
        self._tls: Tls | None = None
        self._ready = ready
        self._connections = connections
        self._idle = idle
        self._servers: list[Server] = []
        self._thread: ThreadPoolExecutor | None = None
        self.addresses: list[str] = []
        """Where it listens, or did: ``127.0.0.1:9110``, ``[::1]:9110`` or ``unix:/path``."""

    @property
    def address(self) -> str:
        """The first of them, empty when there is none."""
        return next(iter(self.addresses), "")

    async def open(self, plan: AdminPlan, log: EventLog) -> None:
        """Listen as ``plan`` says, and tell the log. Raises BindError and TlsConfigError."""
        from popproxy.run.admin.access import Access, Tls

        self._access = Access(plan, log, count=self._refused)
        self._tls = Tls(plan, plan.certificate, log) if plan.certificate is not None else None
        await self.start(*plan.binds)
        if plan.spare is not None:
            try:
                await self.start(plan.spare)
            except BindError as error:
                log.event("warning", "admin_failed", address=str(plan.spare), detail=str(error))
        for address in self.addresses:
            log.event("info", "admin_listening", address=address)

    async def start(self, *binds: Bind) -> None:
        """Listen on all ``binds``, beside those it listens on already. Raises BindError; what this call has opened is
        closed then."""
        from aiohttp import web

        from popproxy.run.admin.answers import THREAD, in_words

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "popproxy-admin")
        public = [
            web.get("/metrics", self._metrics), web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)
        ]  # fmt: skip
        if self._routes is None:
            self._routes = self._private() if self._private is not None else ()
        private = self._routes
        opened: list[Server] = []
        try:
            for bind in binds:
                server = Server(bind, self._connections, self._idle)
                opened.append(server)
                lent = {THREAD: self._thread}
                if bind.family == "unix":
                    pages = [] if self._access is None else [self._access.pages]
                    await server.start([*public, *private], [in_words, *pages], lent)
                elif self._access is not None and self._access.possible:
                    await server.start([*public, *private], [in_words, self._access.guard], lent, self._tls)
                else:
                    await server.start(public, [in_words], lent, self._tls)
        except BaseException:
            for server in opened:
                await server.stop()
            raise
        self._servers.extend(opened)
        self.addresses.extend(server.address for server in opened)

    async def stop(self) -> None:
        """Close all listeners and their connections; requests in work have two seconds to end. May be repeated."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.stop()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    async def _metrics(self, request: web.Request) -> web.Response:
        from aiohttp import web

        if self._gather is not None:
            await self._gather()
        accept = ",".join(request.headers.getall("Accept", []))
        packed = _takes_gzip(request.headers.getall("Accept-Encoding", []))
        body, headers = await asyncio.get_running_loop().run_in_executor(self._thread, self._exposed, accept, packed)
        return web.Response(body=body, headers=headers)

    def _exposed(self, accept: str, packed: bool) -> tuple[bytes, dict[str, str]]:
        """In the thread."""
        body, content_type = self._render(accept)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if packed:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)
        return body, headers

    async def _healthz(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        from aiohttp import web

        reason = self._ready()
        if reason is None:
            return web.json_response({"ready": True})
        return web.json_response({"ready": False, "reason": reason}, status=503)


def _takes_gzip(headers: Sequence[str]) -> bool:
    """What Accept-Encoding says (RFC 9110 section 12.5.3), as far as scrapers use it."""
    for coding in ",".join(headers).lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";")
        if name == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight) is None
    return False

"""The admin listener: /metrics, /healthz and /readyz over HTTP; on a Unix socket also what can change something.

Law: a scrape never holds up the event loop, so it is rendered in the one thread of this room; a client that stalls
cannot keep others out, because the oldest connection goes when there are too many. aiohttp is imported when the
listener starts: the command line does without it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from popproxy.config.urls import Bind, bracketed

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

CONNECTIONS = 64
"""HTTP connections held at once."""
BACKLOG = 64
IDLE = 75.0
"""Seconds for a whole request to arrive, for its answer to be taken, and between two requests; a quarter more at
most."""


class Admin:
    """One HTTP server. Every method belongs to the event loop's thread.

    ``render`` makes the exposition and its content type for an Accept header; it is called in a thread, one call
    at a time. ``ready`` gives None, or why the process takes no sessions; it is called on the loop. ``private`` makes
    further routes, for a Unix socket only: its mode says who may use them.
    """

    def __init__(
        self,
        render: Callable[[str], tuple[bytes, str]],
        ready: Callable[[], str | None],
        connections: int = CONNECTIONS,
        idle: float = IDLE,
        private: Callable[[], Sequence[web.RouteDef]] | None = None,
    ) -> None:
        self._render = render
        self._private = private
        self._ready = ready
        self._connections = connections
        self._idle = idle
        self._socket: Path | None = None
        self._inode = 0
        self._server: asyncio.AbstractServer | None = None
        self._runner: web.AppRunner | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._quiet_since: dict[asyncio.BaseProtocol, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self.address = ""
        """Where it listens, once it does: ``127.0.0.1:9110``, ``[::1]:9110`` or ``unix:/path``."""

    async def start(self, bind: Bind) -> None:
        """Listen on ``bind``. Raises OSError that names the address and what is wrong with it."""
        from aiohttp import web

        app = web.Application(client_max_size=1024, middlewares=[self._watch()])
        app.add_routes(
            [web.get("/metrics", self._metrics), web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        )
        if bind.family == "unix" and self._private is not None:
            app.add_routes(self._private())
        app.on_response_prepare.append(_sign)
        try:
            listener = self._listen_unix(bind) if bind.family == "unix" else _listen_inet(bind)
        except OSError as error:
            raise OSError(error.errno, f"admin listener {bind}: {error.strerror or error}") from error
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self._idle, lingering_time=1.0, shutdown_timeout=1.0
        )
        await runner.setup()
        assert runner.server is not None
        accept = partial(self._accept, runner.server)
        loop = asyncio.get_running_loop()
        self._sweep(loop, runner.server)
        self._runner = runner
        self._thread = ThreadPoolExecutor(1, "popproxy-admin")
        if bind.family == "unix":
            self._server = await loop.create_unix_server(accept, sock=listener)
            self.address = str(bind)
        else:
            self._server = await loop.create_server(accept, sock=listener)
            host, port = listener.getsockname()[:2]
            self.address = f"{bracketed(host)}:{port}"

    async def stop(self) -> None:
        """Close the listener and its connections; requests in work have two seconds to end. May be repeated."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            assert runner.server is not None
            held = [connection.transport for connection in runner.server.connections]
            await runner.cleanup()
            for transport in held:
                _abort(transport)
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        if self._socket is not None:
            if _inode(self._socket) == self._inode:
                self._socket.unlink()
            self._socket = None

    def _accept(self, server: web.Server) -> asyncio.BaseProtocol:
        held = server.connections
        if len(held) >= self._connections:
            _drop(held[0])
        return server()

    def _watch(self) -> Middleware:
        """A middleware that notes when the last request of a connection was answered."""
        from aiohttp import web

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._quiet_since[request.protocol] = inf
            try:
                return await handler(request)
            finally:
                self._quiet_since[request.protocol] = asyncio.get_running_loop().time()

        return note

    def _sweep(self, loop: asyncio.AbstractEventLoop, server: web.Server) -> None:
        """Close what said nothing whole, or took no answer, for too long: aiohttp leaves such connections alone."""
        now = loop.time()
        known, self._quiet_since = self._quiet_since, {}
        for connection in server.connections:
            since = known.get(connection, now)
            if now - since >= self._idle:
                _drop(connection)
            else:
                self._quiet_since[connection] = since
        self._sweeper = loop.call_later(self._idle / 4, self._sweep, loop, server)

    def _listen_unix(self, bind: Bind) -> socket.socket:
        path = Path(bind.path)
        _clear(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # On Linux the mode of an unbound socket is the one its file is made with: at no time is it wider.
            os.fchmod(listener.fileno(), bind.mode)
            listener.bind(bind.path)
            path.chmod(bind.mode)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self._socket, self._inode = path, _inode(path)
        return listener

    async def _metrics(self, request: web.Request) -> web.Response:
        from aiohttp import web

        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = await asyncio.get_running_loop().run_in_executor(self._thread, self._render, accept)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        from aiohttp import web

        reason = self._ready()
        if reason is None:
            return web.json_response({"ready": True})
        return web.json_response({"ready": False, "reason": reason}, status=503)


def _drop(connection: web.RequestHandler) -> None:
    """Close at once: what a client does not take is not kept for it."""
    transport = connection.transport
    connection.force_close()
    _abort(transport)


def _abort(transport: asyncio.WriteTransport | None) -> None:
    if transport is not None:
        transport.abort()


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Answers are not for caches, and say nothing about the software's versions."""
    response.headers["Server"] = "popproxy"
    response.headers["Cache-Control"] = "no-store"


def _listen_inet(bind: Bind) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bind.v6only)
        listener.bind((bind.host, bind.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Remove a socket that a dead process left behind. Raises OSError when the path belongs to something else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket; remove it or choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0

"""One HTTP server on one address: bounds in time and number that aiohttp does not have.

Law: a client that stalls cannot keep others out, because the oldest connection goes when there are too many; those of
one address do not count for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from popproxy.config.urls import Bind, bracketed
from popproxy.net.binding import BindError, File, bind

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

    from popproxy.run.admin.access import Tls

BODY = 16384
"""Octets of a request's body at most."""


class Server:
    """Every method belongs to the event loop's thread. ``connections`` are held at once, each ``idle`` seconds between
    two requests, and as long for a whole request to arrive and for its answer to be taken; a quarter more at most."""

    def __init__(self, bind: Bind, connections: int, idle: float) -> None:
        self._bind = bind
        self._connections = connections
        self._idle = idle
        self._file: File | None = None
        self._server: asyncio.AbstractServer | None = None
        self._runner: web.AppRunner | None = None
        self._tls: Tls | None = None
        self._quiet_since: dict[asyncio.BaseProtocol, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self.address = ""
        """Where it listens, once it does: ``127.0.0.1:9110``, ``[::1]:9110`` or ``unix:/path``."""

    async def start(
        self,
        routes: Sequence[web.RouteDef],
        middlewares: Sequence[Middleware],
        lent: Mapping[web.AppKey[Any], Any],
        tls: Tls | None = None,
    ) -> None:
        """Listen. ``lent`` is what handlers find in the application. Raises BindError."""
        from aiohttp import web

        where, self._tls = self._bind, tls
        try:
            listener = bind(where)
        except BindError as error:
            raise BindError(f"admin listener: {error}") from error
        if where.family == "unix":
            self._file = File(where)
        app = web.Application(client_max_size=BODY, middlewares=[self._watch(), *middlewares])
        for key, value in lent.items():
            app[key] = value
        app.add_routes(routes)
        app.on_response_prepare.append(_sign)
        runner = self._runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self._idle, lingering_time=1.0, shutdown_timeout=1.0
        )
        await runner.setup()
        assert runner.server is not None
        accept = partial(self._accept, runner.server)
        loop = asyncio.get_running_loop()
        self._sweep(loop, runner.server)
        if where.family == "unix":
            self._server = await loop.create_unix_server(accept, sock=listener)
            self.address = str(where)
        else:
            self._server = await loop.create_server(accept, sock=listener, ssl=None if tls is None else tls.context)
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
        if self._file is not None:
            self._file.remove()
            self._file = None

    def _accept(self, server: web.Server) -> asyncio.BaseProtocol:
        held = server.connections
        if len(held) >= self._connections:
            drop(held[0])
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
        if self._tls is not None:
            self._tls.renew()
        now = loop.time()
        known, self._quiet_since = self._quiet_since, {}
        for connection in server.connections:
            since = known.get(connection, now)
            if now - since >= self._idle:
                drop(connection)
            else:
                self._quiet_since[connection] = since
        self._sweeper = loop.call_later(self._idle / 4, self._sweep, loop, server)


def drop(connection: web.RequestHandler) -> None:
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
    response.headers["X-Content-Type-Options"] = "nosniff"

"""/v1/status, /v1/config, /v1/reload and /v1/drain: the process as its administrator handles it."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from popproxy.run.admin.answers import answer, asked, gathered, said
from popproxy.run.admin.openapi import document
from popproxy.run.fleet import Fleet

BY_HAND = "admin"
"""The ``signal`` of the log line ``stopping``, when no signal came."""


class ProcessRoutes:
    """What TERM, HUP and ``systemctl status`` are for others."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [
            web.get("/v1/status", self._status),
            web.get("/v1/config", self._config),
            web.get("/v1/openapi.json", self._openapi),
            web.post("/v1/reload", self._reload),
            web.post("/v1/drain", self._drain),
        ]

    async def _status(self, request: web.Request) -> web.Response:
        asked(request)
        status = asdict(self._fleet.status())
        return await answer(request, {**status, "sessions": sum(one["sessions"] for one in status["workers"])})

    async def _config(self, request: web.Request) -> web.Response:
        asked(request)
        good, _ = await gathered(self._fleet, "config", {})
        return await answer(request, good[0].value)

    async def _openapi(self, request: web.Request) -> web.Response:
        asked(request)
        return await answer(request, document)

    async def _reload(self, request: web.Request) -> web.Response:
        """422 when the new config is not in force; then nothing has changed."""
        asked(request)
        await said(request)
        outcome = await self._fleet.reload()
        told = asdict(outcome)
        if not outcome.problems:
            return await answer(request, told)
        return await answer(request, {"error": "nothing has changed: the new config cannot be used", **told}, 422)

    async def _drain(self, request: web.Request) -> web.Response:
        asked(request)
        await said(request)
        status = self._fleet.status()
        self._fleet.drain(BY_HAND)
        sessions = sum(int(one["sessions"]) for one in status.workers)
        return await answer(request, {"state": "draining", "sessions": sessions}, 202)

"""/v1/upstreams: how the servers are, drained by hand, and probed.

What is drained is remembered here, for workers that start later: ``standing`` says it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from popproxy.net.desk import BadQuestion
from popproxy.run.admin.answers import answer, asked, gathered, said
from popproxy.run.fleet import Answer, Fleet

PROBE_DEADLINE = 60.0
"""Seconds for a probe: a connection, a greeting and a handshake, each with its own bound in the config."""


class UpstreamRoutes:
    """Every worker is asked: each has its own sessions, and its own opinion of a server."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._drained: dict[tuple[str, str], None] = {}

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        server = "/v1/upstreams/{upstream}/servers/{server}"
        return [
            web.get("/v1/upstreams", self._list),
            web.get("/v1/upstreams/{upstream}", self._one),
            web.post("/v1/upstreams/{upstream}/probe", self._probe_all),
            web.post(f"{server}/drain", self._drain),
            web.post(f"{server}/undrain", self._undrain),
            web.post(f"{server}/probe", self._probe),
        ]

    def standing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Questions for a worker that has come up or has taken another config: what was drained before. An upstream or
        server that it does not have is no fault."""
        for upstream, server in self._drained:
            yield "upstream.drain", {"upstream": upstream, "server": server, "on": True}

    async def _list(self, request: web.Request) -> web.Response:
        asked(request)
        good, missing = await gathered(self._fleet, "upstreams", {})
        return await answer(request, {"upstreams": merged(good), "missing": missing})

    async def _one(self, request: web.Request) -> web.Response:
        asked(request)
        good, missing = await gathered(self._fleet, "upstreams", {"upstream": request.match_info["upstream"]})
        return await answer(request, {**merged(good)[0], "missing": missing})

    async def _drain(self, request: web.Request) -> web.Response:
        return await self._turned(request, True)

    async def _undrain(self, request: web.Request) -> web.Response:
        return await self._turned(request, False)

    async def _turned(self, request: web.Request, on: bool) -> web.Response:
        asked(request)
        await said(request)
        upstream, server = request.match_info["upstream"], request.match_info["server"]
        arguments = {"upstream": upstream, "server": server, "on": on}
        before = dict(self._drained)
        # First, so that a worker which comes up meanwhile is told as well.
        self._drained.pop((upstream, server), None)
        if on:
            self._drained[upstream, server] = None
        try:
            good, missing = await gathered(self._fleet, "upstream.drain", arguments)
        except BadQuestion:
            self._drained = before
            raise
        return await answer(
            request,
            {
                "upstream": upstream,
                "server": server,
                "drained": on,
                "changed": any(one.value["changed"] for one in good),
                "sessions": sum(one.value["sessions"] for one in good),
                "missing": missing,
            },
        )

    async def _probe(self, request: web.Request) -> web.Response:
        return await self._probed(
            request, {"upstream": request.match_info["upstream"], "server": request.match_info["server"]}
        )

    async def _probe_all(self, request: web.Request) -> web.Response:
        return await self._probed(request, {"upstream": request.match_info["upstream"]})

    async def _probed(self, request: web.Request, arguments: dict[str, Any]) -> web.Response:
        asked(request)
        await said(request)
        good, missing = await gathered(self._fleet, "upstream.probe", arguments, PROBE_DEADLINE)
        probes = [{"worker": one.slot, **probe} for one in good for probe in one.value]
        return await answer(request, {"probes": probes, "ok": all(one["ok"] for one in probes), "missing": missing})


def merged(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What the workers told about the same upstreams: counts are added up, opinions stand side by side."""
    upstreams: dict[str, dict[str, Any]] = {}
    for one in answers:
        for told in one.value:
            known = upstreams.setdefault(told["name"], {**told, "sessions": 0, "waiting": 0, "servers": {}})
            known["sessions"] += told["sessions"]
            known["waiting"] += told["waiting"]
            for server in told["servers"]:
                _add(known["servers"], one.slot, server)
    return [{**upstream, "servers": list(upstream["servers"].values())} for upstream in upstreams.values()]


_OPINION = ("state", "drained", "sessions", "since", "next_trial")


def _add(servers: dict[str, dict[str, Any]], slot: int, told: dict[str, Any]) -> None:
    plain = {name: value for name, value in told.items() if name not in _OPINION}
    known = servers.setdefault(
        told["server"], {**plain, "state": told["state"], "drained": True, "sessions": 0, "workers": []}
    )
    known["workers"].append({"worker": slot, **{name: told[name] for name in _OPINION}})
    known["sessions"] += told["sessions"]
    known["drained"] = known["drained"] and told["drained"]
    if known["state"] != told["state"]:
        known["state"] = "mixed"
    fault, before = told["last_failure"], known["last_failure"]
    if fault is not None and (before is None or fault["time"] > before["time"]):
        known["last_failure"] = fault

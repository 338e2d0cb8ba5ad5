"""/v1/bans: who is banned by ``brute_force``.

Workers that share a store know the same bans, those that do not (``memory``) are told all alike.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from popproxy.run.admin.answers import answer, asked, gathered, said, text
from popproxy.run.fleet import Fleet

PATH = "/v1/bans"
DEADLINE = 10.0
"""Seconds for an answer: a store may have to be waited for."""


class BanRoutes:
    """GET, PUT and DELETE."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [web.get(PATH, self._list), web.put(PATH, self._add), web.delete(PATH, self._remove)]

    async def _list(self, request: web.Request) -> web.Response:
        good, missing = await gathered(self._fleet, "bans.list", asked(request, plugin=text), DEADLINE)
        bans: dict[str, dict[str, Any]] = {}
        for one in good:
            for ban in one.value:
                known = bans.get(ban["network"])
                if known is None or ban["seconds"] > known["seconds"]:
                    bans[ban["network"]] = ban
        return await answer(request, {"bans": list(bans.values()), "missing": missing})

    async def _add(self, request: web.Request) -> web.Response:
        arguments = {**asked(request, plugin=text), **await said(request, "network", "seconds", "reason", "plugin")}
        good, missing = await gathered(self._fleet, "bans.add", arguments, DEADLINE)
        return await answer(request, {**good[0].value, "missing": missing})

    async def _remove(self, request: web.Request) -> web.Response:
        arguments = asked(request, plugin=text, network=text)
        good, missing = await gathered(self._fleet, "bans.remove", arguments, DEADLINE)
        removed = any(one.value["removed"] for one in good)
        return await answer(request, {**good[0].value, "removed": removed, "missing": missing})

"""The bans of ``brute_force`` over the admin listener: GET, PUT and DELETE of /v1/bans.

Law: on a Unix socket only, whose mode says who may do it. A port of the network has /metrics, which shows nothing of
users, and nothing that can be changed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from math import isfinite
from time import time
from typing import Any

from aiohttp import web
from popproxy_plugins.brute_force.bans import MANUAL_LONGEST, BadBan, add, listed, parse_network, remove

from popproxy.api.store import Store, StoreFailed

PATH = "/v1/bans"

Stores = Callable[[], Mapping[str, Store]]
"""The stores of the plugins that ban, by the name of the plugin."""
Handler = Callable[[web.Request], Awaitable[web.Response]]


class BanDesk:
    """Answers in JSON; what is wrong is ``{"error": "..."}``."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [
            web.get(PATH, self._guarded(self._list)),
            web.put(PATH, self._guarded(self._add)),
            web.delete(PATH, self._guarded(self._remove)),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except BadBan as error:
                return _error(400, str(error))
            except KeyError as error:
                return _error(404, str(error.args[0]))
            except StoreFailed as error:
                return _error(503, str(error))

        return handle

    def _store(self, name: object) -> Store:
        """The store of the plugin called ``name``, of the only one for None. Raises KeyError."""
        stores = self._stores()
        if name is None and len(stores) == 1:
            return next(iter(stores.values()))
        found = stores.get(name) if isinstance(name, str) else None
        if found is None:
            told = f"write one of: {', '.join(stores)}" if stores else "no plugin here bans"
            raise KeyError(f"there is no plugin {name!r}: {told}" if name is not None else told)
        return found

    async def _list(self, request: web.Request) -> web.Response:
        bans = await listed(self._store(request.query.get("plugin")))
        return web.json_response({"bans": [ban.as_dict() for ban in bans]})

    async def _add(self, request: web.Request) -> web.Response:
        said = await _body(request)
        network, seconds, reason = said.get("network"), said.get("seconds"), said.get("reason", "")
        if not isinstance(network, str) or not isinstance(reason, str):
            raise BadBan('network and reason are strings: write {"network": "192.0.2.7", "seconds": 3600}')
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not _is_time(seconds):
            raise BadBan(f"seconds is a number above 0 and at most {MANUAL_LONGEST:.0f}")
        await add(self._store(said.get("plugin")), parse_network(network), float(seconds), reason, time())
        return web.json_response({"network": str(parse_network(network))})

    async def _remove(self, request: web.Request) -> web.Response:
        network = parse_network(request.query.get("network", ""))
        removed = await remove(self._store(request.query.get("plugin")), network)
        return web.json_response({"network": str(network), "removed": removed})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        said = json.loads(await request.text())
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise BadBan('the body is no JSON object: write {"network": "192.0.2.7", "seconds": 3600}')
    return said


def _is_time(seconds: float) -> bool:
    return isfinite(seconds) and 0 < seconds <= MANUAL_LONGEST


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)

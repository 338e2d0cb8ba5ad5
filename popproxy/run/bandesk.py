"""The bans of ``brute_force`` as a worker is asked for them: ``bans.list``, ``bans.add`` and ``bans.remove``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import isfinite
from time import time
from typing import Any

from popproxy_plugins.brute_force.bans import MANUAL_LONGEST, BadBan, add, listed, parse_network, remove

from popproxy.api.store import Store, StoreFailed
from popproxy.net.desk import Answerer, BadQuestion, Desk

Stores = Callable[[], Mapping[str, Store]]
"""The stores of the plugins that ban, by the name of the plugin."""


class BanDesk:
    """Answers one worker's questions. ``plugin`` in a question says which plugin; the only one needs no name."""

    def __init__(self, desk: Desk, stores: Stores) -> None:
        self._stores = stores
        desk.add("bans.list", _guarded(self._list))
        desk.add("bans.add", _guarded(self._add))
        desk.add("bans.remove", _guarded(self._remove))

    def _store(self, name: object) -> Store:
        """The store of the plugin called ``name``, of the only one for None. Raises BadQuestion."""
        stores = self._stores()
        if name is None and len(stores) == 1:
            return next(iter(stores.values()))
        found = stores.get(name) if isinstance(name, str) else None
        if found is None:
            told = f"write one of: {', '.join(stores)}" if stores else "no plugin here bans"
            raise BadQuestion(404, f"there is no plugin {name!r}: {told}" if name is not None else told)
        return found

    async def _list(self, arguments: Mapping[str, Any]) -> list[dict[str, object]]:
        return [ban.as_dict() for ban in await listed(self._store(arguments.get("plugin")))]

    async def _add(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        network, seconds, reason = arguments.get("network"), arguments.get("seconds"), arguments.get("reason", "")
        if not isinstance(network, str) or not isinstance(reason, str):
            raise BadBan('network and reason are strings: write {"network": "192.0.2.7", "seconds": 3600}')
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not _is_time(seconds):
            raise BadBan(f"seconds is a number above 0 and at most {MANUAL_LONGEST:.0f}")
        await add(self._store(arguments.get("plugin")), parse_network(network), float(seconds), reason, time())
        return {"network": str(parse_network(network))}

    async def _remove(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        network = parse_network(str(arguments.get("network", "")))
        return {"network": str(network), "removed": await remove(self._store(arguments.get("plugin")), network)}


def _guarded(answerer: Answerer) -> Answerer:
    def answer(arguments: Mapping[str, Any]) -> Awaitable[Any]:
        return _told(answerer(arguments))

    return answer


async def _told(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except BadBan as error:
        raise BadQuestion(400, str(error)) from None
    except StoreFailed as error:
        raise BadQuestion(503, str(error)) from error


def _is_time(seconds: float) -> bool:
    return isfinite(seconds) and 0 < seconds <= MANUAL_LONGEST

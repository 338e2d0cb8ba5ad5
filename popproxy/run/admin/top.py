"""/v1/top and /v1/recent: who uses most, who fails most, who was turned away lately."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from aiohttp import web

from popproxy.net.desk import BadQuestion
from popproxy.net.desk.recent import KEPT
from popproxy.net.desk.sketch import merged
from popproxy.net.desk.top import BY, OF, PLACES
from popproxy.run.admin.answers import answer, asked, gathered, text, whole
from popproxy.run.fleet import Answer, Fleet

SHOWN = 10
"""Keys of each list, and events, without a limit."""


class TopRoutes:
    """What the workers know is put together here."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [web.get("/v1/top", self._top), web.get("/v1/recent", self._recent)]

    async def _top(self, request: web.Request) -> web.Response:
        arguments = asked(request, since=text, limit=whole)
        limit = _limit(arguments, PLACES)
        good, missing = await gathered(self._fleet, "top", arguments)
        since = arguments.get("since", "start")
        return await answer(request, lambda: {"since": since, **together(good, limit), "missing": missing})

    async def _recent(self, request: web.Request) -> web.Response:
        arguments = asked(request, limit=whole)
        limit = _limit(arguments, KEPT)
        good, missing = await gathered(self._fleet, "recent", {"limit": limit})
        return await answer(request, {"events": latest(good, limit), "missing": missing})


def _limit(arguments: dict[str, Any], most: int) -> int:
    limit: int = arguments.pop("limit", SHOWN)
    if not 1 <= limit <= most:
        raise BadQuestion(400, f"limit: write a number from 1 to {most}")
    return limit


def together(answers: Sequence[Answer], limit: int) -> dict[str, Any]:
    """The heaviest users and addresses of all workers. Of each list ``bound`` is what a key at most has that is not in
    it, ``total`` the sum of all. A key has at least ``count - error`` and at most ``count``."""
    found: dict[str, Any] = {"seconds": max(one.value["seconds"] for one in answers)}
    for of in OF:
        found[of] = {}
        for by in BY:
            sketches = [sketch for one in answers for sketch in one.value["sketches"][f"{of}.{by}"]]
            heavy, floor, total = merged(sketches)
            left = heavy[limit].count if len(heavy) > limit else 0
            found[of][by] = {
                "top": [asdict(one) for one in heavy[:limit]], "bound": max(floor, left), "total": total,
            }  # fmt: skip
    return found


def latest(answers: Sequence[Answer], limit: int) -> list[dict[str, Any]]:
    """The last events of all workers, the latest first."""
    named = ([{"worker": one.slot, **event} for event in one.value] for one in answers)
    return list(islice(heapq.merge(*named, key=lambda event: -float(event["time"])), limit))

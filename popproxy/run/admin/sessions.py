"""/v1/sessions: who is connected, what they do, and their end."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from popproxy.net.desk import BadQuestion
from popproxy.net.desk.sessions import MOST, NAMED, PAGE, cursor_text
from popproxy.run.admin.answers import answer, asked, gathered, said, text, truth, whole
from popproxy.run.fleet import Answer, Fleet

FILTER = {"user": text, "ip": text, "listener": text, "upstream": text, "phase": text, "tls": truth}
"""What chooses sessions."""


class SessionRoutes:
    """Every worker is asked; what they say is put together."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [
            web.get("/v1/sessions", self._list),
            web.get("/v1/sessions/{id}", self._one),
            web.delete("/v1/sessions/{id}", self._end),
            web.post("/v1/sessions/{id}/kick", self._kick),
            web.post("/v1/kick", self._many),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        arguments = asked(request, **FILTER, limit=whole, after=text)
        limit = arguments.get("limit", PAGE)
        if not 1 <= limit <= MOST:
            raise BadQuestion(400, f"limit: write a number from 1 to {MOST}")
        good, missing = await gathered(self._fleet, "sessions", arguments)
        return await answer(request, lambda: page(good, limit, missing))

    async def _one(self, request: web.Request) -> web.Response:
        asked(request)
        good, _ = await gathered(self._fleet, "session", {"id": request.match_info["id"]})
        return await answer(request, {"worker": good[0].slot, **good[0].value})

    async def _end(self, request: web.Request) -> web.Response:
        return await self._kicked(request, {**asked(request, reason=text, now=truth), "id": request.match_info["id"]})

    async def _kick(self, request: web.Request) -> web.Response:
        arguments = {**asked(request, now=truth), **await said(request, "reason", "now")}
        return await self._kicked(request, {**arguments, "id": request.match_info["id"]})

    async def _many(self, request: web.Request) -> web.Response:
        query = asked(request, now=truth)
        return await self._kicked(request, {**query, **await said(request, *FILTER, "reason", "now")})

    async def _kicked(self, request: web.Request, arguments: dict[str, Any]) -> web.Response:
        good, missing = await gathered(self._fleet, "kick", arguments)
        count = sum(one.value["kicked"] for one in good)
        if not count and "id" in arguments:
            if missing:
                raise BadQuestion(504, f"worker {missing[0]} does not answer, and the others do not have this session")
            raise BadQuestion(404, "there is no such session; it may be over: the log has a line for each")
        ids = [id for one in good for id in one.value["sessions"]]
        return await answer(request, {"kicked": count, "sessions": ids[:NAMED], "missing": missing})


def page(answers: Sequence[Answer], limit: int, missing: list[int]) -> dict[str, Any]:
    """The first ``limit`` sessions of those that the workers named, the oldest first. ``next`` is what ``after`` says
    to get on, None at the end."""
    rows: list[dict[str, Any]] = []
    last: tuple[float, str] | None = None
    more = any(one.value["more"] for one in answers)
    named = ([{"worker": one.slot, **row} for row in one.value["sessions"]] for one in answers)
    for row in heapq.merge(*named, key=lambda row: row["key"]):
        if len(rows) == limit:
            more = True
            break
        key = row.pop("key")
        last = key[0], key[1]
        rows.append(row)
    return {
        "sessions": rows,
        "matched": sum(one.value["matched"] for one in answers),
        "next": cursor_text(last) if more and last is not None else None,
        "missing": missing,
    }

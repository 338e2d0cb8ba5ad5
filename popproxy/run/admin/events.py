"""/v1/events: server-sent events for a page that is looked at (WHATWG HTML, section 9.2).

One tick a second for all who look; nothing is asked of the workers while nobody does. Whoever takes an event late
misses those between, and who takes none for long is gone.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from time import time
from typing import Any

from aiohttp import web

from popproxy.net.desk import BadQuestion
from popproxy.net.tasks import Tasks
from popproxy.run.admin.answers import THREAD, asked
from popproxy.run.admin.top import latest
from popproxy.run.fleet import Answer, Fleet

CLIENTS = 16
"""Streams at once."""
TICK = 1.0
DENIALS = 10
STALL = 30.0
"""Seconds for a client to take one event."""

RATES = ("connections", "rejected", "logins", "login_failures", "commands", "messages", "octets_in", "octets_out")
"""What pulses count, and ticks tell per second."""


class EventRoutes:
    """The stream. ``tick`` are the seconds between two events."""

    def __init__(self, fleet: Fleet, tick: float = TICK, clients: int = CLIENTS) -> None:
        self._fleet = fleet
        self._tick = tick
        self._most = clients
        self._clients = 0
        self._tasks: Tasks | None = None
        self._rates = Rates()
        self._number = 0
        self._event = b""
        self._turn = asyncio.Event()
        self._ticking = False

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [web.get("/v1/events", self._stream, allow_head=False)]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        asked(request)
        if self._clients >= self._most:
            raise BadQuestion(503, f"{self._most} others look already")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self._clients += 1
        try:
            self._begin(request)
            await response.prepare(request)
            await self._feed(request, response)
        finally:
            self._clients -= 1
        return response

    async def _feed(self, request: web.Request, response: web.StreamResponse) -> None:
        seen = -1
        while True:
            turn = self._turn
            if self._number != seen and self._event:
                seen = self._number
                try:
                    async with asyncio.timeout(STALL):
                        await response.write(self._event)
                except TimeoutError:
                    if request.transport is not None:
                        request.transport.abort()
                    return
                except ConnectionError:
                    return
            await turn.wait()

    def _begin(self, request: web.Request) -> None:
        if self._tasks is None:
            self._tasks = Tasks(asyncio.get_running_loop())
        if not self._ticking:
            # Here, not when the task gets to run: what was told long ago is not what a newcomer sees first.
            self._ticking, self._event, self._rates = True, b"", Rates()
            self._tasks.spawn(self._run(request.app))

    async def _run(self, app: web.Application) -> None:
        """Ticks while somebody looks."""
        try:
            while self._clients:
                await self._round(app)
        finally:
            self._ticking = False

    async def _round(self, app: web.Application) -> None:
        """One tick, told to all."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._tick
        pulses = await self._fleet.ask("pulse", {})
        denials = await self._fleet.ask("recent", {"limit": DENIALS})
        told = self._told(pulses, denials)
        self._event = await loop.run_in_executor(app[THREAD], _written, self._number + 1, told)
        self._number += 1
        self._turn.set()
        self._turn = asyncio.Event()
        await asyncio.sleep(max(0.0, due - loop.time()))

    def _told(self, pulses: Sequence[Answer], denials: Sequence[Answer]) -> dict[str, Any]:
        good = [one for one in pulses if one.status == 200]
        return {
            "time": round(time(), 3),
            "state": self._fleet.status().state,
            "sessions": sum(one.value["sessions"] for one in good),
            "states": _summed([one.value["states"] for one in good]),
            "rates": self._rates.of(good),
            "upstreams": upstreams(good),
            "denials": latest([one for one in denials if one.status == 200], DENIALS),
            "missing": [one.slot for one in pulses if one.status != 200],
        }


class Rates:
    """What counts per second, of totals that begin anew when a worker does."""

    def __init__(self) -> None:
        self._before: dict[int, Mapping[str, Any]] = {}

    def of(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Since the pulses before, of all workers together; 0 at the first."""
        found = dict.fromkeys(RATES, 0.0)
        for one in answers:
            before, now = self._before.get(one.slot), one.value
            if before is not None and now["at"] > before["at"]:
                seconds = now["at"] - before["at"]
                for name in RATES:
                    more = now["totals"][name] - before["totals"][name]
                    found[name] += (more if more >= 0 else now["totals"][name]) / seconds
            self._before[one.slot] = now
        return {name: round(value, 2) for name, value in found.items()}


def upstreams(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The upstreams of all workers: sessions and waiting logins added up, and how many servers there are in each state;
    `mixed` is one that workers do not agree about."""
    found: dict[str, dict[str, Any]] = {}
    for one in answers:
        for told in one.value["upstreams"]:
            known = found.setdefault(told["name"], {"name": told["name"], "sessions": 0, "waiting": 0, "servers": {}})
            # A reload that takes it out of one worker before the other is no fault.
            known["sessions"] += told["sessions"]
            known["waiting"] += told["waiting"]
            for server, state in told["servers"].items():
                known["servers"][server] = state if known["servers"].get(server, state) == state else "mixed"
    return [{**upstream, "servers": dict(Counter(upstream["servers"].values()))} for upstream in found.values()]


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return found


def _written(number: int, told: Mapping[str, Any]) -> bytes:
    data = json.dumps(told, separators=(",", ":"), allow_nan=False)
    return f"id: {number}\nevent: tick\ndata: {data}\n\n".encode("ascii")

"""/v1/tap: looking on at sessions, as JSON lines for as long as the asker reads.

Every worker is asked again and again; one that was started anew meanwhile is told of the tap. What an asker does not
take is not waited for long: the workers keep a bounded number of lines and say how many were too old.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time
from typing import Any

from aiohttp import web

from popproxy.core.transcriber import NOTE
from popproxy.net.desk.tap import WAIT
from popproxy.run.admin.answers import asked, gathered, text
from popproxy.run.fleet import Answer, Fleet

TAKES = 20.0
"""Seconds in which an asker must take what was sent."""
QUIET = 10.0
"""Seconds without a line behind which an empty one is sent, to find out whether anybody is there."""
LOST = "the worker that had this session has died, and the session with it"
_DEADLINE = WAIT + 2.0


class Looking:
    """One tap in all workers. ``over``: the one session that was meant is over, and all of it was read."""

    def __init__(self, fleet: Fleet, whom: Mapping[str, Any]) -> None:
        self.over = False
        self._fleet = fleet
        self._whom = {**whom, "tap": secrets.token_hex(8)}
        self._tap = {"tap": self._whom["tap"]}
        self._slot = 0

    async def open(self) -> None:
        """Raises BadQuestion when nobody can be looked at."""
        good, _ = await gathered(self._fleet, "tap.open", self._whom)
        self._slot = good[0].slot

    async def read(self) -> list[dict[str, Any]]:
        """What has come, in the order of time; empty behind a second in which nothing came."""
        answers = await self._fleet.ask("tap.read", {**self._tap, "wait": WAIT}, _DEADLINE)
        good = [one for one in answers if one.status == 200]
        if "session" in self._whom:
            # Only the worker that has it knows of this tap. One that is mute may be it.
            if not good and answers and all(one.status == 404 for one in answers):
                self.over = True
                return [self._lost()]
            self.over = any(one.value["over"] for one in good)
        elif any(one.status == 404 for one in answers):
            await self._fleet.ask("tap.open", self._whom)
        if not answers:
            # All are being started: whoever asks again at once would only be in their way.
            await asyncio.sleep(WAIT)
        lines = [line for one in good for line in _lines(one)]
        lines.sort(key=lambda line: str(line["time"]))
        return lines

    def _lost(self) -> dict[str, Any]:
        """What is told last of a session whose worker is no more."""
        return {
            "time": _moment(time()), "session": self._whom["session"], "mark": NOTE, "text": LOST, "worker": self._slot,
        }  # fmt: skip

    async def close(self) -> None:
        """Nobody looks on any more."""
        await self._fleet.ask("tap.close", self._tap)


def _lines(one: Answer) -> list[dict[str, Any]]:
    lines = [{**line, "time": _moment(line["time"]), "worker": one.slot} for line in one.value["lines"]]
    if one.value["dropped"]:
        at = lines[0]["time"] if lines else ""
        lines.insert(0, {"time": at, "dropped": one.value["dropped"], "worker": one.slot})
    return lines


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TapRoutes:
    """See the head of this file."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [web.get("/v1/tap", self._tap, allow_head=False)]

    async def _tap(self, request: web.Request) -> web.StreamResponse:
        looking = Looking(self._fleet, asked(request, user=text, session=text, ip=text))
        await looking.open()
        try:
            return await self._told(request, looking)
        finally:
            await looking.close()

    async def _told(self, request: web.Request, looking: Looking) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not looking.over and request.transport is not None:
            lines = await looking.read()
            if not lines and loop.time() - since < QUIET:
                continue
            since = loop.time()
            data = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines) or "\n"
            try:
                async with asyncio.timeout(TAKES):
                    await response.write(data.encode("ascii"))
            except (TimeoutError, ConnectionError):
                # Whoever asked is gone, or takes nothing.
                if request.transport is not None:
                    request.transport.abort()
                return response
        return response

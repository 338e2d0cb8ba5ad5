"""The question ``top``: who uses most, and who fails most, in memory that does not grow.

Fed by the log lines of sessions that ended and logins that failed; what open sessions have used is added when somebody
asks. An IPv6 client is its network of 64 bits: one subscriber.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from time import monotonic
from typing import Any

from popproxy.net.desk import Desk
from popproxy.net.desk.asking import LONGEST, choice
from popproxy.net.desk.overheard import Overheard
from popproxy.net.desk.sessions import STEP
from popproxy.net.desk.sketch import Sketch
from popproxy.net.pump import Pump

PLACES = 100
"""Keys that each sketch holds."""
WINDOW = 600.0
"""Seconds of a window. Two of them take turns, so that the answer is about the last ten to twenty minutes."""
BY = ("octets", "messages", "failures")
OF = ("users", "addresses")
SINCE = ("start", "recent")

BATCH = 256
"""Events that wait to be brought into the sketches together."""

Sketches = dict[str, Sketch]
"""By ``users.octets`` and so on."""


class Tops:
    """Answers ``top`` of one worker: all sketches as plain data, for who puts those of all workers together."""

    def __init__(
        self,
        desk: Desk,
        log: Overheard,
        pumps: Callable[[], Iterable[Pump]],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._pumps = pumps
        self._clock = clock
        self._began = clock()
        self._start = _made()
        self._windows = [_made(), _made()]
        self._fresh = _Weights()
        self._turned = self._began
        self._before = self._began
        log.listen(self._session, "session")
        log.listen(self._failed, "login_failed")
        desk.add("top", self._answer)

    async def _answer(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``since`` is ``start`` or ``recent``. ``seconds`` says how long that is."""
        recent = (choice(arguments, "since", SINCE) or "start") == "recent"
        self._look()
        self._bring()
        begun = self._before if recent else self._began
        # Taken at one moment: a session is either in a sketch or among those that are open.
        chosen = self._windows if recent else [self._start]
        copies = [{name: sketch.copy() for name, sketch in sketches.items()} for sketches in chosen]
        pumps = list(self._pumps())
        open_ones = _Weights()
        for place, pump in enumerate(pumps):
            if place and place % STEP == 0:
                open_ones.into(copies[0])
                open_ones = _Weights()
                await asyncio.sleep(0)
            session, view = pump.session, pump.view
            open_ones.use(view.user, view.client, session.octets_in + session.octets_out, session.retrieved)
        open_ones.into(copies[0])
        return {
            "seconds": round(self._clock() - begun, 3),
            "sketches": {name: [sketches[name].told() for sketches in copies] for name in copies[0]},
        }

    def _session(self, name: str, fields: Mapping[str, Any]) -> None:
        self._look()
        octets = fields["octets_in"] + fields["octets_out"]
        self._fresh.use(fields["user"], fields["client"], octets, fields["retrieved"])

    def _failed(self, name: str, fields: Mapping[str, Any]) -> None:
        self._look()
        self._fresh.fail(fields["user"], fields["client"])

    def _look(self) -> None:
        """Before anything new: what waits long enough, or belongs to a window that is over, goes to its place."""
        if self._clock() - self._turned >= WINDOW:
            self._bring()
            self._turn()
        elif self._fresh.events >= BATCH:
            self._bring()

    def _bring(self) -> None:
        fresh, self._fresh = self._fresh, _Weights()
        for sketches in (self._start, self._windows[0]):
            fresh.into(sketches)

    def _turn(self) -> None:
        """The older window begins anew when the younger one is over."""
        now = self._clock()
        late = now - self._turned
        # After a long silence both are empty.
        self._windows = [_made(), self._windows[0] if late < 2 * WINDOW else _made()]
        self._before = self._turned if late < 2 * WINDOW else now
        self._turned = now


def _made() -> Sketches:
    return {f"{of}.{by}": Sketch(PLACES) for of in OF for by in BY}


class _Weights:
    """What some sessions used and failed at: at most a few keys for each event, brought into sketches together."""

    __slots__ = ("_of", "events")

    def __init__(self) -> None:
        self._of: dict[str, dict[str, int]] = {f"{of}.{by}": {} for of in OF for by in BY}
        self.events = 0

    def use(self, user: str | None, client: str, octets: int, messages: int) -> None:
        """A session used so much."""
        self.events += 1
        of, address = self._of, subscriber(client)
        weights = of["addresses.octets"]
        weights[address] = weights.get(address, 0) + octets
        weights = of["addresses.messages"]
        weights[address] = weights.get(address, 0) + messages
        if user:
            user = user[:LONGEST]
            weights = of["users.octets"]
            weights[user] = weights.get(user, 0) + octets
            weights = of["users.messages"]
            weights[user] = weights.get(user, 0) + messages

    def fail(self, user: str | None, client: str) -> None:
        """A login failed."""
        self.events += 1
        for key, who in (("addresses.failures", subscriber(client)), ("users.failures", user and user[:LONGEST])):
            if who:
                self._of[key][who] = self._of[key].get(who, 0) + 1

    def into(self, sketches: Sketches) -> None:
        """Add all of it."""
        for name, weights in self._of.items():
            sketches[name].add(weights)


@lru_cache(256)
def subscriber(client: str) -> str:
    """Who is behind an address: it, or its network of 64 bits."""
    try:
        address = ip_address(client)
    except ValueError:
        return client[:LONGEST]
    return str(ip_network((int(address) >> 64 << 64, 64))) if isinstance(address, IPv6Address) else str(address)

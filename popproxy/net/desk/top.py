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
        self._turned = self._began
        self._before = self._began
        log.listen(self._session, "session")
        log.listen(self._failed, "login_failed")
        desk.add("top", self._answer)

    async def _answer(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``since`` is ``start`` or ``recent``. ``seconds`` says how long that is."""
        recent = (choice(arguments, "since", SINCE) or "start") == "recent"
        self._turn()
        begun = self._before if recent else self._began
        # Taken at one moment: a session is either in a sketch or among those that are open.
        chosen = self._windows if recent else [self._start]
        copies = [{name: sketch.copy() for name, sketch in sketches.items()} for sketches in chosen]
        pumps = list(self._pumps())
        for place, pump in enumerate(pumps):
            if place and place % STEP == 0:
                await asyncio.sleep(0)
            session, view = pump.session, pump.view
            _use(copies[0], view.user, view.client, session.octets_in + session.octets_out, session.retrieved)
        return {
            "seconds": round(self._clock() - begun, 3),
            "sketches": {name: [sketches[name].told() for sketches in copies] for name in copies[0]},
        }

    def _session(self, name: str, fields: Mapping[str, Any]) -> None:
        self._turn()
        octets = fields["octets_in"] + fields["octets_out"]
        for sketches in (self._start, self._windows[0]):
            _use(sketches, fields["user"], fields["client"], octets, fields["retrieved"])

    def _failed(self, name: str, fields: Mapping[str, Any]) -> None:
        self._turn()
        user, address = fields["user"], subscriber(fields["client"])
        for sketches in (self._start, self._windows[0]):
            if user:
                sketches["users.failures"].add(user[:LONGEST], 1)
            sketches["addresses.failures"].add(address, 1)

    def _turn(self) -> None:
        """The older window begins anew when the younger one is over."""
        now = self._clock()
        late = now - self._turned
        if late < WINDOW:
            return
        # After a long silence both are empty.
        self._windows = [_made(), self._windows[0] if late < 2 * WINDOW else _made()]
        self._before = self._turned if late < 2 * WINDOW else now
        self._turned = now


def _made() -> Sketches:
    return {f"{of}.{by}": Sketch(PLACES) for of in OF for by in BY}


def _use(sketches: Sketches, user: str | None, client: str, octets: int, messages: int) -> None:
    address = subscriber(client)
    sketches["addresses.octets"].add(address, octets)
    sketches["addresses.messages"].add(address, messages)
    if user:
        sketches["users.octets"].add(user[:LONGEST], octets)
        sketches["users.messages"].add(user[:LONGEST], messages)


@lru_cache(256)
def subscriber(client: str) -> str:
    """Who is behind an address: it, or its network of 64 bits."""
    try:
        address = ip_address(client)
    except ValueError:
        return client[:LONGEST]
    return str(ip_network((int(address) >> 64 << 64, 64))) if isinstance(address, IPv6Address) else str(address)

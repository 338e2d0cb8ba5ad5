"""All that can be asked and changed over the admin listener: /v1, and the page that shows some of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from popproxy.run.admin.bans import BanRoutes
from popproxy.run.admin.events import EventRoutes
from popproxy.run.admin.page import PageRoutes
from popproxy.run.admin.process import ProcessRoutes
from popproxy.run.admin.sessions import SessionRoutes
from popproxy.run.admin.tap import TapRoutes
from popproxy.run.admin.top import TopRoutes
from popproxy.run.admin.upstreams import UpstreamRoutes
from popproxy.run.fleet import Fleet


class Api:
    """The routes over ``fleet``. One for a process, however many addresses it listens on."""

    def __init__(self, fleet: Fleet) -> None:
        self._upstreams = UpstreamRoutes(fleet)
        self._families = (
            SessionRoutes(fleet),
            self._upstreams,
            TopRoutes(fleet),
            EventRoutes(fleet),
            BanRoutes(fleet),
            ProcessRoutes(fleet),
            TapRoutes(fleet),
            PageRoutes(),
        )

    def routes(self) -> Sequence[web.RouteDef]:
        """What is added to a listener."""
        return [route for family in self._families for route in family.routes()]

    def standing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Questions (and their arguments) for a worker that has come up or has taken another config, so that it knows
        what was said by hand before. An answer that is not 200 does no harm."""
        return self._upstreams.standing()

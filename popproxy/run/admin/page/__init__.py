"""The status page at ``/``: for those without Grafana. It is three files that no build step makes, and shows what
/v1/events tells.

The page itself holds nothing of anybody, so it needs no token; what it shows it asks of /v1 as every other client
does, with the token that its reader types in where one is needed.
"""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

_FILES = {
    "/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript"),
}  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, nothing in line: what a user name holds is never run."""


class PageRoutes:
    """The files, read once."""

    def __init__(self) -> None:
        here = files(__name__)
        self._read = {path: (here.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    def routes(self) -> list[web.RouteDef]:
        """What is added to the listener."""
        return [web.get(path, self._file) for path in self._read]

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._read[request.path]
        return web.Response(
            body=body,
            content_type=kind,
            charset="utf-8",
            headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"},
        )

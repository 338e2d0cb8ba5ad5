"""Where a login goes: an upstream of the config, perhaps a server of a plugin's choosing, and the key to choose by.

A plugin's Route is data from a stranger: what would send credentials where the operator did not mean them to go is a
Lie (promises 5 and 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from popproxy.api.hosts import server_host
from popproxy.api.verdicts import Route, ServerAddress
from popproxy.core.lies import Lie
from popproxy.wire.values import value

if TYPE_CHECKING:
    from popproxy.core.plan import LegTls, UpstreamPolicy


@value
class Target:
    """``server`` None: one of the upstream's own. ``key`` None: the user name used upstream."""

    upstream: str
    server: ServerAddress | None = None
    key: str | None = None

    def routed(self, route: Route, policies: Mapping[str, UpstreamPolicy]) -> Target:
        """Where ``route`` leads from here. Raises Lie."""
        upstream, server = self.upstream, self.server
        if route.upstream is not None:
            upstream, server = route.upstream, None
        server = route.server or server
        if upstream not in policies:
            raise Lie(f"Route: {upstream!r} is not configured")
        if server is not None:
            _check(server, policies[upstream])
        return Target(upstream, server, self.key if route.key is None else route.key)

    def keyed(self, user: str) -> Target:
        """With the key that counts for ``user``. Names compare without case."""
        return self if self.key is not None else Target(self.upstream, self.server, user.casefold())

    def tls(self, policy: UpstreamPolicy) -> LegTls:
        """What is asked of TLS there."""
        return policy.tls if self.server is None or self.server.tls is None else self.server.tls

    @property
    def place(self) -> str:
        """Whose capabilities are meant: a server of a plugin's choosing can do other things than the upstream's."""
        server = self.server
        if server is None:
            return self.upstream
        return f"{self.upstream} {server.host.lower()} {server.port or ''} {server.tls or ''}"


def _check(server: ServerAddress, policy: UpstreamPolicy) -> None:
    try:
        server_host(server.host)
    except ValueError as error:
        raise Lie(f"Route: {error}") from None
    if server.host.startswith("["):
        raise Lie(f"Route: {server.host[:80]!r} is no host name and no IP address: leave the brackets out")
    if server.port is not None and not 1 <= server.port <= 65535:
        raise Lie("Route: the port of the server is no number from 1 to 65535")
    if server.tls not in (None, "off", "starttls", "implicit"):
        raise Lie("Route: the tls of the server is not off, starttls or implicit")
    if server.tls == "off" and policy.tls != "off":
        raise Lie(f"Route: a server without TLS, but upstream {policy.name} has TLS")

"""What is examined: one server of an upstream, as the config says to reach it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import time

from popproxy.api.credentials import Credentials
from popproxy.config.plan import Server, UpstreamPlan
from popproxy.core.limits import Limits, Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.net.introduce import Version, own_header
from popproxy.net.own import OwnAddresses

QUICK = 3.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Case:
    """A server, and everything that decides how it is spoken to.

    ``context`` is the one of the proxy for this upstream, None where no TLS is asked for. ``credentials`` None: nobody
    logs in. ``wall`` is the local clock, seconds since the epoch. ``again``: a further look at a server of which
    something is known to be wrong, to see what; nothing is waited for longer than QUICK.
    """

    plan: UpstreamPlan
    server: Server
    times: Timeouts
    limits: Limits
    context: ssl.SSLContext | None
    own: OwnAddresses
    credentials: Credentials | None = field(default=None, repr=False)
    wall: Callable[[], float] = time
    again: bool = False

    def once_more(self, version: Version | None) -> Case:
        """For a further look, with this PROXY header."""
        names = ("connect", "upstream_handshake", "greeting", "login")
        times = replace(self.times, **{name: min(QUICK, getattr(self.times, name)) for name in names})
        return replace(self, plan=replace(self.plan, send_proxy=version), times=times, again=True)

    @property
    def policy(self) -> UpstreamPolicy:
        """How it is logged in to."""
        return self.plan.policy

    @property
    def header(self) -> bytes:
        """What each connection begins with."""
        return b"" if self.plan.send_proxy is None else own_header(self.plan.send_proxy)

    @property
    def name(self) -> str:
        """The name that its certificate must have, and that is asked for (SNI)."""
        return self.plan.server_name or self.server.host

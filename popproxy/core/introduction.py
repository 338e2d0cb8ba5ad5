"""Who the client really is: told by a proxy in front (XCLIENT in), told to the server behind (XCLIENT out).

Law: only a trusted network is believed, and what it says rules the session's view. A TTL goes down at every proxy; a
session that has none left leads nowhere, so a loop ends.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

from popproxy.api.views import SessionView, TlsView
from popproxy.core.conditions import inside
from popproxy.core.failures import Failure, Kind
from popproxy.core.plan import SessionPlan, UpstreamPolicy
from popproxy.wire.xclient import SESSION_LIMIT, Xclient, XclientError, command_lines

HOPS = 5
"""Proxies that may follow a client who came directly: as many as Dovecot allows."""


Origin = tuple[str, int, str, int, str, int | None]
"""``client``, ``client_port``, ``local``, ``local_port``, ``id`` and ``ttl`` of a view."""


class Host(Protocol):
    """The session, as far as introductions need it."""

    plan: SessionPlan
    view: SessionView
    secure: bool
    ttl: int | None
    forward: tuple[tuple[str, str], ...]
    origin: Origin | None
    """What was known before the first XCLIENT."""


def trusted(plan: SessionPlan, client: str) -> bool:
    """Whether XCLIENT is believed from ``client``. Who may open a Unix socket is decided by its permissions."""
    return bool(plan.xclient) and (client == "unix" or inside(client, plan.xclient))


def believe(session: Host, said: Xclient) -> None:
    """Take what a trusted proxy said for the truth."""
    view = session.view
    if session.origin is None:
        session.origin = view.client, view.client_port, view.local, view.local_port, view.id, session.ttl
    view.client = said.addr or view.client
    view.client_port = said.port or view.client_port
    view.local = said.dest_addr or view.local
    view.local_port = said.dest_port or view.local_port
    view.id = said.session or view.id
    if said.ttl is not None:
        session.ttl = view.ttl = said.ttl
    session.forward = said.forward or session.forward
    if said.client_transport is not None and said.client_transport.upper().startswith("TLS") and not session.secure:
        session.secure = True
        view.tls = TlsView(server_name=said.dest_name, by_proxy=True)


def forget(session: Host) -> None:
    """TLS begins on this leg: what was said before it may have been said by anybody (promise 3)."""
    view = session.view
    if session.origin is not None:
        view.client, view.client_port, view.local, view.local_port, view.id, view.ttl = session.origin
        session.ttl, session.forward, session.origin = view.ttl, (), None


def loop(session: Host) -> Failure | None:
    """Why no further proxy may follow; None when one may."""
    if session.ttl is None or session.ttl > 0:
        return None
    return Failure(Kind.LOOP, "the TTL that came with the client allows no further proxy: they lead in a circle")


def remaining(ttl: int | None) -> int:
    """The TTL for the next one."""
    return max(0, (HOPS if ttl is None else ttl) - 1)


def introduction(session: Host, policy: UpstreamPolicy) -> list[bytes]:
    """The XCLIENT lines for a server that takes them; empty where the operator does not want it."""
    if policy.xclient == "off":
        return []
    view, tls = session.view, session.view.tls
    network = view.client != "unix"
    own = tuple(pair for pair in policy.forward if pair[0] not in dict(session.forward))
    whole = Xclient(
        addr=view.client if network else None,
        port=(view.client_port or None) if network else None,
        dest_addr=(view.local or None) if network else None,
        dest_port=(view.local_port or None) if network else None,
        session=view.id if len(view.id) <= SESSION_LIMIT else None,
        ttl=remaining(session.ttl),
        client_transport="insecure" if tls is None else "TLS",
        dest_name=None if tls is None else tls.server_name,
        forward=(*session.forward, *own),
    )
    try:
        return command_lines(whole)
    except XclientError:
        # A server name that is none, more to forward than a line holds, a view that a plugin wrote into.
        fit = {field.name: getattr(whole, field.name) for field in fields(Xclient) if _fits(whole, field.name)}
        return command_lines(Xclient(**fit))


def _fits(whole: Xclient, name: str) -> bool:
    """Whether this part of ``whole`` can be said."""
    try:
        command_lines(Xclient(**{name: getattr(whole, name)}))
    except XclientError:
        return False
    return True

"""Which server of a group a login gets, and why: as at a fresh start, every server in rotation and no session open."""

from __future__ import annotations

from dataclasses import dataclass

from popproxy.config.plan import Server, UpstreamPlan
from popproxy.config.urls import bracketed
from popproxy.net.balance import ranking


@dataclass(frozen=True, slots=True)
class Placement:
    """``servers`` in the order in which they are tried; where any may be the first, in that of the config."""

    servers: tuple[str, ...]
    because: str


def placement(upstream: UpstreamPlan, key: str) -> Placement:
    """Where ``key`` leads."""
    servers = upstream.servers
    match upstream.balance:
        case _ if len(servers) == 1:
            because = "the only server"
        case "first":
            because = "the first in the list that is in rotation"
        case "sticky":
            servers = tuple(ranking(servers, key))
            because = f"sticky by {key!r}; the next one only while those before it are out of rotation"
        case "round_robin":
            because = f"in turn{_weights(servers)}"
        case "least_sessions":
            because = f"the one with the fewest sessions of its process{_weights(servers)}"
    return Placement(tuple(f"{bracketed(server.host)}:{server.port}" for server in servers), because)


def _weights(servers: tuple[Server, ...]) -> str:
    weights = [server.weight for server in servers]
    return "" if len(set(weights)) == 1 else f", weighted {':'.join(map(str, weights))}"


def bounds(upstream: UpstreamPlan) -> str:
    """How many sessions there may be at once."""
    each = [
        f"{bracketed(server.host)}:{server.port} {server.max_sessions}"
        for server in upstream.servers
        if server.max_sessions
    ]
    if upstream.max_sessions:
        each.insert(0, f"all servers together {upstream.max_sessions}")
    if not each:
        return "no limit"
    queue = f"{upstream.queue} logins wait at most {upstream.queue_timeout:g}s" if upstream.queue else "nobody waits"
    return f"{', '.join(each)}; then {queue}"


def health(upstream: UpstreamPlan) -> str:
    """When a server is out of rotation."""
    rules = upstream.health
    probed = f"; probed every {rules.probe:g}s" if rules.probe else ""
    again = f"tried again after {rules.backoff:g}s to {rules.longest:g}s"
    return f"out behind {rules.fall} faults in a row; {again}{probed}"


def told(upstream: UpstreamPlan) -> str:
    """How the server learns who the client is."""
    ways = [f"PROXY {upstream.send_proxy}"] if upstream.send_proxy is not None else []
    if upstream.policy.xclient != "off":
        ways.append("XCLIENT, required" if upstream.policy.xclient == "required" else "XCLIENT where it is announced")
    return "; ".join(ways) or "not told the client's address"

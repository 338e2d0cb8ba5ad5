"""``popproxy upstreams``: how the servers are, and an administrator's hand on them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from time import time
from typing import Any

from popproxy.run.asked import EX_OK, EX_WRONG
from popproxy.run.client import Client, segment
from popproxy.run.people.asking import asking, columns, lines, missing, tell, tell_json
from popproxy.run.people.table import Column, table
from popproxy.run.people.words import span

_COLUMNS = (
    Column("UPSTREAM", least=6),
    Column("SERVER", least=12),
    Column("STATE"),
    Column("SESSIONS", right=True),
    Column("WAITING", right=True),
    Column("WEIGHT", right=True, optional=True),
    Column("LAST FAULT", least=12, optional=True),
)
_PROBES = (
    Column("SERVER", least=12),
    Column("WORKER", right=True),
    Column("RESULT", least=12),
    Column("TIME", right=True),
)


def upstreams(arguments: argparse.Namespace) -> int:
    """Print all upstreams."""

    def work(client: Client) -> int:
        told = client.get("/v1/upstreams")
        missing(told)
        if arguments.json:
            tell_json(told)
        else:
            tell(render(told["upstreams"], columns(), time()))
        return EX_OK

    return asking(arguments, work)


def render(told: list[dict[str, Any]], width: int | None, now: float) -> str:
    """A line for each server, for people. ``now`` in seconds since the epoch."""
    rows = [
        (
            upstream["name"],
            server["server"],
            _state(server),
            _of(server["sessions"], server["max_sessions"]),
            str(upstream["waiting"]) if place == 0 else "",
            str(server["weight"]),
            _fault(server["last_failure"], now),
        )
        for upstream in told
        for place, server in enumerate(upstream["servers"])
    ]
    return lines(table(_COLUMNS, rows, width))


def _state(server: Mapping[str, Any]) -> str:
    return f"{server['state']}, drained" if server["drained"] else str(server["state"])


def _of(count: int, most: int) -> str:
    return f"{count}/{most}" if most else str(count)


def _fault(fault: Mapping[str, Any] | None, now: float) -> str:
    return "-" if fault is None else f"{span(now - fault['time'])} ago: {fault['kind']}: {fault['detail']}"


def turn(arguments: argparse.Namespace) -> int:
    """Take servers out of rotation for new logins, or back in (``arguments.what``: drain, undrain)."""

    def work(client: Client) -> int:
        name = arguments.upstream
        known = client.get(f"/v1/upstreams/{segment(name)}")
        servers = [arguments.server] if arguments.server else [server["server"] for server in known["servers"]]
        told = [
            client.post(f"/v1/upstreams/{segment(name)}/servers/{segment(server)}/{arguments.what}")
            for server in servers
        ]
        for one in told:
            missing(one)
        if arguments.json:
            tell_json({"servers": told})
        else:
            tell(lines(map(_turned, told)))
        return EX_OK

    return asking(arguments, work)


def _turned(one: Mapping[str, Any]) -> str:
    state = "gets no new logins" if one["drained"] else "gets logins again"
    before = "" if one["changed"] else ", as before"
    left = f"; {one['sessions']} sessions go on" if one["drained"] and one["sessions"] else ""
    until = ", until it is undrained or popproxy is started again" if one["drained"] else ""
    return f"{one['server']} {state}{before}{until}{left}"


def probe(arguments: argparse.Namespace) -> int:
    """Have servers probed now; EX_WRONG when one is not well."""

    def work(client: Client) -> int:
        path = f"/v1/upstreams/{segment(arguments.upstream)}"
        if arguments.server:
            path += f"/servers/{segment(arguments.server)}"
        told = client.post(f"{path}/probe")
        missing(told)
        if arguments.json:
            tell_json(told)
        else:
            rows = [
                (
                    one["server"],
                    str(one["worker"]),
                    "ok" if one["ok"] else f"{one['kind']}: {one['detail']}",
                    f"{one['seconds'] * 1000:.0f} ms",
                )
                for one in told["probes"]
            ]
            tell(lines(table(_PROBES, rows, columns())))
        return EX_OK if told["ok"] else EX_WRONG

    return asking(arguments, work)

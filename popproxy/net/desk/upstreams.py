"""Questions about upstreams: how their servers are, and an administrator's hand on them.

A drained server gets no new logins, its sessions go on. What is drained is kept by the group, so it outlives a reload
that does not change the upstream; who asks can say it again to a worker that has just started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from popproxy.net.desk import BadQuestion, Desk
from popproxy.net.desk.asking import needed, truth, word
from popproxy.net.dialer import Dialer
from popproxy.net.group import Member
from popproxy.net.probe import Prober


class Upstreams:
    """Answers ``upstreams``, ``upstream.drain`` and ``upstream.probe`` of one worker. ``dialers`` gives the upstreams
    that new sessions use, by name."""

    def __init__(self, desk: Desk, dialers: Callable[[], Mapping[str, Dialer]]) -> None:
        self._dialers = dialers
        desk.add("upstreams", self._list)
        desk.add("upstream.drain", self._drain)
        desk.add("upstream.probe", self._probe)

    async def _list(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All upstreams, or the one called ``upstream``."""
        asked = word(arguments, "upstream")
        dialers = self._dialers()
        if asked is not None:
            dialers = {asked: self._dialer(asked)}
        now = monotonic()
        return [_upstream(dialer, now) for dialer in dialers.values()]

    async def _drain(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``on`` true: no new logins for ``server``; false: it gets them again."""
        dialer = self._dialer(needed(arguments, "upstream"))
        member = _member(dialer, needed(arguments, "server"))
        on = truth(arguments, "on")
        if on is None:
            raise BadQuestion(400, "on is missing: write true or false")
        changed = dialer.group.drain(member.name, on)
        return {"server": member.name, "drained": on, "changed": changed, "sessions": member.sessions}

    async def _probe(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Connect to ``server``, or to all, take the greeting, and TLS where logins would have it. It counts as the
        probes of health.probe do: a server that is well comes back into rotation."""
        dialer = self._dialer(needed(arguments, "upstream"))
        asked = word(arguments, "server")
        members = dialer.group.members if asked is None else (_member(dialer, asked),)
        prober = Prober(dialer, dialer.times)
        return list(await asyncio.gather(*(_probed(prober, member) for member in members)))

    def _dialer(self, name: str) -> Dialer:
        dialers = self._dialers()
        dialer = dialers.get(name)
        if dialer is None:
            raise BadQuestion(404, f"there is no upstream {name[:60]!r}; write one of: {', '.join(dialers)}")
        return dialer


def _member(dialer: Dialer, name: str) -> Member:
    for member in dialer.group.members:
        if member.name == name:
            return member
    names = ", ".join(member.name for member in dialer.group.members)
    raise BadQuestion(404, f"upstream {dialer.plan.name} has no server {name[:60]!r}; write one of: {names}")


async def _probed(prober: Prober, member: Member) -> dict[str, Any]:
    began = monotonic()
    failure = await prober.once(member)
    return {
        "server": member.name,
        "ok": failure is None,
        "kind": "" if failure is None else failure.kind.value,
        "detail": "" if failure is None else failure.detail,
        "seconds": round(monotonic() - began, 3),
        "state": member.breaker.state,
    }


def _upstream(dialer: Dialer, now: float) -> dict[str, Any]:
    plan, group = dialer.plan, dialer.group
    return {
        "name": plan.name,
        "balance": plan.balance,
        "verify": plan.verify,
        "sessions": group.sessions,
        "max_sessions": plan.max_sessions,
        "waiting": group.waiting,
        "queue": plan.queue,
        "servers": [_server(member, member.name in group.drained, now) for member in group.members],
    }


def _server(member: Member, drained: bool, now: float) -> dict[str, Any]:
    server, fault = member.server, member.fault
    next_trial = member.breaker.next_trial(now)
    return {
        "server": member.name,
        "url": server.url,
        "tls": server.tls,
        "weight": server.weight,
        "max_sessions": server.max_sessions,
        "sessions": member.sessions,
        "state": member.breaker.state,
        "drained": drained,
        "since": round(now - member.breaker.since, 3),
        "next_trial": None if next_trial is None else round(next_trial, 3),
        "last_failure": None
        if fault is None
        else {"time": round(fault[0], 3), "kind": fault[1].kind.value, "detail": fault[1].detail},
    }

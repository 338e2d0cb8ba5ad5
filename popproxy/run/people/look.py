"""One look at everything that ``popproxy top`` shows, and its text: lines and tables, for a terminal or a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import localtime, strftime
from typing import Any

from popproxy.run.client import Client
from popproxy.run.people.table import Column
from popproxy.run.people.words import amount, printable, span

BY = ("octets", "messages", "failures")
OF = ("users", "addresses")

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Look:
    """``tick`` is the last event of /v1/events; the others are what their paths under /v1 answered."""

    status: Mapping[str, Any]
    tick: Mapping[str, Any]
    top: Mapping[str, Any]
    sessions: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "status": dict(self.status),
            "tick": dict(self.tick),
            "top": dict(self.top),
            "sessions": dict(self.sessions),
        }


def look(client: Client, tick: Mapping[str, Any], limit: int, since: str, sessions: int) -> Look:
    """Ask for what ``tick`` does not tell. ``limit`` rows of each list, ``sessions`` of them. Raises as Client."""
    return Look(
        client.get("/v1/status"),
        tick,
        client.get("/v1/top", limit=limit, since=since),
        client.get("/v1/sessions", limit=sessions),
    )


def heading(seen: Look) -> list[str]:
    """State, rates and phases, in three lines."""
    status, tick = seen.status, seen.tick
    rates = tick["rates"]
    up = sum(1 for one in status["workers"] if one["up"])
    workers = f"{up} of {len(status['workers'])} workers" if up < len(status["workers"]) else _count(up, "worker")
    states = ", ".join(f"{count} {name}" for name, count in tick["states"].items() if count) or "none"
    return [
        printable(line)
        for line in (
            f"popproxy {status['version']}: {tick['state']}, {_count(tick['sessions'], 'session')}, {workers}, "
            f"up {span(tick['time'] - status['since'])}",
            f"per s: {rates['connections']:.1f} connections, {rates['logins']:.1f} logins, "
            f"{rates['login_failures']:.1f} failed, {rates['messages']:.1f} messages, "
            f"{amount(rates['octets_in'])} in, {amount(rates['octets_out'])} out",
            f"sessions: {states}",
        )
    ]


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


HEAVIEST = (Column("WHO", least=8), Column("AMOUNT", right=True), Column("SHARE", right=True))
UPSTREAMS = (
    Column("UPSTREAM", least=8),
    Column("SESSIONS", right=True),
    Column("WAITING", right=True),
    Column("SERVERS", least=6),
)
DENIALS = (
    Column("TIME"),
    Column("CLIENT", least=9),
    Column("USER", least=8),
    Column("EVENT", least=8),
    Column("WHY", least=10),
)


def heaviest(seen: Look, of: str, by: str) -> Rows:
    """The users or addresses with the most. A sketch that was full may have said too much: then it is ``at most``."""
    told = seen.top[of][by]
    total = told["total"] or 1
    return [
        (one["key"], f"{'<' if one['error'] else ''}{amount(one['count'])}", f"{100 * one['count'] / total:.0f}%")
        for one in told["top"]
    ]


def upstreams(seen: Look) -> Rows:
    """Of each upstream: sessions, logins that wait, and how many servers are up, down or otherwise."""
    return [
        (
            one["name"],
            str(one["sessions"]),
            str(one["waiting"]),
            ", ".join(f"{count} {state}" for state, count in one["servers"].items()),
        )
        for one in seen.tick["upstreams"]
    ]


def denials(seen: Look) -> Rows:
    """Who was turned away lately, the latest first."""
    return [
        (
            strftime("%H:%M:%S", localtime(one["time"])),
            one["client"] or "-",
            one["user"] or "-",
            one["event"],
            " ".join(str(part) for part in (one["reason"], one["code"], one["detail"]) if part) or "-",
        )
        for one in seen.tick["denials"]
    ]


def title(of: str, by: str, top: Mapping[str, Any]) -> str:
    """What a list of the heaviest is about."""
    return f"{of} by {by}, of the last {span(top['seconds'])}"


def silent(seen: Look) -> Sequence[int]:
    """Workers that did not answer."""
    found: set[int] = set()
    for told in (seen.tick, seen.top, seen.sessions):
        found.update(told.get("missing") or ())
    return sorted(found)

"""Questions about sessions: which there are, what one of them does, and their end by an administrator's hand.

Law: nothing is noted for these answers while a session runs, and ten thousand sessions are looked through in small
steps, between which the loop serves. What a plugin keeps in a session is shown only where its type cannot hold a
secret.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Any

from popproxy.api.views import TlsView
from popproxy.core.meter import OUTCOMES
from popproxy.core.phases import Phase
from popproxy.net.desk import BadQuestion, Desk
from popproxy.net.desk.asking import (
    choice,
    matches_address,
    matches_user,
    needed,
    number,
    truth,
    word,
)
from popproxy.net.pump import Pump

STEP = 256
"""Sessions looked at before the loop serves others."""
ROWS, KICKS = 64, 16
"""Sessions told of, and ended, before it does: each costs as much as many that are only looked at."""
PAGE, MOST = 100, 1000
"""Sessions in one answer: without a limit, and at most."""
NAMED = 100
"""Ids that the answer to a kick names; the count is of all."""
PHASES = tuple(phase.value for phase in Phase)
REASON = 200
"""Characters of an administrator's reason that are kept."""
BY_HAND = "by an administrator"

Key = tuple[float, str]
_CURSOR = re.compile(r"(\d{1,12}\.\d{6})~(.{1,320})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions. What is None does not matter."""

    user: Callable[[str | None], bool] | None = None
    address: Callable[[str], bool] | None = None
    listener: str | None = None
    upstream: str | None = None
    phase: str | None = None
    tls: bool | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Wanted:
        """What a question asks for. Raises BadQuestion."""
        user, address = word(arguments, "user"), word(arguments, "ip")
        return cls(
            None if user is None else matches_user(user),
            None if address is None else matches_address(address),
            word(arguments, "listener"),
            word(arguments, "upstream"),
            choice(arguments, "phase", PHASES),
            truth(arguments, "tls"),
        )

    def __call__(self, pump: Pump) -> bool:
        view = pump.view
        return (
            (self.listener is None or view.listener == self.listener)
            and (self.upstream is None or view.upstream == self.upstream)
            and (self.phase is None or pump.session.phase.word == self.phase)
            and (self.tls is None or (view.tls is not None) == self.tls)
            and (self.address is None or self.address(view.client))
            and (self.user is None or self.user(view.user) or self.user(view.login))
        )


class Sessions:
    """Answers ``sessions``, ``session`` and ``kick`` of one worker. ``pumps`` gives all its sessions."""

    def __init__(self, desk: Desk, pumps: Callable[[], Iterable[Pump]]) -> None:
        self._pumps = pumps
        desk.add("sessions", self._list)
        desk.add("session", self._one)
        desk.add("kick", self._kick)

    async def _list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The oldest ``limit`` sessions behind the cursor ``after``; ``matched`` counts all of them. Each row has its
        ``key``, by which the answers of several workers are put in one order."""
        wanted, after = Wanted.of(arguments), cursor(arguments.get("after"))
        limit = number(arguments, "limit", PAGE, MOST)
        matched = 0
        best: list[tuple[Key, int, Pump]] = []
        found: list[tuple[Key, int, Pump]] = []
        async for pumps in self._steps():
            for pump in pumps:
                if wanted(pump):
                    matched += 1
                    key = key_of(pump)
                    if after is None or key > after:
                        found.append((key, id(pump), pump))
            # What is sorted already costs sorted() next to nothing; heapq.nsmallest is Python where it keeps many.
            best = sorted([*best, *found])[: limit + 1]
            found.clear()
        rows = []
        for place, (key, _, pump) in enumerate(best[:limit]):
            if place and place % ROWS == 0:
                await asyncio.sleep(0)
            rows.append({"key": list(key), **row(pump)})
        return {"sessions": rows, "matched": matched, "more": len(best) > limit}

    async def _one(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        asked = needed(arguments, "id")
        async for pumps in self._steps():
            for pump in pumps:
                if pump.view.id == asked:
                    return whole(pump)
        raise BadQuestion(404, f"there is no session {asked[:60]!r}; it may be over: the log has a line for each")

    async def _kick(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """End sessions: by ``id``, or all that the other arguments match. ``now`` does not wait for replies."""
        asked, reason = word(arguments, "id"), word(arguments, "reason")
        wanted, now = Wanted.of(arguments), truth(arguments, "now") or False
        if asked is None and wanted == Wanted():
            raise BadQuestion(400, "whom? write one of: id, user, ip, listener, upstream, phase, tls")
        detail = BY_HAND if reason is None else f"{BY_HAND}: {_printable(reason)[:REASON]}"
        ended: list[str] = []
        count = 0
        async for pumps in self._steps():
            for pump in pumps:
                if pump.session.phase is Phase.CLOSED or (asked is not None and pump.view.id != asked):
                    continue
                if wanted(pump):
                    kick(pump, detail, now)
                    count += 1
                    if count <= NAMED:
                        ended.append(pump.view.id)
                    if count % KICKS == 0:
                        await asyncio.sleep(0)
        return {"kicked": count, "sessions": ended}

    async def _steps(self) -> AsyncIterator[list[Pump]]:
        """All sessions of this moment, a few at a time."""
        pumps = list(self._pumps())
        for place in range(0, len(pumps), STEP):
            if place:
                await asyncio.sleep(0)
            yield pumps[place : place + STEP]


def kick(pump: Pump, detail: str, now: bool) -> None:
    """End a session: an idle one without a word, a busy one behind its reply, or ``now``. No QUIT goes upstream."""
    pump.stop("kicked", detail)
    if now:
        pump.abort("kicked", detail)


def key_of(pump: Pump) -> Key:
    """The order of sessions: the oldest first. The clock is that of the machine, so workers agree on it."""
    return round(pump.session.started, 6), pump.view.id


def cursor(text: object) -> Key | None:
    """Where a page ended. Raises BadQuestion."""
    if text is None:
        return None
    found = _CURSOR.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise BadQuestion(400, "after: write what the page before said as next")
    return float(found[1]), found[2]


def cursor_text(key: Key) -> str:
    """The cursor behind the session with this key."""
    return f"{key[0]:.6f}~{key[1]}"


def row(pump: Pump) -> dict[str, Any]:
    """A session in the list. Names are those of its log line."""
    session, view = pump.session, pump.view
    awaited = session.awaits()
    return {
        "id": view.id,
        "listener": view.listener,
        "client": view.client,
        "client_port": view.client_port,
        "tls": "" if view.tls is None else view.tls.version,
        "phase": session.phase.word,
        "user": view.user,
        "login": view.login,
        "mechanism": view.mechanism,
        "upstream": view.upstream,
        "server": view.server,
        "since": round(view.began, 3),
        "seconds": round(monotonic() - session.started, 3),
        "awaits": awaited.mover,
        "idle": None if awaited.seconds is None else round(awaited.seconds, 3),
        "octets_in": session.octets_in,
        "octets_out": session.octets_out,
        "retrieved": session.retrieved,
        "ends": session.reason,
    }


def whole(pump: Pump) -> dict[str, Any]:
    """All that is known of a session."""
    session, view = pump.session, pump.view
    commands = session.commands()
    maildrop = list(view.maildrop.values())
    return {
        **row(pump),
        "local": view.local,
        "local_port": view.local_port,
        "proxied": view.proxied,
        "attempt": view.attempt,
        "groups": sorted(view.groups),
        "tls_details": None if view.tls is None else _tls(view.tls),
        "commands": commands,
        "deleted": commands.get("DELE", {}).get(OUTCOMES[0], 0) - session.kept,
        "upstream_octets_in": pump.upstream_in,
        "upstream_octets_out": pump.upstream_out,
        "maildrop": {"messages": len(maildrop), "octets": sum(one.octets for one in maildrop)} if maildrop else None,
        "slots": sorted(
            ({"name": slot.name, "value": harmless(value)} for slot, value in view.slots.items()),
            key=lambda one: str(one["name"]),
        ),
    }


def _tls(tls: TlsView) -> dict[str, Any]:
    return {
        "version": tls.version,
        "cipher": tls.cipher,
        "resumed": tls.resumed,
        "server_name": tls.server_name,
        "by_proxy": tls.by_proxy,
        "verify": tls.verify,
        "subject": tls.subject,
        "fingerprint": tls.fingerprint,
    }


def harmless(value: object) -> object:
    """What a plugin keeps, where its type cannot hold a secret; else its type alone, and how many for a container."""
    if value is None or isinstance(value, bool | int | float):
        return value if abs(value or 0) < 1 << 53 else f"<{type(value).__name__} hidden>"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict | list | tuple | set | frozenset):
        return f"<{type(value).__name__} of {len(value)} hidden>"
    return f"<{type(value).__name__} hidden>"


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text)

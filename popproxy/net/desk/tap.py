"""Questions of those who look on at sessions: ``tap.open``, ``tap.read``, ``tap.close``.

Law: while nobody looks on, a session costs nothing for it. A tap holds a bounded number of lines and drops the oldest;
it ends by itself when nobody reads it; there are few at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from popproxy.net.desk import BadQuestion, Desk
from popproxy.net.desk.asking import matches_address, matches_user, needed, word
from popproxy.net.pump import Pump
from popproxy.net.tapped import UNDECIDED, Ear, tap, taps_of

TAPS = 8
"""Taps at a time."""
STEP = 64
"""Sessions looked at for a tap, or that it is taken from, before the loop serves others."""
LINES, OCTETS = 2000, 1 << 19
"""What a tap holds at most for its reader."""
IDLE = 30.0
"""Seconds without a reader that end a tap."""
WAIT = 1.0
"""Seconds that a reader may wait for a line."""


class Tap:
    """One who looks on. ``one`` is the session meant, if only one is; ``sessions`` are those that are open."""

    def __init__(self, name: str, matches: Callable[[Pump], bool], one: str | None, now: Callable[[], float]) -> None:
        self.name = name
        self.one = one
        self.sessions: set[str] = set()
        self.over = False
        self.some = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self._matches = matches
        self._now = now
        self._lines: deque[dict[str, Any]] = deque()
        self._octets = 0
        self._dropped = 0

    def wants(self, pump: Pump) -> bool:
        """See Listening."""
        return self._matches(pump)

    def take(self, session: str, mark: str, text: str) -> None:
        """See Listening."""
        self.sessions.add(session)
        self._lines.append({"time": self._now(), "session": session, "mark": mark, "text": text})
        self._octets += len(text)
        while len(self._lines) > LINES or self._octets > OCTETS:
            self._octets -= len(self._lines.popleft()["text"])
            self._dropped += 1
        self.some.set()

    def ended(self, session: str) -> None:
        """See Listening."""
        self.sessions.discard(session)
        self.over = self.one is not None
        self.some.set()

    def read(self) -> dict[str, Any]:
        """What has come since the last time."""
        lines, dropped = list(self._lines), self._dropped
        self._lines.clear()
        self._octets = self._dropped = 0
        if not self.over:
            self.some.clear()
        return {"lines": lines, "dropped": dropped, "sessions": len(self.sessions), "over": self.over}


class Taps:
    """All taps of one worker, by name. ``pumps`` gives its sessions. Every method belongs to the loop's thread."""

    def __init__(
        self,
        desk: Desk,
        pumps: Callable[[], Iterable[Pump]],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.open: dict[str, Tap] = {}
        self._pumps = pumps
        self._loop = loop
        self._now = now
        desk.add("tap.open", self._open)
        desk.add("tap.read", self._read)
        desk.add("tap.close", self._close)

    def arrived(self, pump: Pump) -> None:
        """A session begins while somebody looks on."""
        those = [one for one in self.open.values() if one.one is None]
        if those:
            ear = tap(pump)
            ear.waiting.extend(those)
            ear.look()

    async def _open(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``user`` (a glob), ``session`` (an id) or ``ip`` (an address or a network), and if the asker likes ``tap``,
        the name that the tap shall have."""
        name = word(arguments, "tap") or secrets.token_hex(8)
        made = self._made(name, arguments)
        if name in self.open:
            raise BadQuestion(409, f"there is a tap {name!r} already; leave its name out")
        if len(self.open) >= TAPS:
            raise BadQuestion(409, f"{TAPS} taps are open already; close one of them")
        pumps = list(self._pumps())
        if made.one is not None:
            pumps = [pump for pump in pumps if made.wants(pump)]
            if not pumps:
                raise BadQuestion(404, f"there is no session {made.one!r}; `popproxy who` lists those that are open")
        self.open[name] = made
        self._wind(made)
        for place, pump in enumerate(pumps):
            if place and place % STEP == 0:
                await asyncio.sleep(0)
                if self.open.get(name) is not made:
                    break
            # Whoever came meanwhile was met when it began, and who is gone has nothing more to say.
            if pump in pump.front.pumps and (made.wants(pump) or pump.session.phase in UNDECIDED):
                ear = tap(pump)
                ear.waiting.append(made)
                ear.look()
        return {"tap": name, "sessions": len(made.sessions)}

    def _made(self, name: str, arguments: Mapping[str, Any]) -> Tap:
        user, session, ip = (word(arguments, key) for key in ("user", "session", "ip"))
        if [user, session, ip].count(None) != 2:
            raise BadQuestion(400, "write one of: user, session, ip")
        if session is not None:
            return Tap(name, lambda pump: pump.view.id == session, session, self._now)
        if user is not None:
            named = matches_user(user)
            return Tap(name, lambda pump: named(pump.view.user) or named(pump.view.login), None, self._now)
        placed = matches_address(str(ip))
        return Tap(name, lambda pump: placed(pump.view.client), None, self._now)

    async def _read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What has come; when there is nothing it is waited for, at most ``wait`` seconds."""
        one = self._named(arguments)
        wait = arguments.get("wait", WAIT)
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= WAIT:
            raise BadQuestion(400, f"wait: write seconds, from 0 to {WAIT:g}")
        self._wind(one)
        if wait:
            with contextlib.suppress(TimeoutError):  # nothing to tell is an answer, too
                await asyncio.wait_for(one.some.wait(), wait)
        return one.read()

    async def _close(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._end(self._named(arguments))
        return {}

    def _named(self, arguments: Mapping[str, Any]) -> Tap:
        name = needed(arguments, "tap")
        one = self.open.get(name)
        if one is None:
            raise BadQuestion(404, f"there is no tap {name!r}: it ends {IDLE:g} seconds after it was read last")
        return one

    def _wind(self, one: Tap) -> None:
        if one.timer is not None:
            one.timer.cancel()
        one.timer = self._loop.call_later(IDLE, self._end, one)

    def _end(self, one: Tap) -> None:
        if self.open.pop(one.name, None) is None:
            return
        if one.timer is not None:
            one.timer.cancel()
        self._leave(one, taps_of(self._pumps()))

    def _leave(self, one: Tap, ears: list[Ear]) -> None:
        """The tap is taken from all these, some at a time, the last ones first."""
        for ear in ears[-STEP:]:
            ear.leave(one)
        del ears[-STEP:]
        if ears:
            self._loop.call_soon(self._leave, one, ears)

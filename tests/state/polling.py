"""A day of polling by simulation: what a store holds while many users ask for mail every few minutes. Not a test.

``python -m tests.state.polling STORE [USERS [HOURS]]``: STORE is memory or sqlite, 50000 users and 24 hours if nothing
else is said; each logs in every ten minutes. No time passes but the store's: the clock is moved. Prints a line per hour
(keys held, octets of sqlite's files), and at the end two days in which one user goes on alone.

The keys are those of policies in daily use. Per user: octets of the day, logins of the hour, sessions, addresses that
succeeded. Per address: logins of the minute, sessions, and, for one login in fifty that fails, names and passwords
that were tried. One user in five is on the road: at another address with each login.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

from popproxy.api.store import Fixed, Lease, Mark, Sliding, Spend, Step, TokenBucket
from popproxy.state.memory import MemoryStore
from popproxy.state.space import Backend, Space
from popproxy.state.sqlite import SqliteStore

MIDNIGHT = 19_676 * 86400.0
EVERY = 600.0
AT_ONCE = 200

DAY, HOUR, MINUTE = Fixed(2**30, 86400), Sliding(60, 3600), TokenBucket(100, 60)


@dataclass(frozen=True, slots=True)
class Hour:
    """What is held at the end of an hour."""

    number: int
    keys: int
    octets: int


class Simulation:
    """A store with a clock that is moved. ``directory`` is for sqlite."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.now = MIDNIGHT
        self._path = directory / "store.db"
        self.backend: Backend
        if kind == "memory":
            self.backend = memory = MemoryStore(lambda: self.now)
            self._look: Callable[[], tuple[int, int]] = lambda: (len(memory), 0)
        else:
            self.backend = SqliteStore(self._path, clock=lambda: self.now, busy=20.0)
            self._look = self._file
        self.store = Space(self.backend, "sim")

    def look(self, number: int) -> Hour:
        """What is held now."""
        return Hour(number, *self._look())

    def _file(self) -> tuple[int, int]:
        base = sqlite3.connect(self._path)
        tables = ("texts", "marks", "levels", "places")
        keys = sum(base.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)
        base.close()
        return keys, sum(path.stat().st_size for path in self._path.parent.iterdir())

    async def day(self, users: int, hours: int) -> AsyncIterator[Hour]:
        """All users poll, evenly spread over each ten minutes."""
        for number in range(1, hours + 1):
            for round_ in range(round(3600 / EVERY)):
                await self._round(users, number * 100 + round_)
            yield self.look(number)

    async def alone(self, hours: int) -> Hour:
        """One user goes on, every minute as impatient clients do."""
        for _ in range(hours * 60):
            self.now += 60
            await self._login(0, 0)
        return self.look(hours)

    async def _round(self, users: int, round_: int) -> None:
        for begin in range(0, users, AT_ONCE):
            some = range(begin, min(users, begin + AT_ONCE))
            self.now += EVERY * len(some) / users
            await asyncio.gather(*(self._login(user, round_) for user in some))

    async def _login(self, user: int, round_: int) -> None:
        address = f"{user}.{round_}" if user % 5 == 0 else f"{user}"
        before: list[Step[Any]] = [
            Spend(f"user:{user}:hour", HOUR, mode="soft"),
            Spend(f"address:{address}:minute", MINUTE, mode="soft"),
            Spend(f"user:{user}:octets", DAY, 0),
            Lease(f"user:{user}:sessions", 10),
            Lease(f"address:{address}:sessions", 50),
        ]
        outcome = await self.store.run(*before)
        if (user + round_) % 50 == 0:
            failed = [Mark(f"address:{address}:failed", b"name and password, hashed", 1800)]
            self.store.post(*failed)
        else:
            self.store.post(
                Mark(f"user:{user}:addresses", address.encode(), 86400, 16),
                Spend(f"user:{user}:octets", DAY, 10_000, "force"),
            )
        self.store.release(outcome)


async def main(kind: str, users: int = 50_000, hours: int = 24) -> None:
    """Print what is held."""
    with tempfile.TemporaryDirectory() as directory:
        simulation = Simulation(kind, Path(directory))
        await simulation.backend.open()
        async for hour in simulation.day(users, hours):
            print(f"hour {hour.number:2}: {hour.keys:8} keys {hour.octets / 2**20:8.1f} MiB", flush=True)
        after = await simulation.alone(48)
        print(f"two days later: {after.keys} keys {after.octets / 2**20:.1f} MiB", flush=True)
        await simulation.backend.close()
    print(f"largest process: {getrusage(RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *(int(word) for word in sys.argv[2:])))

"""A worker of its own process that does what it is told: the program behind test_shared. Not a test.

``python -m tests.state.member EXPRESSION``: the expression is a Backend. Each line of stdin is a command; each answer a
line of stdout: ``spend KEY LIMIT TRIES`` and ``lease KEY LIMIT TRIES`` say how many were granted, ten at a time,
``release`` gives back all leases, ``places KEY`` says how many are held. The end of stdin closes the store.
"""

from __future__ import annotations

import asyncio
import sys

from popproxy.api.store import Fixed, Lease, Outcome, Spend
from popproxy.state.space import Backend, Space


class Member:
    """One worker."""

    def __init__(self, backend: Backend) -> None:
        self._store = Space(backend, "test")
        self._held: list[Outcome] = []

    async def obey(self, command: str, *words: str) -> str:
        """The answer to one line."""
        if command == "release":
            for outcome in self._held:
                self._store.release(outcome)
            self._held.clear()
            return "0"
        if command == "places":
            step = Lease(words[0], 0, "soft")
            return str((await self._store.run(step))[step].used)
        key, limit, tries = words[0], int(words[1]), int(words[2])
        granted = 0
        for begin in range(0, tries, 10):
            wanted = range(begin, min(tries, begin + 10))
            outcomes = await asyncio.gather(*(self._claim(command, key, limit) for _ in wanted))
            self._held += [outcome for outcome in outcomes if outcome.ticket]
            granted += sum(outcome.granted for outcome in outcomes)
        return str(granted)

    async def _claim(self, command: str, key: str, limit: int) -> Outcome:
        if command == "spend":
            return await self._store.run(Spend(key, Fixed(limit, 10 * 365 * 43200)))
        return await self._store.run(Lease(key, limit))


async def main(backend: Backend) -> None:
    """Obey until stdin ends."""
    await backend.open()
    member = Member(backend)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(await member.obey(*line.split()), flush=True)
    await backend.close()


if __name__ == "__main__":
    asyncio.run(main(eval(sys.argv[1])))

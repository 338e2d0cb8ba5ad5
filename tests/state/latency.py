"""How long a login waits for a store. Not a test.

``python -m tests.state.latency [STORE...]``: memory and all of SHARED if none is named.

One run has what a login asks: two windows, a lease and a mark; its lease is released at once. 1, 100 and 1000 of them
at a time, each wave as soon as the one before is answered, so each figure has the waiting for the rest of its wave.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from popproxy.api.store import Fixed, Lease, Mark, Sliding, Spend
from popproxy.state.space import Space
from tests.state.backends import BACKENDS, SHARED

WAVES = {1: 2000, 100: 50, 1000: 12}


async def login(store: Space, user: int) -> float:
    """Seconds until the store has answered."""
    steps = (
        Spend(f"user:{user}:hour", Sliding(1000, 3600)),
        Spend(f"user:{user}:octets", Fixed(2**40, 86400), 10_000),
        Lease(f"user:{user}:sessions", 1000),
        Mark(f"user:{user}:addresses", b"192.0.2.1", 3600),
    )
    begin = perf_counter()
    outcome = await store.run(*steps)
    seconds = perf_counter() - begin
    assert outcome.granted
    store.release(outcome)
    return seconds


async def measure(name: str) -> None:
    """Print a line per number at a time."""
    with tempfile.TemporaryDirectory() as directory:
        async with (SHARED.get(name) or BACKENDS[name])(Path(directory)) as rig:
            store = Space(rig.backend, "latency")
            user = 0
            for at_once, waves in WAVES.items():
                begin, took = perf_counter(), []
                for _ in range(waves):
                    took += await asyncio.gather(*(login(store, (user + one) % 10_000) for one in range(at_once)))
                    user += at_once
                rate = len(took) / (perf_counter() - begin)
                took.sort()
                middle, late = took[len(took) // 2], took[len(took) * 99 // 100]
                print(
                    f"{name:8} {at_once:5} at once: median {middle * 1000:8.2f} ms, 99% {late * 1000:8.2f} ms,"
                    f" {rate:6.0f} logins/s",
                    flush=True,
                )


async def main(*names: str) -> None:
    """Measure each."""
    for name in names or ("memory", *sorted(SHARED)):
        await measure(name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

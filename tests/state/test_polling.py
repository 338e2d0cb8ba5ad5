"""Users who poll all day leave no more behind at night than in the morning. At full size: tests.state.polling."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.state.polling import Hour, Simulation

USERS = 60


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_day_of_polling_keeps_the_store_small(kind: str, tmp_path: Path) -> None:
    simulation = Simulation(kind, tmp_path)
    await simulation.backend.open()
    hours: list[Hour] = [hour async for hour in simulation.day(USERS, 26)]
    keys = [hour.keys for hour in hours]
    # Per user two levels, and one address's; addresses of those on the road and failures for an hour at most. Marks are
    # keys of their own in sqlite: sixteen for each of those on the road.
    assert max(keys) <= USERS * (3 + 1 + 2 + (16 / 5 if kind == "sqlite" else 0))
    assert max(keys[3:]) <= 1.1 * keys[3], "not more than after a few hours"
    assert max(hour.octets for hour in hours) <= 6 * 2**20, "a log of four, and the file"
    after = await simulation.alone(48)
    assert after.keys <= 10, "nothing is left of those who are gone"
    await simulation.backend.close()

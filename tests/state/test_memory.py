"""That memory follows what is alive. What every store does: test_conformance."""

from __future__ import annotations

import pytest

from popproxy.api.store import Drop, Fixed, Get, Lease, Mark, Put, Spend, StoreFailed
from popproxy.state.memory import MemoryStore
from popproxy.state.space import Space

BEGIN = 1_700_000_000.0


class Rig:
    def __init__(self) -> None:
        self.now = BEGIN
        self.backend = MemoryStore(lambda: self.now)
        self.store = Space(self.backend, "test")

    async def idle(self, runs: int) -> None:
        for _ in range(runs):
            await self.store.run(Get("nothing"))


@pytest.mark.asyncio
async def test_what_has_ended_is_forgotten_a_few_with_each_run() -> None:
    rig = Rig()
    for number in range(1000):
        await rig.store.run(
            Put(f"v{number}", b"x", 60), Mark(f"m{number}", b"x", 60), Spend(f"w{number}", Fixed(1, 60))
        )
    assert len(rig.backend) == 3000
    rig.now += 121
    await rig.idle(1)
    assert 2900 < len(rig.backend) < 3000
    await rig.idle(400)
    assert len(rig.backend) == 0
    assert rig.backend._ends == []


@pytest.mark.asyncio
async def test_a_run_forgets_more_than_it_makes() -> None:
    rig = Rig()
    for number in range(4000):
        rig.now += 1
        await rig.store.run(*(Put(f"{number}:{step}", b"x", 10) for step in range(12)))
        assert len(rig.backend) <= 12 * 12


@pytest.mark.asyncio
async def test_keys_that_are_dropped_and_put_again_leave_nothing_behind() -> None:
    rig = Rig()
    for number in range(5000):
        await rig.store.run(Put("k", b"x", 3600))
        await rig.store.run(Drop("k"))
        await rig.store.run(Put(f"other{number}", b"x", 86400))
        await rig.store.run(Drop(f"other{number}"))
    assert len(rig.backend) == 0
    assert len(rig.backend._ends) < 100


@pytest.mark.asyncio
async def test_a_key_that_is_used_again_and_again_is_noted_once() -> None:
    rig = Rig()
    for _ in range(5000):
        rig.now += 1
        await rig.store.run(Put("v", b"x", 60), Mark("m", b"x", 60))
        assert len(rig.backend._ends) <= 3
    rig.now += 61
    await rig.idle(3)
    assert len(rig.backend) == 0


@pytest.mark.asyncio
async def test_a_shorter_life_is_forgotten_earlier() -> None:
    rig = Rig()
    await rig.store.run(Put("k", b"x", 86400))
    await rig.store.run(Put("k", b"x", 10))
    rig.now += 11
    await rig.idle(2)
    assert len(rig.backend) == 0


@pytest.mark.asyncio
async def test_leases_that_are_released_leave_nothing_behind() -> None:
    rig = Rig()
    for number in range(1000):
        rig.store.release(await rig.store.run(Lease(f"k{number}", 1), Lease("all", 5)))
    assert len(rig.backend) == 0
    assert not rig.backend._holding.unsettled


def test_what_clients_send_fills_it_up_to_a_bound_and_known_keys_go_on() -> None:
    time = [BEGIN]
    store = MemoryStore(lambda: time[0], most=5)
    window = Fixed(9, 3600)
    for number in range(5):
        store.do("s:", [Spend(f"k{number}", window)])
    with pytest.raises(StoreFailed, match="5 keys") as caught:
        store.do("s:", [Spend("k0", window), Spend("new", window)])
    assert caught.value.kind == "full"
    assert len(store) == 5
    step = Spend("k0", window)
    assert store.do("s:", [step, Get("other"), Lease("place", 1)])[step].used == 2, "nothing was done of what failed"
    store.post("s:", [Spend("new", window)])
    assert len(store) == 6, "five and the place"
    time[0] += 7200
    assert store.do("s:", [Spend("new", window)]).granted

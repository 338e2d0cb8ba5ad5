"""Many sessions with one pace, on a clock of the test: each gets its share, and nobody waits longer than all slices."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from popproxy.api import Pace
from popproxy.net import pacing
from popproxy.net.pacing import Pacer

RATE = 100_000
SLICE = RATE / 4


class World:
    """Timers in order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None], SimpleNamespace]] = []
        self._made = 0

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        self._made += 1
        timer = SimpleNamespace(off=False)
        timer.cancel = lambda: setattr(timer, "off", True)
        heapq.heappush(self.timers, (self.now + seconds, self._made, call, timer))
        return timer

    def until(self, end: float) -> None:
        while self.timers and self.timers[0][0] <= end:
            self.now, _, call, timer = heapq.heappop(self.timers)
            if not timer.off:
                call()
        self.now = end


class Client:
    """Takes everything at once; ``greedy``: there is always more for it."""

    def __init__(self, world: World, pace: Pace, greedy: bool) -> None:
        self.world = world
        self.greedy = greedy
        self.got = 0
        self.asked = 0.0
        self.longest = 0.0
        self.pump: Any = SimpleNamespace(
            client_blocked=False,
            client=SimpleNamespace(write=self._write),
            eased=self._eased,
            front=SimpleNamespace(loop=world),
            session=SimpleNamespace(client_blocked=lambda _: None),
        )
        self.pacer = Pacer(self.pump, (pace,))

    def _write(self, data: bytes) -> None:
        self.got += len(data)
        self.longest = max(self.longest, self.world.now - self.asked)
        self.asked = self.world.now

    def _eased(self, blocked: bool) -> None:
        self.pump.client_blocked = blocked
        if not blocked and self.greedy:
            self.send(1 << 16)

    def send(self, octets: int) -> None:
        self.asked = self.world.now
        while not self.pump.client_blocked:
            self.pacer.write(self.pump.client, b"x" * octets)
            if not self.greedy:
                return


def test_each_has_its_share_and_who_comes_anew_waits_for_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    world, pace = World(), Pace(RATE, RATE)
    monkeypatch.setattr(pacing, "monotonic", lambda: world.now)
    greedy = [Client(world, pace, greedy=True) for _ in range(20)]
    for client in greedy:
        client.send(1 << 16)
    short: list[Client] = []
    for second in range(1, 121):
        world.until(second)
        short.append(Client(world, pace, greedy=False))
        short[-1].send(200)
    total = sum(client.got for client in greedy + short)
    assert total <= 120 * RATE + RATE + len(greedy) * SLICE, "the burst, and a slice of each that is not waited for yet"
    assert total >= 0.95 * 120 * RATE, "nothing is left unused"
    shares = [client.got for client in greedy]
    assert max(shares) - min(shares) <= 6 * SLICE
    round_of_all = (len(greedy) + 1) * SLICE / RATE
    assert max(client.longest for client in greedy + short[:-6]) <= 1.2 * round_of_all
    for client in greedy + short:
        client.pacer.release(None)
    assert all(timer.off for _, _, _, timer in world.timers), "no timer is left behind"

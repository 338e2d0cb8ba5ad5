"""Several scanners for one job: the first that works, and no message waits long for one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from popproxy_plugins.spam.verdict import ScanFailed, Scored, Unscanned

LONGEST_REST = 30.0
"""Seconds for which a server that fails again and again is left alone."""

Ask = Callable[[str, float], Awaitable[Scored]]


@dataclass(slots=True)
class _State:
    """How a server did: failures in a row, when the last one was, and until when it is left alone."""

    failures: int = 0
    failed: float = float("-inf")
    rests: float = float("-inf")
    last: ScanFailed | None = None


class Servers:
    """The scanners by name, in the order of the config. ``failed`` hears of every failure.

    ``seconds`` is what a scan has that waited for nobody. A server that had less than half its share of that is not
    to blame for being late: a queue would else take away the servers it waits for.

    A server that cannot be reached or does not answer goes behind the others; at the second failure in a row it rests
    for one second, then two, up to LONGEST_REST. When all rest, a scan fails at once.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        clock: Callable[[], float],
        failed: Callable[[str, ScanFailed], None],
        seconds: float,
    ) -> None:
        self._states = {name: _State() for name in names}
        self._clock = clock
        self._failed = failed
        self._fair = seconds / len(names) / 2 if names else 0.0

    async def scan(self, ask: Ask, seconds: float) -> Scored:
        """The answer of the first server that gives one. ScanFailed, the last failure, when none does in time.

        ``ask`` gets a name and its time. Each server may take its share of what is left of ``seconds``, so that one
        that does not answer leaves time for the next.
        """
        end = self._clock() + seconds
        order = self._order()
        last = self._resting()
        for place, name in enumerate(order):
            began = self._clock()
            share = (end - began) / (len(order) - place)
            if share <= 0:
                break
            try:
                async with asyncio.timeout(share):
                    scored = await ask(name, share)
            except TimeoutError:
                last = ScanFailed(Unscanned.LATE, f"no answer within {share:.1f} s")
            except ScanFailed as failed:
                last = failed
            else:
                self._states[name] = _State()
                return scored
            if last.why is not Unscanned.LATE or share >= self._fair:
                self._note(name, last, began)
            self._failed(name, last)
        raise last

    def _order(self) -> list[str]:
        now = self._clock()
        awake = [name for name, state in self._states.items() if state.rests <= now]
        return sorted(awake, key=lambda name: self._states[name].failures > 0)

    def _resting(self) -> ScanFailed:
        """What is said when nobody can be asked."""
        known = [state.last for state in self._states.values() if state.last is not None]
        why = known[-1].why if known else Unscanned.LATE
        return ScanFailed(why, "no server was asked: all rest after failures")

    def _note(self, name: str, failure: ScanFailed, began: float) -> None:
        """Scans that were under way together when a server went down count once; a wrong answer does not count."""
        state = self._states[name]
        if failure.why is Unscanned.WRONG or began < state.failed:
            return
        state.failures += 1
        state.failed = self._clock()
        state.last = failure
        if state.failures > 1:
            state.rests = state.failed + min(LONGEST_REST, 2.0 ** (min(state.failures, 10) - 2))

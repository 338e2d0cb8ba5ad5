"""The store of a fleet: one connection of a worker, one pipeline for all that wait, one script call for each run.

The server's clock counts, in windows and leases: those of the machines may differ. See store.lua for what is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from hashlib import sha1
from heapq import nsmallest
from math import ceil
from pathlib import Path
from struct import error as BadReply
from typing import Any

from redis.exceptions import MovedError, NoScriptError

from popproxy.api.store import Outcome, Step, Stored, StoreFailed
from popproxy.state.batch import Batch, Batcher, Done, Job, Unwatched, Watch
from popproxy.state.holding import Holding
from popproxy.state.redis.codec import Names, packed, unpacked
from popproxy.state.redis.link import Command, Link
from popproxy.state.redis.plan import RedisPlan

_SCRIPT = Path(__file__).with_name("store.lua").read_bytes()
_SHA = sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_BEATS = 3
"""Heart-beats in the time of a lease: two may be lost."""
_LIFE = 40
"""Leases that a key of leases lives when nobody claims; it is told again within half of that."""
_KEYS = 200
"""Keys of one call that tells what is held: a server does nothing else meanwhile."""
_TRIES = 4
"""A script that is not loaded, an owner that is not known, keys that moved: each takes another round trip."""
_SCANNED, _READ = 1000, 200
"""Keys that a server looks at in one call of a scan, and values that are read in one."""


class RedisStore:
    """See the head of this file, and Backend. Raises OSError for certificates that cannot be read."""

    def __init__(self, plan: RedisPlan, watch: Watch | None = None) -> None:
        self._plan = plan
        self._names = Names(plan.prefix)
        self._link = Link(plan)
        self._owner = ""
        self._holding = Holding()
        self._batcher = Batcher(self._perform, self._holding, watch or Unwatched(), plan.lease / _BEATS)
        self._life = plan.lease * _LIFE
        self._known = 0
        self._beaten = 0.0
        self._round: list[str] = []
        self._slice = 0

    async def open(self) -> None:
        """See Backend."""
        self._batcher.open()

    async def close(self) -> None:
        """See Backend."""
        await self._batcher.close()
        await self._link.drop()

    async def run(self, space: str, steps: Sequence[Step[Any]]) -> Outcome:
        """See Backend."""
        return await self._batcher.run(space, steps)

    def post(self, space: str, steps: Sequence[Step[Any]]) -> None:
        """See Backend."""
        self._batcher.post(space, steps)

    def release(self, ticket: int) -> None:
        """See Backend."""
        self._batcher.release(ticket)

    async def scan(self, space: str, prefix: str, most: int) -> list[Stored]:
        """See Backend. On a connection of its own, so that no decision waits for it; it looks at every key of the
        server's database."""
        link = Link(self._plan)
        try:
            await link.ready()
            start = self._names.value(space)
            pattern = _literal(self._names.value(space + prefix)) + b"*"
            names: list[bytes] = []
            cursor: bytes | int = 0
            while True:
                cursor, found = (await link.ask([("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)]))[0]
                # A server may name a key twice.
                names = nsmallest(most, {*names, *found})
                if not int(cursor):
                    break
            stored: list[Stored] = []
            for at in range(0, len(names), _READ):
                some = names[at : at + _READ]
                replies = await link.ask([call for name in some for call in (("GET", name), ("PTTL", name))])
                for name, value, left in zip(some, replies[::2], replies[1::2], strict=True):
                    if value is not None and left > 0:
                        key = name[len(start) :].decode(errors="surrogatepass")
                        stored.append(Stored(key, value, left / 1000))
            return stored
        except RuntimeError as error:
            raise StoreFailed(str(error), "fault") from None
        finally:
            await link.drop()

    async def _perform(self, batch: Batch) -> Sequence[Done]:
        """See batch.Perform."""
        if batch.owner != self._owner:
            self._owner, self._known = batch.owner, 0
        jobs = batch.jobs
        done: list[Done | None] = [None] * len(jobs)
        taken: Counter[str] = Counter()
        told = False
        for _ in range(_TRIES):
            await self._link.ready()
            opening = [] if told else self._opening(batch, taken)
            left = [number for number, one in enumerate(done) if one is None]
            commands = [*opening, *(self._command(jobs[number]) for number in left)]
            if not commands:
                break
            replies = await self._link.ask(commands)
            told = self._heard(replies[: len(opening)], bool(opening))
            again: NoScriptError | MovedError | None = None
            for number, reply in zip(left, replies[len(opening) :], strict=True):
                if isinstance(reply, NoScriptError | MovedError):
                    again = reply
                    continue
                done[number] = one = self._done(jobs[number], reply)
                if one is None:
                    self._known = 0
                    told = False
                else:
                    taken.update(one.held)
            again = again or next((reply for reply in replies if isinstance(reply, NoScriptError | MovedError)), None)
            if isinstance(again, NoScriptError):
                await self._link.ask([("SCRIPT", "LOAD", _SCRIPT)])
            elif again is not None:
                await self._link.follow(again)
                told = False
            elif told and None not in done:
                break
        else:
            raise StoreFailed("redis: it does not come to an end with our script or our keys", "busy")
        if batch.leaving:
            await self._link.ask([self._telling("g", {})])
        return [one for one in done if one is not None]

    def _opening(self, batch: Batch, taken: Counter[str]) -> list[Command]:
        """What is told before the jobs: everything to a server that does not know us by this connection, else what is
        in doubt, and now and then a part of the rest, so that its keys live on."""
        now = asyncio.get_running_loop().time()
        due = batch.trial or now - self._beaten >= self._plan.lease / _BEATS / 2
        counts = dict(batch.settle)
        if self._known != self._link.epoch:
            counts.update(dict.fromkeys(counts, 0))
            counts.update(self._holding.everything())
            word = "k"
        elif due:
            counts.update((key, self._holding.count(key)) for key in self._part())
            word = "b"
        elif counts:
            word = "s"
        else:
            return []
        for key in taken:
            counts[key] = counts.get(key, self._holding.count(key)) + taken[key]
        keys = list(counts)
        calls = [self._telling(word, {key: counts[key] for key in keys[:_KEYS]})]
        for at in range(_KEYS, len(keys), _KEYS):
            calls.append(self._telling("s", {key: counts[key] for key in keys[at : at + _KEYS]}))
        if word != "s":
            self._beaten = now
        return calls

    def _part(self) -> list[str]:
        """Some of the keys that are held; all of them in turn within half the life of a key."""
        if not self._round:
            self._round = list(self._holding.everything())
            self._slice = ceil(len(self._round) / (_LIFE * _BEATS / 4))
        part, self._round = self._round[: self._slice], self._round[self._slice :]
        return part

    def _heard(self, replies: Sequence[Any], asked: bool) -> bool:
        """Note what came of the opening. Whether all of it was done."""
        if b"late" in replies:
            raise StoreFailed("redis: another worker has our name", "fault")
        complete = all(reply == b"ok" for reply in replies)
        if asked:
            self._known = self._link.epoch if complete else 0
        return complete

    def _done(self, job: Job, reply: Any) -> Done | None:
        try:
            return unpacked(job.space, job.steps, reply)
        except (BadReply, TypeError) as error:
            raise RuntimeError(f"redis: a reply that is none of our script: {type(error).__name__}") from None

    def _command(self, job: Job) -> Command:
        names = self._names.of(job.space, job.steps)
        head: Command = (b"EVALSHA", _SHA, len(names) + 1, self._names.owners, *names)
        return (*head, b"r", self._owner, self._link.epoch, packed(job.steps, self._life))

    def _telling(self, word: str, counts: dict[str, int]) -> Command:
        names = [self._names.leases(key) for key in counts]
        head: Command = (b"EVALSHA", _SHA, len(names) + 1, self._names.owners, *names)
        life = ceil(self._life * 1000)
        return (*head, word, self._owner, self._link.epoch, repr(self._plan.lease), life, *counts.values())


def _literal(name: bytes) -> bytes:
    """A pattern that only ``name`` matches."""
    return b"".join(b"\\" + bytes([octet]) if octet in b"*?[]\\^" else bytes([octet]) for octet in name)

import asyncio
from collections.abc import Sequence

import pytest

from popproxy.api.store import Get, Lease, Outcome, Put, StoreFailed
from popproxy.state import batch as room
from popproxy.state.batch import Batch, Batcher, Done
from popproxy.state.holding import Holding


class Server:
    """Does batches when it is let: notes them, and takes every lease."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.free = asyncio.Event()
        self.free.set()
        self.fault: Exception | None = None

    async def perform(self, batch: Batch) -> Sequence[Done]:
        self.batches.append(batch)
        await self.free.wait()
        if self.fault is not None:
            raise self.fault
        return [
            Done(
                True,
                1.0,
                [step.key for step in job.steps],
                tuple(job.space + step.key for step in job.steps if isinstance(step, Lease)),
            )
            for job in batch.jobs
        ]

    def jobs(self) -> list[list[str]]:
        """Keys of the jobs of each batch that had any."""
        return [[job.steps[0].key for job in batch.jobs] for batch in self.batches if batch.jobs]


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def took(self, seconds: float) -> None:
        assert seconds >= 0
        self.notes.append("took")

    def up(self) -> None:
        self.notes.append("up")

    def failed(self, error: StoreFailed) -> None:
        self.notes.append(f"failed {error.kind}")

    def refused(self, kind: str, runs: int) -> None:
        self.notes.append(f"refused {kind} {runs}")

    def lost(self, posts: int) -> None:
        self.notes.append(f"lost {posts}")


class Rig:
    def __init__(self, posts: int = 10, beat: float = 60.0) -> None:
        self.server = Server()
        self.holding = Holding()
        self.notes = Notes()
        self.batcher = Batcher(self.server.perform, self.holding, self.notes, beat, posts)

    async def __aenter__(self) -> "Rig":
        self.batcher.open()
        await turns()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.close()

    def ask(self, key: str) -> "asyncio.Task[Outcome]":
        return asyncio.get_running_loop().create_task(self.batcher.run("s:", [Get(key)]))

    def lease(self, key: str) -> "asyncio.Task[Outcome]":
        return asyncio.get_running_loop().create_task(self.batcher.run("s:", [Lease(key, 9)]))

    def settled(self) -> dict[str, int]:
        """What the server was told in all, the newest for each key."""
        return {key: count for batch in self.server.batches for key, count in batch.settle.items()}


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_the_first_batch_comes_at_once_and_is_empty() -> None:
    async with Rig() as rig:
        assert [batch.jobs for batch in rig.server.batches] == [[]]
        assert rig.notes.notes == ["up"]


@pytest.mark.asyncio
async def test_what_comes_while_a_batch_is_under_way_is_done_in_the_next_one() -> None:
    async with Rig() as rig:
        rig.server.free.clear()
        first = rig.ask("1")
        await turns()
        others = [rig.ask("2"), rig.ask("3"), rig.ask("4")]
        await turns()
        assert rig.server.jobs() == [["1"]]
        rig.server.free.set()
        outcomes = await asyncio.gather(first, *others)
        assert rig.server.jobs() == [["1"], ["2", "3", "4"]]
        assert [list(outcome.results.values()) for outcome in outcomes] == [["1"], ["2"], ["3"], ["4"]]


@pytest.mark.asyncio
async def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LARGEST", 2)
    async with Rig() as rig:
        rig.server.free.clear()
        asked = [rig.ask(str(number)) for number in range(6)]
        await turns()
        for number in range(5):
            rig.batcher.post("s:", [Put(f"p{number}", b"", 1)])
        rig.server.free.set()
        await asyncio.gather(*asked)
        # No post waits behind runs that came later, and no run behind all the posts.
        await until(lambda: rig.server.jobs()[-1] == ["p4"])
        assert rig.server.jobs()[:-1] == [["0", "1"], ["p0", "p1", "2", "3"], ["p2", "p3", "4", "5"]]


@pytest.mark.asyncio
async def test_a_failure_fails_each_waiter_with_its_own_error_and_the_next_batch_works() -> None:
    async with Rig() as rig:
        rig.server.fault = StoreFailed("no disk", "full")
        first, second = await asyncio.gather(rig.ask("1"), rig.ask("2"), return_exceptions=True)
        assert isinstance(first, StoreFailed) and isinstance(second, StoreFailed)
        assert first is not second
        assert (str(first), first.kind) == ("no disk", "full")
        rig.server.fault = None
        await rig.ask("3")
        assert rig.notes.notes == ["up", "failed full", "up", "took"]


@pytest.mark.asyncio
async def test_a_store_that_failed_twice_rests_and_comes_back_by_itself() -> None:
    async with Rig() as rig:
        rig.server.fault = StoreFailed("gone")
        for _ in range(2):
            with pytest.raises(StoreFailed, match="gone"):
                await rig.ask("1")
        asked = len(rig.server.batches)
        with pytest.raises(StoreFailed, match=r"rests.*gone") as caught:
            await rig.ask("2")
        assert caught.value.kind == "resting"
        assert len(rig.server.batches) == asked
        rig.server.fault = None
        await until(lambda: rig.notes.notes[-1] == "up")
        await rig.ask("3")


@pytest.mark.asyncio
async def test_nobody_waits_while_a_store_that_failed_twice_is_tried() -> None:
    async with Rig() as rig:
        rig.server.fault = StoreFailed("hangs", "timeout")
        with pytest.raises(StoreFailed, match="hangs"):
            await rig.ask("1")
        rig.server.free.clear()
        second = rig.ask("2")
        await until(lambda: rig.server.jobs() == [["1"], ["2"]])
        # It comes while the store has failed once, and is in no batch yet.
        queued = rig.ask("3")
        await turns()
        assert not queued.done()
        rig.server.free.set()
        with pytest.raises(StoreFailed, match="hangs"):
            await second
        with pytest.raises(StoreFailed, match="rests"):
            await queued
        rig.server.free.clear()
        tried = len(rig.server.batches)
        await until(lambda: len(rig.server.batches) > tried)
        # The next try is under way, and nobody knows how long.
        with pytest.raises(StoreFailed, match="rests"):
            await rig.ask("4")
        assert rig.server.jobs() == [["1"], ["2"]]
        rig.server.fault = None
        rig.server.free.set()
        await until(lambda: rig.notes.notes[-1] == "up")
        await rig.ask("5")


@pytest.mark.asyncio
async def test_nobody_waits_for_a_store_that_hangs_while_it_is_tried() -> None:
    async with Rig() as rig:
        rig.server.fault = StoreFailed("silent", "timeout")
        for _ in range(2):
            with pytest.raises(StoreFailed, match="silent"):
                await rig.ask("1")
        rig.server.free.clear()
        before = len(rig.server.batches)
        await until(lambda: len(rig.server.batches) > before)
        # The rest is over, and the batch that tries has no answer yet.
        for _ in range(3):
            late = rig.ask("late")
            await turns()
            assert late.done()
            with pytest.raises(StoreFailed, match="rests") as caught:
                await late
            assert caught.value.kind == "resting"
        assert rig.server.jobs() == [["1"], ["1"]], "who tries has no run"
        assert rig.notes.notes[-3:] == ["refused resting 1"] * 3
        rig.server.fault = None
        rig.server.free.set()
        await until(lambda: rig.notes.notes[-1] == "up")
        await rig.ask("2")


@pytest.mark.asyncio
async def test_who_waits_at_the_second_failure_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LARGEST", 1)
    async with Rig() as rig:
        rig.server.free.clear()
        rig.server.fault = StoreFailed("silent", "timeout")
        asked = [rig.ask(str(number)) for number in range(5)]
        await turns()
        asked[3].cancel()
        rig.server.free.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [one.kind for one in outcomes if isinstance(one, StoreFailed)] == ["timeout"] * 2 + ["resting"] * 2
        assert rig.server.jobs() == [["0"], ["1"]]
        assert rig.notes.notes == ["up", "failed timeout", "failed timeout", "refused resting 2"]


@pytest.mark.asyncio
async def test_so_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_RUNS", 2)
    async with Rig() as rig:
        rig.server.free.clear()
        first = rig.ask("under way")
        await turns()
        others = [rig.ask("1"), rig.ask("2")]
        await turns()
        with pytest.raises(StoreFailed, match="2 wait for it") as caught:
            await rig.ask("3")
        assert caught.value.kind == "busy" and rig.notes.notes[-1] == "refused busy 1"
        rig.server.free.set()
        await asyncio.gather(first, *others)
        await rig.ask("4")


@pytest.mark.asyncio
async def test_rests_differ_lest_all_workers_come_back_at_once() -> None:
    rests = set()
    for _ in range(20):
        rig = Rig()
        rig.batcher._failed(Batch("owner"), StoreFailed("gone"))
        rests.add(rig.batcher._rests_until - asyncio.get_running_loop().time())
    assert max(rests) <= room._FIRST_REST
    assert max(rests) - min(rests) > room._FIRST_REST / 20, "twenty by chance"


@pytest.mark.asyncio
async def test_a_batch_behind_a_failure_is_a_trial() -> None:
    async with Rig() as rig:
        await rig.ask("1")
        rig.server.fault = StoreFailed("gone")
        with pytest.raises(StoreFailed):
            await rig.ask("2")
        rig.server.fault = None
        await until(lambda: rig.notes.notes[-1] == "up")
        await rig.ask("3")
        assert [batch.trial for batch in rig.server.batches] == [False, False, False, True, False]


@pytest.mark.asyncio
async def test_posts_are_kept_in_order_while_the_store_is_down_and_the_oldest_are_lost() -> None:
    async with Rig(posts=3) as rig:
        rig.server.fault = StoreFailed("gone")
        with pytest.raises(StoreFailed):
            await rig.ask("1")
        for number in range(5):
            rig.batcher.post("s:", [Put(f"p{number}", b"", 1)])
        assert [note for note in rig.notes.notes if note.startswith("lost")] == ["lost 1", "lost 1"]
        await until(lambda: rig.server.jobs()[-1] == ["p2", "p3", "p4"])
        rig.server.fault = None
        await until(lambda: rig.notes.notes[-1] == "up")
        assert rig.server.jobs()[-1] == ["p2", "p3", "p4"]
        await rig.ask("2")
        assert rig.server.jobs()[-1] == ["2"]


@pytest.mark.asyncio
async def test_a_fault_of_ours_does_not_come_again_and_again() -> None:
    async with Rig() as rig:
        rig.server.fault = OverflowError("too large")
        waiting = rig.ask("1")
        rig.batcher.post("s:", [Put("bad", b"", 1)])
        with pytest.raises(StoreFailed, match="OverflowError: too large"):
            await waiting
        rig.server.fault = None
        await until(lambda: rig.notes.notes[-1] == "up")
        await rig.ask("2")
        assert rig.notes.notes.count("lost 1") == 1
        assert rig.server.jobs() == [["bad", "1"], ["2"]]


@pytest.mark.asyncio
async def test_a_backend_that_loses_answers_fails_and_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rig() as rig:
        perform = rig.server.perform

        async def lose(batch: Batch) -> Sequence[Done]:
            return (await perform(batch))[1:]

        monkeypatch.setattr(rig.batcher, "_perform", lose)
        with pytest.raises(StoreFailed, match="0 answers for 1 jobs"):
            await rig.ask("1")


@pytest.mark.asyncio
async def test_a_lease_is_held_until_it_is_released_and_the_store_is_told_the_number() -> None:
    async with Rig() as rig:
        first, second = await asyncio.gather(rig.lease("k"), rig.lease("k"))
        assert rig.holding.everything() == {"s:k": 2}
        rig.batcher.release(first.ticket)
        rig.batcher.release(first.ticket)
        await until(lambda: rig.settled() == {"s:k": 1})
        rig.batcher.release(second.ticket)
        await until(lambda: rig.settled() == {"s:k": 0})


@pytest.mark.asyncio
@pytest.mark.parametrize("moment", ["under way", "answered"])
async def test_a_cancelled_waiter_gives_back_what_it_was_given(moment: str) -> None:
    async with Rig() as rig:
        rig.server.free.clear()
        asked = rig.lease("k")
        await turns()
        if moment == "answered":
            # Between the answer and the waiter's next step: both are due in the same turn of the loop.
            answer = rig.batcher._answer
            rig.batcher._answer = lambda *given: (answer(*given), asked.cancel())  # type: ignore[method-assign,assignment]
        else:
            asked.cancel()
        rig.server.free.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: rig.settled() == {"s:k": 0})
        assert rig.holding.everything() == {}


@pytest.mark.asyncio
async def test_a_run_cancelled_before_its_batch_is_not_done() -> None:
    async with Rig() as rig:
        rig.server.free.clear()
        rig.ask("1")
        await turns()
        late = rig.lease("k")
        await turns()
        late.cancel()
        await turns()
        rig.server.free.set()
        await rig.ask("3")
        assert rig.server.jobs() == [["1"], ["3"]]


@pytest.mark.asyncio
async def test_leases_of_a_failed_batch_are_told_again_also_a_beat_later() -> None:
    async with Rig(beat=0.05) as rig:
        await rig.lease("k")
        rig.server.fault = StoreFailed("lost the connection")
        with pytest.raises(StoreFailed):
            await rig.lease("k")
        rig.server.fault = None
        before = len(rig.server.batches)

        def told() -> int:
            return sum("s:k" in batch.settle for batch in rig.server.batches[before:])

        await until(lambda: told() == 2)
        assert rig.settled() == {"s:k": 1}
        await until(lambda: len(rig.server.batches) > before + 4)
        assert told() == 2


@pytest.mark.asyncio
async def test_releases_while_the_store_is_down_are_told_when_it_is_back() -> None:
    async with Rig() as rig:
        outcomes = [await rig.lease("k") for _ in range(3)]
        rig.server.fault = StoreFailed("gone")
        with pytest.raises(StoreFailed):
            await rig.ask("1")
        for outcome in outcomes[:2]:
            rig.batcher.release(outcome.ticket)
        await until(lambda: rig.notes.notes.count("failed unreachable") > 2)
        rig.server.fault = None
        await until(lambda: rig.notes.notes[-1] == "up")
        assert rig.server.batches[-1].settle == {"s:k": 1}


@pytest.mark.asyncio
async def test_an_owner_with_too_much_in_doubt_begins_again_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_DOUBTS", 2)
    async with Rig() as rig:
        await rig.lease("held")
        rig.server.fault = StoreFailed("gone")
        await asyncio.gather(*(rig.lease(key) for key in "abc"), return_exceptions=True)
        rig.server.fault = None
        await until(lambda: rig.notes.notes[-1] == "up")
        first, last = rig.server.batches[0], rig.server.batches[-1]
        assert first.owner != last.owner
        assert last.settle == {}, "the store asks for everything"
        assert rig.holding.everything() == {"s:held": 1}


@pytest.mark.asyncio
async def test_the_heart_beats_with_nothing_to_do() -> None:
    async with Rig(beat=0.01) as rig:
        await until(lambda: len(rig.server.batches) > 3)
        assert not any(batch.jobs or batch.settle or batch.leaving for batch in rig.server.batches)


@pytest.mark.asyncio
async def test_close_does_what_was_posted_and_says_that_the_owner_leaves() -> None:
    async with Rig() as rig:
        await rig.lease("k")
        rig.batcher.post("s:", [Put("p", b"", 1)])
    last = rig.server.batches[-1]
    assert last.leaving
    assert rig.server.jobs()[-1] == ["p"]
    with pytest.raises(StoreFailed, match="closed"):
        await rig.batcher.run("s:", [Get("k")])
    rig.batcher.post("s:", [Put("p", b"", 1)])
    assert rig.notes.notes[-1] == "lost 1"


@pytest.mark.asyncio
async def test_close_is_bounded_and_ends_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_GOODBYE", 0.05)
    async with Rig() as rig:
        rig.server.free.clear()
        waiting = [rig.ask("1")]
        await turns()
        waiting.append(rig.ask("2"))
        rig.batcher.post("s:", [Put("p", b"", 1)])
        await turns()
    for one in waiting:
        with pytest.raises(StoreFailed):
            await one
    assert rig.notes.notes[-1] == "lost 1"

"""What every store does, whatever it is made of: api.Store, line by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from popproxy.api.store import Drop, Fixed, Get, Lease, Mark, Put, Sliding, Spend, TokenBucket, Window
from popproxy.state.space import Backend, Space
from tests.state.backends import BACKENDS, Rig


@pytest_asyncio.fixture(params=sorted(BACKENDS))
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with BACKENDS[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def store(rig: Rig) -> Space:
    return Space(rig.backend, "test")


async def get(store: Space, key: str) -> bytes | None:
    step = Get(key)
    return (await store.run(step))[step]


async def put(store: Space, key: str, value: bytes = b"x", seconds: float = 100, absent: bool = False) -> bool:
    step = Put(key, value, seconds, absent)
    return (await store.run(step))[step]


async def marks(store: Space, key: str, member: bytes | None = None, seconds: float = 100, most: int = 128) -> int:
    step = Mark(key, member, seconds, most)
    return (await store.run(step))[step]


async def used(store: Space, key: str, window: Window) -> int:
    step = Spend(key, window, 0)
    return (await store.run(step))[step].used


async def places(store: Space, key: str) -> int:
    """Places held at ``key``: a soft claim of none finds no room, and says how many there are."""
    step = Lease(key, 0, "soft")
    return (await store.run(step))[step].used


HOUR = Fixed(3, 3600)


@pytest.mark.asyncio
async def test_a_value_is_what_was_put_last(store: Space) -> None:
    assert await get(store, "k") is None
    assert await put(store, "k", b"\x00\xff one")
    assert await get(store, "k") == b"\x00\xff one"
    assert await put(store, "k", b"")
    assert await get(store, "k") == b""


@pytest.mark.asyncio
async def test_a_value_may_be_put_only_where_none_is(store: Space) -> None:
    assert await put(store, "k", b"one", absent=True)
    assert not await put(store, "k", b"two", absent=True)
    assert await get(store, "k") == b"one"


@pytest.mark.asyncio
async def test_a_value_ends_with_its_life(rig: Rig, store: Space) -> None:
    await put(store, "short", seconds=1)
    await put(store, "long", seconds=100)
    await rig.move(1.1)
    assert await get(store, "short") is None
    assert await get(store, "long") == b"x"
    assert await put(store, "short", b"y", absent=True), "what has ended is not there"


@pytest.mark.asyncio
async def test_putting_again_sets_a_new_life_also_a_shorter_one(rig: Rig, store: Space) -> None:
    await put(store, "k", seconds=1)
    await put(store, "k", seconds=100)
    await put(store, "m", seconds=100)
    await put(store, "m", seconds=1)
    await rig.move(1.1)
    assert await get(store, "k") == b"x"
    assert await get(store, "m") is None


@pytest.mark.asyncio
async def test_drop_forgets_values_and_marks_and_says_whether_there_were_any(rig: Rig, store: Space) -> None:
    await put(store, "v")
    await marks(store, "m", b"one")
    await put(store, "ended", seconds=0.5)
    await rig.move(1.0)
    steps = [Drop("v"), Drop("m"), Drop("ended"), Drop("never")]
    outcome = await store.run(*steps)
    assert [outcome[step] for step in steps] == [True, True, False, False]
    assert await get(store, "v") is None
    assert await marks(store, "m") == 0


@pytest.mark.asyncio
async def test_marks_count_different_members(store: Space) -> None:
    assert await marks(store, "k") == 0
    assert await marks(store, "k", b"one") == 1
    assert await marks(store, "k", b"two") == 2
    assert await marks(store, "k", b"one") == 2
    assert await marks(store, "k", b"") == 3, "an empty member is one, too"
    assert await marks(store, "k") == 3


@pytest.mark.asyncio
async def test_each_mark_ends_by_itself_unless_it_is_made_again(rig: Rig, store: Space) -> None:
    await marks(store, "k", b"short", 1)
    await marks(store, "k", b"again", 1)
    await marks(store, "k", b"long", 100)
    await marks(store, "k", b"again", 100)
    await rig.move(1.1)
    assert await marks(store, "k") == 2
    assert await marks(store, "k", b"short", 100) == 3


@pytest.mark.asyncio
async def test_of_too_many_marks_the_first_to_end_goes(rig: Rig, store: Space) -> None:
    await marks(store, "k", b"b", 200, most=2)
    await marks(store, "k", b"a", 2, most=2)
    assert await marks(store, "k", b"c", 100, most=2) == 2
    await rig.move(2.1)
    assert await marks(store, "k") == 2, "it was a"
    assert await marks(store, "k", b"d", 1, most=2) == 2, "the new one itself, if it ends first"
    await rig.move(1.1)
    assert await marks(store, "k") == 2
    assert await marks(store, "k", None, most=1) == 2, "None only looks"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "window", [Fixed(3, 3600), Sliding(3, 3600), TokenBucket(3, 3600)], ids=lambda w: type(w).__name__
)
async def test_a_window_has_room_for_its_limit(store: Space, window: Window) -> None:
    for number in range(3):
        step = Spend("k", window)
        outcome = await store.run(step)
        assert outcome.granted and not outcome.ticket
        room = outcome[step]
        assert (room.ok, room.used, room.limit, room.wait) == (True, number + 1, 3, 0.0)
    step = Spend("k", window)
    outcome = await store.run(step)
    assert not outcome.granted
    room = outcome[step]
    assert (room.ok, room.used, room.limit) == (False, 3, 3)
    assert 0 < room.wait <= 2 * 3600
    assert await used(store, "k", window) == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("window", [Fixed(3, 60), Sliding(3, 60), TokenBucket(3, 60)], ids=lambda w: type(w).__name__)
async def test_what_can_never_have_room_waits_for_ever(store: Space, window: Window) -> None:
    step, none = Spend("k", window, 4), Spend("n", type(window)(0, 60))
    outcome = await store.run(step, none)
    assert outcome[step].wait == outcome[none].wait == float("inf")
    assert not outcome[step].ok and not outcome[none].ok


@pytest.mark.asyncio
async def test_nothing_only_looks(store: Space) -> None:
    look = Spend("k", HOUR, 0)
    outcome = await store.run(look)
    assert outcome.granted and outcome[look].used == 0
    assert await used(store, "k", HOUR) == 0


@pytest.mark.asyncio
async def test_amounts_add_up(store: Space) -> None:
    window = Fixed(2**40, 86400)
    first, second = Spend("k", window, 2**39), Spend("k", window, 2**39)
    assert (await store.run(first)).granted
    assert (await store.run(second))[second].used == 2**40
    assert not (await store.run(Spend("k", window, 1))).granted


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [Fixed, Sliding, TokenBucket])
async def test_machines_with_different_limits_at_a_key_count_together(store: Space, kind: type[Window]) -> None:
    """As while a config changes, machine by machine: else each of them would forget what the other has counted."""
    old, new = kind(2, 86400), kind(3, 86400)
    granted = [(await store.run(Spend("k", window))).granted for window in (old, new, old, new, old, new)]
    assert granted == [True, True, False, True, False, False]
    assert await used(store, "k", old) == await used(store, "k", new) == 3
    # A limit that was lowered below what is used closes the window for no longer than its length.
    step = Spend("k", kind(1, 86400))
    room = (await store.run(step))[step]
    assert (room.ok, room.used, room.limit) == (False, 3, 1)


@pytest.mark.asyncio
async def test_a_window_of_another_kind_or_length_at_a_key_begins_anew(store: Space) -> None:
    await store.run(Spend("k", HOUR, 3))
    assert (await store.run(Spend("k", Fixed(3, 7200), 3))).granted
    assert (await store.run(Spend("k", Sliding(3, 7200), 3))).granted
    assert (await store.run(Spend("k", TokenBucket(3, 7200), 3))).granted


@pytest.mark.asyncio
async def test_what_a_higher_limit_let_in_ends_in_its_own_time(rig: Rig, store: Space) -> None:
    """A bucket of one would need ten windows for it."""
    await store.run(Spend("k", TokenBucket(10, 1.0), 10))
    low = TokenBucket(1, 1.0)
    refused = not (await store.run(Spend("k", low))).granted
    assert refused or not rig.exact, "a server's second may be over by now"
    await rig.move(1.1)
    assert (await store.run(Spend("k", low))).granted


@pytest.mark.asyncio
async def test_all_hard_claims_are_taken_or_none(store: Space) -> None:
    await store.run(Spend("full", HOUR, 3))
    roomy, full, place = Spend("roomy", HOUR), Spend("full", HOUR), Lease("place", 1)
    outcome = await store.run(roomy, full, place)
    assert not outcome.granted and not outcome.ticket
    assert outcome[roomy].ok and outcome[roomy].used == 0
    assert not outcome[full].ok and outcome[full].used == 3
    assert outcome[place].ok and outcome[place].used == 0
    assert await used(store, "roomy", HOUR) == 0
    assert await places(store, "place") == 0


@pytest.mark.asyncio
async def test_a_full_lease_keeps_windows_from_being_used(store: Space) -> None:
    held = await store.run(Lease("place", 1))
    assert held.granted and held.ticket
    outcome = await store.run(Spend("w", HOUR), Lease("place", 1))
    assert not outcome.granted
    assert await used(store, "w", HOUR) == 0


@pytest.mark.asyncio
async def test_a_soft_claim_without_room_is_told_and_hinders_nobody(store: Space) -> None:
    await store.run(Spend("full", HOUR, 3))
    full, hard, soft = Spend("full", HOUR, 1, "soft"), Spend("hard", HOUR), Lease("soft", 1, "soft")
    outcome = await store.run(full, hard, soft)
    assert outcome.granted and outcome.ticket
    assert not outcome[full].ok and outcome[full].used == 3
    assert outcome[hard].used == 1 and outcome[soft].used == 1


@pytest.mark.asyncio
async def test_a_soft_claim_is_taken_only_when_the_hard_ones_are(store: Space) -> None:
    soft, hard = Spend("soft", HOUR, 1, "soft"), Spend("hard", Fixed(0, 60))
    outcome = await store.run(soft, hard)
    assert not outcome.granted
    assert outcome[soft].ok and outcome[soft].used == 0
    assert await used(store, "soft", HOUR) == 0


@pytest.mark.asyncio
async def test_force_is_taken_whatever_the_limit_and_also_when_others_are_refused(store: Space) -> None:
    forced, lease, hard = Spend("f", HOUR, 5, "force"), Lease("l", 0, "force"), Spend("hard", Fixed(0, 60))
    outcome = await store.run(forced, lease, hard)
    assert not outcome.granted and outcome.ticket
    assert not outcome[forced].ok and outcome[forced].used == 5
    assert not outcome[lease].ok and outcome[lease].used == 1
    assert await used(store, "f", HOUR) == 5
    assert await places(store, "l") == 1
    store.release(outcome)
    assert await places(store, "l") == 0


@pytest.mark.asyncio
async def test_other_steps_are_done_also_when_claims_are_refused(store: Space) -> None:
    value, mark = Put("v", b"x", 10), Mark("m", b"one", 10)
    outcome = await store.run(Spend("hard", Fixed(0, 60)), value, mark)
    assert not outcome.granted
    assert outcome[value] and outcome[mark] == 1
    assert await get(store, "v") == b"x"


@pytest.mark.asyncio
async def test_leases_are_held_until_they_are_released(store: Space) -> None:
    first, second, third = Lease("k", 2), Lease("k", 2), Lease("k", 2)
    one, two = await store.run(first), await store.run(second)
    assert one[first].used == 1 and two[second].used == 2
    refused = await store.run(third)
    assert not refused.granted and not refused.ticket
    assert (refused[third].ok, refused[third].used, refused[third].wait) == (False, 2, 0.0)
    store.release(one)
    store.release(one)
    store.release(refused)
    assert await places(store, "k") == 1, "released once"
    assert (await store.run(Lease("k", 2))).granted
    assert not (await store.run(Lease("k", 2))).granted


@pytest.mark.asyncio
async def test_one_release_gives_back_all_leases_of_a_run(store: Space) -> None:
    outcome = await store.run(Lease("user", 1), Lease("address", 1), Lease("domain", 1))
    store.release(outcome)
    assert [await places(store, key) for key in ("user", "address", "domain")] == [0, 0, 0]


@pytest.mark.asyncio
async def test_leases_do_not_end_while_their_worker_lives(rig: Rig, store: Space) -> None:
    await store.run(Lease("k", 1))
    await rig.move(1.5)
    assert not (await store.run(Lease("k", 1))).granted


@pytest.mark.asyncio
async def test_a_cancelled_run_gives_back_its_leases(store: Space) -> None:
    loop = asyncio.get_running_loop()
    for turns in range(6):
        asked = loop.create_task(store.run(Lease("k", 1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        if asked.cancel():
            with pytest.raises(asyncio.CancelledError):
                await asked
        else:
            store.release(asked.result())
        # What was taken is known when the run behind it is answered, and given back before the next one.
        await get(store, "x")
        assert await places(store, "k") == 0, turns


@pytest.mark.asyncio
async def test_posts_are_done_before_what_is_asked_later(store: Space) -> None:
    store.post(Put("v", b"x", 10), Spend("w", HOUR, 2), Mark("m", b"one", 10))
    assert await get(store, "v") == b"x"
    assert await used(store, "w", HOUR) == 2
    assert await marks(store, "m") == 1


@pytest.mark.asyncio
async def test_many_at_once_share_what_there_is(store: Space) -> None:
    steps = [Spend("k", Fixed(40, 86400)) for _ in range(100)]
    leases = [Lease("p", 30) for _ in range(100)]
    outcomes = await asyncio.gather(*(store.run(*both) for both in zip(steps, leases, strict=True)))
    assert sum(outcome.granted for outcome in outcomes) == 30
    assert await used(store, "k", Fixed(40, 86400)) == 30
    assert await places(store, "p") == 30


@pytest.mark.asyncio
async def test_a_scan_finds_values_by_prefix_in_order(rig: Rig, store: Space) -> None:
    for key in ("ban:b", "ban:a", "ban:é", "ban:c%", "bar:x", "ban"):
        await put(store, key, key.encode(), 100)
    await put(store, "ban:ended", seconds=0.5)
    await marks(store, "ban:marks", b"one")
    await store.run(Spend("ban:window", HOUR), Lease("ban:lease", 1))
    await put(Space(rig.backend, "other"), "ban:theirs")
    await put(Space(rig.backend, "test2"), "ban:theirs")
    await rig.move(1.0)
    found = await store.scan("ban:")
    assert [(one.key, one.value) for one in found] == [
        (key, key.encode()) for key in ("ban:a", "ban:b", "ban:c%", "ban:é")
    ]
    assert all(95 < one.seconds <= 99.1 for one in found)
    assert [one.key for one in await store.scan("ban:", 2)] == ["ban:a", "ban:b"]
    assert len(await store.scan("")) == 6
    assert await store.scan("no") == []


@pytest.mark.asyncio
async def test_a_prefix_is_taken_as_it_is(store: Space) -> None:
    for key in ("a*b", "a[b]", "a_b", "axb", "\U0010ffffz"):
        await put(store, key)
    assert [one.key for one in await store.scan("a*")] == ["a*b"]
    assert [one.key for one in await store.scan("a_")] == ["a_b"]
    assert [one.key for one in await store.scan("a[")] == ["a[b]"]
    assert [one.key for one in await store.scan("\U0010ffff")] == ["\U0010ffffz"]


@pytest.mark.asyncio
async def test_plugins_do_not_see_each_other(rig: Rig, store: Space) -> None:
    other = Space(rig.backend, "other")
    await put(store, "k", b"ours")
    await store.run(Lease("l", 1))
    assert await get(other, "k") is None
    assert (await other.run(Lease("l", 1))).granted
    assert await other.scan("") == []


@pytest.mark.asyncio
async def test_keys_are_any_text(store: Space) -> None:
    keys = ["a b", "é\n", "nul\x00nul", "sur\udcffrogate", "{tag}", "k" * 1024, "%s:*?[]"]
    for key in keys:
        await put(store, key, key.encode("utf-8", "surrogateescape"))
        assert await marks(store, f"m{key}"[:1024], b"x") == 1
        assert (await store.run(Lease(f"l{key}"[:1024], 1))).granted
    for key in keys:
        assert await get(store, key) == key.encode("utf-8", "surrogateescape")
    assert {one.key for one in await store.scan("")} == set(keys)


@pytest.mark.asyncio
async def test_one_key_in_two_steps_is_refused(store: Space) -> None:
    with pytest.raises(ValueError, match="one key in two steps"):
        await store.run(Get("k"), Put("k", b"", 1))
    with pytest.raises(ValueError, match="Lease cannot be posted"):
        store.post(Lease("k", 1))


@pytest.mark.asyncio
async def test_now_is_the_same_clock_for_all(rig: Rig, store: Space) -> None:
    first = (await store.run(Get("k"))).now
    await rig.move(1.0)
    second = (await store.run(Get("k"))).now
    assert second - first >= 1.0
    if rig.exact:
        assert second - first == pytest.approx(1.0)


@pytest.mark.asyncio
async def test_close_gives_back_everything_and_does_what_was_posted(rig: Rig, store: Space) -> None:
    if rig.another is None:
        await rig.backend.close()
        assert await places(store, "k") == 0
        return
    other: Backend = await rig.another()
    theirs = Space(other, "test")
    await theirs.run(Lease("k", 1))
    assert await places(store, "k") == 1
    theirs.post(Put("v", b"x", 100))
    await other.close()
    assert await places(store, "k") == 0
    assert await get(store, "v") == b"x"

import asyncio
import threading

import pytest

from popproxy.state.strand import Strand


@pytest.mark.asyncio
async def test_calls_are_done_in_order_in_one_other_thread() -> None:
    strand = Strand("test")
    strand.start()
    calls = [strand.call(lambda number=number: (number, threading.current_thread().name)) for number in range(9)]  # type: ignore[misc]
    assert await asyncio.gather(*calls) == [(number, "test") for number in range(9)]
    strand.stop()
    strand._thread.join(10)
    assert not strand._thread.is_alive()


@pytest.mark.asyncio
async def test_an_error_reaches_who_called_and_the_next_call_works() -> None:
    strand = Strand("test")
    strand.start()
    with pytest.raises(ZeroDivisionError):
        await strand.call(lambda: 1 / 0)
    assert await strand.call(lambda: 2) == 2
    strand.stop()


@pytest.mark.asyncio
async def test_what_is_cancelled_before_it_began_is_not_called() -> None:
    strand = Strand("test")
    strand.start()
    free, called = threading.Event(), []
    first = strand.call(lambda: free.wait(60))
    second = strand.call(lambda: called.append(2))
    third = strand.call(lambda: called.append(3))
    second.cancel()
    free.set()
    assert await first and await third is None
    assert called == [3]
    strand.stop()


def test_a_loop_that_is_closed_ends_no_thread() -> None:
    strand = Strand("test")
    strand.start()
    free = threading.Event()

    async def ask() -> None:
        strand.call(lambda: free.wait(60))

    asyncio.run(ask())
    free.set()

    async def again() -> int:
        return await strand.call(lambda: 2)

    assert asyncio.run(again()) == 2
    strand.stop()

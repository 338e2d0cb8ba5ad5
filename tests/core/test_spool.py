"""The spool in memory: what goes in comes out, from any octet on, any number of times."""

from __future__ import annotations

import pytest

from popproxy.core.spool import MemorySpool, Spool


def test_a_spool_gives_back_what_it_was_given() -> None:
    spool: Spool = MemorySpool(10)
    data = bytes(range(256)) * 600
    for place in range(0, len(data), 1000):
        spool.write(data[place : place + 1000])
    assert spool.octets == len(data)
    for _ in range(2):
        assert b"".join(spool.chunks()) == data
    assert all(0 < len(chunk) <= 65536 for chunk in spool.chunks())
    for start in (1, 65535, 65536, 65537, len(data)):
        assert b"".join(spool.chunks(start)) == data[start:]


@pytest.mark.parametrize("times", [1, 2])
def test_it_is_given_back(times: int) -> None:
    spool = MemorySpool()
    spool.write(b"x")
    for _ in range(times):
        spool.close()
    assert spool.octets == 0
    assert list(spool.chunks()) == []

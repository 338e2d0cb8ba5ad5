"""The maildrop as a client sees it: numbers closed up, sizes as announced, deletions marked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import MaildropEntry, MaildropView
from popproxy.core.maildrop import NO_MESSAGE, Maildrop, parse_listing, view_of


def view(*sizes: int, uids: bool = True) -> MaildropView:
    numbers = range(1, len(sizes) + 1)
    return view_of(
        b"".join(b"%d %d\r\n" % pair for pair in zip(numbers, sizes, strict=True)),
        b"".join(b"%d u%d\r\n" % (number, number) for number in numbers) if uids else b"",
    )


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b"", {}),
        (b"1 120\r\n2 200\r\n", {1: b"120", 2: b"200"}),
        (b"1 120 more\r\n", {1: b"120 more"}),
        (b"1\r\n2 \r\n", {1: b"", 2: b""}),
        (b"x 1\r\n-1 2\r\n+1 2\r\n\r\n 1 2\r\n", {}),
        (b"12345678901 1\r\n", {}),
        (b"2 b\r\n1 a\r\n", {1: b"a", 2: b"b"}),
    ],
)
def test_listings_are_read_leniently(body: bytes, rows: dict[int, bytes]) -> None:
    assert parse_listing(body) == rows


def test_a_view_of_what_upstream_said() -> None:
    made = view_of(b"1 120\r\n2\r\n3 9999999999999999999\r\n4 x\r\n", b"1 a\r\n2 \r\n9 z\r\n")
    assert made.entries == {
        1: MaildropEntry(1, 120, b"a"),
        2: MaildropEntry(2, 0, None),
        3: MaildropEntry(3, 0, None),
        4: MaildropEntry(4, 0, None),
    }
    assert made.octets == 120


def test_untouched_it_says_what_upstream_said() -> None:
    drop = Maildrop(view(10, 20, 30))
    assert drop.stat() == b"+OK 3 60\r\n"
    assert drop.list(None) == b"+OK\r\n1 10\r\n2 20\r\n3 30\r\n.\r\n"
    assert drop.list(2) == b"+OK 2 20\r\n"
    assert drop.uidl(None) == b"+OK\r\n1 u1\r\n2 u2\r\n3 u3\r\n.\r\n"
    assert drop.uidl(3) == b"+OK 3 u3\r\n"
    assert drop.list(4) == drop.list(0) == drop.uidl(4) == NO_MESSAGE


def test_hidden_messages_leave_no_gap() -> None:
    drop = Maildrop(view(10, 20, 30))
    drop.hide(frozenset({2, 99}))
    assert drop.stat() == b"+OK 2 40\r\n"
    assert drop.list(None) == b"+OK\r\n1 10\r\n2 30\r\n.\r\n"
    assert drop.uidl(None) == b"+OK\r\n1 u1\r\n2 u3\r\n.\r\n"
    assert (drop.number(1), drop.number(2), drop.number(3), drop.number(0)) == (1, 3, None, None)


def test_what_is_shown_by_the_clients_numbers() -> None:
    drop = Maildrop(view_of(b"1 10\r\n2 20\r\n5 50\r\n", b"1 a\r\n2 b\r\n5 c\r\n"))
    drop.hide(frozenset({1}))
    drop.grow(100)
    assert dict(drop.shown) == {1: MaildropEntry(2, 120, b"b"), 2: MaildropEntry(5, 150, b"c")}
    assert len(drop.shown) == 2
    for number in (0, 3, -1):
        assert number not in drop.shown


def test_sizes_as_announced() -> None:
    drop = Maildrop(view(10, 20))
    drop.resize(1, 15)
    drop.resize(9, 1)
    drop.resize(2, -1)
    assert drop.stat() == b"+OK 2 35\r\n"
    assert drop.list(1) == b"+OK 1 15\r\n"


def test_marked_messages_keep_their_numbers() -> None:
    drop = Maildrop(view(10, 20, 30))
    drop.mark(2)
    assert drop.stat() == b"+OK 2 40\r\n"
    assert drop.list(None) == b"+OK\r\n1 10\r\n3 30\r\n.\r\n"
    assert drop.list(2) == drop.uidl(2) == NO_MESSAGE
    assert drop.number(3) == 3
    drop.reset()
    assert drop.list(2) == b"+OK 2 20\r\n"


def test_without_unique_ids() -> None:
    drop = Maildrop(view(10, uids=False))
    assert drop.uidl(None) == drop.uidl(1) == b"-ERR UIDL is not available\r\n"
    assert Maildrop(view()).uidl(None) == b"+OK\r\n.\r\n"
    some = Maildrop(view_of(b"1 1\r\n2 2\r\n", b"2 b\r\n"))
    assert some.uidl(None) == b"+OK\r\n2 b\r\n.\r\n"
    assert some.uidl(1) == NO_MESSAGE


def test_a_view_that_a_plugin_empties_does_not_empty_the_maildrop() -> None:
    made = view(10)
    drop = Maildrop(made)
    dict.clear(made.entries)  # type: ignore[arg-type]
    assert drop.stat() == b"+OK 1 10\r\n"


@given(st.lists(st.integers(0, 1000), max_size=12), st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)))
@settings(max_examples=80, deadline=None)
def test_stat_is_the_sum_of_list(sizes: list[int], hidden: set[int], deleted: set[int]) -> None:
    drop = Maildrop(view(*sizes))
    drop.hide(frozenset(hidden))
    for number in deleted:
        drop.mark(number)
    listed = [line.split() for line in drop.list(None).split(b"\r\n")[1:-2]]
    assert drop.stat() == b"+OK %d %d\r\n" % (len(listed), sum(int(size) for _, size in listed))
    shown = {int(number) for number, _ in listed}
    assert all(drop.number(number) not in hidden | deleted for number in shown)
    for number in shown:
        assert drop.list(number).startswith(b"+OK %d " % number)

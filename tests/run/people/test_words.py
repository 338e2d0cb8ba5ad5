"""What reaches a terminal: harmless, and no wider than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popproxy.run.people.table import Column, cut, measure, table
from popproxy.run.people.words import amount, moment, printable, span


@given(st.text())
def test_nothing_moves_a_cursor(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Zoë 日本", "Zoë 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("a\r\nb", "a\\r\\nb"),
        ("a\udcff", "a\\udcff"),
    ],
)
def test_strange_names(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(0, "0"), (999, "999"), (1e3, "1.0K"), (999_940, "999.9K"), (999_960, "1.0M"), (123e5, "12.3M"), (5e20, "500.0E")],
)
def test_amounts(octets: float, shown: str) -> None:
    assert amount(octets) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0s"), (0.4, "0s"), (119, "119s"), (120, "2m"), (7300, "2h"), (200_000, "2d")]
)
def test_spans(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_moments() -> None:
    assert len(moment(0)) == len("1970-01-01 00:00:00")


COLUMNS = (Column("ID"), Column("NAME", least=6), Column("N", right=True), Column("MORE", least=4, optional=True))


def test_a_table_as_wide_as_it_must_be() -> None:
    assert table(COLUMNS, [("a", "日本", "1", "x"), ("bb", "long name", "10", "")], None) == [
        "ID  NAME        N  MORE",
        "a   日本        1  x",
        "bb  long name  10",
    ]


def test_long_cells_are_cut_then_columns_left_out() -> None:
    rows = [("a", "n" * 40, "1", "m" * 30)]
    for width in range(13, 90):
        lines = table(COLUMNS, rows, width)
        assert all(measure(line) <= width for line in lines), width
        assert lines[1].startswith("a   n") and " 1" in lines[1]
    assert table(COLUMNS, rows, 19) == ["ID  NAME    N  MORE", "a   nnnnn~  1  mmm~"]
    assert table(COLUMNS, rows, 18) == ["ID  NAME         N", "a   nnnnnnnnnn~  1"]
    # What is never cut stays whole, however narrow it is.
    assert table((Column("ID"),), [("a" * 30,)], 10)[1] == "a" * 30


@given(st.text(), st.integers(1, 20))
def test_what_is_cut_fits(text: str, size: int) -> None:
    assert measure(cut(printable(text), size)) <= size

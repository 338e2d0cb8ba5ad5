"""Tables for terminals: cells made harmless, columns as wide as they must be, the whole no wider than it may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import combining, east_asian_width

from popproxy.run.people.words import printable

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """``right``: for numbers. ``least``: the columns below which it is not cut; None: it is never cut. ``optional``: it
    is left out when there is no room otherwise, the last such column first."""

    title: str
    right: bool = False
    least: int | None = None
    optional: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int | None) -> list[str]:
    """A header and a line for each row, none longer than ``width`` where the columns' least widths allow that."""
    cells = [[printable(cell) for cell in row] for row in rows]
    sizes, kept = fitted(columns, cells, width)
    head = [column.title for column in columns]
    return [_line(columns, row, sizes, kept) for row in [head, *cells]]


def measure(text: str) -> int:
    """How many columns a terminal needs for ``text``, which is printable()."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def cut(text: str, size: int) -> str:
    """``text`` in at most ``size`` columns; a ``~`` stands for what is left out."""
    if measure(text) <= size:
        return text
    kept, used = "", 0
    for sign in text:
        used += measure(sign)
        if used > size - 1:
            break
        kept += sign
    return kept + "~"


def fitted(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None
) -> tuple[list[int], list[int]]:
    """The sizes of all columns, and which of them are shown, in ``width``: first long cells are cut, the longest most,
    then columns are left out. ``cells`` are printable()."""
    kept = list(range(len(columns)))
    sizes = [max([len(column.title), *(measure(row[i]) for row in cells)]) for i, column in enumerate(columns)]
    while width is not None:
        shrunk = list(sizes)
        over = sum(sizes[i] for i in kept) + len(_GAP) * (len(kept) - 1) - width
        while over > 0:
            able = [i for i in kept if (least := columns[i].least) is not None and shrunk[i] > least]
            if not able:
                break
            shrunk[max(able, key=lambda i: shrunk[i])] -= 1
            over -= 1
        spare = [i for i in kept if columns[i].optional]
        if over <= 0 or not spare:
            return shrunk, kept
        kept = [i for i in kept if i != spare[-1]]
    return sizes, kept


def _line(columns: Sequence[Column], row: Sequence[str], sizes: Sequence[int], kept: Sequence[int]) -> str:
    parts = []
    for i in kept:
        text = cut(row[i], sizes[i])
        space = " " * (sizes[i] - measure(text))
        parts.append(space + text if columns[i].right else text + space)
    return _GAP.join(parts).rstrip()

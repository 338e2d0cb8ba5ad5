"""group_names: what may become Route.groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popproxy.api import Route, group_names
from popproxy.core.lies import check


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("  ", ()),
        ("staff", ("staff",)),
        ("staff, dev ,\tops", ("staff", "dev", "ops")),
        ("b,a,b", ("b", "a")),
        ("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", ("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n",)),
        ("x" * 64, ("x" * 64,)),
        (",".join(map(str, range(64))), tuple(map(str, range(64)))),
    ],
)
def test_groups(text: str, names: tuple[str, ...]) -> None:
    assert group_names(text) == names


@pytest.mark.parametrize("text", [",", "a,", ",a", "a b", "a,,b", "x" * 65, "a\0", "a\nb", "\udcff", "a\u200b"])
def test_what_is_no_group(text: str) -> None:
    with pytest.raises(ValueError, match="is no group"):
        group_names(text)


def test_there_are_not_too_many() -> None:
    with pytest.raises(ValueError, match="65 groups: there may be 64"):
        group_names(",".join(map(str, range(65))))


@given(st.text(max_size=200))
def test_what_it_gives_can_be_in_a_route(text: str) -> None:
    try:
        names = group_names(text)
    except ValueError:
        return
    check("on_login", Route(groups=names))
    assert len(set(names)) == len(names) <= 64 and all(name.isprintable() and "," not in name for name in names)

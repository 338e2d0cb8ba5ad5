from __future__ import annotations

from typing import Any

import pytest

from popproxy.api import Explained


def test_what_is_left_out_is_left_alone() -> None:
    assert Explained(("lower-case",)) == Explained(("lower-case",), None, None, False)
    assert Explained((), user="joe", upstream="main", refused=True).user == "joe"


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": "lower-case"},
        {"steps": ["lower-case"]},
        {"steps": (b"lower-case",)},
        {"steps": (), "user": b"joe"},
        {"steps": (), "upstream": 5},
        {"steps": (), "refused": "yes"},
        {"steps": (), "groups": "staff"},
        {"steps": (), "groups": ("staff", 5)},
    ],
)
def test_a_wrong_type_fails_where_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Explained takes steps"):
        Explained(**fields)

"""``[overload]``: marks as they are written, and what they compile to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from popproxy.config.load import Loaded
from popproxy.config.overload import Share
from popproxy.config.plan import OverloadPlan


def test_without_a_table_there_are_marks(good: Callable[[str], Loaded]) -> None:
    assert good("").plan.overload == OverloadPlan(2.0, Share(0.9), Share(0.9))


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ('lag = "250ms"', OverloadPlan(0.25)),
        ("lag = 3", OverloadPlan(3.0)),
        ('lag = "off"\nmemory = "off"\nsockets = "off"', OverloadPlan(None, None, None)),
        ('memory = "2GiB"', OverloadPlan(memory=2 << 30)),
        ("memory = 1048576", OverloadPlan(memory=1 << 20)),
        ('memory = "72.5%"', OverloadPlan(memory=Share(0.725))),
        ('sockets = "100%"', OverloadPlan(sockets=Share(1.0))),
    ],
)
def test_marks(text: str, plan: OverloadPlan, good: Callable[[str], Loaded]) -> None:
    assert good(f"[overload]\n{text}\n").plan.overload == plan


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('lag = "soon"', "2: overload.lag: 'soon' is no duration; write seconds (600) or a string like \"90s\", "
         '"10m", "1h30m", or "off"'),
        ("lag = false", 'overload.lag: false is no duration; write seconds (600) or a string like "90s"'),
        ('memory = "512"', "2: overload.memory: '512' is no mark; write a size of 1 MiB or more (\"2GiB\"), a share "
         '("90%") or "off"'),
        ("memory = 4096", "overload.memory: 4096 is no mark"),
        ('memory = "0%"', "overload.memory: '0%' is no mark"),
        ('sockets = "101%"', "2: overload.sockets: '101%' is no share; write one like \"90%\", or \"off\""),
        ("sockets = 900", "overload.sockets: 900 is no share"),
        ('cpu = "90%"', "2: overload.cpu: unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong(text: str, problem: str, bad: Callable[[str], list[str]]) -> None:
    (found,) = bad(f"[overload]\n{text}\n")
    assert problem in found

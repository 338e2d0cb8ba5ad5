"""The counters plugins make for themselves."""

from collections.abc import Sequence

import pytest

from popproxy.api.services import Metrics
from popproxy.metrics.cells import Families
from popproxy.metrics.counters import VALUES, PluginCounters


def test_one_counter_without_label() -> None:
    counters = PluginCounters()
    metrics: Metrics = counters.of("headers")
    bound = metrics.counter("rewritten", "Headers rewritten.")
    assert list(bound) == [""]
    bound[""].inc()
    bound[""].inc(2.5)
    assert list(counters.blocks()) == [
        ("counter", "popproxy_plugin_headers_rewritten", "Headers rewritten.", (), "sum", (), [], [((), 3.5)])
    ]


def test_a_label_shows_all_its_values_from_the_start() -> None:
    counters = PluginCounters()
    bound = counters.of("my-Filter.2").counter("found", "Found.", "result", ["spam", "ham"])
    bound["spam"].inc()
    (block,) = counters.blocks()
    assert block[1] == "popproxy_plugin_my_filter_2_found"
    assert block[3] == ("result",)
    assert block[-1] == [(("spam",), 1.0), (("ham",), 0.0)]


def test_asking_again_goes_on_counting() -> None:
    counters = PluginCounters()
    counters.of("p").counter("found", "Found.", "rule", ["a"])["a"].inc()
    again = counters.of("p").counter("found", "Found.", "rule", ["a", "b"])
    again["a"].inc()
    again["b"].inc()
    (block,) = counters.blocks()
    assert block[-1] == [(("a",), 2.0), (("b",), 1.0)]


@pytest.mark.parametrize("amount", [-1, -0.001, float("nan")])
def test_a_counter_only_goes_up(amount: float) -> None:
    counter = PluginCounters().of("p").counter("found", "Found.")[""]
    with pytest.raises(ValueError, match="only goes up"):
        counter.inc(amount)


@pytest.mark.parametrize(
    ("name", "label", "values", "match"),
    [
        ("Found", "", (), "write a name of a-z"),
        ("found_total", "", (), "without _total"),
        ("found_created", "", (), "without _total"),
        ("", "", (), "write a name"),
        ("found", "no-label", ("a",), "is not a name"),
        ("found", "__x", ("a",), "is not a name"),
        ("found", "rule", (), "needs its values now"),
        ("found", "", ("a",), "values need a label"),
        ("found", "rule", [str(n) for n in range(VALUES + 1)], "is the most"),
    ],
)
def test_what_is_refused(name: str, label: str, values: Sequence[str], match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        PluginCounters().of("p").counter(name, "Found.", label, values)
    assert "plugin 'p'" in str(caught.value)


def test_a_name_of_the_house_is_refused() -> None:
    with pytest.raises(ValueError, match="exists already"):
        PluginCounters().of("duration").counter("seconds", "X.")


def test_another_shape_is_refused() -> None:
    counters = PluginCounters()
    counters.of("p").counter("found", "Found.", "rule", ["a"])
    with pytest.raises(ValueError, match="keep them, or rename it"):
        counters.of("p").counter("found", "Found.")


def test_two_plugins_cannot_share_a_counter() -> None:
    counters = PluginCounters()
    counters.of("a-b").counter("found", "Found.")
    with pytest.raises(ValueError, match="rename one of the plugins"):
        counters.of("a_b").counter("found", "Found.")


def test_rules_and_limits_are_counted_by_their_names() -> None:
    house = Families()
    metrics: Metrics = PluginCounters(house).of("policy")
    decided = metrics.decisions(["archive", "office-only"], ["deny", "audit"])
    assert {rule: [*actions] for rule, actions in decided.items()} == {
        "archive": ["deny", "audit"], "office-only": ["deny", "audit"],
    }  # fmt: skip
    decided["office-only"]["deny"].inc()
    metrics.decisions(["office-only"], ["deny"])["office-only"]["deny"].inc()
    metrics.limits(["per-user"])["per-user"]["error"].inc(3)
    found = {block[1]: {series for series in block[-1] if series[1]} for block in house.blocks(lambda name: ())}
    assert found["popproxy_policy_decisions"] == {(("policy", "office-only", "deny"), 2)}
    assert found["popproxy_rate_limit_decisions"] == {(("policy", "per-user", "error"), 3)}


def test_what_no_label_may_hold_is_refused() -> None:
    metrics = PluginCounters().of("policy")
    with pytest.raises(ValueError, match="'forbid' is none of allow, deny"):
        metrics.decisions(["a"], ["forbid"])
    for name in ("", "Archive", "a" * 41, 'x"y', "a\n"):
        with pytest.raises(ValueError, match="write 1 to 40 of a-z"):
            metrics.decisions([name], ["deny"])
        with pytest.raises(ValueError, match="write 1 to 40 of a-z"):
            metrics.limits([name])
    with pytest.raises(ValueError, match="500 is the most"):
        metrics.limits([f"n{number}" for number in range(VALUES + 1)])

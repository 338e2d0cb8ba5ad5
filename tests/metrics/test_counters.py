"""The counters plugins make for themselves."""

from collections.abc import Sequence

import pytest

from popproxy.api.services import Metrics
from popproxy.metrics.counters import VALUES, PluginCounters


def test_one_counter_without_label() -> None:
    counters = PluginCounters()
    metrics: Metrics = counters.of("headers")
    bound = metrics.counter("rewritten", "Headers rewritten.")
    assert list(bound) == [""]
    bound[""].inc()
    bound[""].inc(2.5)
    assert list(counters.blocks()) == [
        ("counter", "popproxy_plugin_headers_rewritten", "Headers rewritten.", (), "sum", (), [((), 3.5)])
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

"""Rows, cells, and what of them is exported."""

import marshal

from popproxy.metrics.cells import Families, Histograms, Index, Scalars, block_of
from popproxy.metrics.names import METRICS, Metric, enum
from popproxy.metrics.words import OTHER

AB = (enum("a", "1", "2", OTHER),)


def test_index_finds_unknown_values_without_keeping_them() -> None:
    index = Index(METRICS["tls_handshakes"])
    before = len(index)
    other = index["implicit", "SSLv2", "'; DROP TABLE", "true"]
    assert METRICS["tls_handshakes"].rows[other] == ("implicit", OTHER, OTHER, "true")
    assert METRICS["tls_handshakes"].rows[index["stls", "TLSv1.3", "x", "false"]] == (
        "stls", "TLSv1.3", OTHER, "false",
    )  # fmt: skip
    assert len(index) == before


def test_scalars_show_what_was_touched() -> None:
    family = Scalars(Metric("x", "counter", "X.", ("listener",), AB), 0)
    row = family.bind("pop3")
    assert family.bind("pop3") is row
    assert list(family.series()) == []
    row[1] += 5
    assert list(family.series()) == [(("pop3", "2"), 5)]


def test_scalars_show_rows_from_the_start_but_not_those_of_unknown_names() -> None:
    family = Scalars(Metric("x", "counter", "X.", ("listener",), AB, start={"a": ("1",)}), 0)
    family.bind("pop3")
    family.bind(OTHER)[0] = 0
    assert list(family.series()) == [(("pop3", "1"), 0)]
    family.bind(OTHER)[1] = 2
    assert list(family.series()) == [(("pop3", "1"), 0), ((OTHER, "2"), 2)]


def test_only_forgets_the_others() -> None:
    family = Scalars(Metric("x", "gauge", "X.", ("hash",), start={}), 0.0)
    family.only(1.0, "old")
    family.only(1.0, "new")
    assert list(family.series()) == [(("new",), 1.0)]


def test_histograms_show_cells_that_counted_and_those_from_the_start() -> None:
    family = Histograms(Metric("x", "histogram", "X.", ("listener",), AB, (1.0, 2.0), start={"a": ("2",)}))
    cells = family.bind("pop3")
    assert family.bind("pop3") is cells
    family.bind(OTHER)
    assert list(family.series()) == [(("pop3", "2"), [0, 0, 0, 0])]
    cells[0][2] += 1
    cells[0][-1] += 7.5
    shown = dict(family.series())
    assert shown["pop3", "1"] == [0, 0, 1, 7.5]
    cells[0][2] += 1
    assert shown["pop3", "1"] == [0, 0, 1, 7.5], "a copy"


def test_a_block_is_plain_data() -> None:
    family = Histograms(Metric("x", "histogram", "X.", ("listener",), AB, (1.0,)))
    family.bind("pop3")[0][0] += 1
    block = block_of(family)
    assert block == (
        "histogram", "popproxy_x", "X.", ("listener", "a"), "sum", (1.0,), [], [(("pop3", "1"), [1, 0, 0])],
    )  # fmt: skip
    assert marshal.loads(marshal.dumps(block)) == block


def test_families_leave_out_metrics_without_series() -> None:
    families = Families()
    assert list(families.blocks(lambda name: ())) == []
    families.counters["commands"].bind("pop3")
    families.gauges["draining"].bind()
    assert [block[1] for block in families.blocks(lambda name: ())] == ["popproxy_draining"]
    assert {*families.counters, *families.gauges, *families.histograms} == set(METRICS)

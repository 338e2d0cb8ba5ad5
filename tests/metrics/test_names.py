"""The table of metrics: naming rules, the ceiling, and how unknown label values are fitted."""

import re
import ssl

import pytest

from popproxy.api.plugin import HOOKS
from popproxy.metrics.names import METRICS, Label, Metric, ceiling, enum
from popproxy.metrics.words import OTHER

FORBIDDEN = {"user", "login", "mailbox", "domain", "client", "client_ip", "ip", "sni", "message", "uidl", "error"}


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_naming(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z_]*", metric.name)
    assert metric.full_name == f"popproxy_{metric.name}"
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_milliseconds"))
    assert metric.help.endswith(".")
    assert not FORBIDDEN & set(metric.label_names)
    assert len(set(metric.label_names)) == len(metric.label_names)
    assert metric.kind == "gauge" or metric.merge == "sum"
    if metric.kind == "histogram":
        assert metric.name.endswith(("_seconds", "_bytes"))
        assert list(metric.buckets) == sorted(set(metric.buckets)) and metric.buckets[0] > 0
    else:
        assert not metric.buckets
    for label in metric.labels:
        assert len(set(label.values)) == len(label.values)
    for name, values in (metric.start or {}).items():
        position = metric.label_names.index(name) - len(metric.key)
        assert set(values) <= {row[position] for row in metric.rows}


def test_the_ceiling_holds_for_a_large_config() -> None:
    assert ceiling(4, 4, 10) <= 5000
    assert ceiling(1, 1, 1) < ceiling(4, 4, 10, hooks=4) < ceiling(4, 4, 10)
    assert ceiling(4, 4, 10) == ceiling(4, 4, 10, hooks=len(HOOKS))


def test_the_ceiling_counts_histograms_with_their_buckets() -> None:
    added = sum(
        len(m.rows) * (len(m.buckets) + 3 if m.buckets else 1) for m in METRICS.values() if m.key[:1] == ("upstream",)
    )
    assert ceiling(1, 2, 0) - ceiling(1, 1, 0) == added


def test_rows_are_the_product_with_the_last_label_fastest() -> None:
    metric = Metric("x", "counter", "X.", ("listener",), (enum("a", "1", "2"), enum("b", "3", "4")))
    assert metric.rows == (("1", "3"), ("1", "4"), ("2", "3"), ("2", "4"))
    assert metric.label_names == ("listener", "a", "b")
    assert metric.shown == (False, False, False, False)
    assert metric.samples == 1


def test_start_chooses_rows() -> None:
    labels = (enum("a", "1", "2"), enum("b", "3", "4"))
    assert Metric("x", "counter", "X.", labels=labels, start={}).shown == (True,) * 4
    assert Metric("x", "counter", "X.", labels=labels, start={"b": ("4",)}).shown == (False, True, False, True)


def test_fit() -> None:
    verb = enum("verb", "RETR", OTHER)
    assert verb.fit(("RETR",)) == ("RETR",)
    assert verb.fit(("retr",)) == (OTHER,)
    pair = Label(("version", "cipher"), (("TLSv1.3", "A"), ("TLSv1.3", OTHER), (OTHER, OTHER)))
    assert pair.fit(("TLSv1.3", "A")) == ("TLSv1.3", "A")
    assert pair.fit(("TLSv1.3", "B")) == ("TLSv1.3", OTHER)
    assert pair.fit(("SSLv3", "A")) == (OTHER, OTHER)


def test_a_closed_enum_fits_to_its_last_value() -> None:
    assert enum("mode", "implicit", "stls").fit(("else",)) == ("stls",)


def test_ciphers_of_pythons_default_context_are_named() -> None:
    named = set(METRICS["tls_handshakes"].labels[1].values)
    for cipher in ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).get_ciphers():
        # A server has no parameters for DHE: tests/net/test_tls.py.
        if not cipher["name"].endswith(("-CCM", "-CCM8", "-SHA")) and not cipher["name"].startswith("DHE-"):
            assert (cipher["protocol"], cipher["name"]) in named

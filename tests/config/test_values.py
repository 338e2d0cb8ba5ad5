from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api.options import duration, network, shown, size
from popproxy.config.problems import Wrong
from popproxy.config.values import line_text, name


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(600, 600.0), (1.5, 1.5), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("250ms", 0.25), ("2d", 172800.0)],
)
def test_duration(written: object, seconds: float) -> None:
    assert duration(written) == seconds


@pytest.mark.parametrize("written", [True, "10", "10 m", "m", "-1s", "", None, [], "1M"])
def test_no_duration_says_how_to_write_one(written: object) -> None:
    with pytest.raises(Wrong) as caught:
        duration(written)
    assert "no duration" in caught.value.message
    assert '"10m"' in caught.value.hint


@pytest.mark.parametrize("written", [0, -1, float("inf"), float("nan"), "0s", "367d"])
def test_a_duration_is_bounded(written: object) -> None:
    with pytest.raises(Wrong, match="out of range"):
        duration(written)


@pytest.mark.parametrize(
    ("written", "octets"), [(65536, 65536), ("64KiB", 65536), ("1 MiB", 1 << 20), ("2GB", 2 * 10**9), ("7B", 7), (0, 0)]
)
def test_size(written: object, octets: int) -> None:
    assert size(written) == octets


@pytest.mark.parametrize("written", [-1, 1.5, True, "64k", "KiB", "", None])
def test_no_size_says_how_to_write_one(written: object) -> None:
    with pytest.raises(Wrong) as caught:
        size(written)
    assert '"64KiB"' in caught.value.hint


def test_network() -> None:
    assert network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert network("2001:db8::1") == ip_network("2001:db8::1/128")


def test_a_network_with_host_bits_is_corrected() -> None:
    with pytest.raises(Wrong) as caught:
        network("10.1.2.3/8")
    assert caught.value.hint == 'write "10.0.0.0/8"'


@pytest.mark.parametrize("written", ["mail.example.com", "10.0.0.0/33", 10, ""])
def test_no_network(written: object) -> None:
    with pytest.raises(Wrong, match="no network"):
        network(written)


@pytest.mark.parametrize("written", ["", "1a", "a b", "a" * 65, "ä", 1, "a\n"])
def test_no_name(written: object) -> None:
    with pytest.raises(Wrong, match="is no name"):
        name(written)


@pytest.mark.parametrize("written", ["a\r\nb", "ä", "x" * 501, 1])
def test_no_status_text(written: object) -> None:
    with pytest.raises(Wrong):
        line_text(written)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_value_or_wrong(text: str) -> None:
    for parser in (duration, size, network, name, line_text):
        try:
            parser(text)
        except Wrong as wrong:
            assert wrong.message and wrong.hint


def test_long_values_are_shortened_in_messages() -> None:
    assert len(shown("x" * 500)) == 70
    assert shown(True) == "true"

"""The words core counts with."""

from __future__ import annotations

from popproxy.core import meter
from popproxy.core.entrance import REFUSED
from popproxy.core.meter import SessionMeter
from popproxy.wire.errors import Code
from tests.core.rig import Meter


def test_outcomes_have_their_numbers() -> None:
    named = (meter.OK, meter.ERR, meter.DENIED, meter.TIMEOUT, meter.UPSTREAM_LOST, meter.MALFORMED)
    assert [meter.OUTCOMES[number] for number in named] == list(meter.OUTCOMES)


def test_words_are_unique() -> None:
    for words in (meter.OUTCOMES, meter.AUTH_RESULTS, meter.MECHANISMS, meter.VIOLATIONS, meter.VERDICTS):
        assert len(set(words)) == len(words)


def test_every_code_has_a_text_and_a_result() -> None:
    assert set(REFUSED) == set(Code)
    assert {result for _, result in REFUSED.values()} <= set(meter.AUTH_RESULTS)


def test_the_bench_meter_is_one() -> None:
    found: SessionMeter = Meter()
    assert len(found.commands) % len(meter.OUTCOMES) == 0

"""core owns the words it counts with, metrics repeats them: siblings are blind to each other."""

from typing import get_args

from popproxy.core import meter, phases
from popproxy.core.failures import RULES
from popproxy.core.meter import SessionMeter
from popproxy.metrics import ListenerMeter, WorkerMetrics, new_registry, words
from popproxy.metrics.meters import Side
from popproxy.net.tlshandshake import FailureReason
from popproxy.wire.commands import VERB_NAMES


def test_enums_are_equal() -> None:
    assert words.OUTCOMES == meter.OUTCOMES
    assert words.AUTH_RESULTS == meter.AUTH_RESULTS
    assert words.MECHANISMS == meter.MECHANISMS
    assert words.VIOLATIONS == meter.VIOLATIONS
    assert words.VERDICTS == meter.VERDICTS
    assert words.PLUGIN_ACTIONS == meter.PLUGIN_ACTIONS


def test_reasons_are_equal() -> None:
    assert words.REASONS == phases.REASONS


def test_every_phase_but_closed_has_a_state() -> None:
    assert set(words.STATES) | {"closed"} == {phase.value for phase in phases.Phase}


def test_retries_are_the_faults_that_allow_one() -> None:
    assert tuple(kind.value for kind, rule in RULES.items() if rule.retry or rule.early) == words.RETRIES


def test_tls_failures_are_those_of_the_handshake() -> None:
    assert (*words.TLS_FAILURES, words.OTHER) == get_args(FailureReason)


def test_sides() -> None:
    assert get_args(Side) == words.SIDES


def test_a_listener_meter_is_a_session_meter() -> None:
    found: SessionMeter = WorkerMetrics(new_registry(), ["pop3"]).listener("pop3")
    assert isinstance(found, ListenerMeter)
    for name in (*SessionMeter.__annotations__, *(n for n in vars(SessionMeter) if not n.startswith("_"))):
        assert hasattr(found, name), name


def test_commands_are_counted_where_the_session_counts_them() -> None:
    registry = new_registry()
    found = WorkerMetrics(registry, ["pop3"]).listener("pop3")
    assert len(found.commands) == len(VERB_NAMES) * len(meter.OUTCOMES)
    for verb, name in enumerate(VERB_NAMES):
        for outcome, word in enumerate(meter.OUTCOMES):
            found.commands[verb * len(meter.OUTCOMES) + outcome] = 1 + verb * 10 + outcome
            labels = {"listener": "pop3", "verb": name, "outcome": word}
            assert registry.get_sample_value("popproxy_commands_total", labels) == 1 + verb * 10 + outcome

"""Each method counts what it says, in the unit it says, under the labels it says."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from popproxy.metrics import ListenerMeter, UpstreamMeter, WorkerMetrics
from popproxy.metrics.words import DIAL_FAULTS, DIALS, FAST
from popproxy.wire.commands import OTHER as OTHER_VERB
from popproxy.wire.commands import VERB_NAMES

RETR, TOP, DELE, STAT = (VERB_NAMES.index(verb) for verb in ("RETR", "TOP", "DELE", "STAT"))


class Seen:
    """A worker with one listener, one upstream and one plugin, and a way to read what /metrics would say."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry, ["pop3"], ["main"], [("headers", ["open_body"])])
        self.meter: ListenerMeter = self.metrics.listener("pop3")
        self.upstream: UpstreamMeter = self.metrics.upstream("main")

    def __call__(self, name: str, /, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"popproxy_{name}", labels)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_latency(seen: Seen) -> None:
    seen.meter.latency(STAT, 0.003, 1, 0)
    seen.meter.latency(STAT, 0.005, 2, 0)
    seen.meter.latency(STAT, 99.0, 1, 0)
    assert seen("command_duration_seconds_bucket", verb="STAT", le="0.001") == 0
    assert seen("command_duration_seconds_bucket", verb="STAT", le="0.005") == 3, "a bound belongs to its bucket"
    assert seen("command_duration_seconds_bucket", verb="STAT", le="30.0") == 3
    assert seen("command_duration_seconds_bucket", verb="STAT", le="+Inf") == 4
    assert seen("command_duration_seconds_count", verb="STAT") == 4
    assert seen("command_duration_seconds_sum", verb="STAT") == pytest.approx(0.003 + 2 * 0.005 + 99)


def test_buckets_are_cumulative(seen: Seen) -> None:
    for number, bound in enumerate(FAST):
        seen.meter.latency(OTHER_VERB, bound, number, 0)
    counts = [seen("command_duration_seconds_bucket", verb="_other", le=str(bound)) for bound in FAST]
    assert all(a is not None and b is not None and b - a == n + 1 for n, (a, b) in enumerate(pairwise(counts)))


def test_transfer(seen: Seen) -> None:
    seen.meter.transfer(RETR, 0.5, 1024)
    seen.meter.transfer(TOP, 0.25, 99999)
    seen.meter.transfer(STAT, 0.125, 1)
    assert seen("command_transfer_duration_seconds_sum", verb="RETR") == 0.5
    assert seen("command_transfer_duration_seconds_sum", verb="TOP") == 0.25
    assert seen("command_transfer_duration_seconds_sum", verb="_other") == 0.125
    assert seen("message_size_bytes_bucket", le="256.0") == 0
    assert seen("message_size_bytes_bucket", le="1024.0") == 1
    assert (seen("message_size_bytes_count"), seen("message_size_bytes_sum")) == (1, 1024)


def test_message(seen: Seen) -> None:
    for verb, ok, times in ((RETR, True, 3), (RETR, False, 1), (TOP, True, 2), (DELE, False, 4)):
        for _ in range(times):
            seen.meter.message(verb, ok)
    assert seen("messages_total", verb="RETR", result="ok") == 3
    assert seen("messages_total", verb="RETR", result="err") == 1
    assert seen("messages_total", verb="TOP", result="ok") == 2
    assert seen("messages_total", verb="TOP", result="err") == 0
    assert seen("messages_total", verb="DELE", result="err") == 4


def test_auth(seen: Seen) -> None:
    seen.meter.auth("PLAIN", "ok", 0.02)
    seen.meter.auth("PLAIN", "bad_credentials", 2.0)
    seen.meter.auth("PLAIN", "tempfail", 4.0)
    seen.meter.auth("DIGEST-MD5", "no_such_result", 1.0)
    seen.meter.auth("SCRAM-SHA-256", "ok", 1.0)
    assert seen("auth_attempts_total", listener="pop3", mechanism="PLAIN", result="ok") == 1
    assert seen("auth_attempts_total", listener="pop3", mechanism="PLAIN", result="bad_credentials") == 1
    assert seen("auth_attempts_total", listener="pop3", mechanism="_other", result="_other") == 1
    assert seen("auth_attempts_total", listener="pop3", mechanism="SCRAM-SHA-256", result="ok") == 1
    assert seen("auth_duration_seconds_sum", mechanism="_other", result="ok") == 1.0
    assert seen("auth_duration_seconds_sum", mechanism="PLAIN", result="ok") == 0.02
    assert seen("auth_duration_seconds_sum", mechanism="PLAIN", result="fail") == 6.0


@pytest.mark.parametrize("result", ["tls_required", "malformed", "aborted"])
def test_a_login_without_complete_credentials_has_no_duration(seen: Seen, result: str) -> None:
    seen.meter.auth("USER", result, 0.0)
    assert seen("auth_attempts_total", listener="pop3", mechanism="USER", result=result) == 1
    assert seen("auth_duration_seconds_count", mechanism="USER", result="fail") is None


def test_violation(seen: Seen) -> None:
    seen.meter.violation("client", "bare_lf")
    seen.meter.violation("upstream", "unheard of")
    seen.meter.violation("moon", "bare_lf")
    assert seen("protocol_violations_total", side="client", kind="bare_lf") == 1
    assert seen("protocol_violations_total", side="upstream", kind="_other") == 1
    assert seen("protocol_violations_total", side="_other", kind="bare_lf") == 1


def test_plugin(seen: Seen) -> None:
    seen.meter.plugin("headers", "open_body", "modify", 0.002)
    seen.meter.plugin("headers", "open_body", "deny", 0.002)
    seen.meter.plugin_error("headers", "open_body", "fail_open")
    seen.meter.plugin_error("headers", "open_body", "fail_closed")
    labels = {"plugin": "headers", "hook": "open_body"}
    assert seen("plugin_calls_total", **labels, verdict="modify") == 1
    assert seen("plugin_calls_total", **labels, verdict="deny") == 1
    assert seen("plugin_calls_total", **labels, verdict="pass") == 0
    assert seen("plugin_duration_seconds_sum", **labels) == 0.004
    assert seen("plugin_duration_seconds_bucket", **labels, le="0.001") == 0
    assert seen("plugin_duration_seconds_bucket", **labels, le="0.01") == 2
    assert seen("plugin_errors_total", **labels, action="fail_open") == 1
    assert seen("plugin_errors_total", **labels, action="fail_closed") == 1


def test_a_plugin_that_is_not_configured_is_counted_apart(seen: Seen) -> None:
    assert seen("plugin_calls_total", plugin="_other", hook="_other", verdict="pass") is None
    seen.meter.plugin("stranger", "open_body", "pass", 0.1)
    seen.meter.plugin("headers", "on_nothing", "pass", 0.1)
    assert seen("plugin_calls_total", plugin="_other", hook="_other", verdict="pass") == 2


def test_connections(seen: Seen) -> None:
    seen.meter.limit(500)
    for _ in range(3):
        seen.meter.connection()
        seen.meter.active(1)
    seen.meter.active(-1)
    seen.meter.rejected("limit")
    seen.meter.rejected("full moon")
    assert seen("connections_total", listener="pop3") == 3
    assert seen("connections_active", listener="pop3") == 2
    assert seen("connections_limit", listener="pop3") == 500
    assert seen("connections_used_ratio", listener="pop3") == 2 / 500
    assert seen("connections_rejected_total", listener="pop3", reason="limit") == 1
    assert seen("connections_rejected_total", listener="pop3", reason="_other") == 1


def test_proxy_errors(seen: Seen) -> None:
    seen.meter.proxy_error("checksum")
    seen.meter.proxy_error("?")
    assert seen("proxy_protocol_errors_total", listener="pop3", reason="checksum") == 1
    assert seen("proxy_protocol_errors_total", listener="pop3", reason="_other") == 1


def test_tls(seen: Seen) -> None:
    seen.meter.tls_ok("implicit", "TLSv1.3", "TLS_AES_256_GCM_SHA384", True, 0.03)
    seen.meter.tls_ok("stls", "TLSv1.2", "RC4-MD5", False, 0.5)
    seen.meter.tls_ok("stls", "TLSv0.9", "TLS_AES_256_GCM_SHA384", False, 0.5)
    seen.meter.tls_failed("stls", "timeout")
    seen.meter.tls_failed("stls", "novel")
    def count(mode: str, version: str, cipher: str, resumed: str) -> float | None:
        return seen(
            "tls_handshakes_total", listener="pop3", mode=mode, version=version, cipher=cipher, resumed=resumed
        )

    assert count("implicit", "TLSv1.3", "TLS_AES_256_GCM_SHA384", "true") == 1
    assert count("stls", "TLSv1.2", "_other", "false") == 1
    assert count("stls", "_other", "_other", "false") == 1
    assert seen("tls_handshake_duration_seconds_sum", listener="pop3", mode="implicit") == 0.03
    assert seen("tls_handshake_duration_seconds_count", listener="pop3", mode="stls") == 2
    assert seen("tls_handshake_failures_total", listener="pop3", mode="stls", reason="timeout") == 1
    assert seen("tls_handshake_failures_total", listener="pop3", mode="stls", reason="_other") == 1


def test_certificate(seen: Seen) -> None:
    seen.meter.certificate("default", 1.9e9)
    assert seen("tls_certificate_expiry_timestamp_seconds", listener="pop3", name="default") == 1.9e9


def test_bytes(seen: Seen) -> None:
    seen.meter.bytes_(1, 20, 300, 4000)
    seen.meter.bytes_(1, 20, 300, 4000)
    assert seen("transferred_bytes_total", side="client", direction="received") == 2
    assert seen("transferred_bytes_total", side="client", direction="sent") == 40
    assert seen("transferred_bytes_total", side="upstream", direction="received") == 600
    assert seen("transferred_bytes_total", side="upstream", direction="sent") == 8000


def test_pause(seen: Seen) -> None:
    seen.meter.pause("upstream")
    seen.meter.pause("else")
    assert seen("backpressure_pauses_total", side="upstream") == 1
    assert seen("backpressure_pauses_total", side="client") == 0
    assert seen("backpressure_pauses_total", side="_other") == 1


def test_session_state_follows_the_phases(seen: Seen) -> None:
    def now() -> list[float | None]:
        states = ("authorization", "transaction", "update")
        return [seen("sessions_active", listener="pop3", state=state) for state in states]

    path = ["", "greeting", "authorization", "logging_in", "transaction", "streaming", "transaction", "update", ""]
    expected = [[1, 0, 0]] * 3 + [[0, 1, 0]] * 3 + [[0, 0, 1], [0, 0, 0]]
    for (old, new), counts in zip(pairwise(path), expected, strict=True):
        seen.meter.session_state(old, new)
        assert now() == counts, (old, new)


def test_an_unknown_state_comes_and_goes(seen: Seen) -> None:
    seen.meter.session_state("", "limbo")
    assert seen("sessions_active", listener="pop3", state="_other") == 1
    seen.meter.session_state("limbo", "closed")
    assert seen("sessions_active", listener="pop3", state="_other") == 0


def test_session_end(seen: Seen) -> None:
    seen.meter.session_end("streaming", "client_reset", 7.0)
    seen.meter.session_end("greeting", "boredom", 9000.0)
    seen.meter.session_end("update", "internal_error", 0.0)
    assert seen("sessions_total", listener="pop3", state="transaction", reason="client_reset") == 1
    assert seen("sessions_total", listener="pop3", state="authorization", reason="_other") == 1
    assert seen("sessions_total", listener="pop3", state="update", reason="internal_error") == 1
    assert seen("session_duration_seconds_bucket", listener="pop3", le="15.0") == 2
    assert seen("session_duration_seconds_sum", listener="pop3") == 9007


def test_upstream(seen: Seen) -> None:
    for result in (*DIALS, *DIAL_FAULTS, "gremlins"):
        seen.upstream.dial(result)
    assert seen("upstream_connections_total", upstream="main", result="ok") == 1
    assert seen("upstream_connections_total", upstream="main", result="tls") == 2, "no STLS is a TLS fault"
    assert seen("upstream_connections_total", upstream="main", result="greeting") == 2
    assert seen("upstream_connections_total", upstream="main", result="_other") == 1
    seen.upstream.phase("tcp", 0.02)
    seen.upstream.phase("greeting", 3.0)
    assert seen("upstream_connect_duration_seconds_sum", upstream="main", phase="tcp") == 0.02
    assert seen("upstream_connect_duration_seconds_sum", upstream="main", phase="greeting") == 3.0
    seen.upstream.login("ok", 0.1)
    seen.upstream.login("fail", 2.0)
    assert seen("upstream_login_duration_seconds_sum", upstream="main", result="ok") == 0.1
    assert seen("upstream_login_duration_seconds_sum", upstream="main", result="fail") == 2.0
    seen.upstream.active(1)
    seen.upstream.active(1)
    seen.upstream.active(-1)
    assert seen("upstream_connections_active", upstream="main") == 1


def test_rare_verbs_have_one_duration_together(seen: Seen) -> None:
    for verb in ("XTND ARCHIVE", "XOIP", "LAST"):
        seen.meter.latency(VERB_NAMES.index(verb), 0.5, 1, 0)
    assert seen("command_duration_seconds_count", verb="_other") == 3
    assert seen("command_duration_seconds_count", verb="LAST") is None
    assert seen("command_duration_seconds_count", verb="UIDL") == 0


def test_a_server_has_its_changes_before_the_first(seen: Seen) -> None:
    """What begins with 1 has not increased: rate() would not see the first outage."""
    seen.upstream.up("mail1.example.com:995", True)
    assert seen("upstream_state_changes_total", upstream="main", server="mail1.example.com:995", to="down") == 0

"""Touches every series of a WorkerMetrics, so that a rendering has all there can be."""

from contextlib import suppress
from typing import get_args

from popproxy.api import Backend, Busy, HttpFailed, Unavailable
from popproxy.api.plugin import HOOKS
from popproxy.api.services import DECISIONS
from popproxy.metrics import WorkerMetrics
from popproxy.metrics.meters import DialPhase, TlsMode
from popproxy.metrics.names import METRICS
from popproxy.metrics.words import OTHER, OUTCOMES, STATES
from popproxy.wire.commands import VERB_NAMES

LISTENERS = ("pop3", "pop3s")
UPSTREAMS = ("main", "spare")
SERVER = "mail.example.com:995"
PLUGINS = ("headers", "policy")


def words(metric: str, label: str) -> list[str]:
    """The values of an enum label."""
    found = METRICS[metric]
    position = found.label_names.index(label) - len(found.key)
    return sorted({row[position] for row in found.rows})


def touch(metrics: WorkerMetrics) -> None:
    """Call every method with every value."""
    metrics.build("asyncio")
    metrics.config("0123abcd")
    metrics.reloaded(True, 1.8e9)
    metrics.draining(True)
    for reason in words("admin_refused", "reason"):
        metrics.admin()(reason)
    metrics.spooled[:] = [1000, 2000]
    metrics.lag(0.004)
    for plugin in PLUGINS:
        metrics.hooks(plugin, HOOKS)
        metrics.plugin(plugin).counter("found", 'Found "this" \\ that.', "rule", ['a"b', "c\\d", "e\nf"])['a"b'].inc()
        metrics.plugin(plugin).decisions(["spam-2", "_x"], DECISIONS)["spam-2"]["deny"].inc()
        metrics.plugin(plugin).limits(["per_user"])["per_user"]["denied"].inc()
    for plugin in PLUGINS:
        backend = metrics.plugin(plugin).backend()
        for reason in words("auth_backend_errors", "reason"):
            touch_backend(backend, reason)
        for result in words("auth_cache_requests", "result"):
            backend.cached(result)
    for result in metrics.plugin("headers").scans("rspamd").values():
        result.inc()
    store = metrics.store("redis")
    store.took(0.0004)
    store.up(True)
    store.lost(2)
    for reason in words("store_errors", "reason"):
        store.failed(reason)
    for name in LISTENERS:
        touch_listener(metrics, name)
    for name in UPSTREAMS:
        upstream = metrics.upstream(name)
        upstream.active(1)
        for result in words("upstream_connections", "result"):
            upstream.dial(result)
        for phase in get_args(DialPhase):
            upstream.phase(phase, 0.01)
        upstream.login("ok", 0.2)
        upstream.login("fail", 2.0)
        upstream.limit(100)
        upstream.queue(3)
        for reason in words("upstream_retries", "reason"):
            upstream.retry(reason)
        for result in words("upstream_queued", "result"):
            upstream.queued(result, 0.5)
        upstream.turned(SERVER, False)
        upstream.turned(SERVER, True)
        for result in words("upstream_health_checks", "result"):
            upstream.checked(SERVER, result)


def touch_backend(backend: Backend, reason: str) -> None:
    """A look-up that fails because of ``reason``."""
    errors = {"busy": Busy("?"), OTHER: Unavailable("?"), "protocol": ValueError("?")}
    with suppress(Unavailable, ValueError), backend.asked():
        raise errors.get(reason, HttpFailed(reason, "?"))


def touch_listener(metrics: WorkerMetrics, name: str) -> None:
    """Every method of one listener's meter."""
    meter = metrics.listener(name)
    meter.limit(100)
    meter.connection()
    meter.active(1)
    meter.certificate("default", 1.9e9)
    meter.bytes_(1, 2, 3, 4)
    meter.pipelined[0] += 1
    for index in range(len(VERB_NAMES) * len(OUTCOMES)):
        meter.commands[index] += 1
    for verb, word in enumerate(VERB_NAMES):
        meter.latency(verb, 0.01, 1, 0)
        meter.transfer(verb, 0.5, 70000)
        if word in ("RETR", "TOP", "DELE"):
            meter.message(verb, True)
            meter.message(verb, False)
    for reason in words("connections_rejected", "reason"):
        meter.rejected(reason)
    for reason in words("proxy_protocol_errors", "reason"):
        meter.proxy_error(reason)
    for mode in get_args(TlsMode):
        for version, cipher in METRICS["tls_handshakes"].labels[1].values:
            for resumed in (False, True):
                meter.tls_ok(mode, version, cipher, resumed, 0.02)
        for reason in words("tls_handshake_failures", "reason"):
            meter.tls_failed(mode, reason)
    for mechanism in words("auth_attempts", "mechanism"):
        for result in words("auth_attempts", "result"):
            meter.auth(mechanism, result, 0.3)
    for side in words("protocol_violations", "side"):
        meter.pause(side)
        for kind in words("protocol_violations", "kind"):
            meter.violation(side, kind)
    for state in (*STATES, OTHER):
        meter.session_state("", state)
        for reason in words("sessions", "reason"):
            meter.session_end(state, reason, 12.0)
    for plugin in (*PLUGINS, OTHER):
        for hook in HOOKS if plugin != OTHER else (OTHER,):
            for verdict in words("plugin_calls", "verdict"):
                meter.plugin(plugin, hook, verdict, 0.001)
            for action in words("plugin_errors", "action"):
                meter.plugin_error(plugin, hook, action)

"""What plugins ask about users, and what scanners say, in the families that all of them share."""

import asyncio
import socket
import ssl
from time import sleep

import pytest
from prometheus_client import CollectorRegistry

from popproxy.api import Busy, HttpFailed, LookupFailed, StreamFailed
from popproxy.api.backends import reason_of
from popproxy.api.services import BACKEND_ERRORS
from popproxy.metrics import WorkerMetrics


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        *((HttpFailed(kind, "?"), kind) for kind in ("dns", "refused", "unreachable", "timeout", "tls", "lost")),
        (HttpFailed("garbage", "?"), "protocol"),
        (StreamFailed("too_large", "?"), "protocol"),
        (Busy("?"), "busy"),
        (TimeoutError(), "timeout"),
        (socket.gaierror(), "dns"),
        (ssl.SSLError(), "tls"),
        (ConnectionRefusedError(), "refused"),
        (FileNotFoundError(), "refused"),
        (ConnectionResetError(), "lost"),
        (OSError(113, "no route to host"), "unreachable"),
        (ValueError(), "protocol"),
        (LookupFailed("?"), "_other"),
        (ZeroDivisionError(), "_other"),
    ],
    ids=repr,
)
def test_reasons(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert reason in BACKEND_ERRORS


def test_a_look_up_is_timed_with_an_answer_and_without() -> None:
    registry = CollectorRegistry()
    backend = WorkerMetrics(registry).plugin("ldap").backend()

    def seen(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"popproxy_auth_{name}", {"backend": "ldap", **labels})

    assert (seen("backend_duration_seconds_count"), seen("backend_errors_total", reason="tls")) == (0, 0)
    with backend.asked():
        sleep(0.02)
    with pytest.raises(TimeoutError), backend.asked():
        sleep(0.01)
        raise TimeoutError
    with pytest.raises(asyncio.CancelledError), backend.asked():
        raise asyncio.CancelledError
    assert seen("backend_duration_seconds_count") == 2
    assert 0.03 <= (seen("backend_duration_seconds_sum") or 0) < 1.5
    assert seen("backend_errors_total", reason="timeout") == 1


def test_a_cache_is_counted_by_what_it_knew() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry).plugin("ldap")
    metrics.backend().cached("hit")
    metrics.backend().cached("hit")
    metrics.backend().cached("negative")
    seen = [
        registry.get_sample_value("popproxy_auth_cache_requests_total", {"backend": "ldap", "result": result})
        for result in ("hit", "negative", "miss")
    ]
    assert seen == [2, 1, 0]


def test_scanners_are_counted_by_result() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    for plugin in ("spam", "spam-2"):
        metrics.plugin(plugin).scans("rspamd")["too_big"].inc()
    labels = {"scanner": "rspamd", "result": "too_big"}
    assert registry.get_sample_value("popproxy_scanner_results_total", labels) == 2
    with pytest.raises(ValueError, match="no name for a label"):
        metrics.plugin("spam").scans("Rspamd 3")

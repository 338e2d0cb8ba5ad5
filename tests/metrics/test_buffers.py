"""Octets held for slow peers, tasks, and log lines that wait: asked for at each scrape."""

from prometheus_client import CollectorRegistry

from popproxy.metrics import WorkerMetrics


class Full:
    def __init__(self, octets: int) -> None:
        self.octets = octets

    def get_write_buffer_size(self) -> int:
        return self.octets


def test_full_buffers_are_added_up_by_whom_they_are_for() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, ["pop3", "pop3s"])

    def seen() -> list[float | None]:
        return [registry.get_sample_value("popproxy_buffered_bytes", {"side": s}) for s in ("client", "upstream")]

    assert seen() == [0, 0]
    slow = Full(70_000)
    metrics.listener("pop3").buffers.client.add(slow)
    metrics.listener("pop3s").buffers.client.add(Full(100_000))
    metrics.listener("pop3").buffers.upstream.add(Full(66_000))
    assert seen() == [170_000, 66_000]
    slow.octets = 1
    assert seen() == [100_001, 66_000]
    metrics.listener("pop3").buffers.client.discard(slow)
    assert seen() == [100_000, 66_000]


def test_tasks_and_log_lines() -> None:
    registry = CollectorRegistry()
    octets = [0]
    metrics = WorkerMetrics(registry, waiting=lambda: octets[0])
    assert registry.get_sample_value("popproxy_tasks_active") == 0
    assert registry.get_sample_value("popproxy_log_queue_bytes") == 0
    metrics.tasks = lambda: 3
    octets[0] = 512
    assert registry.get_sample_value("popproxy_tasks_active") == 3
    assert registry.get_sample_value("popproxy_log_queue_bytes") == 512

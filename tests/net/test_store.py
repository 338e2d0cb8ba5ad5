"""The worker's store: which one is made, when it is opened and closed, and what is told of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from popproxy.api import Fixed, Get, Lease, Plugin, PluginConfig, Put, Services, Spend, Store, StoreFailed
from popproxy.config.plan import StorePlan
from popproxy.metrics import WorkerMetrics
from popproxy.net.store import StoreWatch, WatchedMemory, begin, make
from popproxy.state.batch import Unwatched
from popproxy.state.space import Space
from tests.net.running import Proxy, Setup, both_loops, eventually, running
from tests.net.upstream import Upstream, answering


class Keeper(Plugin[PluginConfig]):
    """Lets the test use its store, and uses it itself at both ends of its life."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.store: Store

    async def start(self, services: Services) -> None:
        self.store = services.store
        await self.store.run(Put("started", b"yes", 3600.0))

    async def stop(self) -> None:
        await self.store.run(Put("stopped", b"yes", 3600.0))


def ask(proxy: Proxy, keeper: Keeper, *steps: Any) -> Any:
    return proxy.call(keeper.store.run(*steps))


def setup(upstream: Upstream, loop: str, keeper: Keeper, tail: str) -> Setup:
    return Setup([upstream.url], loop, plugins=[keeper], tail=tail)


@both_loops
def test_memory_is_the_default_and_timed(loop: str, tmp_path: Path) -> None:
    keeper = Keeper()
    with Upstream(answering()) as upstream, running(setup(upstream, loop, keeper, ""), tmp_path) as proxy:
        spend = Spend("k", Fixed(2, 3600.0))
        assert ask(proxy, keeper, spend)[spend].used == 1
        assert proxy.sample("store_up", store="memory") == 1
        assert proxy.sample("rate_limit_store_duration_seconds_count", store="memory") == 2
        assert proxy.sample("rate_limit_store_duration_seconds_sum", store="memory") > 0
        assert proxy.total("store_errors_total") == proxy.total("store_posts_lost_total") == 0


@both_loops
def test_sqlite_is_open_before_and_behind_the_plugins_and_outlives_the_worker(loop: str, tmp_path: Path) -> None:
    table = f'[store]\nuse = "sqlite"\npath = "{tmp_path}/store"'
    with Upstream(answering()) as upstream:
        for life in range(2):
            keeper = Keeper()
            with running(setup(upstream, loop, keeper, table), tmp_path) as proxy:
                stopped, started = Get("stopped"), Get("started")
                outcome = ask(proxy, keeper, stopped, started)
                assert outcome[started] == b"yes"
                assert outcome[stopped] == (b"yes" if life else None)
                eventually(lambda at=proxy: at.sample("store_up", store="sqlite") == 1, "store")
                assert proxy.sample("rate_limit_store_duration_seconds_count", store="sqlite") == 2
                # Held until the end: the next life finds the place free, because close() gives it back.
                lease = Lease("place", 1)
                assert ask(proxy, keeper, lease)[lease].ok


@both_loops
def test_the_directory_for_what_popproxy_makes_is_made(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "var" / "popproxy"))
    keeper = Keeper()
    with Upstream(answering()) as upstream:
        with running(setup(upstream, loop, keeper, '[store]\nuse = "sqlite"'), tmp_path):
            made = tmp_path / "var" / "popproxy"
            assert (made / "store.sqlite").exists()
            assert made.stat().st_mode & 0o777 == 0o700


@both_loops
def test_what_is_no_file_stops_the_start(loop: str, tmp_path: Path) -> None:
    keeper = Keeper()
    with Upstream(answering()) as upstream:
        with pytest.raises(OSError, match="/dev/null: not a file"):
            with running(setup(upstream, loop, keeper, '[store]\nuse = "sqlite"\npath = "/dev/null"'), tmp_path):
                raise AssertionError("it started")
    assert not hasattr(keeper, "store"), "no plugin starts without its store"


class Log:
    """An event log that is a list."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def event(self, level: str, name: str, /, **fields: object) -> None:
        self.lines.append((level, name, fields))


def test_an_outage_is_told_once_and_counted_each_time() -> None:
    registry, log, now = CollectorRegistry(), Log(), [100.0]
    watch = StoreWatch("redis", WorkerMetrics(registry).store("redis"), log, lambda: now[0])

    def seen(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"popproxy_{name}", {"store": "redis", **labels})

    assert seen("store_up") == 0
    watch.up()
    assert seen("store_up") == 1 and not log.lines, "that it answers from the start is no news"
    for kind in ("refused", "timeout", "timeout", "a new word"):
        watch.failed(StoreFailed(f"redis db:6379: {kind}", kind))
        now[0] += 1.0
    assert seen("store_up") == 0
    counts = {reason: seen("store_errors_total", reason=reason) for reason in ("refused", "timeout", "_other", "full")}
    assert counts == {"refused": 1, "timeout": 2, "_other": 1, "full": 0}
    watch.refused("resting", 1000)
    assert seen("store_errors_total", reason="resting") == 1000
    watch.lost(7)
    assert seen("store_posts_lost_total") == 7
    watch.up()
    watch.took(0.002)
    assert seen("store_up") == 1 and seen("rate_limit_store_duration_seconds_count") == 1
    assert log.lines == [
        ("warning", "store_down", {"store": "redis", "reason": "refused", "detail": "redis db:6379: refused"}),
        ("info", "store_up", {"store": "redis", "seconds": 4.0}),
    ]
    watch.failed(StoreFailed("again", "busy"))
    assert len(log.lines) == 3, "another outage is told again"


def test_what_is_made_is_what_is_configured(tmp_path: Path) -> None:
    async def kinds() -> list[str]:
        found = []
        for plan in (StorePlan(), StorePlan("sqlite", tmp_path / "s")):
            store = make(plan, Unwatched())
            await begin(store, plan)
            await store.close()
            found.append(type(store).__name__)
        return found

    assert asyncio.run(kinds()) == ["WatchedMemory", "SqliteStore"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file" / "state"))
    plan = StorePlan("sqlite", tmp_path / "file" / "state" / "store.sqlite")

    async def work() -> None:
        await begin(make(plan, Unwatched()), plan)

    with pytest.raises(OSError, match="Not a directory"):
        asyncio.run(work())


def test_timing_in_memory_counts_what_is_run() -> None:
    seen: list[float] = []
    watch = Unwatched()
    watch.took = seen.append  # type: ignore[method-assign]
    store = WatchedMemory(lambda: 1.8e9, watch)

    async def work() -> None:
        await store.run("p:", [Put("a", b"1", 60.0)])
        get = Get("a")
        outcome = await store.run("p:", [get])
        assert outcome[get] == b"1"

    asyncio.run(work())
    assert len(seen) == 2 and min(seen) > 0


def test_memory_that_is_full_is_told_once_and_what_is_posted_is_lost() -> None:
    registry, log, now = CollectorRegistry(), Log(), [1_700_000_000.0]
    watch = StoreWatch("memory", WorkerMetrics(registry).store("memory"), log, lambda: now[0])
    watch.up()
    backend = WatchedMemory(lambda: now[0], watch, most=10)
    store = Space(backend, "test")

    async def work() -> None:
        for number in range(10):
            await store.run(Put(f"k{number}", b"x", 60.0 if number else 3600.0))
        for _ in range(2):
            with pytest.raises(StoreFailed) as caught:
                await store.run(Put("new", b"x", 60.0))
            assert caught.value.kind == "full"
        store.post(Put("new", b"x", 60.0))
        look = Get("k0")
        assert (await store.run(look))[look] == b"x", "what is known goes on"
        assert registry.get_sample_value("popproxy_store_up", {"store": "memory"}) == 0
        now[0] += 61.0
        await store.run(Put("new", b"x", 60.0))

    asyncio.run(work())
    errors = registry.get_sample_value("popproxy_store_errors_total", {"store": "memory", "reason": "full"})
    assert errors == 3
    assert registry.get_sample_value("popproxy_store_posts_lost_total", {"store": "memory"}) == 1
    assert registry.get_sample_value("popproxy_store_up", {"store": "memory"}) == 1
    assert [line[1] for line in log.lines] == ["store_down", "store_up"]

"""A proxy and its Redis: which begins first, who dies, and what is told of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from popproxy.api import Fixed, Plugin, PluginConfig, Put, Services, Spend, Store, StoreFailed
from popproxy.state.redis.plan import RedisPlan, read_url
from popproxy.state.redis.store import RedisStore
from popproxy.state.space import Space
from tests.integration.redis_server import server
from tests.net.running import Setup, both_loops, eventually, running
from tests.net.upstream import Upstream, answering

pytestmark = pytest.mark.integration


class Keeper(Plugin[PluginConfig]):
    """Lets the test use its store."""

    store: Store

    def start(self, services: Services) -> None:
        self.store = services.store


@both_loops
def test_redis_may_be_down_at_the_start_and_die_later(loop: str, tmp_path: Path) -> None:
    keeper = Keeper(PluginConfig())
    with server() as redis, Upstream(answering()) as upstream:
        redis.stop()
        tail = f'[store]\nuse = "redis"\nurl = "redis://127.0.0.1:{redis.port}"\nlease = "5s"'
        with running(Setup([upstream.url], loop, plugins=[keeper], tail=tail), tmp_path) as proxy:
            with proxy.client() as client:
                assert client.greeting.startswith(b"+OK"), "no store is no reason not to serve"
            line = proxy.wait("store_down")
            assert (line["store"], line["reason"], line["level"]) == ("redis", "refused", "warning")
            with pytest.raises(StoreFailed):
                proxy.call(keeper.store.run(Put("a", b"1", 60.0)))
            for life in (1, 2):
                redis.start()
                assert proxy.wait("store_up", life)["seconds"] > 0
                spend = Spend("k", Fixed(5, 3600.0))
                assert proxy.call(keeper.store.run(spend))[spend].used == 1, "it forgot at its death"
                assert proxy.sample("store_up", store="redis") == 1
                redis.kill()
                eventually(lambda: proxy.sample("store_up", store="redis") == 0, "outage", 30.0)
            proxy.wait("store_down", 3)
            assert len(proxy.lines("store_down")) == 3, "once for each outage"
            assert proxy.sample("rate_limit_store_duration_seconds_count", store="redis") == 2
            assert proxy.total("store_errors_total") >= 3


def stall(seconds: float) -> None:
    """Let the loop stand still."""
    time.sleep(seconds)


def test_what_came_while_the_loop_was_late_is_no_time_out() -> None:
    """A busy proxy must not take its store for dead because it had no time to read."""

    async def work(port: int) -> None:
        store = RedisStore(RedisPlan(read_url(f"redis://127.0.0.1:{port}"), timeout=0.2, lease=30.0))
        space = Space(store, "test")
        await store.open()
        try:
            for steps in range(8):
                run = asyncio.ensure_future(space.run(Put(f"k{steps}", b"1", 60.0)))
                for _ in range(steps):  # in one of these it was just sent
                    await asyncio.sleep(0)
                stall(0.4)
                await run
        finally:
            await store.close()

    with server() as redis:
        asyncio.run(work(redis.port))

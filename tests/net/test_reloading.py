"""What outlives a plan: sockets and who waits there, counts and bounds, breakers, the store, and nothing that leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import stat
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from popproxy.api import Fail, Plugin, PluginConfig, Services
from popproxy.api.store import Get, Put
from popproxy.config.plan import OverloadPlan, Plan, StorePlan
from popproxy.net.listener import Listener
from popproxy.net.worker import PluginFailed
from tests.net.running import PASSWORD, USER, Proxy, Setup, both_loops, client_context, eventually, plan_of, running
from tests.net.test_generation import LIFE, Witness, saying
from tests.net.test_worker import count_sockets, listener
from tests.net.upstream import PATIENCE, Upstream
from tests.wireclient import WireClient

NOWHERE = "pop3+clear://127.0.0.1:9"
BUSY = b"-ERR [SYS/TEMP] Too many connections, try again later\r\n"
kinds = pytest.mark.parametrize("tls", ["off", "implicit"])


@pytest.fixture(autouse=True)
def forget() -> None:
    LIFE.clear()


def ended(proxy: Proxy) -> None:
    eventually(lambda: len(proxy.worker.generations) == 1, "end of the generations before")


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


# Sockets


def adopt_while_clients_come(proxy: Proxy, plan: Plan, addresses: list[tuple[str, int]]) -> list[socket.socket]:
    """Adopt ``plan`` with clients in the backlogs: they connect while the loop is held up."""
    waiting, there = threading.Event(), threading.Event()

    async def work() -> None:
        generation = await proxy.worker.prepare(plan)
        waiting.set()
        assert there.wait(PATIENCE)
        await proxy.worker.adopt(generation)

    adopting = asyncio.run_coroutine_threadsafe(work(), proxy._loop)
    assert waiting.wait(PATIENCE)
    clients = [socket.create_connection(address, PATIENCE) for address in addresses for _ in range(20)]
    there.set()
    adopting.result(PATIENCE)
    return clients


@kinds
@both_loops
def test_who_waits_where_nobody_will_listen_is_served_first(loop: str, tls: str, tmp_path: Path) -> None:
    gone, kept = listener("gone", "127.0.0.1:0"), listener("kept", "[::1]:0")
    both = (gone + kept).replace('"off"', f'"{tls}"')
    setup = Setup([NOWHERE], loop, listeners=both, listener='greeting = "First"')
    with running(setup, tmp_path) as proxy:
        old, stays = proxy.address(0), proxy.address(1)
        second = replace(setup, listeners=kept.replace('"off"', f'"{tls}"'), listener='greeting = "Second"')
        clients = adopt_while_clients_come(proxy, plan_of(second, tmp_path), [old, stays])
        greetings = []
        for client in clients:
            client.settimeout(PATIENCE)
            peer = client_context().wrap_socket(client) if tls == "implicit" else client
            greetings.append(peer.recv(100))
            peer.close()
        assert len(greetings) == 40 and all(greeting.startswith(b"+OK ") for greeting in greetings), greetings
        assert refused(old) and not refused(stays)
        assert proxy.address(0) == stays
        eventually(lambda: proxy.total("connections_active") == 0, "end of all connections")
        ended(proxy)
        assert proxy.sample("connections_active", listener="gone") == 0


@both_loops
def test_a_port_that_any_was_good_for_is_kept_and_each_by_itself(loop: str, tmp_path: Path) -> None:
    setup = Setup([NOWHERE], loop, listeners=listener("main", "127.0.0.1:0", "127.0.0.1:0"))
    with running(setup, tmp_path) as proxy:
        first, second = proxy.address(0), proxy.address(1)
        before = count_sockets()
        proxy.adopt(plan_of(setup, tmp_path))
        assert (proxy.address(0), proxy.address(1)) == (first, second)
        eventually(lambda: count_sockets() == before, "end of the duplicates")
        proxy.adopt(plan_of(replace(setup, listeners=listener("other", "127.0.0.1:0")), tmp_path))
        assert proxy.address(0) == first and refused(second)
        with WireClient(first) as client:
            assert client.greeting.startswith(b"+OK")
        assert proxy.session()["listener"] == "other"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["0.0.0.0"], ["127.0.0.1"]),
        (["127.0.0.1"], ["0.0.0.0"]),
        (["[::]"], ["[::]", "0.0.0.0"]),
        (["[::]", "0.0.0.0"], ["[::]"]),
    ],
)
@both_loops
def test_an_address_that_overlaps_the_one_before_takes_its_place(
    loop: str, before: list[str], after: list[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as any_port:
        port = any_port.getsockname()[1]
    setup = Setup([NOWHERE], loop, listeners=listener("main", *(f"{host}:{port}" for host in before)))
    with running(setup, tmp_path) as proxy, WireClient(("127.0.0.1", port)):
        second = replace(setup, listeners=listener("other", *(f"{host}:{port}" for host in after)))
        clients = adopt_while_clients_come(proxy, plan_of(second, tmp_path), [("127.0.0.1", port)])
        for client in clients:
            client.settimeout(PATIENCE)
            assert client.recv(100).startswith(b"+OK"), "nobody who waits is lost"
            client.close()
        with WireClient(("127.0.0.1", port)) as client:
            assert client.greeting.startswith(b"+OK")
            eventually(lambda: proxy.sample("connections_active", listener="other") >= 1, "the new listener")
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))


@both_loops
def test_a_plan_that_fails_takes_no_client_from_an_address_that_it_overlaps(loop: str, tmp_path: Path) -> None:
    clients: list[socket.socket] = []

    async def connects_and_refuses() -> None:
        clients.append(socket.create_connection(address, PATIENCE))
        raise ValueError("my file is missing")

    with socket.create_server(("127.0.0.1", 0)) as any_port:
        address = any_port.getsockname()
    setup = Setup([NOWHERE], loop, listeners=listener("main", f"0.0.0.0:{address[1]}"))
    with running(setup, tmp_path) as proxy:
        narrow = listener("main", f"127.0.0.1:{address[1]}")
        bad = replace(setup, listeners=narrow, plugins=[Witness("bad", connects_and_refuses)])
        for _ in range(3):
            with pytest.raises(PluginFailed):
                proxy.adopt(plan_of(bad, tmp_path))
        for client in clients:
            client.settimeout(PATIENCE)
            assert client.recv(100).startswith(b"+OK")
            client.close()
        proxy.adopt(plan_of(replace(setup, listeners=narrow), tmp_path))
        with WireClient(address) as last:
            assert last.greeting.startswith(b"+OK")


@both_loops
def test_the_file_of_a_unix_socket_stays_with_its_socket(loop: str, tmp_path: Path) -> None:
    path, other = tmp_path / "s", tmp_path / "t"
    setup = Setup([NOWHERE], loop, listeners=listener("main", f"unix:{path}", f"unix:{other}"))
    with running(setup, tmp_path) as proxy:
        inode = path.stat().st_ino
        proxy.adopt(plan_of(replace(setup, listener='unix_mode = "0600"'), tmp_path))
        assert path.stat().st_ino == inode and stat.S_IMODE(path.stat().st_mode) == 0o600
        proxy.adopt(plan_of(replace(setup, listeners=listener("main", f"unix:{path}")), tmp_path))
        assert path.stat().st_ino == inode and not other.exists()
        with WireClient(path) as client:
            assert client.greeting.startswith(b"+OK")
    assert not path.exists()


@both_loops
def test_sockets_that_somebody_else_bound_are_used_and_their_files_left(loop: str, tmp_path: Path) -> None:
    listeners = listener("main", "127.0.0.1:0", f"unix:{tmp_path / 's'}")
    plan = plan_of(Setup([NOWHERE], loop, listeners=listeners), tmp_path)
    inet, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    address = inet.getsockname()
    where = plan.listeners[0].bind
    proxy = Proxy(plan, loop, tmp_path / "log.json", given={where[0]: inet, where[1]: unix})
    proxy.start()
    try:
        assert proxy.address() == address
        for place in (address, tmp_path / "s"):
            with WireClient(place) as client:
                assert client.greeting.startswith(b"+OK")
        proxy.stop()
        assert (tmp_path / "s").exists() and refused(address)
    finally:
        proxy.close()


@both_loops
def test_when_it_cannot_accept_the_plan_before_goes_on(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup([NOWHERE], loop, listeners=listener("main", "127.0.0.1:0", "[::1]:0"), plugins=[Witness("a")])
    with running(setup, tmp_path) as proxy:
        real, opened = Listener.open, []

        async def fails(self: Listener) -> None:
            opened.append(self)
            if len(opened) == 2:
                raise OSError(24, "Too many open files")
            await real(self)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many"):
            patch.setattr(Listener, "open", fails)
            proxy.adopt(plan_of(replace(setup, plugins=[Witness("b")]), tmp_path))
        ended(proxy)
        assert LIFE[-2:] == ["b starts", "b stops"]
        for number in (0, 1):
            with proxy.client(number) as client:
                assert client.greeting.startswith(b"+OK")


# Counts and bounds


@kinds
@both_loops
def test_the_bound_of_a_listener_counts_old_and_new_connections(loop: str, tls: str, tmp_path: Path) -> None:
    implicit = client_context() if tls == "implicit" else None
    setup = Setup([NOWHERE], loop, tls, listener="max_connections = 2")
    with running(setup, tmp_path) as proxy, ExitStack() as stack:
        old = stack.enter_context(proxy.client(implicit=implicit))
        half = stack.enter_context(socket.create_connection(proxy.address(), PATIENCE))
        eventually(lambda: proxy.total("connections_active") == 2, "both connections")
        proxy.adopt(plan_of(setup, tmp_path))
        with socket.create_connection(proxy.address(), PATIENCE) as third:
            assert third.recv(100) == (b"" if implicit else BUSY)
        assert proxy.wait("refused")["reason"] == "limit"
        old.close()
        eventually(lambda: proxy.total("connections_active") == 1, "room")
        with proxy.client(implicit=implicit) as fourth:
            assert fourth.greeting.startswith(b"+OK")
            assert len(proxy.worker.generations) == 2, "somebody who shakes hands is somebody"
            half.close()
            ended(proxy)
        proxy.adopt(plan_of(replace(setup, listener="max_connections = 7"), tmp_path))
        assert proxy.sample("connections_limit", listener="main") == 7


@pytest.mark.parametrize("change", ["", "queue_timeout = 4"])
@both_loops
def test_the_bounds_of_an_upstream_count_old_and_new_sessions(loop: str, change: str, tmp_path: Path) -> None:
    with Upstream(saying(b"x")) as upstream:
        setup = Setup([upstream.url], loop, upstream="max_sessions = 1\nqueue = 1")
        with running(setup, tmp_path) as proxy, proxy.logged_in() as old:
            changed = replace(setup, upstream=f"max_sessions = 1\nqueue = 1\n{change}")
            proxy.adopt(plan_of(changed, tmp_path))
            with proxy.client() as new:
                new.send(b"USER alice\r\nPASS x\r\n")
                assert new.read_line().startswith(b"+OK")
                eventually(lambda: proxy.sample("upstream_queue_length", upstream="main") == 1, "a login that waits")
                with proxy.client() as third:
                    assert third.user_pass(USER, PASSWORD).startswith(b"-ERR [SYS/TEMP]")
                old.close()
                assert new.read_line().startswith(b"+OK"), "the place that an old session gave back"
                assert proxy.sample("upstream_connections_active", upstream="main") == 1
                new.close()
            ended(proxy)


@both_loops
def test_a_server_that_is_down_stays_down_and_its_metric_goes_with_it(loop: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
    rules = 'health = { fall = 1, backoff = "10m", longest = "10m" }'
    with Upstream(saying(b"x")) as upstream:
        alive = f"127.0.0.1:{upstream.port}"
        setup = Setup([f"pop3+clear://{dead}", upstream.url], loop, upstream=rules)
        with running(setup, tmp_path) as proxy:
            proxy.logged_in().close()
            assert proxy.wait("upstream_down")["server"] == dead
            more = replace(setup, upstream=f"{rules}\nmax_sessions = 50")
            proxy.adopt(plan_of(more, tmp_path))
            assert proxy.sample("upstream_up", upstream="main", server=dead) == 0
            assert proxy.sample("upstream_connections_limit", upstream="main") == 50
            proxy.logged_in().close()
            assert proxy.sample("upstream_connections_total", upstream="main", result="refused") == 1
            proxy.adopt(plan_of(replace(more, servers=[upstream.url]), tmp_path))
            ended(proxy)
            assert proxy.registry.get_sample_value("popproxy_upstream_up", {"upstream": "main", "server": dead}) is None
            assert proxy.sample("upstream_up", upstream="main", server=alive) == 1
            proxy.adopt(plan_of(setup, tmp_path))
            assert proxy.sample("upstream_up", upstream="main", server=dead) == 1, "it is new again"


@both_loops
def test_probes_go_on_once_for_each_server(loop: str, tmp_path: Path) -> None:
    def greets(peer: object) -> None:
        peer.greet()  # type: ignore[attr-defined]
        peer.until_gone()  # type: ignore[attr-defined]

    with Upstream(greets) as upstream:
        setup = Setup([upstream.url], loop, upstream='health = { probe = "1s" }')
        with running(setup, tmp_path) as proxy, proxy.client():
            for _ in range(3):
                proxy.adopt(plan_of(setup, tmp_path))
            probes = sum(len(generation._probes.get("main", ())) for generation in proxy.worker.generations)
            assert probes == 1
            eventually(lambda: proxy.total("upstream_health_checks_total") >= 1, "a probe")


# The store, overload, stopping


@both_loops
def test_what_the_store_holds_outlives_the_plan_and_another_store_waits_for_its_turn(loop: str, tmp_path: Path) -> None:
    async def put() -> None:
        await proxy.worker.store("bans").run(Put("192.0.2.7", b"banned", 600.0))

    async def get() -> bytes | None:
        step = Get("192.0.2.7")
        return (await proxy.worker.store("bans").run(step))[step]

    setup = Setup([NOWHERE], loop)
    with running(setup, tmp_path) as proxy:
        proxy.call(put())
        proxy.adopt(plan_of(setup, tmp_path))
        ended(proxy)
        assert proxy.call(get()) == b"banned"
        with proxy.client():
            plan = replace(plan_of(setup, tmp_path), store=StorePlan("sqlite", tmp_path / "store.sqlite"))
            proxy.adopt(plan)
            assert proxy.call(get()) is None
            proxy.call(put())
            proxy.adopt(plan_of(setup, tmp_path))
            assert proxy.call(get()) == b"banned", "a session of the first plan still has it"
        ended(proxy)
        proxy.adopt(plan)
        ended(proxy)
        assert proxy.call(get()) == b"banned"
        assert proxy.sample("store_up", store="sqlite") == 1
        assert proxy.registry.get_sample_value("popproxy_store_up", {"store": "memory"}) is None


@both_loops
def test_marks_of_overload_change_with_the_plan(loop: str, tmp_path: Path) -> None:
    setup = Setup([NOWHERE], loop)
    with running(setup, tmp_path) as proxy, proxy.client():
        proxy.adopt(replace(plan_of(setup, tmp_path), overload=OverloadPlan(memory=1)))
        proxy.wait("overload")
        with proxy.client(greet=False) as client:
            assert client.read_line().startswith(b"-ERR [SYS/TEMP] Overloaded")
        proxy.adopt(replace(plan_of(setup, tmp_path), overload=OverloadPlan(memory=None)))
        assert proxy.wait("overload_over")["resource"] == "memory"
        with proxy.client() as client:
            assert client.greeting.startswith(b"+OK")


@both_loops
def test_stopping_ends_the_sessions_of_all_plans_and_then_their_plugins(loop: str, tmp_path: Path) -> None:
    with Upstream(saying(b"x")) as upstream:
        setup = Setup([upstream.url], loop, plugins=[Witness("a"), Witness("b")])
        with running(setup, tmp_path) as proxy, proxy.logged_in() as old:
            proxy.adopt(plan_of(replace(setup, plugins=[Witness("c")]), tmp_path))
            with proxy.logged_in() as new:
                proxy.stop(PATIENCE)
                assert old.read_eof() == b"" == new.read_eof()
            assert {proxy.session(1)["reason"], proxy.session(2)["reason"]} == {"shutdown"}
    assert LIFE == ["a starts", "b starts", "c starts", "c stops", "b stops", "a stops"]


class Hangs(Plugin[PluginConfig]):
    """Never ready."""

    async def start(self, services: Services) -> None:
        LIFE.append("hangs")
        await asyncio.sleep(PATIENCE)

    def stop(self) -> None:
        LIFE.append("stops")


@both_loops
def test_a_preparation_that_is_given_up_leaves_nothing(loop: str, tmp_path: Path) -> None:
    setup = Setup([NOWHERE], loop, listeners=listener("main", "127.0.0.1:0"))
    with running(setup, tmp_path) as proxy:
        before = count_sockets()
        more = replace(setup, listeners=listener("main", "127.0.0.1:0", "[::1]:0"), plugins=[Hangs(PluginConfig())])
        plan = plan_of(more, tmp_path)

        async def work() -> None:
            task = asyncio.ensure_future(proxy.worker.prepare(plan))
            while not LIFE:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        proxy.call(work())
        assert LIFE == ["hangs", "stops"] and count_sockets() == before
        assert len(proxy.worker.generations) == 1


@both_loops
def test_twenty_plans_leave_no_descriptor_task_or_thread(loop: str, tmp_path: Path) -> None:
    def held() -> tuple[int, int, int, int]:
        gc.collect()
        tasks = proxy.call(counted())
        dialers = sum(type(thing).__name__ == "Generation" for thing in gc.get_objects())
        return len(os.listdir("/proc/self/fd")), tasks, threading.active_count(), dialers

    async def counted() -> int:
        return len(asyncio.all_tasks())

    with Upstream(saying(b"x")) as upstream:
        setup = Setup([upstream.url], loop, "starttls", plugins=[Witness("a")], fail=Fail.CLOSED)
        setup = replace(setup, upstream='health = { probe = "5m" }')
        with running(setup, tmp_path) as proxy:

            def once() -> None:
                with proxy.logged_in() as client:
                    proxy.adopt(plan_of(setup, tmp_path))
                    assert client.single(b"NOOP") == b"+OK x\r\n"
                ended(proxy)
                eventually(lambda: not proxy.worker._ground.closing, "end of the connection upstream")

            for _ in range(2):
                once()
            eventually(lambda: not proxy.worker.sessions, "end of the sessions")
            before = held()
            for _ in range(20):
                once()
            eventually(lambda: held() == before, f"return to {before}")

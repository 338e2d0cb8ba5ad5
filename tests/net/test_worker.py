"""The worker's life: what is opened and closed in which order, whatever fails, and how sessions are drained."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from popproxy.api import Plugin, PluginConfig, Services, SessionSummary, SessionView
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net import generation
from popproxy.net.binding import BindError
from popproxy.net.tls import TlsConfigError
from popproxy.net.worker import PluginFailed, Worker
from popproxy.run.logs import EventLog
from tests.net.running import (
    LISTENER,
    Proxy,
    Setup,
    both_loops,
    client_context,
    eventually,
    plan_of,
    read_rest,
    running,
)
from tests.net.test_pump import both_legs, digest_of, large, octets_of, options, take
from tests.net.tlspeers import run
from tests.net.upstream import PATIENCE, Peer, Upstream, answering

LIFE: list[str] = []


class Witness(Plugin[PluginConfig]):
    """Writes down what happens to it, and does what it is told."""

    def __init__(
        self,
        name: str,
        start: Callable[[Services], Awaitable[None] | None] | None = None,
        stop: Callable[[], Awaitable[None] | None] | None = None,
    ) -> None:
        super().__init__(PluginConfig())
        self.name = name
        self._start = start
        self._stop = stop

    def start(self, services: Services) -> Awaitable[None] | None:
        LIFE.append(f"{self.name} starts")
        return self._start(services) if self._start is not None else None

    def stop(self) -> Awaitable[None] | None:
        LIFE.append(f"{self.name} stops")
        return self._stop() if self._stop is not None else None

    def on_close(self, session: SessionView, summary: SessionSummary) -> None:
        LIFE.append(f"{self.name} hears {summary.reason}")


@pytest.fixture(autouse=True)
def forget() -> None:
    LIFE.clear()


@both_loops
def test_plugins_start_in_order_and_stop_in_reverse_behind_the_sessions(loop: str, tmp_path: Path) -> None:
    plugins = [Witness("first"), Witness("second")]
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, plugins=plugins), tmp_path) as proxy:
            with proxy.logged_in():
                proxy.stop()
            proxy.session()
    assert LIFE[:2] == ["first starts", "second starts"]
    assert LIFE[2:4] == ["second hears shutdown", "first hears shutdown"]
    assert LIFE[4:] == ["second stops", "first stops"]


async def refuse(services: Services | None = None) -> None:
    await asyncio.sleep(0)
    raise ValueError("my file is missing")


def refuse_at_once(services: Services | None = None) -> None:
    raise ValueError("my file is missing")


async def leave(services: Services | None = None) -> None:
    raise SystemExit("my file is missing")


async def hang(services: Services | None = None) -> None:
    LIFE.append("hangs: my file is missing")
    await asyncio.sleep(PATIENCE)


async def stubborn(services: Services | None = None) -> None:
    for _ in range(6):
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            LIFE.append("will not be cancelled")


async def cancelled(services: Services | None = None) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("start", [refuse, refuse_at_once, leave, hang, stubborn, cancelled])
@both_loops
def test_a_plugin_that_does_not_start_leaves_nothing_open(
    loop: str, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_START_SECONDS", 0.2)
    path = tmp_path / "pop3.sock"
    listeners = listener("main", "127.0.0.1:0", f"unix:{path}")
    plugins = [Witness("good"), Witness("bad", start), Witness("never")]
    made = Setup(
        ["pop3+clear://127.0.0.1:9"], loop, listeners=listeners, plugins=plugins, deadline=0.1
    )
    sockets = count_sockets()
    with pytest.raises(PluginFailed, match=r"plugin witness did not start: \w+: .*(my file|not done within|cancelled)"):
        with running(made, tmp_path):
            raise AssertionError("it must not start")
    assert LIFE[0] == "good starts" and "never starts" not in LIFE
    assert LIFE[-2:] == ["bad stops", "good stops"]
    assert not path.exists()
    assert count_sockets() <= sockets


def listener(name: str, *binds: str) -> str:
    wanted = ", ".join(f'"{where}"' for where in binds)
    return f'[[listener]]\nname = "{name}"\nbind = [{wanted}]\ntls = "off"\nauth_before_tls = "allow"\n'


def count_sockets() -> int:
    found = 0
    for name in Path("/proc/self/fd").iterdir():
        try:
            found += str(name.readlink()).startswith("socket:")
        except OSError:
            continue
    return found


@both_loops
def test_one_address_that_cannot_be_bound_leaves_no_other_open(loop: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        listeners = listener("a", "127.0.0.1:0", "[::1]:0") + listener("b", "127.0.0.1:0", f"127.0.0.1:{taken}")
        sockets = count_sockets()
        with pytest.raises(BindError, match=str(taken)):
            with running(Setup(["pop3+clear://127.0.0.1:9"], loop, listeners=listeners), tmp_path):
                raise AssertionError("it must not start")
        assert count_sockets() <= sockets


@both_loops
def test_a_certificate_that_vanished_is_told(loop: str, tmp_path: Path) -> None:
    async def scene() -> None:
        plan = plan_of(Setup(["pop3+clear://127.0.0.1:9"], loop, "implicit"), tmp_path)
        (tmp_path / "proxy.pem").unlink()
        log = EventLog(tmp_path / "log.json", form="json")
        worker = Worker(plan, log, WorkerMetrics(CollectorRegistry()))
        with pytest.raises(TlsConfigError, match="no such file"):
            await worker.start()
        assert worker.listeners == [] and worker.sessions == 0
        await worker.stop(0.0)
        log.close()

    run(loop, scene)


@pytest.mark.parametrize("stop", [refuse, refuse_at_once, leave, hang, stubborn, cancelled])
@both_loops
def test_a_plugin_that_does_not_stop_does_not_stop_the_others(loop: str, stop: Any, tmp_path: Path) -> None:
    plugins = [Witness("good"), Witness("bad", stop=stop)]
    made = Setup(["pop3+clear://127.0.0.1:9"], loop, plugins=plugins, deadline=0.1)
    with running(made, tmp_path) as proxy:
        began = time.monotonic()
        proxy.stop()
        assert time.monotonic() - began < 3
        line = proxy.wait("plugin_error")
        assert (line["plugin"], line["hook"], line["action"]) == ("witness", "stop", "fail_open")
    assert LIFE[-1] == "good stops" or LIFE[-2:] == ["good stops", "will not be cancelled"]


@both_loops
def test_services_are_real(loop: str, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    async def use(services: Services) -> None:
        seen["now"] = services.clock.now() - time.time()
        seen["monotonic"] = services.clock.monotonic() - time.monotonic()
        seen["addresses"] = await services.resolver.addresses("127.0.0.1")
        services.log.info("hello", answer=42)
        services.metrics.counter("greetings", "How often.")[""].inc()

    with running(Setup(["pop3+clear://127.0.0.1:9"], loop, plugins=[Witness("one", use)]), tmp_path) as proxy:
        assert abs(seen["now"]) < 1 and abs(seen["monotonic"]) < 1
        assert seen["addresses"] == ["127.0.0.1"]
        assert proxy.wait("witness.hello")["answer"] == 42
        assert proxy.sample("plugin_witness_greetings_total") == 1


# Drain


@both_legs
@both_loops
def test_an_idle_session_ends_without_a_word(loop: str, tls: str, tmp_path: Path) -> None:
    """An -ERR that nobody asked for would be taken for the reply to the next command."""
    with Upstream(answering(b"+OK\r\n")) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client, proxy.client(**options(tls)) as fresh:
            assert client.single(b"NOOP") == b"+OK\r\n"
            began = time.monotonic()
            proxy.stop(PATIENCE)
            assert time.monotonic() - began < 2
            assert read_rest(client) == b"" == read_rest(fresh)
        assert {proxy.session(1)["reason"], proxy.session(2)["reason"]} == {"shutdown"}
        assert proxy.sample("draining") == 1


@both_legs
@both_loops
def test_a_streaming_session_may_finish(loop: str, tls: str, tmp_path: Path) -> None:
    chunks = 256
    with Upstream(large(chunks)) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.send(b"RETR 1\r\n")
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
            stopping = threading.Thread(target=proxy.stop, args=(PATIENCE,))
            stopping.start()
            eventually(lambda: proxy.worker.fronts[0].draining, "drain")
            assert take(client, octets_of(chunks)) == digest_of(chunks)
            assert read_rest(client) == b""
            stopping.join(PATIENCE)
            assert not stopping.is_alive()
        assert proxy.session()["reason"] == "shutdown"


@both_legs
@both_loops
def test_the_deadline_of_a_drain_holds(loop: str, tls: str, tmp_path: Path) -> None:
    with Upstream(large(400)) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.send(b"RETR 1\r\n")
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
            began = time.monotonic()
            proxy.stop(0.4)
            assert 0.3 < time.monotonic() - began < 1.4
            assert proxy.worker.sessions == 0
            with pytest.raises((AssertionError, OSError)):
                take(client, octets_of(400))
        line = proxy.session()
        assert (line["reason"], line["retrieved"]) == ("shutdown", 1)


@both_loops
def test_a_second_signal_hurries(loop: str, tmp_path: Path) -> None:
    with Upstream(large(400)) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            client.send(b"RETR 1\r\n")
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
            proxy._loop.call_soon_threadsafe(proxy._loop.call_later, 0.3, proxy.worker.hurry)
            began = time.monotonic()
            proxy.stop(PATIENCE)
            assert time.monotonic() - began < 2
        assert proxy.session()["reason"] == "shutdown"


@pytest.mark.parametrize("at", ["greeting", "PASS", "tls"])
@both_loops
def test_the_deadline_holds_for_a_login_under_way(loop: str, at: str, tmp_path: Path) -> None:
    def mute(peer: Peer) -> None:
        if at == "PASS":
            peer.send(b"+OK ready\r\n")
            while not (line := peer.line()).startswith(b"PASS"):
                peer.send(b"+OK\r\n.\r\n" if line == b"CAPA" else b"+OK\r\n")
        peer.until_gone()

    with Upstream(mute) as upstream:
        server = f"pop3s://localhost:{upstream.port}" if at == "tls" else upstream.url
        with running(Setup([server], loop), tmp_path) as proxy, proxy.client() as client:
            client.send(b"USER alice\r\nPASS secret\r\n")
            eventually(lambda: len(upstream.peers) == 1, "connection upstream")
            time.sleep(0.05)
            began = time.monotonic()
            proxy.stop(0.3)
            assert time.monotonic() - began < 1.3
            assert read_rest(client).startswith(b"+OK")
            assert proxy.session()["reason"] == "shutdown"


class Slow(Witness):
    """A hook that does not end."""

    async def on_connect(self, session: SessionView) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            LIFE.append("hook ends")


@both_loops
def test_no_hook_is_under_way_when_its_plugin_stops(loop: str, tmp_path: Path) -> None:
    made = Setup(["pop3+clear://127.0.0.1:9"], loop, plugins=[Slow("slow")], deadline=PATIENCE)
    with running(made, tmp_path) as proxy, proxy.client(greet=False) as client:
        eventually(lambda: proxy.worker.sessions == 1, "session")
        proxy.stop(0.1)
        assert read_rest(client) == b""
        assert proxy.session()["reason"] == "shutdown"
    assert LIFE == ["slow starts", "slow hears shutdown", "hook ends", "slow stops"]


@both_loops
def test_new_clients_are_refused_while_old_ones_finish(loop: str, tmp_path: Path) -> None:
    with Upstream(large(256)) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        address = proxy.address()
        with proxy.logged_in() as client:
            client.send(b"RETR 1\r\n")
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
            stopping = threading.Thread(target=proxy.stop, args=(PATIENCE,))
            stopping.start()
            eventually(lambda: proxy.worker.fronts[0].draining, "drain")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, PATIENCE)
            assert take(client, octets_of(256)) == digest_of(256)
            stopping.join(PATIENCE)


# TLS and tasks


@both_loops
def test_listeners_share_one_context_and_one_warning(loop: str, tmp_path: Path) -> None:
    listeners = "".join(LISTENER.format(tls=tls).replace('"main"', f'"{tls}"') for tls in ("starttls", "implicit"))
    made = Setup(["pop3+clear://127.0.0.1:9"], loop, listeners=listeners)
    with running(made, tmp_path) as proxy:
        first, second = proxy.worker.fronts
        assert first.context is second.context is not None
        for name in ("starttls", "implicit"):
            assert proxy.sample(
                "tls_certificate_expiry_timestamp_seconds", listener=name, name="proxy.pem"
            ) > time.time()


@both_loops
def test_a_certificate_is_made_when_there_is_none_and_that_is_told_once(loop: str, tmp_path: Path) -> None:
    class Bare(Proxy):
        """A proxy whose plan has no certificates."""

    listeners = "".join(LISTENER.format(tls=tls).replace('"main"', f'"{tls}"') for tls in ("starttls", "implicit"))
    plan = plan_of(Setup(["pop3+clear://127.0.0.1:9"], loop, listeners=listeners), tmp_path)
    bare = replace(plan.tls, certificates=(), self_signed_directory=tmp_path / "state")
    plan = replace(plan, tls=bare, listeners=tuple(replace(one, tls_context=bare) for one in plan.listeners))
    proxy = Bare(plan, loop, tmp_path / "log.json")
    proxy.start()
    try:
        with proxy.client(1, implicit=client_context(verify_mode=0)) as client:
            shown = client.socket.getpeercert(True)  # type: ignore[attr-defined]
        line = proxy.wait("self_signed")
        proxy.session()
        assert line["fingerprint"] == hashlib.sha256(shown).hexdigest()
        assert line["certificate"] == str(tmp_path / "state" / "self-signed.pem")
        assert "certificates" in line["advice"]
        assert len(proxy.lines("self_signed")) == 1
        proxy.stop()
    finally:
        proxy.close()
    assert not proxy.faults


@both_loops
def test_a_task_cancelled_before_its_first_step_is_no_fault(loop: str, tmp_path: Path) -> None:
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:

        async def work() -> None:
            raise AssertionError("it must not run")

        async def scene() -> None:
            task = proxy.worker.spawn(work())
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            future.set_result(42)
            assert await proxy.worker.spawn(future) == 42

        proxy.call(scene())


@both_loops
def test_how_late_the_loop_is_is_measured(loop: str, tmp_path: Path) -> None:
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:
        proxy._loop.call_soon_threadsafe(time.sleep, 0.3)
        eventually(lambda: proxy.sample("event_loop_lag_seconds_sum") > 0.1, "lag")

"""Seconds are seconds: known delays over real sockets, and what the histograms make of them.

A sum is never below its delay, and far below fifty times it: neither milliseconds nor a time since some epoch.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from popproxy.api import Command, CommandVerdict, Credentials, LoginVerdict, Plugin, PluginConfig, Services, SessionView
from tests.net.running import PASSWORD, USER, Setup, eventually, running
from tests.net.tlspeers import BareClient, client_side, server_side
from tests.net.upstream import PATIENCE, Peer, Upstream

GREETS, LOGS_IN, HOOK, ANSWERS, SENDS, SHAKES, ASKS = 0.15, 0.2, 0.1, 0.1, 0.12, 0.13, 0.08


class Slow(Plugin[PluginConfig]):
    """Takes its time at each login, and asks a back end that takes some, too."""

    def start(self, services: Services) -> None:
        self._backend = services.metrics.backend()

    async def on_login(self, session: SessionView, credentials: Credentials) -> LoginVerdict:
        with self._backend.asked():
            await asyncio.sleep(ASKS)
        await asyncio.sleep(HOOK - ASKS)
        return None

    def on_command(self, session: SessionView, command: Command) -> CommandVerdict:
        """Holds up the whole loop."""
        if command.name == "NOOP":
            time.sleep(HOOK)
        return None


def script(peer: Peer) -> None:
    """TLS, the greeting, the login, STAT and the rest of a RETR all come late."""
    peer.socket.recv(1, socket.MSG_PEEK)
    time.sleep(SHAKES)
    peer.tls(server_side())
    time.sleep(GREETS)
    peer.greet()
    while (line := peer.line()) != b"PASS " + PASSWORD:
        peer.send(b"+OK\r\nUSER\r\n.\r\n" if line == b"CAPA" else b"+OK\r\n")
    time.sleep(LOGS_IN)
    peer.send(b"+OK\r\n")
    assert peer.line() == b"STAT"
    time.sleep(ANSWERS)
    peer.send(b"+OK 1 9\r\n")
    assert peer.line() == b"RETR 1"
    peer.send(b"+OK\r\nSubject: hi\r\n")
    time.sleep(SENDS)
    peer.send(b"\r\n.\r\n")
    assert peer.line() == b"NOOP"
    peer.send(b"+OK\r\n")
    peer.until_gone()


def test_known_delays(tmp_path: Path) -> None:
    began = time.time()
    with Upstream(script) as upstream:
        setup = Setup([f"pop3s://localhost:{upstream.port}"], plugins=[Slow(PluginConfig())])
        with running(setup, tmp_path) as proxy:
            client = proxy.client()
            start = time.monotonic()
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            assert client.single(b"STAT").startswith(b"+OK")
            assert client.multi(b"RETR 1").startswith(b"+OK")
            assert client.single(b"NOOP").startswith(b"+OK")
            client.close()
            proxy.session()
            whole = time.monotonic() - start
            eventually(lambda: proxy.sample("event_loop_lag_seconds_sum") > HOOK / 2, "late timer")

            def spent(name: str, at_least: float, **labels: str) -> None:
                seconds = proxy.sample(f"{name}_sum", **labels)
                assert at_least <= seconds < 50 * at_least, (name, labels, seconds)

            spent("upstream_connect_duration_seconds", SHAKES, upstream="main", phase="tls")
            spent("upstream_connect_duration_seconds", GREETS, upstream="main", phase="greeting")
            spent("upstream_login_duration_seconds", LOGS_IN, upstream="main", result="ok")
            spent("auth_duration_seconds", HOOK + LOGS_IN, mechanism="USER", result="ok")
            spent("auth_backend_duration_seconds", ASKS, backend="slow")
            spent("plugin_duration_seconds", HOOK, plugin="slow", hook="on_login")
            spent("plugin_duration_seconds", HOOK, plugin="slow", hook="on_command")
            spent("command_duration_seconds", ANSWERS, verb="STAT")
            spent("command_transfer_duration_seconds", SENDS, verb="RETR")
            spent("session_duration_seconds", whole * 0.5, listener="main")
            for phase in ("dns", "tcp"):
                labels = {"upstream": "main", "phase": phase}
                assert 0 < proxy.sample("upstream_connect_duration_seconds_sum", **labels) < SHAKES * 50
            assert proxy.sample("plugin_duration_seconds_bucket", plugin="slow", hook="on_login", le="0.1") == 0
            assert proxy.sample("plugin_duration_seconds_count", plugin="slow", hook="on_login") == 1
    assert time.time() - began < 50


def test_a_handshake_is_timed_from_the_clients_hello_on(tmp_path: Path) -> None:
    with Upstream(Peer.until_gone) as upstream, running(Setup([upstream.url], tls="implicit"), tmp_path) as proxy:
        with socket.create_connection(proxy.address(), timeout=PATIENCE) as sock:
            client = BareClient(sock, client_side())
            time.sleep(SHAKES * 3)
            sock.sendall(client.hello())
            time.sleep(SHAKES)
            client.shake()
            eventually(lambda: proxy.total("tls_handshakes_total") == 1, "handshake")
            seconds = proxy.sample("tls_handshake_duration_seconds_sum", listener="main", mode="implicit")
            assert SHAKES <= seconds < 50 * SHAKES
        expiry = proxy.total("tls_certificate_expiry_timestamp_seconds")
        assert time.time() < expiry < 1e12, "not milliseconds"


def test_waiting_for_a_place_is_timed(tmp_path: Path) -> None:
    def honest(peer: Peer) -> None:
        peer.login()
        peer.until_gone()

    with Upstream(honest) as upstream:
        setup = Setup([upstream.url], upstream="max_sessions = 1\nqueue_timeout = \"20s\"")
        with running(setup, tmp_path) as proxy:
            first, second = proxy.logged_in(), proxy.client()
            login = threading.Thread(target=second.user_pass, args=(USER, PASSWORD))
            login.start()
            eventually(lambda: proxy.sample("upstream_queue_length", upstream="main") == 1, "waiting login")
            time.sleep(SHAKES)
            first.close()
            login.join(PATIENCE)
            seconds = proxy.sample("upstream_queue_duration_seconds_sum", upstream="main")
            assert SHAKES <= seconds < 50 * SHAKES
            second.close()


@pytest.mark.parametrize(
    "name", ["process_start_time_seconds", "popproxy_config_last_reload_success_timestamp_seconds"]
)
def test_times_are_seconds_since_the_epoch(name: str) -> None:
    from popproxy.metrics import Merger, WorkerMetrics, new_registry

    metrics = WorkerMetrics(new_registry())
    metrics.reloaded(True, time.time())
    merger = Merger()
    merger.snapshot(0, metrics.snapshot())
    (block,) = [block for block in merger.blocks() if block[1] == name]
    ((_, value),) = block[-1]
    assert isinstance(value, float) and time.time() - 86_400 < value <= time.time() + 1

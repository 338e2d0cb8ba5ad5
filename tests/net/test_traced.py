"""Exemplars of real sessions, where the config asks for them and only there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from popproxy.metrics.exemplars import SLOW
from popproxy.metrics.exposition import render
from popproxy.metrics.meters import ListenerMeter
from tests.net.running import Setup, running
from tests.net.upstream import Peer, Upstream

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def refusing(peer: Peer) -> None:
    """Takes no password."""
    peer.greet()
    while not (line := peer.line()).startswith(b"PASS"):
        peer.send(b"+OK\r\nUSER\r\n.\r\n" if line == b"CAPA" else b"+OK\r\n")
    peer.send(b"-ERR [AUTH] no\r\n")
    peer.until_gone()


def slow(peer: Peer) -> None:
    """Answers STAT late."""
    peer.login()
    assert peer.line() == b"STAT"
    time.sleep(SLOW)
    peer.send(b"+OK 0 0\r\n")
    peer.until_gone()


@pytest.mark.parametrize("on", [True, False])
def test_a_failed_login_and_a_slow_command_name_their_session(on: bool, tmp_path: Path) -> None:
    tail = f"[metrics]\nexemplars = {str(on).lower()}"
    with Upstream(refusing, slow) as upstream, running(Setup([upstream.url], tail=tail), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.user_pass(b"alice", b"wrong").startswith(b"-ERR")
            assert client.user_pass(b"alice", b"right").startswith(b"+OK")
            assert client.single(b"STAT") == b"+OK 0 0\r\n"
            (pump,) = proxy.worker.fronts[0].pumps
            assert isinstance(pump.session.meter, ListenerMeter) is not on
        name = proxy.session()["session"]
        lines = [line for line in render(proxy.registry, OPENMETRICS)[0].decode().splitlines() if name in line]
        assert [line.partition("{")[0] for line in lines] == (
            ["popproxy_auth_attempts_total", "popproxy_command_duration_seconds_bucket"] if on else []
        )
        assert name not in render(proxy.registry)[0].decode()

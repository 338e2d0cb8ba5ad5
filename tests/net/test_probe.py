"""Probes: a dead server is known before a login is, and nobody is logged in for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from popproxy.config.plan import HealthPlan, UpstreamPlan
from popproxy.config.urls import parse_server
from popproxy.core.failures import Failure
from popproxy.core.limits import Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.metrics.collector import WorkerMetrics
from popproxy.metrics.exposition import new_registry
from popproxy.net.dialer import Dialer
from popproxy.net.group import Group
from popproxy.net.own import OwnAddresses
from popproxy.net.probe import Prober
from popproxy.wire.proxyline import ProxyHeader
from tests.net.running import Setup, both_loops, eventually, running
from tests.net.test_dialer import with_certificate
from tests.net.test_failover import UNAVAILABLE, at_login, state
from tests.net.test_group import Watched
from tests.net.test_introduce import introduced
from tests.net.tlspeers import AUTHORITY, run, server_side
from tests.net.upstream import Peer, Script, Upstream, answering, garbage, slam, slam_with_reset, stall

TIMES = Timeouts(connect=0.3, greeting=0.3, upstream_handshake=0.3)


def greets(peer: Peer) -> None:
    peer.greet()
    peer.until_gone()


def stls(answer: bytes, certificate: trustme.LeafCert | None = None) -> Script:
    """Greets, answers STLS, and shakes hands if there is a certificate."""

    def script(peer: Peer) -> None:
        peer.greet()
        assert peer.line() == b"STLS"
        peer.send(answer)
        if certificate is not None:
            with_certificate(certificate)(peer)
        peer.until_gone()

    return script


def over_tls(peer: Peer) -> None:
    peer.tls(server_side())
    greets(peer)


CASES: dict[str, tuple[str, Script, str]] = {
    "well": ("pop3+clear", greets, ""),
    "greets in pieces": ("pop3+clear", lambda peer: (peer.drip(b"+OK\r\n", 0.002), peer.until_gone())[1], ""),
    "well, TLS": ("pop3s", over_tls, ""),
    "well, STLS": ("pop3", stls(b"+OK\r\n", AUTHORITY.issue_cert("localhost")), ""),
    "hangs": ("pop3+clear", stall, "greeting_timeout"),
    "closes": ("pop3+clear", slam, "lost"),
    "resets": ("pop3+clear", slam_with_reset, "reset"),
    "garbage": ("pop3+clear", garbage, "greeting"),
    "busy": ("pop3+clear", lambda peer: peer.send(b"-ERR busy\r\n"), "greeting"),
    "endless": ("pop3+clear", lambda peer: peer.send(b"+" * 100_000), "greeting"),
    "untrusted": ("pop3s", with_certificate(trustme.CA().issue_cert("localhost")), "tls"),
    "no TLS": ("pop3s", greets, "tls"),
    "hangs in TLS": ("pop3s", stall, "tls"),
    "no STLS": ("pop3", stls(b"-ERR no\r\n"), "no_stls"),
    "closes at STLS": ("pop3", lambda peer: (peer.greet(), peer.line())[0], "lost"),
    "hangs at STLS": ("pop3", greets, "greeting_timeout"),
    "untrusted behind STLS": ("pop3", stls(b"+OK\r\n", trustme.CA().issue_cert("localhost")), "tls"),
    "hangs behind STLS": ("pop3", stls(b"+OK\r\n"), "tls"),
}


def prober(url: str, authority: Path, **plan: Any) -> tuple[Prober, Group]:
    made = UpstreamPlan(
        "main", (parse_server(url),), UpstreamPolicy("main"), authority, True, None, None, health=HealthPlan(1), **plan
    )
    group = Group(made, time.monotonic, Watched())
    meter = WorkerMetrics(new_registry()).upstream("main")
    return Prober(Dialer(made, TIMES, meter, group, OwnAddresses()), TIMES), group


@pytest.mark.parametrize("case", CASES)
@both_loops
def test_what_a_probe_finds(loop: str, case: str, tmp_path: Path) -> None:
    scheme, script, kind = CASES[case]
    authority = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))

    async def scene() -> None:
        one, group = prober(f"{scheme}://localhost:{server.port}", authority)
        found.append(await one.probe(group.members[0]))
        await asyncio.sleep(0.05)
        assert group.sessions == 0

    found: list[Failure | None] = []
    with Upstream(script) as server:
        run(loop, scene)
    # A reset may come before the loop knows that it is connected.
    kinds = {"reset", "lost", "unreachable"} if kind == "reset" else {kind}
    assert (found[0].kind.value if found[0] is not None else "") in kinds, found


@both_loops
def test_nobody_there(loop: str, tmp_path: Path) -> None:
    async def scene() -> None:
        one, group = prober("pop3+clear://127.0.0.1:9", tmp_path)
        found = await one.probe(group.members[0])
        assert found is not None and found.kind.value == "refused"

    run(loop, scene)


@pytest.mark.parametrize("scheme", ["pop3+clear", "pop3s", "pop3"])
@both_loops
def test_a_probe_that_is_cancelled_leaves_nothing(loop: str, scheme: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))

    async def scene() -> None:
        one, group = prober(f"{scheme}://localhost:{server.port}", authority)
        for turns in (0, 1, 2, 4, 8, 16, 32):
            task = asyncio.ensure_future(one.probe(group.members[0]))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait((task,))
        await asyncio.sleep(0.05)

    with Upstream(stls(b"+OK\r\n", AUTHORITY.issue_cert("localhost")) if scheme == "pop3" else stall) as server:
        # Leaving the block waits for the end of every script: no connection stays open.
        run(loop, scene)


def test_a_probe_speaks_for_nobody(tmp_path: Path) -> None:
    """A server that demands a PROXY header is told that the connection is the proxy's own."""
    headers: list[ProxyHeader] = []

    async def scene() -> None:
        one, group = prober(server.url, tmp_path, send_proxy="v2")
        assert await one.probe(group.members[0]) is None

    with Upstream(introduced(headers, greets)) as server:
        run("asyncio", scene)
    assert headers == [ProxyHeader(2, True)]


PROBED = "[upstream.main.health]\nfall = 2\nbackoff = 300\nlongest = 300\nprobe = 0.05"


@both_loops
def test_a_dead_server_is_known_before_a_login(loop: str, tmp_path: Path) -> None:
    """And one that lives again is back before a login, too. Promise 1: no QUIT, although nobody logged in."""
    scripts: list[Script] = [slam, slam, slam, greets, answering()]
    with Upstream(*scripts) as flaky, Upstream(greets) as steady:
        with running(Setup([flaky.url, steady.url], loop, tail=PROBED), tmp_path) as proxy:
            down = proxy.wait("upstream_down")
            assert (down["server"], down["kind"]) == (flaky.url[13:], "lost")
            back = proxy.wait("upstream_up")
            assert back["server"] == flaky.url[13:]
            proxy.logged_in().close()
            assert proxy.session()["server"] == flaky.url[13:]
            labels = {"upstream": "main", "server": flaky.url[13:]}
            assert proxy.sample("upstream_health_checks_total", result="ok", **labels) >= 1
            assert proxy.sample("upstream_connections_total", upstream="main", result="ok") == 1


@both_loops
def test_a_server_that_nobody_tries_comes_back_without_a_login(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `probe`, too: else one that was down when the last user went home would look down until the morning."""
    monkeypatch.setattr("popproxy.net.probe.UNTRIED_SECONDS", 0.02)
    tail = "[upstream.main.health]\nfall = 1\nbackoff = 0.1\nlongest = 0.1"
    with Upstream(slam, slam, greets) as flaky:
        with running(Setup([flaky.url], loop, tail=tail), tmp_path) as proxy:
            with proxy.client() as client:
                assert client.user_pass(b"ann", b"x") == UNAVAILABLE
            proxy.wait("upstream_up")
            labels = {"upstream": "main", "server": flaky.url[13:], "result": "ok"}
            assert proxy.sample("upstream_health_checks_total", **labels) == 1
            assert state(proxy, flaky) == 1


def test_a_server_whose_logins_fail_is_not_brought_back_by_its_greeting(tmp_path: Path) -> None:
    with Upstream(at_login(b"-ERR [SYS/TEMP] no disk\r\n")) as full:
        with running(Setup([full.url], tail=PROBED), tmp_path) as proxy:
            for user in (b"ann", b"bob"):
                with proxy.client() as client:
                    assert client.user_pass(user, b"x") == UNAVAILABLE
            proxy.wait("upstream_down")
            labels = {"upstream": "main", "server": full.url[13:], "result": "ok"}
            seen = proxy.sample("upstream_health_checks_total", **labels)
            eventually(lambda: proxy.sample("upstream_health_checks_total", **labels) > seen + 3, "more probes")
            assert state(proxy, full) == 0 and not proxy.lines("upstream_up")
            proxy.session(2)

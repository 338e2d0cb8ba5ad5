"""Connecting upstream: servers in order, verification, names, and every way in which there is no connection."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client import CollectorRegistry

from popproxy.api import Plugin, PluginConfig, Route, ServerAddress
from popproxy.config.plan import Server, UpstreamPlan
from popproxy.config.urls import parse_server
from popproxy.core.failures import Failure, Kind
from popproxy.core.limits import Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.core.target import Target
from popproxy.metrics.collector import WorkerMetrics
from popproxy.net.dialer import Connected, Dialer
from popproxy.net.group import Group
from popproxy.net.own import OwnAddresses
from popproxy.net.tasks import Errand, Tasks
from tests.core.rig import plugin
from tests.net.running import PASSWORD, USER, Setup, both_loops, pem, running, sample
from tests.net.test_group import Watched
from tests.net.test_pump import SMALL
from tests.net.tlspeers import AUTHORITY, run, server_side
from tests.net.upstream import Peer, Script, Upstream, answering, stall

UNAVAILABLE = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"
CLOSED = "pop3+clear://127.0.0.1:9"
MAIN = Target("main")


def over_tls(peer: Peer) -> None:
    peer.tls(server_side())
    answering(b"+OK 0 0\r\n")(peer)


@pytest.mark.parametrize("scheme", ["pop3+clear", "pop3", "pop3s"])
@both_loops
def test_an_honest_server_over_every_kind_of_leg(loop: str, scheme: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if scheme == "pop3+clear" else {"tls": server_side()}
    if scheme == "pop3s":
        options["implicit_tls"] = True
    with sample(tmp_path, SMALL, **options) as server:
        host = "127.0.0.1" if scheme == "pop3+clear" else "localhost"
        with running(Setup([f"{scheme}://{host}:{server.port}"], loop), tmp_path) as proxy:
            with proxy.logged_in() as client:
                assert client.single(b"STAT").startswith(b"+OK 2 ")
                assert client.single(b"QUIT").startswith(b"+OK")
            assert proxy.session()["server"] == f"{host}:{server.port}"
            for phase in ("tcp", "tls") if scheme == "pop3s" else ("tcp",):
                name = "upstream_connect_duration_seconds_count"
                assert proxy.sample(name, upstream="main", phase=phase) == 1


def with_certificate(certificate: trustme.LeafCert) -> Script:
    def script(peer: Peer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        peer.tls(context)
        peer.login()
        peer.until_gone()

    return script


def expired() -> trustme.LeafCert:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    return AUTHORITY.issue_cert("localhost", not_before=past, not_after=past + datetime.timedelta(days=1))


UNTRUSTED: dict[str, tuple[Callable[[], trustme.LeafCert], str]] = {
    "wrong authority": (lambda: trustme.CA().issue_cert("localhost"), "issuer|self.signed"),
    "wrong name": (lambda: AUTHORITY.issue_cert("other.example.org"), "[Hh]ostname"),
    "expired": (expired, "expired"),
}


@pytest.mark.parametrize("fault", UNTRUSTED)
@both_loops
def test_a_certificate_that_cannot_be_trusted_gets_no_secret(loop: str, fault: str, tmp_path: Path) -> None:
    make, reason = UNTRUSTED[fault]
    with Upstream(with_certificate(make())) as upstream:
        with running(Setup([f"pop3s://localhost:{upstream.port}"], loop), tmp_path) as proxy:
            with proxy.client() as client:
                assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            line = proxy.wait("upstream_failed")
            assert line["kind"] == "tls" and "unverified" in line["detail"]
            assert re.search(reason, str(line["detail"])), line
            assert proxy.sample("upstream_connections_total", upstream="main", result="tls") == 1
    assert upstream.received == b""


@both_loops
def test_verification_can_be_turned_off_and_the_name_changed(loop: str, tmp_path: Path) -> None:
    foreign = trustme.CA().issue_cert("localhost")
    with Upstream(with_certificate(foreign)) as upstream:
        off = Setup([f"pop3s://localhost:{upstream.port}"], loop, upstream="verify = false")
        with running(off, tmp_path) as proxy:
            proxy.logged_in().close()
            proxy.session()
    renamed = AUTHORITY.issue_cert("pop.example.org")
    with Upstream(with_certificate(renamed)) as upstream:
        named = Setup([f"pop3s://127.0.0.1:{upstream.port}"], loop, upstream='server_name = "pop.example.org"')
        with running(named, tmp_path) as proxy:
            proxy.logged_in().close()
            proxy.session()


@both_loops
def test_a_client_certificate_is_shown(loop: str, tmp_path: Path) -> None:
    own = AUTHORITY.issue_cert("proxy.example.org")
    path = pem(tmp_path / "own.pem", own)
    subjects: list[Any] = []

    def demanding(peer: Peer) -> None:
        context = server_side()
        AUTHORITY.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        peer.tls(context)
        subjects.append(peer.socket.getpeercert()["subjectAltName"])  # type: ignore[attr-defined]
        peer.login()
        peer.until_gone()

    with Upstream(demanding) as upstream:
        shown = Setup(
            [f"pop3s://localhost:{upstream.port}"], loop, upstream=f'client_certificate = {{ cert = "{path}" }}'
        )
        with running(shown, tmp_path) as proxy:
            proxy.logged_in().close()
            proxy.session()
    assert subjects == [(("DNS", "proxy.example.org"),)]


@both_loops
def test_servers_are_tried_in_order(loop: str, tmp_path: Path) -> None:
    with Upstream(with_certificate(trustme.CA().issue_cert("localhost"))) as bad:
        with Upstream(over_tls) as good, Upstream(over_tls) as unused:
            servers = [
                "pop3s://localhost:9",
                f"pop3s://localhost:{bad.port}",
                f"pop3s://localhost:{good.port}",
                f"pop3s://localhost:{unused.port}",
            ]
            with running(Setup(servers, loop), tmp_path) as proxy:
                with proxy.logged_in() as client:
                    assert client.single(b"STAT") == b"+OK 0 0\r\n"
                assert proxy.session()["server"] == f"localhost:{good.port}"
                for result in ("refused", "tls", "ok"):
                    assert proxy.sample("upstream_connections_total", upstream="main", result=result) == 1
            assert unused.peers == []


@both_loops
def test_every_server_that_failed_is_told(loop: str, tmp_path: Path) -> None:
    with running(Setup([CLOSED, "pop3+clear://127.0.0.1:10"], loop), tmp_path) as proxy, proxy.client() as client:
        assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        line = proxy.wait("upstream_failed")
        assert line["kind"] == "refused"
        assert line["detail"] == (
            "127.0.0.1:9: 127.0.0.1: connection refused; 127.0.0.1:10: 127.0.0.1: connection refused"
        )


@both_loops
def test_a_name_with_several_addresses(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream(answering(), host="::1") as upstream:

        async def found(server: Server) -> list[str]:
            return ["127.0.0.1", "::1"]

        monkeypatch.setattr("popproxy.net.dialer._addresses", found)
        with running(Setup([f"pop3+clear://mail.example.org:{upstream.port}"], loop), tmp_path) as proxy:
            proxy.logged_in().close()
            assert proxy.session()["server"] == f"mail.example.org:{upstream.port}"


@pytest.mark.parametrize("scheme", ["pop3+clear", "pop3s"])
@both_loops
def test_an_ipv6_literal(loop: str, scheme: str, tmp_path: Path) -> None:
    certificate = AUTHORITY.issue_cert("::1")
    script = answering() if scheme == "pop3+clear" else with_certificate(certificate)
    with Upstream(script, host="::1") as upstream:
        with running(Setup([f"{scheme}://[::1]:{upstream.port}"], loop), tmp_path) as proxy:
            proxy.logged_in().close()
            assert proxy.session()["server"] == f"[::1]:{upstream.port}"


@both_loops
def test_a_name_that_does_not_exist(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(server: Server) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("popproxy.net.dialer._addresses", none)
    with running(Setup(["pop3+clear://no.example.org"], loop), tmp_path) as proxy, proxy.client() as client:
        assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        line = proxy.wait("upstream_failed")
        assert line["kind"] == "dns" and "Name or service not known" in str(line["detail"])
        assert proxy.sample("upstream_connections_total", upstream="main", result="dns") == 1


@both_loops
def test_a_fault_of_ours_in_the_dial_is_an_answer_too(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(server: Server) -> list[str]:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("popproxy.net.dialer._addresses", broken)
    made = Setup(["pop3+clear://no.example.org"], loop)
    with running(made, tmp_path, faults=1) as proxy, proxy.client() as client:
        assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        assert proxy.wait("internal_error")["error"] == "ZeroDivisionError"


# A server that a plugin names


def leading_to(*servers: ServerAddress) -> Plugin[PluginConfig]:
    """Routes the first login to the first server, and so on."""
    left = iter(servers)
    return plugin(on_login=lambda *_: Route(server=next(left)))


@pytest.mark.parametrize("tls", [None, "starttls", "implicit"])
@both_loops
def test_a_named_server_is_used_instead_of_the_upstreams_own(loop: str, tls: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tls": server_side(), "implicit_tls": tls == "implicit"}
    with Upstream(stall) as unused, sample(tmp_path, SMALL, **options) as server:
        chosen = leading_to(ServerAddress("LocalHost", server.port, tls))
        made = Setup([f"pop3://localhost:{unused.port}"], loop, plugins=[chosen])
        with running(made, tmp_path) as proxy:
            with proxy.logged_in() as client:
                assert client.single(b"STAT").startswith(b"+OK 2 ")
            assert proxy.session()["server"] == f"localhost:{server.port}"
    assert unused.peers == []


@both_loops
def test_a_named_server_has_the_certificate_checked(loop: str, tmp_path: Path) -> None:
    """Also where the upstream's own servers have no TLS at all; and what is open is that of the first server."""
    foreign = with_certificate(trustme.CA().issue_cert("localhost"))
    with Upstream(foreign, answering()) as upstream:
        chosen = leading_to(ServerAddress("localhost", upstream.port, "implicit"), ServerAddress("127.0.0.1"))
        made = Setup([f"pop3+clear://192.0.2.1:{upstream.port}"], loop, plugins=[chosen])
        with running(made, tmp_path) as proxy, proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            line = proxy.wait("upstream_failed")
            assert line["kind"] == "tls" and "unverified" in line["detail"]
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            client.close()
            assert proxy.session()["server"] == f"127.0.0.1:{upstream.port}"


# The Dialer by itself


def dialer(*urls: str, **times: float) -> Dialer:
    servers = tuple(parse_server(url) for url in urls)
    plan = UpstreamPlan("main", servers, UpstreamPolicy("main"), None, False, None, None)
    meter = WorkerMetrics(CollectorRegistry()).upstream("main")
    return Dialer(plan, replace(Timeouts(), **times), meter, Group(plan, lambda: 0.0, Watched()), OwnAddresses())


class Quiet(asyncio.Protocol):
    """Remembers that it was used."""

    made: list[Quiet]

    def __init__(self) -> None:
        self.transport: asyncio.BaseTransport | None = None
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@pytest.mark.parametrize("scheme", ["pop3+clear", "pop3s"])
@pytest.mark.parametrize("by", ["task", "errand"])
@both_loops
def test_a_dial_that_is_cancelled_leaves_no_descriptor(loop: str, by: str, scheme: str) -> None:
    """At every moment: while it connects, in the handshake, and just when it is done."""

    async def scene() -> None:
        with Upstream(stall) as mute:
            one = dialer(f"{scheme}://localhost:{mute.port}", upstream_handshake=5.0)
            warm = await asyncio.get_running_loop().getaddrinfo("localhost", mute.port)
            assert warm
            before = None
            tasks = Tasks(asyncio.get_running_loop())
            for turns in (0, 1, 2, 3, 4, 6, 8, 12, 20):
                ended: list[Connected[Quiet] | Failure] = []
                work = one.connect(Quiet, MAIN)
                dial: asyncio.Task[Any] | Errand[Any]
                dial = tasks.errand(work, ended.append) if by == "errand" else tasks.spawn(work)
                for _ in range(turns):
                    await asyncio.sleep(0.0005)
                dial.cancel()
                if isinstance(dial, asyncio.Task):
                    with contextlib.suppress(asyncio.CancelledError):
                        ended.append(await dial)
                for outcome in ended:
                    assert isinstance(outcome, Connected)
                    outcome.protocol.transport.abort()  # type: ignore[union-attr]
                    outcome.lease.close()
                await asyncio.sleep(0.05)
                assert one.group.sessions == 0 and not tasks, f"places after {turns} turns"
                held = len([name for name in os.listdir("/proc/self/fd") if socket_of(name)])
                mine = held - sum(peer.socket.fileno() >= 0 for peer in mute.peers)
                before = mine if before is None else before
                assert mine <= before, f"descriptors after {turns} turns"

    run(loop, scene)


def socket_of(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    except OSError:
        return False


@both_loops
def test_every_attempt_has_a_protocol_of_its_own(loop: str) -> None:
    """What happens to the connection of a failed attempt must not be heard by the one that succeeds."""

    async def scene() -> None:
        made: list[Quiet] = []

        def protocol() -> Quiet:
            made.append(Quiet())
            return made[-1]

        with Upstream(Peer.until_gone) as upstream:
            outcome = await dialer(CLOSED, upstream.url).connect(protocol, MAIN)
            assert isinstance(outcome, Connected)
            assert outcome.protocol is made[-1] and outcome.protocol.transport is not None
            assert outcome.name == f"127.0.0.1:{upstream.port}" and not outcome.secure
            outcome.protocol.transport.close()
            await asyncio.sleep(0.05)
            assert made[-1].lost == [None]

    run(loop, scene)


@both_loops
def test_descriptors_are_used_again_behind_a_connect_that_timed_out(loop: str) -> None:
    """The loop must have forgotten the descriptor: its number is the next connection's."""

    async def scene() -> None:
        with socket.socket() as listener, contextlib.ExitStack() as held:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                sock = held.enter_context(socket.socket())
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(listener.getsockname())
            port = listener.getsockname()[1]
            with Upstream(over_tls) as upstream:
                for _ in range(3):
                    full = await dialer(f"pop3s://127.0.0.1:{port}", connect=0.05).connect(Quiet, MAIN)
                    assert isinstance(full, Failure) and full.kind is Kind.CONNECT_TIMEOUT
                    outcome = await dialer(f"pop3s://localhost:{upstream.port}").connect(Quiet, MAIN)
                    assert isinstance(outcome, Connected) and outcome.secure
                    outcome.protocol.transport.abort()  # type: ignore[union-attr]
                await asyncio.sleep(0.05)

    run(loop, scene)



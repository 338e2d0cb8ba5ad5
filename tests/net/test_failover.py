"""A login and the servers of a group over real sockets: who is tried next, who is left alone, and what is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.net.running import PASSWORD, USER, Proxy, Setup, both_loops, eventually, running
from tests.net.test_dialer import with_certificate
from tests.net.tlspeers import server_side
from tests.net.upstream import Peer, Script, Upstream, answering, garbage, slam, slam_with_reset, stall

UNAVAILABLE = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"
QUICK = {"greeting": 0.3, "connect": 0.3, "login": 0.5, "upstream_handshake": 0.3}


def saying(*lines: bytes, then: Script = Peer.until_gone) -> Script:
    """Greets, answers one line after the other, then plays ``then``."""

    def script(peer: Peer) -> None:
        peer.greet()
        for line in lines:
            peer.line()
            peer.send(line)
        then(peer)

    return script


def at_login(answer: bytes) -> Script:
    """Answers PASS with ``answer``, again and again."""

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            line = peer.line()
            if line.startswith(b"PASS"):
                peer.send(answer)
            else:
                peer.send(b"-ERR none\r\n" if line == b"CAPA" else b"+OK\r\n")

    return script


def dies_behind(verb: bytes) -> Script:
    """Closes when it reads ``verb``."""

    def script(peer: Peer) -> None:
        peer.greet()
        while not (line := peer.line()).startswith(verb):
            peer.send(b"-ERR none\r\n" if line == b"CAPA" else b"+OK\r\n")

    return script


def state(proxy: Proxy, upstream: Upstream) -> float:
    server = upstream.url.removeprefix("pop3+clear://")
    value = proxy.registry.get_sample_value("popproxy_upstream_up", {"upstream": "main", "server": server})
    assert value is not None
    return value


BEFORE: dict[str, tuple[Script, str]] = {
    "hangs": (stall, "greeting_timeout"),
    "closes": (slam, "lost"),
    "resets": (slam_with_reset, "reset"),
    "garbage": (garbage, "greeting"),
    "refuses in its greeting": (lambda peer: peer.send(b"-ERR too busy\r\n"), "greeting"),
    "hangs behind its greeting": (saying(), "login_timeout"),
    "killed behind its greeting": (dies_behind(b"USER"), "lost"),
    "nonsense for CAPA": (saying(b"what?\r\n"), "protocol"),
    "nonsense for USER": (saying(b"-ERR none\r\n", b"what?\r\n"), "protocol"),
}
"""Faults before the server was told a secret."""


@pytest.mark.parametrize("fault", BEFORE)
@both_loops
def test_another_server_is_tried_before_a_secret_was_told(loop: str, fault: str, tmp_path: Path) -> None:
    script, kind = BEFORE[fault]
    with Upstream(script) as bad, Upstream(answering(b"+OK 0 0\r\n")) as good:
        with running(Setup([bad.url, good.url], loop, timeouts=QUICK), tmp_path) as proxy:
            with proxy.logged_in() as client:
                assert client.single(b"STAT") == b"+OK 0 0\r\n"
            line = proxy.session()
            assert proxy.sample("upstream_login_duration_seconds_count", upstream="main", result="ok") == 1
            assert line["server"] == good.url.removeprefix("pop3+clear://")
            told = proxy.wait("upstream_retry")
            if kind == "reset":
                # It may come before the loop knows that it is connected.
                assert told["kind"] in ("reset", "unreachable", "lost")
            else:
                assert told["kind"] == kind and told["server"] == bad.url.removeprefix("pop3+clear://")
            assert proxy.sample("upstream_retries_total", upstream="main", reason=str(told["kind"])) == 1
            assert not proxy.lines("login_failed") and not proxy.lines("upstream_failed")
    assert PASSWORD not in bad.received


def test_no_connection_is_told_as_well(tmp_path: Path) -> None:
    with Upstream(answering()) as good:
        with running(Setup(["pop3+clear://127.0.0.1:9", good.url]), tmp_path) as proxy:
            proxy.logged_in().close()
            told = proxy.wait("upstream_retry")
            assert told["detail"] == "127.0.0.1:9: 127.0.0.1: connection refused" and told["server"] is None
            assert told["kind"] == "refused"
            assert proxy.sample("upstream_retries_total", upstream="main", reason="refused") == 1
            proxy.session()


BEHIND: dict[str, tuple[Script, bytes, str | None]] = {
    "killed behind PASS": (dies_behind(b"PASS"), UNAVAILABLE, "lost"),
    "hangs behind PASS": (at_login(b""), UNAVAILABLE, "login_timeout"),
    "nonsense": (at_login(b"250 OK\r\n"), UNAVAILABLE, "protocol"),
    "bad password": (at_login(b"-ERR [AUTH] no\r\n"), b"-ERR [AUTH] Authentication failed\r\n", None),
    "bad password without a code": (at_login(b"-ERR no\r\n"), b"-ERR [AUTH] Authentication failed\r\n", None),
    "trouble": (at_login(b"-ERR [SYS/TEMP] no disk\r\n"), UNAVAILABLE, None),
    "in use": (at_login(b"-ERR [IN-USE] locked\r\n"), b"-ERR [IN-USE] Maildrop is in use\r\n", None),
}
"""Faults and refusals when the server knows the password."""


@pytest.mark.parametrize("fault", BEHIND)
@both_loops
def test_who_was_told_the_password_decides(loop: str, fault: str, tmp_path: Path) -> None:
    """No second server is tried with what the first one refused, or may have used."""
    script, reply, kind = BEHIND[fault]
    with Upstream(script) as first, Upstream(answering()) as second:
        with running(Setup([first.url, second.url], loop, timeouts=QUICK), tmp_path) as proxy:
            with proxy.client() as client:
                assert client.user_pass(USER, PASSWORD) == reply
            proxy.session()
            assert [line["kind"] for line in proxy.lines("upstream_failed")] == ([kind] if kind else [])
    assert second.peers == []


@pytest.mark.parametrize("implicit", [False, True])
@both_loops
def test_tls_that_fails_is_left_for_another_server(loop: str, implicit: bool, tmp_path: Path) -> None:
    foreign = trustme.CA().issue_cert("localhost")

    def honest(peer: Peer) -> None:
        if not implicit:
            peer.greet()
            assert peer.line() == b"STLS"
            peer.send(b"+OK\r\n")
        peer.tls(server_side())
        if implicit:
            peer.greet()
        while not (line := peer.line()).startswith(b"PASS"):
            peer.send(b"-ERR none\r\n" if line == b"CAPA" else b"+OK\r\n")
        peer.send(b"+OK in\r\n")
        peer.until_gone()

    def stls_untrusted(peer: Peer) -> None:
        peer.greet()
        peer.line()
        peer.send(b"+OK\r\n")
        with_certificate(foreign)(peer)

    scheme = "pop3s" if implicit else "pop3"
    with Upstream(with_certificate(foreign) if implicit else stls_untrusted) as bad, Upstream(honest) as good:
        servers = [f"{scheme}://localhost:{server.port}" for server in (bad, good)]
        with running(Setup(servers, loop), tmp_path) as proxy:
            proxy.logged_in().close()
            assert proxy.session()["server"] == f"localhost:{good.port}"
            assert "unverified" in proxy.wait("upstream_retry")["detail"]
            assert proxy.sample("upstream_retries_total", upstream="main", reason="tls") == 1
    assert bad.received in (b"", b"STLS\r\n")


HEALTH = "[upstream.main.health]\nfall = 2\nbackoff = {0}\nlongest = {0}"


def test_a_server_that_fails_is_left_alone_and_comes_back(tmp_path: Path) -> None:
    scripts: list[Script] = [slam, slam, slam, answering()]
    with Upstream(*scripts) as flaky, Upstream(answering()) as steady:
        setup = Setup([flaky.url, steady.url], tail=HEALTH.format(0.2))
        with running(setup, tmp_path) as proxy:
            for _ in range(2):
                assert state(proxy, flaky) == 1
                proxy.logged_in().close()
            down = proxy.wait("upstream_down")
            assert (down["upstream"], down["server"], down["kind"]) == ("main", flaky.url[13:], "lost")
            assert state(proxy, flaky) == 0 and state(proxy, steady) == 1
            proxy.logged_in().close()
            assert len(flaky.peers) == 2
            # The first trial fails, the second one succeeds: nobody notices but the log.
            eventually(lambda: bool(proxy.logged_in().close()) or state(proxy, flaky) == 1, "return of the server")
            assert proxy.wait("upstream_up")["server"] == flaky.url[13:]
            assert len(flaky.peers) == 4
            for to in ("up", "down"):
                labels = {"upstream": "main", "server": flaky.url[13:], "to": to}
                assert proxy.sample("upstream_state_changes_total", **labels) == 1
            assert not proxy.lines("login_failed")
            eventually(lambda: proxy.total("sessions_active") == 0, "end of all sessions")


def test_trouble_at_login_takes_a_server_out_unless_it_is_one_users(tmp_path: Path) -> None:
    with Upstream(at_login(b"-ERR [SYS/TEMP] no disk\r\n")) as full, Upstream(answering()) as good:
        with running(Setup([full.url, good.url], tail=HEALTH.format(60)), tmp_path) as proxy:
            for user in (b"alice", b"alice", b"ALICE", b"alice"):
                with proxy.client() as client:
                    assert client.user_pass(user, PASSWORD) == UNAVAILABLE
            assert state(proxy, full) == 1
            with proxy.client() as client:
                assert client.user_pass(b"bob", PASSWORD) == UNAVAILABLE
                assert client.user_pass(b"bob", PASSWORD).startswith(b"+OK")
            down = proxy.wait("upstream_down")
            assert (down["kind"], "no disk" in down["detail"]) == ("temporary", True)
            proxy.session(5)


def test_a_server_that_dislikes_the_address_of_one_client_stays_for_the_others(tmp_path: Path) -> None:
    with Upstream(slam) as server:
        setup = Setup([server.url], upstream='send_proxy = "v1"', tail=HEALTH.format(60))
        with running(setup, tmp_path) as proxy:
            for _ in range(4):
                with proxy.client() as client:
                    assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            assert state(proxy, server) == 1


def test_refused_passwords_speak_for_a_server(tmp_path: Path) -> None:
    with Upstream(at_login(b"-ERR [AUTH] no\r\n")) as server:
        with running(Setup([server.url], tail=HEALTH.format(60), limits={"auth_attempts": 50}), tmp_path) as proxy:
            with proxy.client() as client:
                for _ in range(9):
                    assert client.user_pass(USER, PASSWORD).startswith(b"-ERR [AUTH]")
            assert state(proxy, server) == 1
            proxy.session()


def test_when_all_are_down_one_login_at_a_time_tries(tmp_path: Path) -> None:
    """Nobody waits behind a dead server; and nobody waits for the back-off when it is alive again."""
    hold, entered = threading.Event(), threading.Event()

    def slow(peer: Peer) -> None:
        entered.set()
        hold.wait(20)
        answering()(peer)

    with Upstream(slam, slam, slow) as only:
        with running(Setup([only.url], tail=HEALTH.format(300)), tmp_path) as proxy:
            for _ in range(2):
                with proxy.client() as client:
                    assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            # The client may read its reply before the fault is counted.
            eventually(lambda: state(proxy, only) == 0, "fault that is one too many")
            trial = proxy.client()
            trial.send(b"USER alice\r\nPASS " + PASSWORD + b"\r\n")
            assert entered.wait(20)
            for _ in range(3):
                with proxy.client() as client:
                    assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            assert len(only.peers) == 3
            assert {line["kind"] for line in proxy.lines("upstream_failed")[2:]} <= {"down"}
            hold.set()
            assert [trial.read_line() for _ in range(2)][1].startswith(b"+OK")
            assert state(proxy, only) == 1
            trial.close()
            proxy.session(6)


def test_a_trial_that_is_greeted_is_enough_where_a_server_could_not_be_reached(tmp_path: Path) -> None:
    """A slow login does not keep others from a server that is alive again."""
    with Upstream(slam, slam, saying(b"-ERR\r\n"), answering()) as only:
        with running(Setup([only.url], tail=HEALTH.format(300)), tmp_path) as proxy:
            for _ in range(2):
                with proxy.client() as client:
                    assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            # The client may read its reply before the fault is counted.
            eventually(lambda: state(proxy, only) == 0, "fault that is one too many")
            trial = proxy.client()
            trial.send(b"USER alice\r\nPASS " + PASSWORD + b"\r\n")
            eventually(lambda: state(proxy, only) == 1, "back in rotation")
            proxy.logged_in().close()
            trial.close()


def test_a_trial_whose_client_leaves_does_not_block_the_server(tmp_path: Path) -> None:
    with Upstream(slam, slam, stall, answering()) as only:
        with running(Setup([only.url], tail=HEALTH.format(300)), tmp_path) as proxy:
            for _ in range(2):
                with proxy.client() as client:
                    assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            trial = proxy.client()
            trial.send(b"USER alice\r\nPASS x\r\n")
            eventually(lambda: len(only.peers) == 3, "trial")
            trial.close()
            proxy.session(3)
            proxy.logged_in().close()
            assert proxy.session(4)["reason"] == "client_eof"
            assert state(proxy, only) == 1


@both_loops
def test_users_stick_to_servers(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as a, Upstream(answering()) as b, Upstream(answering()) as c:
        setup = Setup([a.url, b.url, c.url], loop, upstream='balance = "sticky"')
        homes: dict[str, str] = {}
        with running(setup, tmp_path) as proxy:
            for _ in range(2):
                for number in range(9):
                    with proxy.client() as client:
                        assert client.user_pass(b"User%d" % number, PASSWORD).startswith(b"+OK")
            for turn in range(18):
                line = proxy.session(turn + 1)
                assert homes.setdefault(line["user"], line["server"]) == line["server"]
        assert len(set(homes.values())) >= 2


@pytest.mark.parametrize("kind", ["round_robin", "least_sessions"])
def test_logins_are_spread(kind: str, tmp_path: Path) -> None:
    with Upstream(answering()) as a, Upstream(answering()) as b:
        with running(Setup([a.url, b.url], upstream=f'balance = "{kind}"'), tmp_path) as proxy:
            clients = [proxy.logged_in() for _ in range(6)]
            assert (len(a.peers), len(b.peers)) == (3, 3)
            for client in clients:
                client.close()


# Limits


def limited(text: str) -> str:
    return "max_sessions = 1\n" + text


@both_loops
def test_who_finds_no_place_waits_for_one(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as server:
        with running(Setup([server.url], loop, upstream=limited("queue = 5\nqueue_timeout = 20")), tmp_path) as proxy:
            first = proxy.logged_in()
            second = proxy.client()
            second.send(b"USER alice\r\nPASS " + PASSWORD + b"\r\n")
            assert second.read_line() == b"+OK\r\n"
            eventually(lambda: proxy.sample("upstream_queue_length", upstream="main") == 1, "queue")
            assert len(server.peers) == 1
            first.close()
            assert second.read_line().startswith(b"+OK")
            second.close()
            proxy.session(2)
            assert proxy.sample("upstream_queued_total", upstream="main", result="ok") == 1
            assert proxy.sample("upstream_connections_limit", upstream="main") == 1


@pytest.mark.parametrize(
    ("queue", "result"), [("queue = 0", "full"), ("queue = 1\nqueue_timeout = 0.1", "timeout")]
)
@both_loops
def test_who_finds_no_place_in_time_is_told_to_come_again(loop: str, queue: str, result: str, tmp_path: Path) -> None:
    with Upstream(answering()) as server:
        with running(Setup([server.url], loop, upstream=limited(queue)), tmp_path) as proxy:
            first = proxy.logged_in()
            with proxy.client() as client:
                assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
            assert proxy.wait("upstream_failed")["kind"] == "busy"
            assert proxy.wait("login_failed")["code"] == "SYS/TEMP"
            assert proxy.sample("upstream_queued_total", upstream="main", result=result) == 1
            first.close()
            proxy.session(2)
            proxy.logged_in().close()
            proxy.session(3)


LEAVE: dict[str, Callable[[Any], None]] = {
    "closes": lambda client: client.close(),
    "resets": lambda client: (
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"), client.close()
    )[1],
}


@pytest.mark.parametrize("how", LEAVE)
@both_loops
def test_who_leaves_the_queue_takes_no_place(loop: str, how: str, tmp_path: Path) -> None:
    with Upstream(answering()) as server:
        with running(Setup([server.url], loop, upstream=limited("queue = 5\nqueue_timeout = 20")), tmp_path) as proxy:
            first = proxy.logged_in()
            waiting = [proxy.client() for _ in range(3)]
            for client in waiting:
                client.send(b"USER alice\r\nPASS " + PASSWORD + b"\r\n")
            eventually(lambda: proxy.sample("upstream_queue_length", upstream="main") == 3, "queue")
            for client in waiting[:2]:
                LEAVE[how](client)
            eventually(lambda: proxy.sample("upstream_queue_length", upstream="main") == 1, "shorter queue")
            first.close()
            assert [waiting[2].read_line() for _ in range(2)][1].startswith(b"+OK")
            waiting[2].close()
            proxy.session(4)
            assert proxy.sample("upstream_queued_total", upstream="main", result="gone") == 2


def test_a_password_in_the_clear_reaches_no_second_server_without_tls(tmp_path: Path) -> None:
    """Promise 5 holds for every server that is tried: TLS is required of each."""

    def no_stls(peer: Peer) -> None:
        peer.greet()
        assert peer.line() == b"STLS"
        peer.send(b"-ERR no TLS\r\n")
        peer.until_gone()

    with Upstream(no_stls) as a, Upstream(no_stls) as b:
        servers = [f"pop3://localhost:{server.port}" for server in (a, b)]
        with running(Setup(servers), tmp_path) as proxy, proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
    assert a.received == b.received == b"STLS\r\n"


def test_shutting_down_while_logins_wait(tmp_path: Path) -> None:
    with Upstream(answering()) as server:
        with running(Setup([server.url], upstream=limited("queue_timeout = 20")), tmp_path) as proxy:
            first = proxy.logged_in()
            client = proxy.client()
            client.send(b"USER alice\r\nPASS " + PASSWORD + b"\r\n")
            eventually(lambda: proxy.sample("upstream_queue_length", upstream="main") == 1, "queue")
            proxy.stop()
            client.close()
            first.close()

"""auth_http before back ends that fail at every stage of the call, over real sockets, in a running worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from popproxy_plugins.auth_http import AuthHttp, AuthHttpConfig

from popproxy.api import Fail
from tests.net.running import PASSWORD, USER, Setup, both_loops, eventually, reset, running
from tests.net.services.test_http import FAULTS, answers, request_of
from tests.net.upstream import Peer, Script, Upstream, answering, slam

TEMPFAIL = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"


def granted(port: int, *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Auth-Status: OK", b"Auth-Server: 127.0.0.1", b"Auth-Port: %d" % port, *more]
    return b"\r\n".join([*lines, b"Content-Length: 0", b"", b""])


def plugin(*ports: int, **options: Any) -> AuthHttp:
    return AuthHttp(AuthHttpConfig(servers=tuple(f"http://127.0.0.1:{port}/" for port in ports), **options))


@both_loops
@pytest.mark.parametrize(
    ("script", "kind"), [pytest.param(s, k, id=n) for n, s, k in FAULTS if k != "too_large" and "body" not in n]
)
def test_promise_8_a_fault_is_trouble_and_reaches_no_upstream(
    loop: str, script: Script, kind: str, tmp_path: Path
) -> None:
    with Upstream(script) as source, Upstream(answering()) as mail:
        setup = Setup([mail.url], loop, plugins=[plugin(source.port, timeout=0.3)], fail=Fail.CLOSED, deadline=20)
        with running(setup, tmp_path) as proxy:
            client = proxy.client()
            assert client.user_pass(USER, PASSWORD) == TEMPFAIL
            client.close()
        assert not mail.peers


@both_loops
@pytest.mark.parametrize("script", [pytest.param(s, id=n) for n, s, _ in FAULTS if "body" in n or "chunk" in n])
def test_a_fault_in_the_body_is_none_because_nobody_reads_it(loop: str, script: Script, tmp_path: Path) -> None:
    """It has no Auth-Status, which is noticed at once and not when the body ends, or the time."""
    with Upstream(script) as source, Upstream(answering()) as mail:
        setup = Setup([mail.url], loop, plugins=[plugin(source.port, timeout=20)], fail=Fail.CLOSED, deadline=20)
        with running(setup, tmp_path) as proxy:
            client = proxy.client()
            assert client.user_pass(USER, PASSWORD) == TEMPFAIL
            client.close()
            assert proxy.wait("authhttp.bad_reply")["detail"] == "no Auth-Status"


@both_loops
def test_a_kept_connection_that_the_back_end_closed_is_replaced(loop: str, tmp_path: Path) -> None:
    def once(peer: Peer) -> None:
        request_of(peer)
        peer.send(granted(mail.port))
        request_of(peer)
        slam(peer)

    with Upstream(answering()) as mail, Upstream(once, lambda peer: answers(granted(mail.port))(peer)) as source:
        setup = Setup(["pop3+clear://127.0.0.1:1"], loop, plugins=[plugin(source.port)], fail=Fail.CLOSED)
        with running(setup, tmp_path) as proxy:
            for _ in range(2):
                proxy.logged_in().close()
            assert not proxy.lines("authhttp.server_failed")
        assert len(source.peers) == 2


@both_loops
def test_the_next_server_is_asked_within_the_same_login(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as mail, Upstream(lambda peer: answers(granted(mail.port))(peer)) as source:
        setup = Setup(["pop3+clear://127.0.0.1:1"], loop, plugins=[plugin(1, source.port)], fail=Fail.CLOSED)
        with running(setup, tmp_path) as proxy:
            client = proxy.logged_in()
            client.close()
            assert proxy.session()["server"] == f"127.0.0.1:{mail.port}"
            assert proxy.wait("authhttp.server_failed")["server"] == "127.0.0.1:1"


@both_loops
@pytest.mark.parametrize("octets", [b"\r", b"\0", b"\n"])
def test_promise_6_octets_that_break_lines_reach_no_wire(loop: str, octets: bytes, tmp_path: Path) -> None:
    evil = b"Auth-Pass: geheim" + octets + b"DELE 1"
    with Upstream(answering()) as mail, Upstream(lambda peer: answers(granted(mail.port, evil))(peer)) as source:
        setup = Setup([mail.url], loop, plugins=[plugin(source.port)], fail=Fail.CLOSED)
        with running(setup, tmp_path) as proxy:
            client = proxy.client()
            assert client.user_pass(USER, PASSWORD) == TEMPFAIL
            client.close()
            eventually(lambda: bool(proxy.lines("session")), "end")
            assert "geheim" not in repr(proxy.lines())
        assert not mail.peers


@both_loops
def test_a_client_that_goes_away_while_the_back_end_thinks(loop: str, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        request_of(peer)
        peer.until_gone()

    with Upstream(script) as source, Upstream(answering()) as mail:
        setup = Setup([mail.url], loop, plugins=[plugin(source.port, timeout=20)], fail=Fail.CLOSED, deadline=20)
        with running(setup, tmp_path) as proxy:
            client = proxy.client()
            client.send(b"USER alice\r\nPASS x\r\n")
            eventually(lambda: bool(source.peers) and b"\r\n\r\n" in source.received, "question")
            reset(client)
            eventually(lambda: proxy.worker.sessions == 0, "end of the session")
        assert not mail.peers

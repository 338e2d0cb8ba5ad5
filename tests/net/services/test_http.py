"""services.http: what is sent, what is kept, and every way an HTTP server can fail."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import HttpFailed
from popproxy.net.services.http import HttpClient
from tests.net.running import both_loops
from tests.net.tlspeers import AUTHORITY, CERTIFICATE, run
from tests.net.upstream import Peer, Script, Upstream, slam, slam_with_reset, stall

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def request_of(peer: Peer) -> list[bytes]:
    """The lines of one request."""
    lines = []
    while line := peer.line():
        lines.append(line)
    return lines


def answers(*replies: bytes, then: Script | None = None) -> Script:
    """One reply per request on one connection."""

    def script(peer: Peer) -> None:
        for reply in replies:
            request_of(peer)
            peer.send(reply)
        (then or Peer.until_gone)(peer)

    return script


@asynccontextmanager
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient()
    try:
        yield made
    finally:
        await made.close()


def ask(loop: str, port: int, work: Callable[[HttpClient, str], Coroutine[Any, Any, None]]) -> None:
    async def scene() -> None:
        async with client() as http:
            await work(http, f"http://127.0.0.1:{port}/a?b=c")

    run(loop, scene)


@both_loops
def test_a_request_holds_what_it_was_given_and_nothing_that_tells_more(loop: str) -> None:
    with Upstream(answers(b"HTTP/1.1 204 No\r\nX-One: 1\r\nx-two: \xc3\xa4\xff\r\nX-One: 2\r\n\r\n")) as server:

        async def work(http: HttpClient, url: str) -> None:
            reply = await http.request("GET", url, headers=[("Auth-User", "joe"), ("Auth-Pass", "%20"), ("A", "b")])
            assert (reply.status, reply.body) == (204, b"")
            assert reply.headers == (("X-One", "1"), ("x-two", "ä\udcff"), ("X-One", "2"))
            assert (reply.header("x-one"), reply.header("X-Two"), reply.header("no")) == ("1", "ä\udcff", None)

        ask(loop, server.port, work)
        lines = server.received.split(b"\r\n")
        host = b"Host: 127.0.0.1:%d" % server.port
        assert lines == [b"GET /a?b=c HTTP/1.1", host, b"Auth-User: joe", b"Auth-Pass: %20", b"A: b", b"", b""]


@both_loops
def test_connections_are_kept(loop: str) -> None:
    with Upstream(answers(OK, OK, OK)) as server:

        async def work(http: HttpClient, url: str) -> None:
            assert [(await http.request("GET", url)).body for _ in range(3)] == [b"hi"] * 3

        ask(loop, server.port, work)
        assert len(server.peers) == 1


@both_loops
@pytest.mark.parametrize("together", [True, False])
def test_an_answer_that_nobody_asked_for_answers_nothing(loop: str, together: bool) -> None:
    """It would be taken for the answer to the next request, which may be about another user."""
    other = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    go, said = threading.Event(), threading.Event()

    def talkative(peer: Peer) -> None:
        request_of(peer)
        peer.send(OK + other if together else OK)
        go.wait(20)
        peer.send(b"" if together else other)
        said.set()
        peer.until_gone()

    with Upstream(talkative, answers(OK)) as server:

        async def work(http: HttpClient, url: str) -> None:
            assert (await http.request("GET", url)).body == b"hi"
            go.set()
            await asyncio.to_thread(said.wait, 20)
            await asyncio.sleep(0.01)
            assert (await http.request("GET", url)).body == b"hi"

        ask(loop, server.port, work)
        assert len(server.peers) == 2


@both_loops
@pytest.mark.parametrize("end", [slam, slam_with_reset])
def test_a_kept_connection_that_was_closed_is_replaced_without_a_word(loop: str, end: Script) -> None:
    """Three stale ones in the pool: the request goes out on a new connection, and once only."""
    gate = [False]

    def closing(peer: Peer) -> None:
        request_of(peer)
        while len(server.peers) < 3:
            time.sleep(0.001)
        peer.send(OK)
        # The close comes together with the next request, as it does in life.
        request_of(peer)
        end(peer)

    with Upstream(closing, closing, closing, answers(OK, OK)) as server:

        async def work(http: HttpClient, url: str) -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(http.request("GET", url))
            assert (await http.request("GET", url)).body == b"hi"
            assert (await http.request("POST", url, body=b"x")).body == b"hi"
            gate[0] = True

        ask(loop, server.port, work)
        assert gate[0]
        assert server.peers[3].received.count(b"HTTP/1.1") == 2


@both_loops
def test_a_post_is_sent_again_only_when_it_may_be(loop: str) -> None:
    once = answers(OK, then=lambda peer: (request_of(peer), slam(peer))[1])
    body: list[bytes] = []

    def whole(peer: Peer) -> None:
        request_of(peer)
        body.extend(peer.line() for _ in range(6))
        peer.send(OK)
        peer.until_gone()

    with Upstream(once, once, once, whole) as server:

        async def work(http: HttpClient, url: str) -> None:
            await http.request("GET", url)
            with pytest.raises(HttpFailed, match="closed before its reply") as caught:
                await http.request("POST", url, body=b"x")
            assert caught.value.kind == "lost"
            await http.request("GET", url)
            with pytest.raises(HttpFailed):
                await http.request("POST", url, body=iter([b"x"]), repeatable=True)
            await http.request("GET", url)
            assert (await http.request("POST", url, body=[b"x", b"yz"], repeatable=True)).body == b"hi"

        ask(loop, server.port, work)
    assert body == [b"1", b"x", b"2", b"yz", b"0", b""]


@both_loops
def test_a_fresh_connection_that_is_closed_is_a_failure(loop: str) -> None:
    def script(peer: Peer) -> None:
        request_of(peer)

    with Upstream(script) as server:

        async def work(http: HttpClient, url: str) -> None:
            with pytest.raises(HttpFailed) as caught:
                await http.request("POST", url, repeatable=True)
            assert caught.value.kind == "lost"

        ask(loop, server.port, work)
        assert len(server.peers) == 1


def sending(*parts: bytes, then: Script = stall) -> Script:
    def script(peer: Peer) -> None:
        request_of(peer)
        for part in parts:
            peer.send(part)
        then(peer)

    return script


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
FAULTS: list[tuple[str, Script, str]] = [
    ("says nothing", sending(), "timeout"),
    ("stops in its status line", sending(b"HTTP/1."), "timeout"),
    ("stops in its headers", sending(b"HTTP/1.1 200 OK\r\nX: "), "timeout"),
    ("stops in its body", sending(HEAD + b"hal"), "timeout"),
    ("closes at once", slam, "lost"),
    ("resets behind the request", sending(then=slam_with_reset), "lost"),
    ("closes behind the request", sending(then=slam), "lost"),
    ("closes in its status line", sending(b"HTTP/1.", then=slam), "lost"),
    ("closes in its headers", sending(b"HTTP/1.1 200 OK\r\nX: ", then=slam), "lost"),
    ("closes in its body", sending(HEAD + b"hal", then=slam), "lost"),
    ("closes in a chunk", sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhal", then=slam), "lost"),
    ("speaks SMTP", sending(b"220 mail ESMTP\r\n"), "garbage"),
    ("has a NUL in a header", sending(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"), "garbage"),
    ("has a header without end", sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), "garbage"),
    ("never ends its headers", sending(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000), "garbage"),
    ("lies about its length", sending(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "garbage"),
    ("sends a huge body", sending(HEAD.replace(b"10", b"9999999999"), b"x" * 200_000), "too_large"),
    ("sends a body without end", sending(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000), "too_large"),
]


@both_loops
@pytest.mark.parametrize(("script", "kind"), [pytest.param(s, k, id=n) for n, s, k in FAULTS])
def test_faults_of_the_server(loop: str, script: Script, kind: str) -> None:
    with Upstream(script) as server:

        async def work(http: HttpClient, url: str) -> None:
            with pytest.raises(HttpFailed) as caught:
                seconds = 0.3 if kind == "timeout" else 10
                await http.request("GET", f"{url}&password=sesame", timeout=seconds, max_octets=100_000)
            assert caught.value.kind == kind
            assert str(caught.value).startswith(f"127.0.0.1:{server.port}: ")
            assert "sesame" not in str(caught.value)

        ask(loop, server.port, work)


@both_loops
def test_nobody_is_there(loop: str, tmp_path: Path) -> None:
    async def scene() -> None:
        async with client() as http:
            for url, unix, kind in (
                ("http://127.0.0.1:1/", None, "refused"),
                ("http://localhost/", tmp_path / "none", "refused"),
                ("http://popproxy.invalid/", None, "dns"),
            ):
                with pytest.raises(HttpFailed) as caught:
                    await http.request("GET", url, unix=unix)
                assert caught.value.kind == kind, url

    run(loop, scene)


@both_loops
def test_a_body_that_nobody_wants_is_not_waited_for(loop: str) -> None:
    """max_octets=0: the headers are the reply. A connection with an unread rest is not used again."""
    with Upstream(sending(HEAD + b"hal"), answers(OK, OK)) as server:

        async def work(http: HttpClient, url: str) -> None:
            for _ in range(3):
                assert (await http.request("GET", url, max_octets=0)).body == b""

        ask(loop, server.port, work)
        assert len(server.peers) == 2


@both_loops
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 500, 503])
def test_every_status_is_a_reply_and_no_redirect_is_followed(loop: str, status: int) -> None:
    reply = b"HTTP/1.1 %d Odd\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % status
    with Upstream(answers(reply)) as server:

        async def work(http: HttpClient, url: str) -> None:
            got = await http.request("GET", url)
            assert (got.status, got.header("location")) == (status, "http://127.0.0.1:1/")

        ask(loop, server.port, work)


@both_loops
def test_no_cookie_and_no_packed_body_is_made_of_a_reply(loop: str) -> None:
    reply = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    with Upstream(answers(reply, reply)) as server:

        async def work(http: HttpClient, url: str) -> None:
            assert (await http.request("GET", url)).body == b"abc"
            assert (await http.request("GET", url)).body == b"abc"

        ask(loop, server.port, work)
        assert b"ookie" not in server.received


@both_loops
def test_bodies_of_every_kind(loop: str) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        for _ in range(3):
            lines = request_of(peer)
            if b"Transfer-Encoding: chunked" in lines:
                body = b""
                while size := int(peer.line(), 16):
                    body += peer.line() + b"\n" * (size == 0)
                peer.line()
                seen.append(body)
            else:
                assert b"Content-Length: 3" in lines
                seen.append(b"".join(peer.line() for _ in range(1)))
            peer.send(OK)
        peer.until_gone()

    async def parts() -> AsyncIterator[bytes]:
        yield b"12"
        yield b"3"

    def plain() -> Iterator[bytes]:
        yield b"abc"
        yield b"def"

    with Upstream(script) as server:

        async def work(http: HttpClient, url: str) -> None:
            await http.request("POST", url, body=b"xy\n")
            await http.request("POST", url, body=plain())
            await http.request("POST", url, body=parts())

        ask(loop, server.port, work)
    assert seen == [b"xy", b"abcdef", b"123"]


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\0b"])
def test_nothing_breaks_a_header(value: str) -> None:
    async def scene() -> None:
        async with client() as http:
            with pytest.raises(ValueError, match="Auth-Pass") as caught:
                await http.request("GET", "http://127.0.0.1:1/", headers={"Auth-Pass": value})
            assert value not in str(caught.value)
            with pytest.raises(ValueError, match="no header name"):
                await http.request("GET", "http://127.0.0.1:1/", headers={"A\r\nB": "c"})
            for url in ("ftp://a/", "http:///x", "nothing", "http://a:99999/"):
                with pytest.raises(ValueError, match=r"http|[Pp]ort"):
                    await http.request("GET", url)

    run("asyncio", scene)


def tls(peer: Peer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    peer.tls(context)
    answers(OK)(peer)


@both_loops
def test_https_is_verified(loop: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(authority))
    with Upstream(tls) as server:

        async def scene() -> None:
            async with client() as http:
                url = f"https://localhost:{server.port}/"
                assert (await http.request("GET", url, ca_file=authority)).status == 200
                for wrong in ({"ca_file": None}, {"ca_file": str(authority), "host": "127.0.0.1"}):
                    at = url.replace("localhost", wrong.pop("host", "localhost") or "")
                    with pytest.raises(HttpFailed, match="certificate") as caught:
                        await http.request("GET", at, **wrong)  # type: ignore[arg-type]
                    assert caught.value.kind == "tls"
                with pytest.raises(HttpFailed, match="no CA certificates"):
                    await http.request("GET", url, ca_file=tmp_path / "none.pem")

        run(loop, scene)


@both_loops
def test_a_server_without_tls_is_no_https(loop: str) -> None:
    with Upstream(lambda peer: peer.send(b"220 mail ESMTP\r\n")) as server:

        async def scene() -> None:
            async with client() as http:
                with pytest.raises(HttpFailed) as caught:
                    await http.request("GET", f"https://127.0.0.1:{server.port}/")
                assert caught.value.kind == "tls"

        run(loop, scene)


@both_loops
def test_unix_sockets(loop: str, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await reader.read()
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "http")
        async with client() as http:
            assert (await http.request("GET", "http://rspamd/checkv2", unix=tmp_path / "http")).body == b"hi"
        server.close()
        await server.wait_closed()

    run(loop, scene)
    assert seen[0].startswith(b"GET /checkv2 HTTP/1.1\r\nHost: rspamd\r\n")


@both_loops
def test_a_server_that_takes_no_connection(loop: str) -> None:
    """Its backlog is full: the SYN is dropped, as by a firewall."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            queued = waiting.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())

        async def work(http: HttpClient, url: str) -> None:
            with pytest.raises(HttpFailed, match="not done within") as caught:
                await http.request("GET", url, timeout=0.3)
            assert caught.value.kind == "timeout"

        ask(loop, listener.getsockname()[1], work)


def test_aiohttp_is_not_loaded_before_somebody_asks() -> None:
    code = "import sys, popproxy.net.worker; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

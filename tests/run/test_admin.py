"""The admin listener over real sockets, on asyncio and on uvloop."""

import asyncio
import gzip
import json
import socket
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from popproxy.config.urls import Bind
from popproxy.metrics import WorkerMetrics, new_registry, render
from popproxy.net.binding import BindError
from popproxy.run.admin import Admin
from popproxy.run.admin.server import drop

LOOPBACK = Bind("inet", "127.0.0.1", 0)
Answer = tuple[int, dict[str, str], bytes]


class Stub:
    """What the process would say."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.accepts: list[str] = []
        self.threads: set[int] = set()
        self.called = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def render(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        self.threads.add(threading.get_ident())
        self.called.set()
        self.hold.wait(10)
        return b"popproxy_draining 0.0\n", "text/plain; version=0.0.4; charset=utf-8"

    def ready(self) -> str | None:
        return self.reason


def play(case: Callable[[Stub], Coroutine[Any, Any, None]], loop: str = "asyncio") -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(case(Stub()), 30))


async def connect(admin: Admin) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if admin.address.startswith("unix:"):
        return await asyncio.open_unix_connection(admin.address.removeprefix("unix:"))
    host, _, port = admin.address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


async def answer(reader: asyncio.StreamReader, body: bool = True) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    content = await reader.readexactly(int(headers["content-length"])) if body else b""
    return int(head[0].split()[1]), headers, content


async def ask(admin: Admin, request: str, *headers: str) -> Answer:
    reader, writer = await connect(admin)
    lines = [f"{request} HTTP/1.1", "Host: x", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    found = await answer(reader, not request.startswith("HEAD"))
    writer.close()
    return found


async def drain(reader: asyncio.StreamReader) -> int:
    """Read until the server closes, in whatever way; the octets that came."""
    octets = 0
    try:
        while chunk := await reader.read(1 << 16):
            octets += len(chunk)
    except ConnectionResetError:
        return octets
    return octets


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def started(stub: Stub, bind: Bind = LOOPBACK, **options: Any) -> Admin:
    admin = Admin(stub.render, stub.ready, **options)
    await admin.start(bind)
    return admin


def test_healthz(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        status, headers, body = await ask(admin, "GET /healthz")
        await admin.stop()
        assert (status, body) == (200, b"ok\n")
        assert headers["server"] == "popproxy"
        assert headers["cache-control"] == "no-store"

    play(case, loop)


def test_readyz(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        first = await ask(admin, "GET /readyz")
        stub.reason = "draining"
        second = await ask(admin, "GET /readyz")
        await admin.stop()
        assert (first[0], json.loads(first[2])) == (200, {"ready": True})
        assert (second[0], json.loads(second[2])) == (503, {"ready": False, "reason": "draining"})
        assert second[1]["content-type"].startswith("application/json")

    play(case, loop)


def test_metrics(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        status, headers, body = await ask(admin, "GET /metrics", "Accept: text/plain", "Accept: */*;q=0.1")
        await ask(admin, "GET /metrics")
        await admin.stop()
        assert (status, body) == (200, b"popproxy_draining 0.0\n")
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert stub.accepts == ["text/plain,*/*;q=0.1", ""]
        assert threading.get_ident() not in stub.threads, "not on the loop"

    play(case, loop)


def test_metrics_of_a_worker() -> None:
    async def case(stub: Stub) -> None:
        registry = new_registry()
        WorkerMetrics(registry, ["pop3"]).listener("pop3").connection()
        admin = Admin(lambda accept: render(registry, accept, pause=0.0001), stub.ready)
        await admin.start(LOOPBACK)
        _, plain, text = await ask(admin, "GET /metrics")
        _, openmetrics, open_text = await ask(admin, "GET /metrics", "Accept: application/openmetrics-text")
        _, packed, octets = await ask(admin, "GET /metrics", "Accept-Encoding: br, gzip;q=0.5")
        _, refused, _ = await ask(admin, "GET /metrics", "Accept-Encoding: gzip;q=0")
        await admin.stop()
        assert b'\npopproxy_connections_total{listener="pop3"} 1.0\n' in text
        assert packed["content-encoding"] == "gzip"
        assert b'\npopproxy_connections_total{listener="pop3"} 1.0\n' in gzip.decompress(octets)
        assert "content-encoding" not in plain and "content-encoding" not in refused
        assert plain["content-type"].startswith("text/plain")
        assert openmetrics["content-type"].startswith("application/openmetrics-text")
        assert open_text.endswith(b"# EOF\n")

    play(case)


def test_the_loop_answers_while_a_scrape_is_rendered(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        stub.hold.clear()
        scrape = asyncio.ensure_future(ask(admin, "GET /metrics"))
        assert await asyncio.to_thread(stub.called.wait, 10)
        assert (await ask(admin, "GET /healthz"))[0] == 200
        assert not scrape.done()
        stub.hold.set()
        assert (await scrape)[0] == 200
        await admin.stop()

    play(case, loop)


def test_head_has_no_body() -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        status, headers, _ = await ask(admin, "HEAD /healthz")
        await admin.stop()
        assert (status, headers["content-length"]) == (200, "3")

    play(case)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("GET /", 404), ("GET /metrics/x", 404), ("POST /metrics", 405), ("DELETE /readyz", 405)],
)
def test_other_requests_are_refused(request_line: str, status: int) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        found = await ask(admin, request_line, "Content-Length: 0")
        await admin.stop()
        assert found[0] == status
        assert found[1]["server"] == "popproxy"

    play(case)


@pytest.mark.parametrize(
    "octets", [b"USER someone\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", b"GET /" + b"x" * 9000]
)
def test_what_is_no_request_is_refused(octets: bytes) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        reader, writer = await connect(admin)
        writer.write(octets)
        status, _, _ = await answer(reader)
        await drain(reader)
        writer.close()
        assert status == 400
        assert (await ask(admin, "GET /healthz"))[0] == 200
        await admin.stop()

    play(case)


def test_connections_are_kept_and_requests_pipelined(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        reader, writer = await connect(admin)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        assert [(await answer(reader))[0] for _ in range(3)] == [200, 200, 200]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""
        writer.close()
        await admin.stop()

    play(case, loop)


@pytest.mark.parametrize("begin", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost:"])
def test_a_request_that_never_ends_is_closed(loop: str, begin: bytes) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub, idle=0.2)
        reader, writer = await connect(admin)
        for octet in range(len(begin)):
            writer.write(begin[octet : octet + 1])
        await drain(reader)
        writer.close()
        await admin.stop()

    play(case, loop)


def test_dripping_does_not_extend_the_time() -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub, idle=0.3)
        reader, writer = await connect(admin)
        writer.write(b"GET /metrics HTTP/1.1\r\nX: ")

        async def drip() -> None:
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.ensure_future(drip())
        await drain(reader)
        dripping.cancel()
        writer.close()
        await admin.stop()

    play(case)


def test_an_answer_that_nobody_takes_is_given_up(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = Admin(lambda accept: (b"x" * (32 << 20), "text/plain"), stub.ready, idle=0.3)
        await admin.start(LOOPBACK)
        reader, writer = await connect(admin)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(1.0)
        assert await drain(reader) < 32 << 20
        writer.close()
        await admin.stop()

    play(case, loop)


def test_stop_does_not_wait_for_a_client_that_takes_nothing(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = Admin(lambda accept: (b"x" * (32 << 20), "text/plain"), stub.ready)
        await admin.start(LOOPBACK)
        reader, writer = await connect(admin)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(admin.stop(), 10)
        assert await drain(reader) < 32 << 20
        writer.close()

    play(case, loop)


def test_a_connection_that_is_gone_is_closed_without_a_word() -> None:
    class Gone:
        transport = None
        closed = 0

        def force_close(self) -> None:
            self.closed += 1

    gone = Gone()
    drop(cast(Any, gone))
    assert gone.closed == 1


def test_a_connection_in_use_is_kept(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub, idle=0.4)
        reader, writer = await connect(admin)
        for _ in range(8):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.1)
        writer.close()
        await admin.stop()

    play(case, loop)


def test_the_oldest_connection_goes_when_there_are_too_many(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub, connections=2)
        first, second = await connect(admin), await connect(admin)
        for _, writer in (first, second):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [(await answer(reader))[0] for reader, _ in (first, second)] == [200, 200]
        third = await connect(admin)
        third[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(third[0]))[0] == 200
        await drain(first[0])
        second[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(second[0]))[0] == 200, "the second stayed"
        for _, writer in (first, second, third):
            writer.close()
        await admin.stop()

    play(case, loop)


def test_ipv6() -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub, Bind("inet", "::1", 0))
        assert admin.address.startswith("[::1]:")
        assert (await ask(admin, "GET /healthz"))[0] == 200
        await admin.stop()

    play(case)


def test_unix_socket(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "admin.sock"

    async def case(stub: Stub) -> None:
        admin = await started(stub, Bind("unix", path=str(path), mode=0o600))
        assert admin.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask(admin, "GET /healthz"))[0] == 200
        await admin.stop()
        assert not path.exists()

    play(case, loop)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def case(stub: Stub) -> None:
        admin = await started(stub, Bind("unix", path=str(path), mode=0o660))
        assert (await ask(admin, "GET /healthz"))[0] == 200
        await admin.stop()

    play(case)


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def case(stub: Stub) -> None:
        admin = await started(stub, Bind("unix", path=str(path)))
        with pytest.raises(BindError, match=r"^admin listener: cannot listen on unix:.*; another program listens"):
            await started(stub, Bind("unix", path=str(path)))
        assert (await ask(admin, "GET /healthz"))[0] == 200
        await admin.stop()

    play(case)


def test_a_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("keep me")

    async def case(stub: Stub) -> None:
        with pytest.raises(BindError, match="a file that is no socket"):
            await started(stub, Bind("unix", path=str(path)))

    play(case)
    assert path.read_text() == "keep me"


def test_a_socket_that_was_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"

    async def case(stub: Stub) -> None:
        admin = await started(stub, Bind("unix", path=str(path)))
        path.unlink()
        await admin.stop()
        admin = await started(stub, Bind("unix", path=str(path)))
        path.rename(tmp_path / "moved")
        path.write_text("another")
        await admin.stop()

    play(case)
    assert path.read_text() == "another"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    async def case(stub: Stub) -> None:
        with pytest.raises(BindError, match=r"unix:.*missing/admin.sock: No such file.*make it or take another path"):
            await started(stub, Bind("unix", path=str(tmp_path / "missing" / "admin.sock")))

    play(case)


def test_a_port_in_use_is_named() -> None:
    async def case(stub: Stub) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(BindError, match=f"127.0.0.1:{port}: Address already in use; another program listens"):
                await started(stub, Bind("inet", "127.0.0.1", port))

    play(case)


def test_stop_frees_the_port_and_may_be_repeated(loop: str) -> None:
    async def case(stub: Stub) -> None:
        admin = await started(stub)
        reader, writer = await connect(admin)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await answer(reader)
        await admin.stop()
        await admin.stop()
        await drain(reader)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(admin)

    play(case, loop)


def test_a_render_that_raises_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def broken(accept: str) -> tuple[bytes, str]:
        raise RuntimeError("broken")

    async def case(stub: Stub) -> None:
        admin = Admin(broken, stub.ready)
        await admin.start(LOOPBACK)
        assert (await ask(admin, "GET /metrics"))[0] == 500
        assert (await ask(admin, "GET /healthz"))[0] == 200
        await admin.stop()

    play(case)
    assert "Error handling request" in caplog.text

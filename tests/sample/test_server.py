"""The sample server over sockets: real clients, back-pressure, time-outs, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import poplib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from popproxy.sample import SampleServer, maildir
from popproxy.sample.maildir import InUseError, Maildir, Maildrop
from popproxy.sample.server import _Connection
from popproxy.sample.session import Session
from popproxy.wire.dots import stuff
from tests.letters import DIFFICULT, as_sent, write_maildir

PASSWORDS = {"alice": "secret"}
LETTERS = [("first", b"Subject: 1\n\none\n.two\n"), ("second", b"Subject: 2\n\nthree")]
LOGIN = b"USER alice\r\nPASS secret\r\n"
WAIT = 20.0  # seconds after which a test gives up

poplib._MAXLINE = 1 << 24  # type: ignore[attr-defined]  # its 2048 octets are too few for DIFFICULT

Serve = Callable[..., AbstractContextManager[int]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def box(tmp_path: Path) -> Path:
    write_maildir(tmp_path / "box", LETTERS)
    return tmp_path / "box"


@pytest.fixture(params=["asyncio", "uvloop"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """``with serve(maildir, **options) as port``: the server in a thread of its own, on either loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    @contextmanager
    def serving(directory: Path, **options: Any) -> Iterator[int]:
        port: Future[int] = Future()
        loop_and_end: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def main() -> None:
            end = asyncio.Event()
            try:
                async with SampleServer({"alice": directory}, PASSWORDS, **options) as server:
                    loop_and_end.set_result((asyncio.get_running_loop(), end))
                    port.set_result(server.port)
                    await end.wait()
            except OSError as error:
                port.set_exception(error)

        def run() -> None:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield port.result(WAIT)
        finally:
            if loop_and_end.done():
                loop, end = loop_and_end.result()
                loop.call_soon_threadsafe(end.set)
            thread.join(WAIT)
            assert not thread.is_alive(), "the server did not stop"

    return serving


@contextmanager
def connected(port: int, **options: Any) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), WAIT) as client:
        for name, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        yield client


def read_all(client: socket.socket) -> bytes:
    """Until the server closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def read_until(client: socket.socket, end: bytes) -> bytes:
    said = b""
    while not said.endswith(end):
        more = client.recv(65536)
        assert more, said[-200:]
        said += more
    return said


def freed(box: Path) -> bool:
    """Whether the maildrop becomes free within the time a test waits."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        with contextlib.suppress(InUseError):
            Maildir(box).open().close()
            return True
        time.sleep(0.01)
    return False


def session_with(client: poplib.POP3) -> None:
    """What an ordinary client does, with the two LETTERS."""
    client.user("alice")
    assert client.pass_("secret") == b"+OK 2 messages (46 octets)"
    assert client.stat() == (2, 46)
    assert client.list()[1] == [b"1 25", b"2 21"]
    assert client.uidl()[1] == [b"1 1600000001.M000001P1.first", b"2 1600000002.M000002P1.second"]
    assert client.retr(1)[1] == [b"Subject: 1", b"", b"one", b".two"]
    assert client.top(1, 1)[1] == [b"Subject: 1", b"", b"one"]
    client.dele(1)
    assert client.quit() == b"+OK Goodbye"


@pytest.mark.parametrize("way", ["clear", "stls", "implicit"])
def test_poplib(serve: Serve, box: Path, tls: ssl.SSLContext, trust: ssl.SSLContext, way: str) -> None:
    offered = None if way == "clear" else tls
    with serve(box, tls=offered, implicit_tls=way == "implicit", clear_auth=way == "clear") as port:
        if way == "implicit":
            session_with(poplib.POP3_SSL("localhost", port, timeout=WAIT, context=trust))
        else:
            client = poplib.POP3("localhost", port, timeout=WAIT)
            assert ("STLS" in client.capa()) == (way == "stls")
            if way == "stls":
                client.stls(trust)
                assert "STLS" not in client.capa()
            session_with(client)
    assert [path.name.rpartition(".")[2] for path in box.glob("*/*")] == ["second"]


def test_poplib_apop_and_utf8(serve: Serve, tmp_path: Path) -> None:
    write_maildir(tmp_path, [("eight", "Subject: Brötchen\n\n".encode())])
    with serve(tmp_path, apop_secrets={"alice": "shared"}) as port:
        client = poplib.POP3("127.0.0.1", port, timeout=WAIT)
        client.utf8()
        client.apop("alice", "shared")
        assert client.retr(1)[1] == ["Subject: Brötchen".encode(), b""]
        client.quit()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("way", ["clear", "stls", "implicit"])
@pytest.mark.parametrize("login", ["", ";AUTH=PLAIN", ";AUTH=LOGIN"])
def test_curl(
    serve: Serve, box: Path, tls: ssl.SSLContext, authority: trustme.CA, way: str, login: str
) -> None:
    offered = None if way == "clear" else tls
    scheme = "pop3s" if way == "implicit" else "pop3"

    def curl(path: str, *more: str) -> bytes:
        url = f"{scheme}://localhost:{port}/{path}"
        options = ["-sS", "--max-time", "15", "--user", "alice:secret", "--cacert", str(bundle), *more]
        if way == "stls":
            options.append("--ssl-reqd")
        if login:
            options += ["--login-options", login[1:]]
        done = subprocess.run(["curl", *options, url], capture_output=True, timeout=WAIT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with serve(box, tls=offered, implicit_tls=way == "implicit", clear_auth=way == "clear") as port:
        bundle = box / "tmp" / "authority.pem"
        authority.cert_pem.write_to_path(str(bundle))
        assert curl("") == b"1 25\r\n2 21\r\n"
        assert curl("1") == b"Subject: 1\r\n\r\none\r\n.two\r\n"
        assert curl("2", "--sasl-ir") == b"Subject: 2\r\n\r\nthree\r\n"


@pytest.mark.parametrize("way", ["clear", "implicit"])
def test_every_difficult_letter_pipelined(
    serve: Serve, tmp_path: Path, tls: ssl.SSLContext, trust: ssl.SSLContext, way: str
) -> None:
    """All RETR in one go: what comes back is every file in wire form, stuffed, in order, and nothing else."""
    write_maildir(tmp_path)
    numbers = range(1, len(DIFFICULT) + 1)
    commands = b"UTF8\r\n" + LOGIN + b"".join(b"RETR %d\r\n" % number for number in numbers) + b"QUIT\r\n"
    implicit = way == "implicit"
    with (
        serve(tmp_path, tls=tls if implicit else None, implicit_tls=implicit) as port,
        connected(port) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") if implicit else plain as client,
    ):
        client.sendall(commands)
        said = read_all(client)
    replies = [b"+OK UTF-8 is welcome\r\n", b"+OK Send PASS\r\n"]
    sizes = [len(as_sent(stored)) for _, stored in DIFFICULT]
    replies.append(b"+OK %d messages (%d octets)\r\n" % (len(sizes), sum(sizes)))
    for size, (_, stored) in zip(sizes, DIFFICULT, strict=True):
        replies.append(b"+OK %d octets\r\n" % size + stuff(as_sent(stored)))
    wanted = b"+OK popproxy sample mailbox ready\r\n" + b"".join(replies) + b"+OK Goodbye\r\n"
    assert said == wanted


def test_a_client_that_half_closes_gets_its_replies(serve: Serve, box: Path) -> None:
    with serve(box) as port, connected(port) as client:
        client.sendall(LOGIN + b"DELE 1\r\nSTAT\r\n")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).endswith(b"+OK 1 21\r\n")
    assert len(list(box.glob("new/*"))) == 2


def test_a_client_that_drops_deletes_nothing_and_frees_the_maildrop(serve: Serve, box: Path) -> None:
    with serve(box) as port:
        with connected(port) as client:
            client.sendall(LOGIN + b"DELE 1\r\n")
            read_until(client, b"at QUIT\r\n")
        assert freed(box)
        assert len(list(box.glob("new/*"))) == 2


def test_two_sessions_on_one_maildrop(serve: Serve, box: Path) -> None:
    with serve(box) as port:
        first = poplib.POP3("127.0.0.1", port, timeout=WAIT)
        first.user("alice")
        first.pass_("secret")
        second = poplib.POP3("127.0.0.1", port, timeout=WAIT)
        second.user("alice")
        with pytest.raises(poplib.error_proto, match="IN-USE"):
            second.pass_("secret")
        first.quit()
        second.user("alice")
        second.pass_("secret")
        second.quit()


def test_a_slow_client_holds_little_of_a_large_message(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server must not read the file faster than the client takes it."""
    stored = b"Subject: large\n\n" + b"x" * 63 + b"\n" + (b"y" * 63 + b"\n") * 500_000
    write_maildir(tmp_path, [("large", stored)])
    read = 0
    plain_chunks = maildir.wire_chunks

    def counted(file: Any) -> Iterator[bytes]:
        nonlocal read
        for chunk in plain_chunks(file):
            read += len(chunk)
            yield chunk

    with serve(tmp_path) as port, connected(port, SO_RCVBUF=65536) as client:
        client.sendall(LOGIN)
        read_until(client, b" octets)\r\n")
        monkeypatch.setattr("popproxy.sample.transaction.wire_chunks", counted)
        client.sendall(b"RETR 1\r\n")
        settled = 0
        until = time.monotonic() + WAIT
        while (read == 0 or read != settled) and time.monotonic() < until:
            settled = read
            time.sleep(0.1)
        assert 0 < settled < len(stored) // 2
        client.sendall(b"QUIT\r\n")
        said = read_all(client)
    assert said.endswith(b"y\r\n.\r\n+OK Goodbye\r\n")
    assert len(said) > len(as_sent(stored)) == read


def test_commands_glued_behind_stls_are_not_heard(serve: Serve, box: Path, tls: ssl.SSLContext) -> None:
    with serve(box, tls=tls) as port, connected(port) as client:
        client.sendall(b"STLS\r\n" + LOGIN)
        assert read_all(client).endswith(b"-ERR Nothing may follow STLS before the handshake\r\n")


def test_commands_in_clear_after_stls_break_the_handshake(
    serve: Serve, box: Path, tls: ssl.SSLContext
) -> None:
    with serve(box, tls=tls) as port, connected(port) as client:
        client.sendall(b"STLS\r\n")
        read_until(client, b"+OK Begin TLS\r\n")
        with contextlib.suppress(ConnectionResetError):
            client.sendall(LOGIN)
            assert b"+OK" not in read_all(client)
        assert freed(box)


def test_a_command_that_comes_with_the_end_of_the_handshake_is_heard(
    serve: Serve, box: Path, tls: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    with serve(box, tls=tls) as port, connected(port) as client:
        client.sendall(b"STLS\r\n")
        read_until(client, b"+OK Begin TLS\r\n")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            inner.do_handshake()
        client.sendall(outgoing.read())
        while inner.version() is None or inner.cipher() is None or outgoing.pending == 0:
            incoming.write(client.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                inner.do_handshake()
        inner.write(LOGIN + b"STAT\r\n")
        client.sendall(outgoing.read())
        said = b""
        while not said.endswith(b"+OK 2 46\r\n"):
            with contextlib.suppress(ssl.SSLWantReadError):
                said += inner.read(65536)
                continue
            incoming.write(client.recv(65536))
        inner.write(b"QUIT\r\n")
        client.sendall(outgoing.read())
        assert said.startswith(b"+OK Send PASS\r\n")
        assert freed(box)


@pytest.mark.parametrize("logged_in", [False, True])
def test_an_idle_client_is_cut_without_a_word(serve: Serve, box: Path, logged_in: bool) -> None:
    with serve(box, idle_timeout=0.3) as port, connected(port) as client:
        client.sendall(LOGIN + b"DELE 1\r\nNOOP\r\n" if logged_in else b"NOOP")
        said = read_all(client)
        assert said.endswith(b"+OK\r\n" if logged_in else b"ready\r\n")
        assert freed(box)
    assert len(list(box.glob("new/*"))) == 2


def test_a_client_that_takes_nothing_is_cut(serve: Serve, tmp_path: Path) -> None:
    write_maildir(tmp_path, [("large", b"\n" + b"x" * 16_000_000)])
    with serve(tmp_path, idle_timeout=0.5) as port, connected(port, SO_RCVBUF=4096) as client:
        client.sendall(LOGIN + b"RETR 1\r\nQUIT\r\n")
        assert freed(tmp_path)


def test_stop_cuts_sessions_and_deletes_nothing(serve: Serve, box: Path) -> None:
    with contextlib.ExitStack() as running:
        port = running.enter_context(serve(box))
        client = running.enter_context(connected(port))
        client.sendall(LOGIN + b"DELE 1\r\n")
        read_until(client, b"at QUIT\r\n")
        idle = running.enter_context(connected(port))
        read_until(idle, b"ready\r\n")
        client_end = client.dup()
    with client_end, contextlib.suppress(ConnectionResetError):
        assert client_end.recv(100) == b""
    assert freed(box)
    assert len(list(box.glob("new/*"))) == 2


def test_nagle_is_off_on_both_ways(serve: Serve, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    made = SampleServer._connection

    def spying(self: SampleServer) -> Any:
        connection = made(self)
        started = connection.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            started(transport)
            seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        monkeypatch.setattr(connection, "connection_made", connection_made)
        return connection

    monkeypatch.setattr(SampleServer, "_connection", spying)
    with serve(box) as port, connected(port) as client:
        read_until(client, b"ready\r\n")
    assert seen == [1]


def test_a_failing_session_is_reported_and_the_server_lives(
    serve: Serve, box: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Maildir) -> None:
        raise RuntimeError("a mistake in the server")

    with serve(box) as port:
        with monkeypatch.context() as patch, connected(port) as client:
            patch.setattr(Maildir, "open", broken)
            client.sendall(LOGIN)
            with contextlib.suppress(ConnectionResetError):
                assert read_all(client).endswith(b"+OK Send PASS\r\n")
        session_with(poplib.POP3("127.0.0.1", port, timeout=WAIT))
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "a session of the sample server failed" in record.getMessage()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"passwords": {}}, r"missing for \['alice'\]"),
        ({"passwords": {**PASSWORDS, "bob": "x"}}, r"missing for \['bob'\]"),
        ({"apop_secrets": {"bob": "x"}}, r"without a Maildir: \['bob'\]"),
        ({"implicit_tls": True}, "needs a certificate"),
        ({"clear_auth": False}, "lets nobody log in"),
        ({"mechanisms": ("PLAIN", "CRAM-MD5")}, "does not speak: .'CRAM-MD5'."),
    ],
)
def test_options_that_do_not_fit_are_refused(box: Path, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SampleServer({"alice": box}, **{"passwords": PASSWORDS, **options})


def test_a_directory_that_is_no_maildir_is_named(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "new")), serve(tmp_path):
        pass


@pytest.mark.asyncio
async def test_port_start_and_stop(box: Path) -> None:
    server = SampleServer({"alice": box}, PASSWORDS)
    with pytest.raises(RuntimeError, match="before start"):
        _ = server.port
    await server.stop()
    await server.start()
    port = server.port
    await server.stop()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    assert "secret" not in repr(server._offer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def shake_hands(
    inner: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, reader: asyncio.StreamReader
) -> bytes:
    """The client's answer to the server's part of the handshake, not sent yet."""
    while not outgoing.pending:
        incoming.write(await reader.read(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            inner.do_handshake()
    return outgoing.read()


@pytest.mark.asyncio
async def test_a_handshake_that_outlives_stop_opens_no_session(
    box: Path, tls: ssl.SSLContext, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []
    monkeypatch.setattr(Session, "receive", lambda self, data: heard.append(data))
    server = SampleServer({"alice": box}, PASSWORDS, tls=tls, implicit_tls=True)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        inner.do_handshake()
    writer.write(outgoing.read())
    finished = await shake_hands(inner, incoming, outgoing, reader)
    await server.stop()
    inner.write(LOGIN)
    writer.write(finished + outgoing.read())
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.wait_for(reader.read(65536), WAIT):
            pass
    await hang_up(writer)
    assert heard == []


@pytest.mark.asyncio
async def test_stop_waits_for_a_maildrop_that_is_being_opened(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    open_now = Maildir.open

    def slowly(self: Maildir) -> Maildrop:
        maildrop = open_now(self)
        opening.set()
        go_on.wait(WAIT)
        return maildrop

    server = SampleServer({"alice": box}, PASSWORDS)
    await server.start()
    with monkeypatch.context() as patch:
        patch.setattr(Maildir, "open", slowly)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LOGIN)
        assert await asyncio.to_thread(opening.wait, WAIT)
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        go_on.set()
        await stopping
    await hang_up(writer)
    Maildir(box).open().close()


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", ["late octets", "client left"])
async def test_a_handshake_that_cannot_begin_ends_the_session(
    box: Path,
    tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    """A loop that delivers octets although reading stands still; a client that leaves at the wrong moment."""
    start_tls = _Connection._start_tls

    async def start_late(connection: _Connection) -> None:
        connection.data_received(LOGIN)
        await start_tls(connection)

    async def no_transport(*_: object, **__: object) -> None:
        return None

    if trouble == "late octets":
        monkeypatch.setattr(_Connection, "_start_tls", start_late)
    else:
        monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", no_transport)
    async with SampleServer({"alice": box}, PASSWORDS, tls=tls) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"STLS\r\n")
        said = await asyncio.wait_for(reader.read(), WAIT)
        await hang_up(writer)
    assert said == b"+OK popproxy sample mailbox ready\r\n+OK Begin TLS\r\n"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]

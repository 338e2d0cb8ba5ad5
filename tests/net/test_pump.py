"""The pump over real sockets: octets in both directions, half-close, back-pressure, effects, its own faults."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import (
    BodyFilter,
    Command,
    Edit,
    Fail,
    MessageView,
    Plugin,
    PluginConfig,
    Refuse,
    SessionView,
)
from popproxy.core.session import Session
from popproxy.net.pump import Pump
from popproxy.net.upstreamside import WRITE_HIGH
from popproxy.sample import SampleServer
from tests.letters import as_sent
from tests.net.memory import bounded
from tests.net.running import (
    PASSWORD,
    USER,
    Proxy,
    Setup,
    both_loops,
    client_context,
    eventually,
    half_close,
    pour,
    read_rest,
    running,
    sample,
)
from tests.net.tlspeers import BareClient
from tests.net.upstream import PATIENCE, Peer, Upstream, answering
from tests.wireclient import WireClient

SMALL = [("first", b"Subject: one\n\n.dots\n..\nend\n"), ("second", b"Subject: two\n\nbody\n")]
BLOCK = b"x" * 1022 + b"\r\n"
CHUNK = BLOCK * 64
HEAD = b"+OK\r\nSubject: large\r\n\r\n"
both_legs = pytest.mark.parametrize("tls", ["off", "implicit"])


def stuffed(message: bytes) -> bytes:
    lines = as_sent(message).split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)


def options(tls: str) -> dict[str, Any]:
    return {"implicit": client_context()} if tls == "implicit" else {}


def url(server: SampleServer) -> str:
    return f"pop3+clear://127.0.0.1:{server.port}"


def pump(proxy: Proxy) -> Pump:
    return next(iter(proxy.worker.fronts[0].pumps))


def large(chunks: int, after: bytes = b"+OK bye\r\n") -> Callable[[Peer], None]:
    """Answers RETR with ``chunks`` times 64 KiB, the next command with ``after``."""

    def script(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(HEAD)
        for _ in range(chunks):
            peer.send(CHUNK)
        peer.send(b".\r\n")
        peer.line()
        peer.send(after)
        peer.until_gone()

    return script


def take(client: WireClient, octets: int, digest: hashlib._Hash | None = None) -> bytes:
    """Read that many octets; the SHA-256 of all."""
    digest = digest or hashlib.sha256()
    while octets:
        data = client.socket.recv(min(1 << 16, octets))
        assert data, "closed too early"
        digest.update(data)
        octets -= len(data)
    return digest.digest()


def octets_of(chunks: int) -> int:
    return len(HEAD) + chunks * len(CHUNK) + len(b".\r\n")


def digest_of(chunks: int) -> bytes:
    digest = hashlib.sha256(HEAD)
    for _ in range(chunks):
        digest.update(CHUNK)
    digest.update(b".\r\n")
    return digest.digest()


@pytest.mark.parametrize("tls", ["off", "starttls", "implicit"])
@both_loops
def test_a_session_from_greeting_to_quit(loop: str, tls: str, tmp_path: Path) -> None:
    with sample(tmp_path, SMALL) as server, running(Setup([url(server)], loop, tls), tmp_path) as proxy:
        with proxy.client(**options(tls)) as client:
            if tls == "starttls":
                client.stls(client_context())
            assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
            assert client.single(b"STAT").startswith(b"+OK 2 ")
            assert client.multi(b"RETR 1").endswith(b"\r\n" + stuffed(SMALL[0][1]) + b".\r\n")
            assert client.single(b"DELE 2").startswith(b"+OK")
            assert client.single(b"QUIT").startswith(b"+OK")
            assert client.read_eof() == b""
        line = proxy.session()
    assert (line["reason"], line["state"], line["user"], line["login"]) == ("quit", "update", "alice", "alice")
    assert (line["client"], line["listener"], line["mechanism"]) == ("127.0.0.1", "main", "USER")
    assert line["tls"] == ("" if tls == "off" else "TLSv1.3")
    assert (line["server"], line["upstream"]) == (proxy.plan.upstreams["main"].servers[0].url[13:], "main")
    assert (line["retrieved"], line["deleted"]) == (1, 1)
    assert line["commands"] == {"USER": 1, "PASS": 1, "STAT": 1, "RETR": 1, "DELE": 1, "QUIT": 1} | (
        {"STLS": 1} if tls == "starttls" else {}
    )
    left = [path for folder in ("new", "cur") for path in (tmp_path / "Maildir" / folder).iterdir()]
    assert len(left) == 1


@both_legs
@both_loops
def test_octets_are_counted_on_both_legs(loop: str, tls: str, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        with running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
            with proxy.logged_in(**options(tls)) as client:
                client.single(b"STAT")
            line = proxy.session()
        sent = b"+OK POP3 ready\r\n" + b"+OK\r\n" + b"+OK welcome\r\n" + b"+OK 0 0\r\n"
        got = b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\nSTAT\r\n"
        assert (line["octets_in"], line["octets_out"]) == (len(got), len(sent))
        assert proxy.sample("transferred_bytes_total", side="client", direction="received") == len(got)
        assert proxy.sample("transferred_bytes_total", side="client", direction="sent") == len(sent)
        assert proxy.sample("transferred_bytes_total", side="upstream", direction="sent") == len(upstream.received)


@both_legs
@both_loops
def test_a_client_that_half_closes_behind_its_pipeline_gets_what_it_is_owed(
    loop: str, tls: str, tmp_path: Path
) -> None:
    def late(peer: Peer) -> None:
        peer.login()
        assert [peer.line() for _ in range(3)] == [b"STAT", b"UIDL", b"NOOP"]
        time.sleep(0.1)
        peer.send(b"+OK 1 2\r\n+OK\r\n1 a\r\n.\r\n+OK\r\n")
        peer.until_gone()

    with Upstream(late) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client:
            client.send(b"STAT\r\nUIDL\r\nNOOP\r\n")
            half_close(client)
            assert read_rest(client) == b"+OK 1 2\r\n+OK\r\n1 a\r\n.\r\n+OK\r\n"
        assert proxy.session()["reason"] == "client_eof"


@both_loops
def test_a_client_that_half_closes_in_a_message_gets_all_of_it(loop: str, tmp_path: Path) -> None:
    with Upstream(large(128)) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            client.send(b"RETR 1\r\n")
            whole = client.socket.recv(1)
            half_close(client)
            whole += read_rest(client)
        assert hashlib.sha256(whole).digest() == digest_of(128)
        line = proxy.session()
        assert (line["reason"], line["retrieved"]) == ("client_eof", 1)


@both_loops
def test_a_client_that_ends_its_tls_in_a_message_gets_all_of_it(loop: str, tmp_path: Path) -> None:
    with Upstream(large(128)) as upstream, running(Setup([upstream.url], loop, "implicit"), tmp_path) as proxy:
        with socket.create_connection(proxy.address(), PATIENCE) as sock:
            client = BareClient(sock, client_context())
            client.shake()
            client.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\nRETR 1\r\n")
            client.half_close()
            whole = client.read_to_end()
        assert hashlib.sha256(whole.partition(b"welcome\r\n")[2]).digest() == digest_of(128)
        line = proxy.session()
        assert (line["reason"], line["retrieved"]) == ("client_eof", 1)


@both_legs
@both_loops
def test_a_slow_client_holds_the_upstream_and_nothing_piles_up(loop: str, tls: str, tmp_path: Path) -> None:
    chunks = 1024
    with Upstream(large(chunks), quits=1) as upstream:
        with running(Setup([upstream.url], loop, tls), tmp_path) as proxy, proxy.client(**options(tls)) as client:
            client.user_pass(USER, PASSWORD)
            with bounded(16 << 20) as growth:
                client.send(b"RETR 1\r\n")
                eventually(lambda: proxy.sample("backpressure_pauses_total", side="upstream") > 0, "pause")
                time.sleep(0.2)
                held = proxy.call(buffered(proxy))
                assert WRITE_HIGH < held < WRITE_HIGH + (512 << 10)
                assert WRITE_HIGH < proxy.sample("buffered_bytes", side="client") < WRITE_HIGH + (512 << 10)
                growth.look()
                assert take(client, octets_of(chunks)) == digest_of(chunks)
            client.send(b"QUIT\r\n")
            assert client.read_eof() == b"+OK bye\r\n"
        assert proxy.session()["reason"] == "quit"
        assert proxy.sample("buffered_bytes", side="client") == 0


async def buffered(proxy: Proxy) -> int:
    """What the client's transport holds."""
    client = pump(proxy)._client
    assert client is not None
    return client.get_write_buffer_size()


@both_loops
def test_a_slow_upstream_holds_the_client(loop: str, tmp_path: Path) -> None:
    """An upload (XTND XMIT) is the only thing a client can send without end."""
    go = threading.Event()

    def slow(peer: Peer) -> None:
        peer.login()
        assert peer.line() == b"XTND XMIT"
        peer.send(b"+OK\r\n")
        assert go.wait(PATIENCE)
        while not peer.received.endswith(b"\r\n.\r\n"):
            peer._receive()
        peer.send(b"+OK sent\r\n")
        peer.until_gone()

    tail = '[protocol]\nopen = ["XTND XMIT"]'
    with Upstream(slow) as upstream, running(Setup([upstream.url], loop, tail=tail), tmp_path) as proxy:
        with proxy.logged_in() as client:
            assert client.single(b"XTND XMIT") == b"+OK\r\n"
            sender = threading.Thread(target=client.send, args=(CHUNK * 512 + b".\r\n",))
            sender.start()
            eventually(lambda: proxy.sample("backpressure_pauses_total", side="client") > 0, "pause")
            assert sender.is_alive()
            assert proxy.sample("buffered_bytes", side="upstream") > WRITE_HIGH
            go.set()
            assert client.read_line() == b"+OK sent\r\n"
            sender.join(PATIENCE)
    assert upstream.received.endswith(BLOCK + b".\r\n")
    assert upstream.received.count(BLOCK) == 512 * 64


@both_legs
@both_loops
def test_a_hundred_thousand_commands_at_once_are_answered_in_order(loop: str, tls: str, tmp_path: Path) -> None:
    total = 100_000

    def counting(peer: Peer) -> None:
        peer.login()
        seen = 0
        rest = b""
        while seen < total:
            before = len(peer.received)
            peer._receive()
            *lines, rest = (rest + bytes(peer.received[before:])).split(b"\r\n")
            assert set(lines) <= {b"NOOP"}
            peer.send(b"".join(b"+OK %d\r\n" % number for number in range(seen, seen + len(lines))))
            seen += len(lines)
        peer.until_gone()

    with Upstream(counting) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        with proxy.logged_in(**options(tls)) as client, bounded(24 << 20) as growth:
            expected = b"".join(b"+OK %d\r\n" % number for number in range(total))
            assert pour(client, b"NOOP\r\n" * total, len(expected), growth.look) == expected
        assert proxy.session()["commands"]["NOOP"] == total


class Scan(Plugin[PluginConfig]):
    """Looks at whole messages."""

    def on_message(self, session: SessionView, command: Command, message: MessageView) -> Edit:
        octets = sum(len(chunk) for chunk in message.chunks())
        return Edit(add=(("X-Octets", str(octets)),))


@both_legs
@both_loops
def test_a_spooled_message_larger_than_memory_goes_through(loop: str, tls: str, tmp_path: Path) -> None:
    chunks = 1024
    with Upstream(large(chunks)) as upstream:
        setup = Setup([upstream.url], loop, tls, plugins=[Scan(PluginConfig())])
        with running(setup, tmp_path) as proxy, proxy.logged_in(**options(tls)) as client:
            with bounded(24 << 20) as growth:
                client.send(b"RETR 1\r\n")
                assert client.read_line() == b"+OK\r\n"
                assert client.read_line() == b"X-Octets: %d\r\n" % (octets_of(chunks) - len(b"+OK\r\n.\r\n"))
                growth.look()
                held = bytes(client._buffer)
                client._buffer.clear()
                left = octets_of(chunks) - len(b"+OK\r\n") - len(held)
                assert take(client, left, hashlib.sha256(b"+OK\r\n" + held)) == digest_of(chunks)
            assert client.single(b"NOOP") == b"+OK bye\r\n"


class Hooked(Plugin[PluginConfig]):
    """Does at NOOP what it is told."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__(PluginConfig())
        self.act = act
        self.ended = threading.Event()

    async def on_command(self, session: SessionView, command: Command) -> Refuse | None:
        if command.verb.name != b"NOOP":
            return None
        try:
            outcome: Refuse | None = await self.act()
            return outcome
        finally:
            self.ended.set()


async def refuse() -> Refuse:
    await asyncio.sleep(0.01)
    return Refuse("not now", None)


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("of the plugin")


async def leave() -> None:
    raise SystemExit(3)


async def cancel() -> None:
    raise asyncio.CancelledError


async def hang() -> None:
    await asyncio.sleep(PATIENCE)


async def stubborn() -> None:
    for _ in range(5):
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            continue


async def late_failure() -> None:
    try:
        await asyncio.sleep(PATIENCE)
    finally:
        raise ValueError("too late for anybody")


@pytest.mark.parametrize("mode", Fail)
@pytest.mark.parametrize("act", [fail, leave, cancel, hang, stubborn, late_failure])
@both_loops
def test_an_async_hook_that_fails_is_contained(
    loop: str, act: Callable[[], Any], mode: Fail, tmp_path: Path
) -> None:
    plugin = Hooked(act)
    with Upstream(answering(b"+OK\r\n", b"+OK 0 0\r\n")) as upstream:
        setup = Setup([upstream.url], loop, plugins=[plugin], fail=mode, deadline=0.1)
        with running(setup, tmp_path) as proxy, proxy.logged_in() as client:
            reply = client.single(b"NOOP")
            assert reply.startswith(b"+OK" if mode is Fail.OPEN else b"-ERR [SYS/TEMP]")
            assert client.single(b"STAT").startswith(b"+OK")
            line = proxy.wait("plugin_error")
            assert line["action"] == f"fail_{mode.value}" and line["hook"] == "on_command"
            assert plugin.ended.wait(PATIENCE)


@both_loops
def test_an_async_hook_refuses(loop: str, tmp_path: Path) -> None:
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        with running(Setup([upstream.url], loop, plugins=[Hooked(refuse)]), tmp_path) as proxy:
            with proxy.logged_in() as client:
                client.send(b"NOOP\r\nSTAT\r\nNOOP\r\n")
                no = b"-ERR not now\r\n"
                assert [client.read_line() for _ in range(3)] == [no, b"+OK 0 0\r\n", no]
    assert b"NOOP" not in upstream.received


@both_loops
def test_a_client_that_leaves_while_a_hook_is_awaited(loop: str, tmp_path: Path) -> None:
    plugin = Hooked(hang)
    with Upstream(answering(b"+OK\r\n")) as upstream:
        with running(Setup([upstream.url], loop, plugins=[plugin], deadline=0.3), tmp_path) as proxy:
            with proxy.logged_in() as client:
                client.send(b"NOOP\r\n")
            assert proxy.session()["reason"] in ("client_eof", "client_reset")
            assert plugin.ended.wait(PATIENCE)


class Rude(Plugin[PluginConfig]):
    """Fails where nobody is left to be told."""

    def on_close(self, session: SessionView, summary: Any) -> None:
        raise ValueError("of the plugin")


@both_loops
def test_a_failing_on_close_is_logged(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, plugins=[Rude(PluginConfig())]), tmp_path) as proxy:
            proxy.logged_in().close()
            proxy.session()
            assert proxy.wait("plugin_error")["hook"] == "on_close"


@pytest.mark.parametrize("at", ["client_data", "upstream_data", "done", "tick", "client_eof"])
@both_loops
def test_a_fault_of_ours_ends_one_session_and_no_other(
    loop: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = threading.Event()
    real: Callable[..., None] = getattr(Session, at)

    def broken(session: Session, *details: Any) -> None:
        real(session, *details)
        if armed.is_set() and session.view.user == "alice":
            raise ZeroDivisionError("ours")

    monkeypatch.setattr(Session, at, broken)
    plugin = Hooked(refuse)
    with Upstream(answering(b"+OK\r\n")) as upstream:
        setup = Setup([upstream.url], loop, plugins=[plugin], timeouts={"idle": 0.3 if at == "tick" else 60.0})
        with running(setup, tmp_path, faults=1) as proxy, proxy.client() as other, proxy.logged_in() as client:
            armed.set()
            if at != "tick":
                client.send(b"NOOP\r\n" if at == "done" else b"RSET\r\n")
            if at == "client_eof":
                assert client.read_line() == b"+OK\r\n"
                half_close(client)
            with pytest.raises((EOFError, ConnectionError)):
                while True:
                    client.read_line()
            assert other.single(b"CAPA").startswith(b"+OK")
            line = proxy.session()
            # What ended the session before the fault, if anything did; uvloop's timers may be a moment early.
            allowed = {"client_eof": {"client_eof"}, "tick": {"idle_timeout", "internal_error"}}
            assert line["reason"] in allowed.get(at, {"internal_error"})
            fault = proxy.wait("internal_error")
            assert fault["session"] == line["session"] and "broken" in fault["where"]


@pytest.mark.parametrize("also", ["end", "summary"])
@both_loops
def test_a_fault_behind_a_fault_still_ends_the_session(
    loop: str, also: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    with Upstream(answering(b"+OK\r\n")) as upstream:
        with running(Setup([upstream.url], loop), tmp_path, faults=4 if also == "end" else 2) as proxy:
            with proxy.logged_in() as client:
                with monkeypatch.context() as patch:
                    patch.setattr(Session, "client_data", broken)
                    patch.setattr(Session, also, broken)
                    client.send(b"NOOP\r\n")
                    with pytest.raises((EOFError, ConnectionError)):
                        client.read_line()
                    eventually(lambda: proxy.worker.sessions == 0, "end of the session")
            eventually(lambda: proxy.total("connections_active") == 0, "end of the connection")
            with proxy.logged_in() as client:
                assert client.single(b"NOOP") == b"+OK\r\n"


class Slow(BodyFilter):
    """Holds everything back until the end."""

    def __init__(self) -> None:
        self.held = b""

    def feed(self, chunk: bytes) -> bytes:
        self.held += chunk
        return b""

    def finish(self) -> bytes:
        return self.held


class Holding(Plugin[PluginConfig]):
    """A filter that gives nothing on before the end."""

    def open_body(self, session: SessionView, command: Command) -> BodyFilter:
        return Slow()


@both_loops
def test_a_filter_that_holds_everything_back(loop: str, tmp_path: Path) -> None:
    with sample(tmp_path, SMALL) as server:
        setup = Setup([url(server)], loop, plugins=[Holding(PluginConfig())])
        with running(setup, tmp_path) as proxy, proxy.logged_in() as client:
            for number, (_, message) in enumerate(SMALL, 1):
                assert client.multi(b"RETR %d" % number).endswith(b"\r\n" + stuffed(message) + b".\r\n")

"""Peers that die, lie, flood and never end: what the client reads then, what goes upstream, what it costs."""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from popproxy.api import Fail, PluginConfig
from popproxy.net.spool import FileSpool
from tests.net.memory import bounded
from tests.net.running import (
    PASSWORD,
    USER,
    Setup,
    both_loops,
    client_context,
    eventually,
    half_close,
    read_rest,
    reset,
    running,
    sample,
)
from tests.net.test_pump import CHUNK, HEAD, SMALL, Scan, both_legs, large, options, stuffed, url
from tests.net.tlspeers import BareClient, server_side
from tests.net.upstream import (
    CAPABILITIES,
    PATIENCE,
    Gone,
    Peer,
    Script,
    Upstream,
    answering,
    garbage,
    slam,
    slam_with_reset,
    stall,
)

UNAVAILABLE = b"-ERR [SYS/TEMP] Mail server not available, try again later\r\n"
REPLY = b"+OK 120 octets\r\n" + stuffed(SMALL[0][1]) + b"..\r\n.x\r\n.\r\n"
MEGABYTES = 64


def cut_after(octets: int, end: Script) -> Script:
    """Answers RETR with the first octets of REPLY, then ends."""

    def script(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(REPLY[:octets])
        end(peer)

    return script


def close(peer: Peer) -> None:
    peer.socket.close()


def close_reset(peer: Peer) -> None:
    # What is on its way first: a RST takes it away.
    time.sleep(0.02)
    peer.reset()


@pytest.mark.parametrize("end", [close, close_reset, Peer.half_close])
@both_loops
def test_a_server_that_dies_at_any_octet_of_a_message(loop: str, end: Script, tmp_path: Path) -> None:
    """Promise 2: no end of message is invented, at whatever octet the server dies; promise 1: no QUIT."""
    status = REPLY.index(b"\n") + 1
    cuts = [*range(0, len(REPLY), 1 if end is close else 7)]
    with Upstream(*(cut_after(cut, end) for cut in cuts)) as upstream:
        with running(Setup([upstream.url], loop), tmp_path) as proxy:
            for cut in cuts:
                with proxy.logged_in() as client:
                    client.send(b"RETR 1\r\n")
                    got = read_rest(client)
                if cut < status:
                    assert got.startswith(b"-ERR [SYS/TEMP]") and got.endswith(b"\r\n") and got.count(b"\n") == 1, cut
                else:
                    assert REPLY.startswith(got) and len(got) <= cut, cut
            reasons = {proxy.session(number + 1)["reason"] for number in range(len(cuts))}
            assert reasons == {"upstream_eof"}


@both_loops
def test_a_client_that_dies_at_any_octet_of_its_session(loop: str, tmp_path: Path) -> None:
    script = b"CAPA\r\nUSER " + USER + b"\r\nPASS " + PASSWORD + b"\r\nSTAT\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n"
    with sample(tmp_path, SMALL) as server, running(Setup([url(server)], loop), tmp_path) as proxy:
        cuts = [*range(0, len(script) - 2, 3)]
        for number, cut in enumerate(cuts):
            client = proxy.client()
            client.send(script[:cut])
            if number % 2:
                reset(client)
            else:
                client.close()
        for number in range(len(cuts)):
            assert proxy.session(number + 1)["reason"] in ("client_eof", "client_reset")
        eventually(lambda: proxy.total("upstream_connections_active") == 0, "end of all connections upstream")
        with proxy.logged_in() as client:
            assert client.single(b"STAT").startswith(b"+OK 2 ")


GREETINGS: list[Script] = [
    stall,
    garbage,
    slam,
    slam_with_reset,
    lambda peer: peer.send(b"+OK"),
    lambda peer: peer.send(b"+OKAY\r\n"),
    lambda peer: peer.send(b"-ERR go away\r\n"),
    lambda peer: peer.send(b"* OK IMAP4rev1\r\n"),
    lambda peer: peer.send(b"\x16\x03\x01\x00\x00"),
    lambda peer: peer.send(bytes(range(256)) * 64),
    lambda peer: peer.send(b"+OK ready\r\n-ERR and no\r\n"),
    lambda peer: peer.send(b"+OK " + b"x" * 100_000 + b"\r\n"),
]


@pytest.mark.parametrize("number", range(len(GREETINGS)))
@both_loops
def test_a_greeting_that_is_none(loop: str, number: int, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        GREETINGS[number](peer)
        if peer.socket.fileno() >= 0:
            peer.until_gone()

    with Upstream(script) as upstream:
        with running(Setup([upstream.url], loop, timeouts={"greeting": 0.3}), tmp_path) as proxy:
            with proxy.client() as client:
                assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
                assert client.single(b"NOOP").startswith(b"-ERR")
            # Which server it was; a RST can come before the connection is there, then the detail says it.
            line = proxy.wait("upstream_failed")
            assert f"127.0.0.1:{upstream.port}" in (line["server"] or line["detail"])
        assert PASSWORD not in upstream.received


@pytest.mark.parametrize("unasked", [b"+OK\r\n", b"-ERR idle too long\r\n", b"x", b"+OK 1 2\r\n+OK 3 4\r\n"])
@both_loops
def test_a_line_nobody_asked_for_is_no_reply(loop: str, unasked: bytes, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(b"+OK 0 0\r\n")
        peer.send(unasked)
        peer.until_gone()

    with Upstream(script) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            client.send(b"STAT\r\n")
            assert read_rest(client) == b"+OK 0 0\r\n"
        assert proxy.session()["reason"] == "upstream_error"
        assert proxy.sample("protocol_violations_total", side="upstream", kind="unasked") == 1


@both_legs
@both_loops
def test_a_line_of_a_client_without_end_is_bounded(loop: str, tls: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        for login in (False, True):
            client = proxy.logged_in(**options(tls)) if login else proxy.client(**options(tls))
            with bounded(8 << 20) as growth, client:
                piece = b"x" * (1 << 20)
                with pytest.raises(OSError, match=r"(?i)reset|broken pipe|eof|closed"):
                    for _ in range(MEGABYTES):
                        client.send(piece)
                        growth.look()
            assert proxy.session(1 + login)["reason"] == "protocol_error"


def endless(first: bytes, piece: bytes) -> Script:
    """Answers the first command with ``first`` and then ``piece``, MEGABYTES of it, or until the proxy has enough."""

    def script(peer: Peer) -> None:
        peer.login()
        peer.line()
        peer.send(first)
        whole = piece * ((1 << 20) // len(piece))
        for _ in range(MEGABYTES):
            peer.send(whole)
        peer.until_gone()

    return script


@pytest.mark.parametrize("command", [b"STAT", b"RETR 1", b"UIDL"])
@both_loops
def test_a_status_line_without_end_is_bounded(loop: str, command: bytes, tmp_path: Path) -> None:
    with Upstream(endless(b"+OK ", b"x")) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client, bounded(8 << 20) as growth:
            client.send(command + b"\r\n")
            got = read_rest(client)
            growth.look()
            assert got.startswith(b"-ERR [SYS/TEMP]") and got.count(b"\r\n") == 1
        assert proxy.session()["reason"] == "upstream_error"


@pytest.mark.parametrize("command", [b"LIST", b"UIDL", b"RETR 1"])
@both_loops
def test_a_listing_without_end_passes_in_bounded_memory(loop: str, command: bytes, tmp_path: Path) -> None:
    row = b"123456 1234567\r\n"
    with Upstream(endless(b"+OK\r\n", row)) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client, bounded(8 << 20) as growth:
            client.send(command + b"\r\n")
            octets = 0
            while octets < (MEGABYTES - 1 << 20):
                octets += len(client.socket.recv(1 << 18))
                growth.look()
        proxy.session()


@both_loops
def test_a_capability_list_without_end_is_bounded(loop: str, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"+OK ready\r\n")
        assert peer.line() == b"CAPA"
        peer.send(b"+OK\r\n")
        for _ in range(MEGABYTES):
            peer.send(b"X-WORD and more of it\r\n" * 50_000)

    with Upstream(script) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.client() as client, bounded(16 << 20):
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        assert proxy.wait("upstream_failed")["kind"] == "overlong"
        assert PASSWORD not in upstream.received


def echo(peer: Peer) -> None:
    """Repeats what it hears: what it says of a secret must not be logged."""
    peer.send(b"+OK ready\r\n")
    while True:
        line = peer.line()
        if line == b"CAPA":
            peer.send(CAPABILITIES)
        elif line.startswith(b"USER"):
            peer.send(b"+OK\r\n")
        else:
            peer.send(b"-ERR I do not like <" + line + b">\r\n")


@both_loops
def test_a_server_that_repeats_the_password_does_not_bring_it_into_the_log(loop: str, tmp_path: Path) -> None:
    with Upstream(echo) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.user_pass(USER, PASSWORD).startswith(b"-ERR [AUTH]")
            assert client.auth_plain(USER, PASSWORD).startswith(b"-ERR")
        assert proxy.wait("login_failed", 2)["user"] == "alice"


@both_loops
def test_an_echo_server_does_not_bring_the_password_into_the_log(loop: str, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"+OK ready\r\n")
        assert peer.line() == b"CAPA"
        peer.send(CAPABILITIES)
        peer.line()
        peer.send(b"+OK\r\n")
        peer.send(peer.line() + b"\r\n")
        peer.until_gone()

    with Upstream(script) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == UNAVAILABLE
        proxy.wait("upstream_failed")


@both_loops
def test_descriptors_and_gauges_come_back_after_sessions_with_random_ends(loop: str, tmp_path: Path) -> None:
    """200 sessions: plain, STLS and both legs in TLS, ended at random by either side at any moment."""
    chance = random.Random(f"{loop} 200")

    def moody(peer: Peer) -> None:
        luck = random.Random(len(upstream.peers))
        peer.socket.settimeout(PATIENCE)
        try:
            if luck.random() < 0.1:
                peer.reset()
                return
            if luck.random() < 0.9:
                peer.tls(server_side())
            peer.greet()
            for _ in range(luck.randrange(12)):
                line = peer.line()
                if line == b"CAPA":
                    peer.send(CAPABILITIES)
                elif line.startswith(b"RETR"):
                    peer.send(b"+OK\r\n" + b"x" * luck.randrange(300_000) + b"\r\n.\r\n")
                else:
                    peer.send(b"+OK\r\n")
            if luck.random() < 0.5:
                peer.reset()
        except (Gone, OSError):
            return

    listeners = "".join(
        f'[[listener]]\nname = "{name}"\nbind = ["127.0.0.1:0"]\ntls = "{name}"\nauth_before_tls = "allow"\n'
        for name in ("off", "starttls", "implicit")
    )
    commands = [b"NOOP\r\n", b"STAT\r\n", b"RETR 1\r\n", b"UIDL\r\n", b"WHAT\r\n", b"NOO", b"CAPA\r\n", b"\r\n"]

    def client(number: int) -> None:
        luck = random.Random(number)
        try:
            port = number % 3
            with proxy.client(port, implicit=client_context() if port == 2 else None) as wire:
                wire.socket.settimeout(0.3)
                if port == 1 and luck.random() < 0.8:
                    wire.stls(client_context())
                if luck.random() < 0.8:
                    wire.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\n")
                for _ in range(luck.randrange(8)):
                    wire.send(luck.choice(commands))
                    if luck.random() < 0.5:
                        wire.socket.recv(luck.randrange(1, 100_000))
                if luck.random() < 0.3:
                    reset(wire)
                elif luck.random() < 0.3:
                    half_close(wire)
                    read_rest(wire)
        except (OSError, EOFError, AssertionError):
            return

    with Upstream(moody) as upstream:
        setup = Setup(
            [f"pop3s://localhost:{upstream.port}"],
            loop,
            listeners=listeners,
            timeouts={
                "pre_auth": 2.0,
                "greeting": 0.5,
                "upstream_handshake": 0.5,
                "login": 0.5,
                "command": 0.5,
                "idle": 2.0,
            },
        )
        with running(setup, tmp_path) as proxy:
            client(0)
            time.sleep(0.2)
            before = descriptors()
            numbers = list(range(1, 201))
            chance.shuffle(numbers)
            for start in range(0, len(numbers), 25):
                threads = [threading.Thread(target=client, args=(number,)) for number in numbers[start : start + 25]]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(PATIENCE)
            eventually(lambda: proxy.total("connections_active") == 0, "end of all connections")
            eventually(lambda: proxy.total("upstream_connections_active") == 0, "end of all connections upstream")
            eventually(lambda: all(peer.socket.fileno() < 0 for peer in upstream.peers), "end of all scripts")
            eventually(lambda: descriptors() <= before, f"descriptors: {before} before, {descriptors()} now")
            assert proxy.total("sessions_total") > 100
            eventually(lambda: len(proxy.lines("session")) == proxy.total("sessions_total"), "line for every session")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Full(FileSpool):
    """A spool on a disk that becomes full."""

    def write(self, data: bytes) -> None:
        if self.octets > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(data)


@pytest.mark.parametrize("mode", Fail)
@both_loops
def test_a_disk_that_becomes_full_loses_no_message(
    loop: str, mode: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open: the message passes unseen, all of it. Closed: an error in its place. The session goes on."""
    monkeypatch.setattr("popproxy.net.spool.FileSpool", Full)
    with Upstream(large(16)) as upstream:
        made = Setup([upstream.url], loop, plugins=[Scan(PluginConfig())], fail=mode)
        with running(made, tmp_path) as proxy, proxy.logged_in() as client:
            if mode is Fail.OPEN:
                assert client.multi(b"RETR 1") == HEAD + CHUNK * 16 + b".\r\n"
            else:
                assert client.single(b"RETR 1").startswith(b"-ERR [SYS/TEMP]")
            assert client.single(b"NOOP") == b"+OK bye\r\n"
            assert proxy.wait("plugin_error")["hook"] == "on_message"


@both_loops
def test_a_client_that_resets_right_behind_its_handshake(loop: str, tmp_path: Path) -> None:
    """The last octets of the handshake and the RST can be one event of the loop: the session must still end."""
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, "starttls"), tmp_path) as proxy:
        for _ in range(5):
            client = proxy.client()
            assert client.single(b"STLS").startswith(b"+OK")
            sock = client.socket
            bare = BareClient(sock, client_context())
            sock.sendall(bare.hello())
            while True:
                bare.incoming.write(sock.recv(1 << 16))
                with suppress(ssl.SSLWantReadError):
                    bare.tls.do_handshake()
                    break
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            # Busy until both are there.
            proxy._loop.call_soon_threadsafe(time.sleep, 0.05)
            sock.sendall(bare.outgoing.read())
            sock.close()
        eventually(lambda: proxy.total("connections_active") == 0, "end of all connections", 5.0)


@both_loops
def test_many_commands_behind_each_other_while_the_server_dies(loop: str, tmp_path: Path) -> None:
    """Pipelined commands behind the one that is due get nothing: not one reply is made up for them."""

    def script(peer: Peer) -> None:
        peer.login()
        for _ in range(3):
            peer.line()
        peer.send(b"+OK 1\r\n")

    with Upstream(script) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.logged_in() as client:
            client.send(b"STAT\r\nSTAT\r\nDELE 1\r\nSTAT\r\n")
            got = read_rest(client)
        first, second, rest = got.partition(b"\r\n")
        assert first == b"+OK 1" and second
        assert rest.startswith(b"-ERR [SYS/TEMP]") and rest.count(b"\r\n") == 1
        assert proxy.session()["deleted"] == 0


@both_loops
def test_a_connection_that_is_gone_before_it_is_looked_at(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        for _ in range(20):
            sock = socket.create_connection(proxy.address(), PATIENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            sock.close()
        with proxy.client() as client:
            assert client.single(b"NOOP").startswith(b"-ERR")
        eventually(lambda: proxy.total("connections_active") == 0, "end of all connections")



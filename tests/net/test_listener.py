"""Listening sockets: addresses, Unix sockets, what is in the way, and running out of descriptors."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
from functools import partial
from pathlib import Path

import pytest

from popproxy.config.plan import Bind
from popproxy.net.binding import BindError, bind
from tests.net.running import PASSWORD, USER, Proxy, Setup, both_loops, client_context, eventually, running
from tests.net.upstream import PATIENCE, Upstream, answering
from tests.wireclient import WireClient


def listener(*binds: str, tls: str = "off", name: str = "main") -> str:
    wanted = ", ".join(f'"{where}"' for where in binds)
    return f'[[listener]]\nname = "{name}"\nbind = [{wanted}]\ntls = "{tls}"\nauth_before_tls = "allow"\n'


def unix(path: Path, mode: int = 0o660) -> Bind:
    return Bind("unix", path=str(path), mode=mode, v6only=False)


@pytest.mark.parametrize("tls", ["off", "starttls", "implicit"])
@both_loops
def test_every_family_serves(loop: str, tls: str, tmp_path: Path) -> None:
    path = tmp_path / "pop3.sock"
    with Upstream(answering(b"+OK 0 0\r\n")) as upstream:
        addresses = listener("127.0.0.1:0", "[::1]:0", "[::]:0", f"unix:{path}", tls=tls)
        with running(Setup([upstream.url], loop, listeners=addresses), tmp_path) as proxy:
            implicit = client_context() if tls == "implicit" else None
            dual = proxy.address(2)[1]
            seen: list[str] = []
            for address in (proxy.address(0), proxy.address(1), ("127.0.0.1", dual), ("::1", dual), path):
                with WireClient(address, timeout=PATIENCE, implicit=implicit) as client:
                    if tls == "starttls":
                        client.stls(client_context())
                    assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
                    assert client.single(b"STAT") == b"+OK 0 0\r\n"
                seen.append(proxy.session(len(seen) + 1)["client"])
            assert seen == ["127.0.0.1", "::1", "127.0.0.1", "::1", "unix"]
        assert not path.exists()


def in_transaction(proxy: Proxy, name: str) -> bool:
    return proxy.sample("sessions_active", listener=name, state="transaction") == 1


@both_loops
def test_listeners_with_all_kinds_of_tls_at_once(loop: str, tmp_path: Path) -> None:
    listeners = "".join(listener("127.0.0.1:0", tls=tls, name=tls) for tls in ("off", "starttls", "implicit"))
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, listeners=listeners), tmp_path) as proxy:
            clients = [proxy.client(0), proxy.client(1), proxy.client(2, implicit=client_context())]
            clients[1].stls(client_context())
            for client in clients:
                assert client.user_pass(USER, PASSWORD) == b"+OK welcome\r\n"
            for name, client in zip(("off", "starttls", "implicit"), clients, strict=True):
                eventually(partial(in_transaction, proxy, name), f"session of {name}")
                client.close()
            assert {proxy.session(n)["listener"] for n in (1, 2, 3)} == {"off", "starttls", "implicit"}
            (hello, *_) = proxy.lines("listening")
            assert hello["address"] == f"127.0.0.1:{proxy.address(0)[1]}" and hello["tls"] == "off"


def test_a_port_in_use_is_told_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BindError, match=rf"127\.0\.0\.1:{port}: Address already in use; another program listens"):
            bind(Bind("inet", "127.0.0.1", port))


def test_an_address_of_another_machine_is_told_with_advice() -> None:
    with pytest.raises(BindError, match=r"cannot listen on 192.0.2.1:0: .*; this machine has no such address"):
        bind(Bind("inet", "192.0.2.1", 0))


def test_a_closed_inet_socket_can_be_bound_again_at_once() -> None:
    with bind(Bind("inet", "127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), PATIENCE):
            served = first.accept()[0]
            served.close()
    bind(Bind("inet", "127.0.0.1", port)).close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_is_never_wider_than_asked(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    seen: list[int] = []
    real = Path.chmod

    def watched(self: Path, wanted: int) -> None:
        seen.append(stat.S_IMODE(self.stat().st_mode))
        real(self, wanted)

    monkeypatch.setattr(Path, "chmod", watched)
    umask = os.umask(0)
    try:
        bind(unix(path, mode)).close()
    finally:
        os.umask(umask)
    assert seen == [mode] and stat.S_IMODE(path.stat().st_mode) == mode


def test_a_dead_unix_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind(unix(path)).close()
    with bind(unix(path)):
        with pytest.raises(BindError, match="another program listens there"):
            bind(unix(path))
        assert path.exists()


def test_a_unix_socket_with_a_full_backlog_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))
        with socket.socket(socket.AF_UNIX) as second:
            second.setblocking(False)
            with pytest.raises(BlockingIOError):
                second.connect(str(path))
            with pytest.raises(BindError, match="another program listens there"):
                bind(unix(path))


def test_a_file_in_the_way_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match="there is a file that is no socket"):
        bind(unix(path))
    assert path.read_text() == "precious"


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(BindError, match="there is no such directory"):
        bind(unix(tmp_path / "no" / "s"))


@both_loops
def test_only_our_own_unix_socket_is_removed(loop: str, tmp_path: Path) -> None:
    """A successor has put its own in the place of ours."""
    path = tmp_path / "s"
    with Upstream(answering()) as upstream:
        with running(Setup([upstream.url], loop, listeners=listener(f"unix:{path}")), tmp_path):
            path.rename(tmp_path / "old")
            successor = bind(unix(path))
    assert path.exists()
    successor.close()


@pytest.mark.parametrize("tls", ["off", "implicit"])
@both_loops
def test_accept_recovers_from_running_out_of_descriptors(
    loop: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("popproxy.net.listener._PAUSE_SECONDS", 0.2)
    implicit = client_context() if tls == "implicit" else None
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop, tls), tmp_path) as proxy:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(8)]
        spare = []
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        try:
            while True:
                try:
                    spare.append(os.dup(0))
                except OSError:
                    break
            for sock in waiting:
                sock.settimeout(PATIENCE)
                sock.connect(proxy.address())
            threading.Event().wait(0.5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in spare:
                os.close(number)
        with proxy.client(implicit=implicit) as client:
            assert client.greeting.startswith(b"+OK")
        for sock in waiting:
            sock.close()
        eventually(lambda: proxy.total("connections_active") == 0, "end of all connections")
        if loop == "asyncio" or implicit:  # else uvloop accepts, and keeps it to itself
            line = proxy.wait("accept_failed")
            assert (line["listener"], line["level"]) == ("main", "error")
            assert proxy.sample("accept_failures_total", listener="main") >= 1


@both_loops
def test_a_closed_listener_refuses(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        address = proxy.address()
        proxy.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)
        proxy.stop()

"""Every transcript of tests/scripts over real sockets, on uvloop and on asyncio: the pump adds and loses nothing.

Left out, by what the script itself says: TLS on a leg (the octets of a handshake are no transcript), faults of
dialing other than success, and waiting; test_faults, test_timeouts and test_pump have those over real sockets.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import Plugin, PluginConfig
from popproxy.api.played import Options, read_options
from popproxy.api.testing import _plan
from popproxy.api.transcript import Event, Expect, Leg, Match, Send, Step, Transcript, load_transcript
from popproxy.config.plan import Plan
from popproxy.wire.capabilities import Capabilities
from tests.cast import cast
from tests.core import contentplugins
from tests.net.running import Proxy, Setup, both_loops, plan_of
from tests.net.upstream import PATIENCE

SCRIPTS = [load_transcript(path) for path in sorted((Path(__file__).parents[1] / "scripts").glob("*.pop3"))]
EVENTS = frozenset(
    {"connect", "client-eof", "client-gone", "upstream-gone", "client-closed", "upstream-closed"}
)


def options_of(transcript: Transcript) -> Options:
    return read_options(cast(transcript)[1].options, transcript.name)


def over_sockets(transcript: Transcript) -> bool:
    options = options_of(transcript)
    events = {step.name for step in transcript.steps if isinstance(step, Event)}
    return options.tls == "off" and options.upstream_tls == "off" and options.pieces == "whole" and events <= EVENTS


PLAYED = [pytest.param(transcript, id=Path(transcript.name).stem) for transcript in SCRIPTS if over_sockets(transcript)]


class Peer:
    """One end of the conversation."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.unread = b""

    def take(self, size: int) -> bytes:
        while len(self.unread) < size:
            data = self.sock.recv(65536)
            if not data:
                break
            self.unread += data
        taken, self.unread = self.unread[:size], self.unread[size:]
        return taken

    def line(self) -> bytes:
        while b"\n" not in self.unread:
            data = self.sock.recv(65536)
            assert data, f"closed behind {self.unread!r}"
            self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        return line + b"\n"

    def ended(self) -> bytes:
        """What still comes until the proxy closes; a reset is an end, too."""
        try:
            while data := self.sock.recv(65536):
                self.unread += data
        except ConnectionResetError:
            return self.unread
        return self.unread


class Play:
    """A script between two sockets."""

    def __init__(self, proxy: Proxy, listener: socket.socket, options: Options) -> None:
        self.listener = listener
        self.options = options
        self.client = Peer(socket.create_connection(proxy.address(), PATIENCE))
        self.upstream: Peer | None = None
        self.sockets = [self.client.sock]
        self.sent = b""

    def peer(self, leg: Leg) -> Peer:
        if leg is Leg.CLIENT:
            return self.client
        assert self.upstream is not None, "the script speaks to an upstream that is not connected"
        return self.upstream

    def connect(self) -> None:
        self.upstream = Peer(self.listener.accept()[0])
        self.sockets.append(self.upstream.sock)

    def log_in(self) -> None:
        self.client.line()
        self.client.sock.sendall(f"USER {self.options.user}\r\n".encode())
        assert self.client.line() == b"+OK\r\n"
        self.client.sock.sendall(f"PASS {self.options.password}\r\n".encode())
        self.connect()
        upstream = self.peer(Leg.UPSTREAM)
        upstream.sock.sendall(b"+OK\r\n")
        while True:
            line = upstream.line()
            upstream.sock.sendall(b"+OK\r\n")
            if line.startswith(b"PASS"):
                break
        assert self.client.line().startswith(b"+OK")

    def run(self, steps: Sequence[Step]) -> None:
        for place, step in enumerate(steps):
            if isinstance(step, Send):
                self.sent += step.octets
                behind = steps[place + 1] if place + 1 < len(steps) else None
                if not (isinstance(behind, Send) and behind.leg is step.leg):
                    # All that a peer says in one breath goes out at once: the proxy may answer the first line of it.
                    self.peer(step.leg).sock.sendall(self.sent)
                    self.sent = b""
            elif isinstance(step, Expect):
                came = self.peer(step.leg).take(len(step.octets))
                assert came == step.octets, f"line {step.line}: {came!r}"
            elif isinstance(step, Match):
                line = self.peer(step.leg).line()
                assert step.pattern.fullmatch(line[:-2]), f"line {step.line}: {line!r}"
            else:
                self.event(step)

    def event(self, event: Event) -> None:
        if event.name == "connect":
            self.connect()
        elif event.name == "client-eof":
            self.client.sock.shutdown(socket.SHUT_WR)
        elif event.name == "client-gone":
            cut(self.client.sock)
        elif event.name == "upstream-gone":
            sock = self.peer(Leg.UPSTREAM).sock
            if event.argument == "reset":
                cut(sock)
            else:
                sock.close()
        else:
            peer = self.client if event.name == "client-closed" else self.peer(Leg.UPSTREAM)
            if peer.sock.fileno() >= 0:
                assert peer.ended() == b"", f"line {event.line}: more came before the end"

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def cut(sock: socket.socket) -> None:
    """End with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def plan_for(
    options: Options, port: int, loop: str, directory: Path, plugins: Sequence[Plugin[Any]] = ()
) -> Plan:
    # All of 127.0.0.0/8 is this host.
    servers = [f"pop3+clear://127.0.0.{number}:{port}" for number in range(1, options.servers + 1)]
    plan = plan_of(Setup(servers, loop=loop), directory)
    session = replace(_plan(options, plugins), listener="main")
    listener = replace(plan.listeners[0], session=session)
    main = plan.upstreams["main"]
    upstreams = {name: replace(main, name=name, policy=session.upstreams[name]) for name in options.upstreams}
    return replace(
        plan,
        listeners=(listener,),
        upstreams=upstreams,
        default_upstream=session.default_upstream,
        timeouts=session.timeouts,
        limits=session.limits,
    )


@both_loops
@pytest.mark.parametrize("transcript", PLAYED)
def test_script(transcript: Transcript, loop: str, tmp_path: Path) -> None:
    run_script(transcript, loop, tmp_path)


@both_loops
@pytest.mark.parametrize("transcript", contentplugins.SCRIPTS, ids=lambda transcript: Path(transcript.name).stem)
def test_script_with_plugins(transcript: Transcript, loop: str, tmp_path: Path) -> None:
    plugins = contentplugins.PLUGINS[Path(transcript.name).stem]
    run_script(transcript, loop, tmp_path, [plugin(PluginConfig()) for plugin in plugins])


def run_script(transcript: Transcript, loop: str, tmp_path: Path, plugins: Sequence[Plugin[Any]] = ()) -> None:
    """Play it between two sockets, the proxy between them."""
    options = options_of(transcript)
    with socket.create_server(("", 0)) as listener:
        listener.settimeout(PATIENCE)
        plan = plan_for(options, listener.getsockname()[1], loop, tmp_path, plugins or cast(transcript)[0])
        proxy = Proxy(plan, loop, tmp_path / "log.json")
        proxy.start()
        try:
            front = proxy.worker.fronts[0]
            known = options.known if options.known is not None else ("TOP", "UIDL", "PIPELINING")
            if options.known is not None or options.logged_in:
                theirs = Capabilities.parse([line.encode() for line in known]) if known else None
                for name in options.upstreams:
                    front.knowledge.learn(name, theirs, time.monotonic())
            play = Play(proxy, listener, options)
            try:
                if options.logged_in:
                    play.log_in()
                play.run(transcript.steps)
            finally:
                play.close()
            proxy.stop()
        finally:
            proxy.close()
        assert not proxy.faults
        assert not proxy.lines("internal_error")


def test_most_scripts_run_over_sockets() -> None:
    assert len(PLAYED) >= len(SCRIPTS) * 2 // 3

"""`popproxy kick` at every moment of a session: it ends soon, says what it did, and nothing is committed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from popproxy.api import Credentials, Hold, Pace, Plugin, PluginConfig, SessionView
from popproxy.run.asked import EX_OK, EX_WRONG
from tests.net.running import PASSWORD, USER, Setup, eventually, read_rest
from tests.net.test_pacing import Paced, message
from tests.net.test_pump import large
from tests.net.upstream import PATIENCE, Peer, Upstream, stall
from tests.run.office import office
from tests.run.people.conftest import Typed
from tests.wireclient import WireClient

HOUR = 3600.0
END = b"\r\n.\r\n"


class Holding(Plugin[PluginConfig]):
    """Lets each login wait."""

    def on_login(self, session: SessionView, credentials: Credentials) -> Hold:
        return Hold(HOUR, "for ever")


class Thinking(Plugin[PluginConfig]):
    """Does not make up its mind about a login before ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__(PluginConfig())
        self.gate = Event()

    async def on_login(self, session: SessionView, credentials: Credentials) -> None:
        while not self.gate.is_set():
            await asyncio.sleep(0.01)


def silent(peer: Peer, gate: Event) -> None:
    """Accepts and says nothing."""
    gate.wait(PATIENCE)
    peer.send(b"-ERR not today\r\n")
    peer.until_gone()


def mute(peer: Peer, gate: Event) -> None:
    """Greets, and has nothing to say to a login."""
    peer.send(b"+OK ready\r\n")
    gate.wait(PATIENCE)
    while peer.line():
        peer.send(b"-ERR not today\r\n")


def deleting(peer: Peer, gate: Event) -> None:
    """Takes DELE, and begins a message."""
    peer.login()
    assert peer.line() == b"DELE 1"
    peer.send(b"+OK\r\n")
    assert peer.line() == b"RETR 2"
    peer.send(b"+OK\r\nSubject: endless\r\n")
    gate.wait(PATIENCE)
    peer.send(b"the end" + END)
    peer.until_gone()


def slow(peer: Peer, gate: Event) -> None:
    """A message that takes an hour at the pace of its client."""
    peer.login()
    peer.line()
    peer.send(message(4 << 20))
    peer.until_gone()


def much(peer: Peer, gate: Event) -> None:
    """More than fits into all buffers."""
    large(400)(peer)


def password(client: WireClient) -> None:
    client.send(b"USER " + USER + b"\r\nPASS " + PASSWORD + b"\r\n")


def exchange(client: WireClient) -> None:
    client.send(b"AUTH PLAIN\r\n")
    assert client.read_line().startswith(b"+ ")


def handshake(client: WireClient) -> None:
    assert client.single(b"STLS").startswith(b"+OK")


def retrieve(*lines: bytes) -> Callable[[WireClient], None]:
    def work(client: WireClient) -> None:
        assert client.user_pass(USER, PASSWORD).startswith(b"+OK")
        client.send(b"".join(line + b"\r\n" for line in lines))
        # The reply has begun.
        assert client.socket.recv(1)

    return work


@dataclass(frozen=True)
class Moment:
    """How a session comes there, and how it is then told: its phase, and who is to move."""

    script: Callable[[Peer, Event], None]
    say: Callable[[WireClient], None]
    phase: str
    awaits: str
    plugins: Sequence[Plugin[Any]] = ()
    tls: str = "off"
    upstream: str = ""
    waits: bool = False
    """Without ``now`` a reply is waited for."""
    first: bool = False
    """Somebody else has the only place at the upstream."""


MOMENTS = {
    "greeted": Moment(silent, lambda client: None, "authorization", "client"),
    "in SASL": Moment(silent, exchange, "authorization", "client"),
    "in TLS": Moment(silent, handshake, "authorization", "proxy", tls="starttls", waits=True),
    "held": Moment(silent, password, "logging_in", "proxy", plugins=[Holding(PluginConfig())]),
    "thought about": Moment(silent, password, "logging_in", "proxy", plugins=[Thinking()], waits=True),
    "connecting": Moment(silent, password, "logging_in", "upstream", waits=True),
    "queued": Moment(
        deleting, password, "logging_in", "proxy", upstream="max_sessions = 1\nqueue = 5", first=True
    ),
    "paced": Moment(slow, retrieve(b"RETR 1"), "streaming", "client", plugins=[Paced(Pace(128, 1))]),
    "logging in": Moment(mute, password, "logging_in", "upstream", waits=True),
    "in a message": Moment(deleting, retrieve(b"DELE 1", b"RETR 2"), "streaming", "upstream", waits=True),
    "not taken": Moment(much, retrieve(b"RETR 1"), "streaming", "client", waits=True),
}


@pytest.mark.parametrize("now", [False, True], ids=["behind", "now"])
@pytest.mark.parametrize("name", MOMENTS)
def test_a_session_ends_at_any_moment(name: str, now: bool, tmp_path: Path, typed: Typed) -> None:
    moment = MOMENTS[name]
    gate = next((plugin.gate for plugin in moment.plugins if isinstance(plugin, Thinking)), Event())
    gate.clear()
    with Upstream(lambda peer: moment.script(peer, gate)) as upstream, ExitStack() as stack:
        stack.callback(gate.set)
        setup = Setup(
            [upstream.url], tls=moment.tls, plugins=moment.plugins, deadline=HOUR, upstream=moment.upstream
        )
        desk = stack.enter_context(office(setup, tmp_path))
        typed.place = f"unix:{desk.path}"
        if moment.first:
            stack.enter_context(desk.proxy.logged_in())
        client = stack.enter_context(desk.proxy.client())
        port = client.socket.getsockname()[1]
        moment.say(client)

        def row() -> dict[str, Any]:
            (found,) = [row for row in desk.get("/v1/sessions")["sessions"] if row["client_port"] == port]
            return dict(found)

        eventually(lambda: (row()["phase"], row()["awaits"]) == (moment.phase, moment.awaits), f"{name}: {row()}")
        code, out, err = typed("kick", row()["id"], "--reason", "test", *(["--now"] if now else []))
        soon = "" if now else "; one that waits for a reply ends behind it"
        assert (code, out, err) == (EX_OK, f"1 session ended{soon}\n", "")
        if moment.waits and not now:
            assert (row()["ends"], row()["phase"]) == ("kicked", moment.phase)
            gate.set()
            if name == "in TLS":
                client.send(b"this is no handshake\r\n")
        rest = b""
        with suppress(ConnectionResetError):
            rest = read_rest(client)
        assert rest.endswith(END) is (name in ("in a message", "not taken", "paced") and not now), "whole, or cut"
        line = desk.proxy.session()
        assert (line["client_port"], line["reason"], line["detail"]) == (port, "kicked", "by an administrator: test")
        assert typed("kick", line["session"])[0] == EX_WRONG
    assert b"QUIT" not in upstream.received


def test_whoever_waits_at_the_door_has_no_session_yet(tmp_path: Path, typed: Typed) -> None:
    """A handshake that is not over has its own time-out; it is no session that could be kicked."""
    with Upstream(stall) as upstream, office(Setup([upstream.url], tls="implicit"), tmp_path) as desk:
        typed.place = f"unix:{desk.path}"
        with socket.create_connection(desk.proxy.address()):
            eventually(lambda: bool(desk.proxy.worker.fronts[0].door.waiting), "a handshake")
            assert typed("kick --ip 127.0.0.1 --now") == (EX_WRONG, "no sessions ended\n", "")

"""What a listener's sessions share: the log's lines, the counters, and who is let in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from popproxy.api import Plugin, PluginConfig, SessionView
from popproxy.api.verdicts import ConnectVerdict, Refuse
from popproxy.core.effects import Note
from popproxy.net.front import Front
from popproxy.net.pump import Pump
from popproxy.run.events import EVENTS
from tests.net.running import (
    PASSWORD,
    USER,
    Proxy,
    Setup,
    both_loops,
    client_context,
    eventually,
    read_rest,
    running,
    sample,
)
from tests.net.test_pump import SMALL, url
from tests.net.upstream import CAPABILITIES, Peer, Upstream, answering


@both_loops
def test_the_session_line_holds_every_field_of_its_contract(loop: str, tmp_path: Path) -> None:
    with sample(tmp_path, SMALL) as server, running(Setup([url(server)], loop, "implicit"), tmp_path) as proxy:
        with proxy.client(implicit=client_context()) as client:
            assert client.auth_plain(USER, PASSWORD).startswith(b"+OK")
            assert client.multi(b"RETR 1").startswith(b"+OK")
            assert client.single(b"DELE 1").startswith(b"+OK")
            assert client.single(b"RETR 1").startswith(b"-ERR")
            assert client.single(b"WHAT").startswith(b"-ERR")
        line = proxy.session()
    assert set(line) == {"time", "level", "event", *EVENTS["session"].fields}
    assert line["level"] == EVENTS["session"].level == "info"
    assert line["tls"] == "TLSv1.3" and line["cipher"].startswith("TLS_")
    assert (line["user"], line["login"], line["mechanism"]) == ("alice", "alice", "PLAIN")
    assert (line["retrieved"], line["deleted"]) == (1, 1)
    assert line["commands"] == {"AUTH": 1, "RETR": 2, "DELE": 1, "_other": 1}
    assert line["reason"] in ("client_eof", "client_reset") and line["state"] == "transaction"
    assert 0 <= line["seconds"] < 20 and line["client_port"] > 0


@both_loops
def test_a_failed_login_has_what_fail2ban_needs(loop: str, tmp_path: Path) -> None:
    def refusing(peer: Peer) -> None:
        peer.send(b"+OK ready\r\n")
        while True:
            line = peer.line()
            peer.send(
                CAPABILITIES if line == b"CAPA" else b"+OK\r\n" if line[:4] == b"USER" else b"-ERR [AUTH] bad\r\n"
            )

    with Upstream(refusing) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        with proxy.client() as client:
            assert client.user_pass(USER, PASSWORD) == b"-ERR [AUTH] Authentication failed\r\n"
        line = proxy.wait("login_failed")
        assert (line["client"], line["user"], line["mechanism"]) == ("127.0.0.1", "alice", "USER")
        assert (line["code"], line["upstream"]) == ("AUTH", "main") and "bad" in line["reason"]
        assert line["session"] == proxy.session()["session"]
        assert proxy.sample("auth_attempts_total", listener="main", mechanism="USER", result="bad_credentials") == 1


@both_loops
def test_ids_are_unique_and_stand_on_every_line(loop: str, tmp_path: Path) -> None:
    with Upstream(answering()) as upstream, running(Setup([upstream.url], loop), tmp_path) as proxy:
        for _ in range(3):
            proxy.logged_in().close()
        proxy.session(3)
        ids = {line["session"] for line in proxy.lines("session")}
        assert len(ids) == 3 and len({name[:6] for name in ids}) == 1


class Doorman(Plugin[PluginConfig]):
    """Lets nobody in."""

    def on_connect(self, session: SessionView) -> ConnectVerdict:
        return Refuse("Not today", reason="tests")


@pytest.mark.parametrize("tls", ["off", "implicit"])
@both_loops
def test_a_plugin_refuses_at_the_door_in_words(loop: str, tls: str, tmp_path: Path) -> None:
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, tls, plugins=[Doorman(PluginConfig())])
    with running(setup, tmp_path) as proxy:
        implicit = client_context() if tls == "implicit" else None
        with proxy.client(implicit=implicit, greet=False) as client:
            assert client.read_line().startswith(b"-ERR")
            assert read_rest(client) == b""
        line = proxy.session()
        assert (line["reason"], line["detail"]) == ("policy", "tests")


class Forger(Plugin[PluginConfig]):
    """Writes into the view what is not true."""

    def on_connect(self, session: SessionView) -> ConnectVerdict:
        session.client = "x\r\ny"
        session.user = "\x00" * 3
        return None


@both_loops
def test_a_plugin_that_breaks_the_view_does_not_break_the_log(loop: str, tmp_path: Path) -> None:
    setup = Setup(["pop3+clear://127.0.0.1:9"], loop, plugins=[Forger(PluginConfig())])
    with running(setup, tmp_path) as proxy:
        proxy.client().close()
        line = proxy.session()
        assert (line["client"], line["user"]) == ("x\r\ny", "\x00" * 3)


class Recorder:
    """An event log that keeps what it gets."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, object]]] = []

    def event(self, level: str, name: str, /, **fields: object) -> None:
        self.seen.append((level, name, fields))


class Nobody:
    """A transport whose peer is gone: it has no peer name any more."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 110) if name == "sockname" else default


@both_loops
def test_who_is_gone_before_the_session_begins_is_not_taken_for_a_unix_socket(loop: str, tmp_path: Path) -> None:
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:
        front = proxy.worker.fronts[0]

        async def look() -> tuple[bytes | None, str]:
            pump = Pump(front)
            outcome = front.admit(pump, Nobody(), False)  # type: ignore[arg-type]
            return outcome, pump.view.client

        outcome, client = proxy.call(look())
        assert outcome is not None and client == ""
        assert front.open == 0 and not front.pumps
        assert proxy.sample("connections_total", listener="main") == 1


@both_loops
def test_who_comes_while_the_worker_stops_is_sent_away(loop: str, tmp_path: Path) -> None:
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:
        proxy.worker.fronts[0].draining = True
        with proxy.client(greet=False) as client:
            assert read_rest(client).startswith(b"-ERR [SYS/TEMP]")
        assert proxy.wait("refused")["reason"] == "draining"
        assert proxy.sample("connections_rejected_total", listener="main", reason="draining") == 1


def told(proxy: Proxy, work: Any) -> list[tuple[str, str, dict[str, object]]]:
    """What ``work(front)`` writes into the log."""
    front: Front = proxy.worker.fronts[0]
    recorder, real = Recorder(), front._log
    front._log = recorder
    try:

        async def run() -> None:
            work(front)

        proxy.call(run())
    finally:
        front._log = real
    return recorder.seen


@both_loops
def test_a_fault_is_told_by_type_and_place_never_by_its_text(loop: str, tmp_path: Path) -> None:
    def broken() -> None:
        raise ValueError(PASSWORD)

    def work(front: Front) -> None:
        try:
            broken()
        except ValueError as error:
            front.fault(SessionView("id", "main", client="192.0.2.1", client_port=1), error)

    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:
        ((level, name, fields),) = told(proxy, work)
    assert (level, name) == ("error", "internal_error")
    assert set(fields) == set(EVENTS["internal_error"].fields)
    assert fields["error"] == "ValueError" and str(fields["where"]).startswith("test_front.py:")
    assert PASSWORD.decode() not in str(fields)


@both_loops
def test_a_note_stands_beside_who_it_is_about(loop: str, tmp_path: Path) -> None:
    view = SessionView("id", "main", client="192.0.2.1", client_port=1, user="alice", upstream="main", server="a:1")
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:
        note = Note("warning", "upstream_failed", {"kind": "lost", "detail": "gone"})
        ((level, name, fields),) = told(proxy, lambda front: front.note(view, note))
    assert (level, name) == ("warning", "upstream_failed")
    assert set(fields) == set(EVENTS["upstream_failed"].fields)


@both_loops
def test_time_of_a_session_is_measured_from_accept_to_close(loop: str, tmp_path: Path) -> None:
    with running(Setup(["pop3+clear://127.0.0.1:9"], loop), tmp_path) as proxy:
        with proxy.client():
            time.sleep(0.3)
        assert 0.25 < proxy.session()["seconds"] < 5
        eventually(
            lambda: proxy.sample("session_duration_seconds_count", listener="main") == 1, "session in the histogram"
        )

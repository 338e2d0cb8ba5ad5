"""Dates over real sockets: who waits for them, and who waits no more."""

from __future__ import annotations

import threading
from pathlib import Path

from popproxy.api import Dates, MaildropView, Plugin, PluginConfig, SessionView
from tests.net.running import Setup, both_loops, reset, running
from tests.net.upstream import PATIENCE, Peer, Upstream


class Dated(Plugin[PluginConfig]):
    """Wants to know when everything arrived."""

    def on_maildrop(self, session: SessionView, maildrop: MaildropView) -> Dates | None:
        undated = frozenset(entry.number for entry in maildrop.entries.values() if not entry.dated)
        return Dates(undated) if undated else None


@both_loops
def test_a_client_that_is_gone_is_not_waited_for(loop: str, tmp_path: Path) -> None:
    """The upstream may hold a lock: who comes again must not find the maildrop in use by a client that gave up."""

    def slow(peer: Peer) -> None:
        peer.login()
        for reply in (b"+OK\r\n1 10\r\n.\r\n", b"-ERR\r\n"):
            peer.line()
            peer.send(reply)
        peer.line()
        asked.set()
        peer.until_gone()

    asked = threading.Event()
    with Upstream(slow) as upstream:
        setup = Setup([upstream.url], loop, plugins=[Dated(PluginConfig())])
        with running(setup, tmp_path) as proxy:
            client = proxy.logged_in()
            client.send(b"STAT\r\nUIDL\r\n")
            assert asked.wait(PATIENCE)
            reset(client)
            assert proxy.session()["reason"] == "client_reset"

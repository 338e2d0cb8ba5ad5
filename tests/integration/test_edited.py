"""Real mail clients behind plugins that edit: every letter is taken whole, and deleted when it was fetched.

Some clients leave a message on the server whose size is not the one that was listed (fetchmail asks for what RETR
says of itself, getmail and mpop for LIST).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.clients import CLIENTS, Client, Mailbox
from tests.integration.conftest import Need, Start
from tests.integration.dovecot import Dovecot
from tests.integration.proxy import Setup, eventually
from tests.integration.reading import proxy_port, url
from tests.integration.test_clients import SMALL
from tests.integration.test_sizes import HEADERS, parts, table
from tests.letters import as_sent

pytestmark = pytest.mark.integration

EDITS = {"headers": (HEADERS, b"X-Fetched-By: "), "on_message": (table("Edits"), b"X-Tag: ")}


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_promise_9_a_client_takes_edited_letters_and_deletes_them(
    client: Client,
    edits: str,
    dovecot: Dovecot,
    start: Start,
    setup: Setup,
    need: Need,
    ca_file: Path,
    tmp_path: Path,
) -> None:
    need(*([client.package] if client.package else []))
    tables, mark = EDITS[edits]
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream=tables))
    account = dovecot.account(SMALL)
    leg = client.legs[0]
    delivered = client.fetch(Mailbox(proxy_port(proxy, leg), leg, account, ca_file), tmp_path, False)
    assert len(delivered) == len(SMALL)
    bodies = sorted(parts(client.delivered(as_sent(letter)))[1] for _, letter in SMALL)
    assert sorted(parts(letter)[1] for letter in delivered) == bodies
    assert all(letter.count(mark) == letter.count(b"X-Popproxy-Padding: -") == 1 for letter in delivered)
    eventually(lambda: dovecot.kept(account) == [], "empty maildrop")

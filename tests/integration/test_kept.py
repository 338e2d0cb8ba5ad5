"""Messages that stay on a real Dovecot although the client has deleted them, by when they arrived."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.clients import Leg
from tests.integration.conftest import Start
from tests.integration.dovecot import Dovecot
from tests.integration.proxy import Setup, eventually
from tests.integration.reading import LEGS, logged_in, url

pytestmark = pytest.mark.integration

KEEPER = """
from popproxy.api import Dates, Keep, Plugin, PluginConfig

NEW_YEAR = 1767225600.0

class Keeper(Plugin[PluginConfig]):
    def on_maildrop(self, session, maildrop):
        undated = frozenset(number for number, entry in maildrop.entries.items() if not entry.dated)
        return Dates(undated) if undated else None

    def on_command(self, session, command):
        entry = session.maildrop.get(command.message)
        if command.name == "DELE" and entry is None and not session.maildrop:
            return Dates(frozenset({command.message}))
        if command.name != "DELE" or entry is None:
            return None
        return Keep() if entry.arrived is None or entry.arrived >= NEW_YEAR else None
"""
DATES = [b"Wed, 1 Jan 2020 10:00:00 +0000", b"Fri, 2 Jan 2026 10:00:00 +0100", b"Wed, 31 Dec 2025 23:59:59 +0000", b"?"]
LETTERS = [
    (f"letter_{number}", b"Received: from a by b with SMTP id c;\n\t%b\nSubject: %d\n\ntext\n" % (date, number))
    for number, date in enumerate(DATES * 12)
]
STAY = [letter for number, (_, letter) in enumerate(LETTERS) if number % 4 in (1, 3)]


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("first", [b"STAT", b"DELE 1"])
def test_young_letters_stay_and_nobody_has_read_them(
    dovecot: Dovecot,
    setup: Setup,
    start: Start,
    trust: ssl.SSLContext,
    leg: Leg,
    first: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "keeper.py").write_text(KEEPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    proxy = start(replace(setup, server=url(dovecot, "tls"), upstream='[[plugin]]\nuse = "keeper:Keeper"\n'))
    account = dovecot.account(LETTERS)
    with logged_in(proxy, leg, trust, account) as client:
        assert client.single(first).startswith(b"+OK")
        for number in range(1 if first == b"STAT" else 2, len(LETTERS) + 1):
            assert client.single(b"DELE %d" % number).startswith(b"+OK"), number
        assert client.single(b"STAT") == b"+OK 0 0\r\n"
        assert client.multi(b"UIDL") == b"+OK\r\n.\r\n"
        assert client.single(b"RETR 2").startswith(b"-ERR")
        assert client.single(b"RSET").startswith(b"+OK")
        assert client.single(b"STAT").startswith(b"+OK %d " % len(LETTERS))
        for number in range(1, len(LETTERS) + 1):
            assert client.single(b"DELE %d" % number).startswith(b"+OK"), number
        assert client.single(b"QUIT").startswith(b"+OK")
    eventually(lambda: len(dovecot.endings(account)) == dovecot.logins(account) > 0, "end of every session")
    assert dovecot.kept(account) == sorted(STAY)
    names = [path.name for place in ("cur", "new") for path in (dovecot.maildir(account) / place).iterdir()]
    assert not [name for name in names if "S" in name.partition(":2,")[2]], "TOP reads nothing"

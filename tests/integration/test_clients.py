"""Real mail clients through the proxy: what they deliver is what they deliver without it, and deletions happen."""

from __future__ import annotations

import ssl
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from tests.integration.clients import CLIENTS, Client, Leg, Mailbox, curl, curl_url, s_client
from tests.integration.conftest import Need, ProxyTo
from tests.integration.daemon import Account
from tests.integration.dovecot import LETTERS, Dovecot
from tests.integration.proxy import Proxy, eventually
from tests.integration.reading import logged_in, proxy_port, url
from tests.letters import as_sent

pytestmark = pytest.mark.integration

SMALL = [pair for pair in LETTERS if pair[0] in ("empty_body", "dots_before_text", "utf8_body", "line_of_998")]
EACH = [pytest.param(client, leg, id=f"{client.name}-{leg}") for client in CLIENTS for leg in client.legs]


@pytest.fixture(scope="module")
def proxy(dovecot: Dovecot, proxy_to: ProxyTo) -> Proxy:
    """A proxy which speaks TLS with Dovecot."""
    return proxy_to(url(dovecot, "tls"))


def digests(letters: list[bytes]) -> list[tuple[int, str]]:
    """Sizes and hashes, in place of megabytes."""
    return [(len(letter), sha256(letter).hexdigest()) for letter in letters]


@pytest.mark.parametrize(("client", "leg"), EACH)
def test_delivers_the_same(
    client: Client, leg: Leg, dovecot: Dovecot, proxy: Proxy, reader: Account, need: Need, ca_file: Path, tmp_path: Path
) -> None:
    need(*([client.package] if client.package else []))
    letters = [pair for pair in LETTERS if pair[0] not in client.cannot]
    account = dovecot.account(letters) if client.cannot else reader
    delivered = []
    for name, port in (
        ("direct", dovecot.port_tls if leg == "tls" else dovecot.port),
        ("through", proxy_port(proxy, leg)),
    ):
        (tmp_path / name).mkdir()
        delivered.append(client.fetch(Mailbox(port, leg, account, ca_file), tmp_path / name, True))
    direct, through = delivered
    assert digests(through) == digests(direct)
    exact = Counter(through) & Counter(client.delivered(as_sent(letter)) for _, letter in letters)
    assert exact.total() >= client.exact, f"{exact.total()} of {len(letters)} letters as they were"
    assert len(dovecot.kept(account)) == len(letters)


@pytest.mark.parametrize(("client", "leg"), EACH)
def test_deletes_what_it_fetched(
    client: Client, leg: Leg, dovecot: Dovecot, proxy: Proxy, need: Need, ca_file: Path, tmp_path: Path
) -> None:
    need(*([client.package] if client.package else []))
    account = dovecot.account(SMALL)
    delivered = client.fetch(Mailbox(proxy_port(proxy, leg), leg, account, ca_file), tmp_path, False)
    assert Counter(delivered) == Counter(client.delivered(as_sent(letter)) for _, letter in SMALL)
    eventually(lambda: dovecot.kept(account) == [], "empty maildrop")


@pytest.fixture
def mailbox(dovecot: Dovecot, proxy: Proxy, need: Need, ca_file: Path) -> Mailbox:
    """A small maildrop behind the proxy, for curl over TLS."""
    need("curl")
    return Mailbox(proxy.pop3s, "tls", dovecot.account(SMALL), ca_file)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl_logs_in(mailbox: Mailbox, mechanism: str, proxy: Proxy) -> None:
    """SASL by name."""
    assert len(curl(mailbox, "--login-options", f"AUTH={mechanism}", curl_url(mailbox)).splitlines()) == len(SMALL)

    def used() -> list[object]:
        return [line["mechanism"] for line in proxy.sessions() if line["user"] == mailbox.account.user]

    eventually(lambda: len(used()) > 0, "session line")
    assert used() == [mechanism]


def test_curl_lists_and_retrieves(mailbox: Mailbox) -> None:
    scan = b"".join(b"%d %d\r\n" % (number, len(as_sent(letter))) for number, (_, letter) in enumerate(SMALL, 1))
    assert curl(mailbox, curl_url(mailbox)) == scan
    assert curl(mailbox, "--list-only", curl_url(mailbox)) == scan
    uids = [line.split() for line in curl(mailbox, "--request", "UIDL", curl_url(mailbox)).splitlines()]
    assert [uid[0] for uid in uids] == [b"1", b"2", b"3", b"4"]
    assert len({uid[1] for uid in uids}) == 4
    assert curl(mailbox, curl_url(mailbox, "3")) == as_sent(SMALL[2][1])
    assert curl(mailbox, "--request", "TOP 2 0", curl_url(mailbox)).endswith(b"\r\n\r\n")


def test_curl_deletes_one(mailbox: Mailbox, dovecot: Dovecot) -> None:
    curl(mailbox, "--request", "DELE", "--head", curl_url(mailbox, "2"))
    eventually(lambda: dovecot.kept(mailbox.account) == sorted(SMALL[n][1] for n in (0, 2, 3)), "deletion")


def test_curl_without_tls_is_refused(mailbox: Mailbox, proxy: Proxy, dovecot: Dovecot) -> None:
    """On a listener with STLS nobody logs in before it (auth_before_tls = "refuse")."""
    clear = Mailbox(proxy.pop3, "clear", mailbox.account, mailbox.ca_file)
    with pytest.raises(AssertionError, match=r"ended with (67|8|94)"):
        curl(clear, curl_url(clear))
    assert f"user=<{mailbox.account.user}>" not in dovecot.log()


def test_s_client_hears_the_same(mailbox: Mailbox, trust: ssl.SSLContext, proxy: Proxy, need: Need) -> None:
    """What a person sees who types; after QUIT the connection is closed cleanly."""
    need("openssl")
    with s_client(mailbox) as (process, ask), logged_in(proxy, "tls", trust, mailbox.account) as other:
        for line in ("STAT", "NOOP", "LIST 1", "UIDL 4", "RSET"):
            assert ask(line) == other.single(line.encode())
        for line in ("LIST", "UIDL", "TOP 2 3", "RETR 3"):
            assert ask(line, multi=True) == other.multi(line.encode())
        ask("QUIT")
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(10) == 0

"""Promise 9 on real servers: what STAT and LIST announce is what RETR and TOP send, whatever a plugin does.

A server's own LIST need not agree with its own RETR (a last line without its end, a header it repairs). So each number
is compared with what the server says of itself: it is larger by exactly what the plugins announced.
"""

from __future__ import annotations

import re
import ssl
import tomllib
from dataclasses import dataclass, replace

import pytest
from popproxy_plugins.headers import Headers, HeadersConfig

from popproxy.api import SessionView
from tests.integration.conftest import Start
from tests.integration.daemon import Account
from tests.integration.dovecot import LETTERS
from tests.integration.proxy import Setup
from tests.integration.reading import Server, logged_in, url
from tests.integration.sizing import GROWTH, NOTICE
from tests.integration.test_servers import SOME
from tests.wireclient import WireClient

pytestmark = pytest.mark.integration

TOPS = (0, 2, 100000)
HEADERS = """
[[plugin]]
use = "headers"
rules = [
  { remove = "X-*" },
  { add = "X-Fetched-By", value = "{user} through {listener}" },
  { set = "Subject", value = "{upstream}" },
  { rewrite = "Message-ID", match = "letters", with = "more.letters", if_header = "From" },
]
"""


def table(name: str) -> str:
    return f'\n[[plugin]]\nuse = "tests.integration.sizing:{name}"\n'


ACTIONS = {
    "headers": HEADERS,
    "filters": table("Filters"),
    "grows": table("Grows"),
    "edits": table("Edits"),
    "replaces": table("Replaces"),
    "fails": table("Fails"),
    "overdoes": table("Overdoes"),
    "lists": table("Lists"),
    "all together": table("Filters") + HEADERS + table("Lists") + table("Edits") + table("Fails"),
}


@dataclass
class Reading:
    """What a server says of a maildrop, and what it sends. ``tops`` by number and lines."""

    count: int
    octets: int
    listed: dict[int, int]
    one: dict[int, int]
    retr: dict[int, bytes]
    tops: dict[tuple[int, int], bytes]

    def size(self, number: int) -> int:
        return octets_of(self.retr[number])


def octets_of(reply: bytes) -> int:
    return len(message_of(reply))


def message_of(reply: bytes) -> bytes:
    head, _, body = reply.partition(b"\r\n")
    assert head.startswith(b"+OK") and body.endswith(b".\r\n"), head
    return (b"\r\n" + body[:-3]).replace(b"\r\n.", b"\r\n")[2:]


def read(client: WireClient) -> Reading:
    count, octets = map(int, client.single(b"STAT").split()[1:3])
    rows = [row.split() for row in client.multi(b"LIST").split(b"\r\n")[1:-2]]
    listed = {int(row[0]): int(row[1]) for row in rows}
    one = {number: int(client.single(b"LIST %d" % number).split()[2]) for number in listed}
    retr = {number: client.multi(b"RETR %d" % number) for number in listed}
    tops = {(number, k): client.multi(b"TOP %d %d" % (number, k)) for number in listed for k in TOPS}
    return Reading(count, octets, listed, one, retr, tops)


def growth(action: str, account: Account) -> int:
    """What the plugins announce for this account on the listener ``clear``."""
    total = ACTIONS[action].count("tests.integration.sizing") * GROWTH
    if "headers" in ACTIONS[action]:
        (options,) = tomllib.loads(HEADERS)["plugin"]
        view = SessionView("1", "clear", user=account.name.decode(), upstream="main")
        total += Headers(HeadersConfig.model_validate({"rules": options["rules"]})).growth(view)
    return total


@pytest.fixture(scope="module", params=["dovecot", "courier", "cyrus"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def account(server: Server, request: pytest.FixtureRequest) -> Account:
    return server.account(LETTERS if type(server).__name__ == "Dovecot" else SOME)


@pytest.fixture(scope="module")
def direct(server: Server, account: Account) -> Reading:
    with WireClient(("127.0.0.1", server.port)) as client:
        assert client.user_pass(account.name, account.password).startswith(b"+OK")
        return read(client)


@pytest.mark.parametrize("action", ACTIONS)
def test_promise_9_sizes_are_larger_by_what_was_announced(
    server: Server, account: Account, direct: Reading, start: Start, setup: Setup, trust: ssl.SSLContext, action: str
) -> None:
    proxy = start(replace(setup, server=url(server, "clear"), upstream=ACTIONS[action]))
    grown = growth(action, account)
    with logged_in(proxy, "clear", trust, account) as client:
        found = read(client)
        assert client.single(b"QUIT").startswith(b"+OK")
    assert found.count == direct.count
    assert found.octets == direct.octets + grown * direct.count == sum(found.listed.values())
    assert found.listed == found.one == {number: size + grown for number, size in direct.listed.items()}
    for number in direct.retr:
        whole, mine = message_of(direct.retr[number]), message_of(found.retr[number])
        assert len(mine) == len(whole) + grown, number
        assert len(mine) - found.listed[number] == len(whole) - direct.listed[number]
        said = re.match(rb"\+OK[^\r]*?(\d+) octets", found.retr[number])
        assert said is None or int(said[1]) == found.listed[number]
        if action == "replaces":
            assert NOTICE in mine or len(whole) <= len(NOTICE)
        else:
            assert mine.endswith(parts(whole)[1]), number
        for k in TOPS:
            # Two of these plugins ask for the whole message, and no server's TOP need agree with its own RETR.
            asked_whole = table("Edits") in ACTIONS[action]
            other = first_lines(whole, k) if asked_whole else message_of(direct.tops[number, k])
            assert octets_of(found.tops[number, k]) == len(other) + grown, (number, k)


def parts(message: bytes) -> tuple[bytes, bytes]:
    """Header and body."""
    end = re.search(rb"\n\r?\n", b"\n" + message)
    return (message, b"") if end is None else (message[: end.end() - 1], message[end.end() - 1 :])


def first_lines(message: bytes, count: int) -> bytes:
    """What TOP is to send of it."""
    header, body = parts(message)
    lines = body.split(b"\n")
    ended = [line + b"\n" for line in lines[:-1]] + lines[-1:]
    cut = header + b"".join(ended[:count])
    return cut if not cut or cut.endswith(b"\r\n") else cut + b"\r\n"

"""A fleet: three processes that share a store count as one, before a real Dovecot."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import Need
from tests.integration.daemon import Account
from tests.integration.dovecot import Dovecot
from tests.integration.fleet import (
    BANNED,
    DAY,
    ELSEWHERE,
    FULL,
    HOME,
    LARGE,
    MANY,
    OFTEN,
    OPEN,
    PLAIN,
    POLLING,
    RATED,
    THERE,
    Fleet,
    connected,
    fleet,
    inside,
    store,
    tried,
)
from tests.integration.proxy import Certificate, Proxy, Setup, eventually
from tests.integration.reading import url

pytestmark = pytest.mark.integration


STORES = ("redis", "sqlite", "redis_tls", "redis_unix")
IN_EACH = pytest.mark.parametrize("ours", STORES, indirect=True)
IN_BOTH = pytest.mark.parametrize("ours", STORES[:2], indirect=True)
"""Where the way to the store is not what it is about."""


@pytest.fixture(scope="module")
def ours(
    request: pytest.FixtureRequest,
    need: Need,
    dovecot: Dovecot,
    setup: Setup,
    served: Certificate,
    ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    """Three processes over one Redis; two where the way to the store is all that differs."""
    if request.param != "sqlite":
        need("redis-server")
    size = 3 if request.param == "redis" else 2
    with (
        store(request.param, tmp_path_factory.mktemp("store"), served, ca_file) as shared,
        fleet(setup, size, url(dovecot, "clear"), shared) as running,
    ):
        yield running


@IN_EACH
def test_sessions_of_a_user_are_counted_in_all(ours: Fleet, dovecot: Dovecot) -> None:
    account, other = dovecot.account(PLAIN), dovecot.account(PLAIN)
    with ExitStack() as sessions:
        held = [sessions.enter_context(inside(ours[number], account, OPEN)) for number in (0, -1, 1)]
        for proxy in ours.proxies:
            assert tried(proxy, account, OPEN) == FULL
            assert tried(proxy, other, OPEN).startswith(b"+OK")
        assert held[1].single(b"QUIT").startswith(b"+OK")
        eventually(lambda: tried(ours[0], account, OPEN) != FULL, "a place that was given back by QUIT")
        held[2].close()
        sessions.enter_context(inside(ours[0], account, OPEN))
        eventually(lambda: tried(ours[-1], account, OPEN) != FULL, "a place that was given back by a lost client")
    assert ours.metric('popproxy_auth_attempts_total{listener="clear",mechanism="USER",result="rate_limited"') > 0


@IN_EACH
def test_places_of_a_killed_process_are_given_back(ours: Fleet, dovecot: Dovecot) -> None:
    account = dovecot.account(PLAIN)
    with ExitStack() as sessions:
        sessions.enter_context(inside(ours[0], account, OPEN))
        for _ in range(2):
            sessions.enter_context(inside(ours[-1], account, OPEN))
        assert tried(ours[0], account, OPEN) == FULL
        ours.kill(-1)
        eventually(lambda: tried(ours[0], account, OPEN) != FULL, "places of a dead process that were given back")
        # Those of the living are kept, however often their lease would have ended.
        new = ours.add()
        for _ in range(2):
            sessions.enter_context(inside(new, account, OPEN))
        for proxy in ours.proxies:
            assert tried(proxy, account, OPEN) == FULL


@IN_EACH
def test_places_of_a_stopped_process_are_given_back_at_once(ours: Fleet, dovecot: Dovecot) -> None:
    account = dovecot.account(PLAIN)
    with ExitStack() as sessions:
        for _ in range(3):
            sessions.enter_context(inside(ours[-1], account, OPEN))
        assert tried(ours[0], account, OPEN) == FULL
        ours.stop(-1)
        assert tried(ours[0], account, OPEN).startswith(b"+OK")
        ours.add()


def takes_connections(proxy: Proxy) -> bool:
    with connected(proxy, OPEN) as client:
        return client.greeting.startswith(b"+OK")


@IN_BOTH
def test_a_process_that_hung_finds_its_places_taken_and_its_sessions_there(ours: Fleet, dovecot: Dovecot) -> None:
    account = dovecot.account(PLAIN)
    hung = ours[-1].daemon.process
    with ExitStack() as sessions, ExitStack() as taken:
        theirs = [sessions.enter_context(inside(ours[-1], account, OPEN)) for _ in range(3)]
        hung.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: tried(ours[0], account, OPEN) != FULL, "places of a process that hangs")
            for _ in range(3):
                taken.enter_context(inside(ours[0], account, OPEN))
            assert tried(ours[0], account, OPEN) == FULL
        finally:
            hung.send_signal(signal.SIGCONT)
        for client in theirs:
            assert client.single(b"STAT").startswith(b"+OK 2 ")
        # A loop that was late sheds new connections first.
        eventually(lambda: takes_connections(ours[-1]), "a greeting")
        assert tried(ours[-1], account, OPEN) == FULL
        taken.close()
        # As soon as it has been heard again, its three are all there is room for.
        assert tried(ours[-1], account, OPEN) == FULL
        assert tried(ours[0], account, OPEN) == FULL
        assert theirs[0].single(b"QUIT").startswith(b"+OK")
        eventually(lambda: tried(ours[0], account, OPEN) != FULL, "one place")


@IN_EACH
def test_time_between_logins_is_kept_by_all(ours: Fleet, dovecot: Dovecot) -> None:
    account = dovecot.account(PLAIN)
    assert tried(ours[0], account, POLLING).startswith(b"+OK")
    for proxy in ours.proxies:
        assert tried(proxy, account, POLLING).startswith(b"-ERR [LOGIN-DELAY] ")


@IN_BOTH
def test_octets_of_the_day_are_counted_by_all(ours: Fleet, dovecot: Dovecot) -> None:
    account = dovecot.account(LARGE)
    before = len(ours[0].sessions())
    with inside(ours[0], account, DAY) as client:
        assert client.multi(b"RETR 1").startswith(b"+OK")
        assert client.single(b"QUIT").startswith(b"+OK")
    ours[0].wait_for_sessions(before + 1)
    text = b"-ERR [SYS/TEMP] Too much was retrieved, try again later\r\n"

    def retrieved(proxy: Proxy) -> bytes:
        with connected(proxy, DAY) as client:
            reply = client.user_pass(account.name, account.password)
            return client.multi(b"RETR 1") if reply.startswith(b"+OK") else reply

    # What a session has sent is posted, and nobody waits for it.
    eventually(lambda: retrieved(ours[-1]) == text, "the octets of the other process")
    assert retrieved(ours[1]) == text


def all_at_once(ours: Fleet, tries: list[tuple[Account, str]]) -> Counter[bytes]:
    """The replies to logins of all kinds at once, by all processes in turn."""
    with ThreadPoolExecutor(8) as threads:
        found = [
            threads.submit(tried, ours.proxies[number % len(ours.proxies)], account, source)
            for number, (account, source) in enumerate(tries)
        ]
        replies = [future.result() for future in found]
    return Counter(b"+OK" if reply.startswith(b"+OK") else reply for reply in replies)


@IN_EACH
def test_so_many_of_those_who_come_at_once_and_not_one_more(ours: Fleet, dovecot: Dovecot) -> None:
    often = dovecot.account(PLAIN)
    code = b"-ERR [LOGIN-DELAY] Too many logins, try again later\r\n"
    assert all_at_once(ours, [(often, OFTEN)] * 10) == {b"+OK": 4, code: 6}
    account = dovecot.account(PLAIN)
    sources = [(account, f"{MANY}{number}") for number in range(1, 17)]
    assert all_at_once(ours, sources) == {b"+OK": 7, RATED: 9}
    denied = 'popproxy_rate_limit_decisions_total{limit="tries",plugin="rate_limit",result="denied"}'
    before = ours.metric(denied)
    others = [(dovecot.account(PLAIN), f"{MANY}100") for _ in range(4)] * 3
    assert all_at_once(ours, others) == {b"+OK": 5, RATED.replace(b"TEMP", b"PERM"): 7}
    assert ours.metric(denied) - before == 7


@IN_BOTH
def test_who_guesses_at_one_is_refused_by_all_and_a_known_user_by_none(ours: Fleet, dovecot: Dovecot) -> None:
    victim, other = dovecot.account(PLAIN), dovecot.account(PLAIN)
    guesses = [Account(victim.user, b"guess-%d-at-a-password" % number) for number in range(8)]
    counted = 'popproxy_plugin_brute_force_logins_total{result="%s"'
    assert tried(ours[-1], victim, HOME).startswith(b"+OK")
    held = ours[1].metric(counted % "held")
    for number, guess in enumerate(guesses[:3]):
        assert tried(ours[0], guess, THERE).startswith(b"-ERR [AUTH] "), number
        if not number:
            # One failure there: held here.
            assert tried(ours[1], other, THERE).startswith(b"+OK")
            assert ours[1].metric(counted % "held") == held + 1
        assert tried(ours[-1], victim, HOME).startswith(b"+OK")
    for proxy in ours.proxies:
        assert tried(proxy, guesses[3], THERE) == tried(proxy, victim, THERE) == BANNED
    # The user is under attack: two more addresses, with one guess each.
    for number in (1, 2):
        source = f"127.4.{number}.1"
        assert tried(ours[0], guesses[3 + number], source).startswith(b"-ERR [AUTH] ")
    for number, proxy in enumerate(ours.proxies):
        assert tried(proxy, victim, f"127.4.{number % 2 + 1}.1") == BANNED
        assert tried(proxy, victim, HOME).startswith(b"+OK")
        assert tried(proxy, victim, ELSEWHERE).startswith(b"+OK"), "a new device"
    tries = dovecot.log().count("auth failed, 1 attempts")
    assert tried(ours[1], guesses[6], THERE) == BANNED
    assert dovecot.log().count("auth failed, 1 attempts") == tries, "what is refused goes nowhere"

"""The store of a fleet is lost, or hangs: logins go by the fail modes of their limits, sessions go on, and what is held
counts again when the store is back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from threading import Event, Thread

import pytest

from tests.integration import redis_server
from tests.integration.conftest import Need
from tests.integration.daemon import Account
from tests.integration.dovecot import Dovecot
from tests.integration.fleet import (
    CLOSED,
    CLOSED_NOW,
    FULL,
    MANY,
    OPEN,
    PLAIN,
    Fleet,
    by_tcp,
    connected,
    fleet,
    inside,
    tried,
)
from tests.integration.proxy import Proxy, Setup, eventually
from tests.integration.reading import url
from tests.integration.redis_server import Redis

pytestmark = pytest.mark.integration

ERRORS = 'popproxy_rate_limit_decisions_total{limit="%s",plugin="%s",result="error"}'


@pytest.fixture
def redis(need: Need) -> Iterator[Redis]:
    need("redis-server")
    with redis_server.server() as running:
        yield running


class Visitor:
    """Logs in again and again, to one process, until it is told to stop; ``seen`` are the replies."""

    def __init__(self, proxy: Proxy, account: Account, source: str) -> None:
        self.seen: list[bytes] = []
        self._end = Event()
        self._failed: BaseException | None = None
        self._thread = Thread(target=self._work, args=(proxy, account, source))
        self._thread.start()

    def _work(self, proxy: Proxy, account: Account, source: str) -> None:
        try:
            while not self._end.is_set():
                reply = tried(proxy, account, source)
                self.seen.append(b"+OK" if reply.startswith(b"+OK") else reply)
        except BaseException as error:
            self._failed = error

    def more(self, reply: bytes, count: int = 3) -> None:
        """Wait until it has heard ``reply`` so many times from now on."""
        have = self.seen.count(reply)
        eventually(lambda: self._failed is not None or self.seen.count(reply) >= have + count, f"{reply!r}")
        assert self._failed is None, self._failed

    def leave(self) -> None:
        """End."""
        self._end.set()
        self._thread.join()

    def stop(self) -> list[bytes]:
        """End; what it heard, without repetitions."""
        self.leave()
        assert self._failed is None, self._failed
        return [reply for reply, _ in groupby(self.seen)]


@contextmanager
def visitors(running: Fleet, dovecot: Dovecot, source: str) -> Iterator[list[Visitor]]:
    """One for each process."""
    made = [Visitor(proxy, dovecot.account(PLAIN), source) for proxy in running.proxies]
    try:
        yield made
    finally:
        for visitor in made:
            visitor.leave()


def outages(proxy: Proxy) -> list[object]:
    """What it has logged of the store."""
    return [line["event"] for line in proxy.lines() if line["event"] in ("store_down", "store_up")]


def all_back(running: Fleet) -> None:
    """Wait until every process has its store again, and see that it lost it once."""
    for proxy in running.proxies:
        eventually(lambda proxy=proxy: outages(proxy)[-1:] == ["store_up"], "the store that is back")
        assert outages(proxy) == ["store_down", "store_up"]
        assert proxy.metric("popproxy_store_up{") == 1


def test_a_redis_that_is_killed_in_the_middle_of_logins(redis: Redis, dovecot: Dovecot, setup: Setup) -> None:
    account = dovecot.account(PLAIN)
    with fleet(setup, 3, url(dovecot, "clear"), by_tcp(redis)) as running, ExitStack() as sessions:
        for number in (0, 1):
            sessions.enter_context(inside(running[number], account, OPEN))
        with visitors(running, dovecot, OPEN) as lucky, visitors(running, dovecot, CLOSED) as strict:
            for visitor in (*lucky, *strict):
                visitor.more(b"+OK")
            redis.kill()
            for visitor in lucky:
                visitor.more(b"+OK")
            for visitor in strict:
                visitor.more(CLOSED_NOW)
            over = [sessions.enter_context(inside(running[2], account, OPEN)) for _ in range(2)]
            assert tried(running[0], account, f"{MANY}1").startswith(b"+OK")
            stranger = Account("ann@example.org", b"never-asked-for")
            assert tried(running[0], stranger, f"{MANY}1") == b"-ERR [SYS/TEMP] Try again later\r\n"
            assert [outages(proxy) for proxy in running.proxies] == [["store_down"]] * 3
            redis.start()
            for visitor in strict:
                visitor.more(b"+OK")
            assert [visitor.stop() for visitor in lucky] == [[b"+OK"]] * 3
            assert [visitor.stop() for visitor in strict] == [[b"+OK", CLOSED_NOW, b"+OK"]] * 3
        all_back(running)
        for proxy in running.proxies:
            assert proxy.metric("popproxy_store_errors_total{") > 0
            assert proxy.metric(ERRORS % ("sessions_per_user", "policy")) > 0
        for limit in ("successes", "tries", "domains"):
            assert running[0].metric(ERRORS % (limit, "rate_limit")) > 0
        # It came back with nothing: the two of before are known again, those of meanwhile never were.
        third = sessions.enter_context(inside(running[2], account, OPEN))
        for proxy in running.proxies:
            assert tried(proxy, account, OPEN) == FULL
        for client in (*over, third):
            assert client.single(b"QUIT").startswith(b"+OK")
        eventually(lambda: tried(running[0], account, OPEN) != FULL, "the third place")
        sessions.enter_context(inside(running[1], account, OPEN))
        assert tried(running[0], account, OPEN) == FULL


def test_a_redis_that_hangs(redis: Redis, dovecot: Dovecot, setup: Setup) -> None:
    """A login waits for the time-out, nobody else does; and no other login before it has failed twice."""
    account, reader = dovecot.account(PLAIN), dovecot.account(PLAIN[:1])
    with fleet(setup, 3, url(dovecot, "clear"), by_tcp(redis, timeout="3s")) as running, ExitStack() as sessions:
        steady = sessions.enter_context(inside(running[0], reader, OPEN))
        redis.hang()
        late = connected(running[0], OPEN)
        sessions.enter_context(late)
        assert late.single(b"USER " + account.name).startswith(b"+OK")
        late.send(b"PASS " + account.password + b"\r\n")
        heard: list[bytes] = []
        listener = Thread(target=lambda: heard.append(late.read_line()))
        listener.start()
        eventually(lambda: dovecot.logins(account) == 1, "a login that waits for the store")
        # The password was right; the store has not said yet whether there is room.
        assert steady.multi(b"RETR 1").startswith(b"+OK")
        assert steady.single(b"STAT").startswith(b"+OK 1 ")
        assert heard == []
        listener.join()
        assert heard[0].startswith(b"+OK")
        for proxy in running.proxies:
            assert tried(proxy, account, OPEN).startswith(b"+OK")
            assert tried(proxy, account, CLOSED) == CLOSED_NOW
            assert outages(proxy) == ["store_down"]
            assert proxy.metric('popproxy_store_errors_total{reason="timeout"') > 0
        redis.go_on()
        all_back(running)
        # What was asked in vain may have been done late: it is taken back.
        eventually(lambda: room(running, account) == 3, "three places")
        assert steady.single(b"QUIT").startswith(b"+OK")


def room(running: Fleet, account: Account) -> int:
    """How many sessions get in at once, by all processes in turn; they end."""
    with ExitStack() as sessions:
        for count in range(10):
            client = sessions.enter_context(connected(running[count % 3], OPEN))
            reply = client.user_pass(account.name, account.password)
            if reply == FULL:
                return count
            assert reply.startswith(b"+OK"), reply
    raise AssertionError("there is no limit")

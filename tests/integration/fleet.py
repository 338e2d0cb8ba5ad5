"""Several popproxy processes over one store, before one mail server; any of them may be killed and replaced.

One config for all tests: which rule counts depends on the network that a client comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from tests.integration import proxy, redis_server
from tests.integration.daemon import Account
from tests.integration.dovecot import LETTERS
from tests.integration.proxy import Certificate, Proxy, Setup
from tests.integration.redis_server import Redis
from tests.wireclient import WireClient

PLAIN = [pair for pair in LETTERS if pair[0] in ("empty_body", "utf8_body")]
LARGE = [pair for pair in LETTERS if pair[0] == "five_megabytes_of_base64"]
LEASE = 4
"""Seconds that a dead process holds its places."""

OPEN, CLOSED, POLLING, DAY, OFTEN = "127.0.1.1", "127.0.2.1", "127.0.3.1", "127.0.4.1", "127.0.5.1"
"""A client of each rule of RULES, in this order."""
RULES = """
[[plugin]]
use = "policy"
[[plugin.rules]]
name = "open"
when = { network = ["127.0.1.0/24"] }
sessions_per_user = 3
[[plugin.rules]]
name = "closed"
when = { network = ["127.0.2.0/24"] }
sessions_per_user = 3
store_failure = "closed"
[[plugin.rules]]
name = "polling"
when = { network = ["127.0.3.0/24"] }
login_delay = "1h"
[[plugin.rules]]
name = "day"
when = { network = ["127.0.4.0/24"] }
octets_per_day = "6MiB"
[[plugin.rules]]
name = "often"
when = { network = ["127.0.5.0/24"] }
logins = "4/day"
"""

FULL = b"-ERR [IN-USE] Too many sessions at once\r\n"
CLOSED_NOW = b"-ERR [SYS/TEMP] Login is not possible now, try again later\r\n"

MANY = "127.0.8."
"""Network of those whose logins rate_limit counts."""
LIMITS = """
[[plugin]]
use = "rate_limit"
allow = ["127.0.0.0/21", "127.1.0.0/16", "127.2.0.0/15", "127.4.0.0/16"]
limits = [
  { name = "successes", key = "user", on = "success", limit = 7, per = "1d" },
  { name = "tries", key = "address", on = "login", limit = 5, per = "1d", window = "bucket", code = "SYS/PERM" },
  { name = "domains", key = "domain", on = "login", limit = 1000, per = "1d", fail = "closed" },
]
"""
RATED = b"-ERR [SYS/TEMP] Too many logins, try again later\r\n"

HOME, THERE, ELSEWHERE = "127.1.1.1", "127.2.2.2", "127.3.3.3"
"""Clients that brute_force looks at."""
ATTACKS = """
[[plugin]]
use = "brute_force"
allow = ["127.0.0.0/16"]
delays = ["1ms"]
address = { delay = 1, pairs = 3 }
user = { delay = 0, passwords = 5, strikes = 1 }
"""
BANNED = b"-ERR [SYS/TEMP] Too many failed logins, try again later\r\n"


def in_file(path: Path) -> str:
    """TOML of a store in sqlite."""
    return f'[store]\nuse = "sqlite"\npath = {json.dumps(str(path))}\nlease = "{LEASE}s"\n'


def in_redis(url: str, *more: str, timeout: str = "3s") -> str:
    """TOML of a store in Redis. The time-out is long: a slow machine is no outage."""
    lines = ["[store]", 'use = "redis"', f'url = "{url}"', f'timeout = "{timeout}"', f'lease = "{LEASE}s"', *more]
    return "\n".join([*lines, ""])


def by_tcp(redis: Redis, timeout: str = "3s") -> str:
    """TOML of a store in ``redis``, without TLS."""
    return in_redis(f"redis://127.0.0.1:{redis.port}/0", timeout=timeout)


@contextmanager
def store(kind: str, directory: Path, certificate: Certificate, ca_file: Path) -> Iterator[str]:
    """TOML of the store ``sqlite``, ``redis``, ``redis_tls`` (where both sides show ``certificate``) or ``redis_unix``;
    a Redis runs until the block is left."""
    if kind == "sqlite":
        yield in_file(directory / "store.sqlite")
    elif kind == "redis_tls":
        pair = f"{{ cert = {json.dumps(str(certificate.cert))}, key = {json.dumps(str(certificate.key))} }}"
        more = (f"ca_file = {json.dumps(str(ca_file))}", f"client_certificate = {pair}")
        with redis_server.server(certificate=certificate, ca_file=ca_file) as redis:
            yield in_redis(f"rediss://localhost:{redis.port}", *more)
    else:
        with redis_server.server() as redis:
            yield by_tcp(redis) if kind == "redis" else in_redis(f"unix://{redis.socket}")


@dataclass
class Fleet:
    """``proxies`` are processes with the same config, each with ports of its own."""

    setup: Setup
    proxies: list[Proxy] = field(default_factory=list[Proxy])
    _running: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def __getitem__(self, number: int) -> Proxy:
        return self.proxies[number]

    def add(self) -> Proxy:
        """One more, at the end."""
        self.proxies.append(self._running.enter_context(proxy.start(self.setup)))
        return self.proxies[-1]

    def kill(self, number: int) -> None:
        """SIGKILL for this one; it is no longer of the fleet."""
        self.proxies.pop(number).kill()

    def stop(self, number: int) -> None:
        """SIGTERM for this one, and wait for its end; it is no longer of the fleet."""
        self.proxies.pop(number).daemon.stop()

    def metric(self, start: str) -> float:
        """The sum over all processes."""
        return sum(one.metric(start) for one in self.proxies)


def fleet(setup: Setup, size: int, server: str, store: str) -> Fleet:
    """So many proxies before ``server`` with all of the above, and the store of this TOML."""
    made = Fleet(replace(setup, server=server, upstream="\n".join(["", RULES, LIMITS, ATTACKS, store])))
    try:
        for _ in range(size):
            made.add()
    except BaseException:
        made.__exit__()
        raise
    return made


def connected(proxy: Proxy, source: str = "127.0.0.1") -> WireClient:
    """A client without TLS that comes from ``source``."""
    return WireClient(("127.0.0.1", proxy.clear), source=source)


def inside(proxy: Proxy, account: Account, source: str = "127.0.0.1") -> WireClient:
    """``connected``, and logged in."""
    client = connected(proxy, source)
    reply = client.user_pass(account.name, account.password)
    assert reply.startswith(b"+OK"), reply
    return client


def tried(proxy: Proxy, account: Account, source: str = "127.0.0.1") -> bytes:
    """The reply to a login; a session that comes of it ends by QUIT."""
    with connected(proxy, source) as client:
        reply = client.user_pass(account.name, account.password)
        if reply.startswith(b"+OK"):
            client.single(b"QUIT")
        return reply

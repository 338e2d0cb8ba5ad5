"""rate_limit: what counts when, for whom, and what happens while the store is down."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.rate_limit import RateLimit, RateLimitConfig
from pydantic import ValidationError

from popproxy.api import (
    Explained,
    Fixed,
    LoginResult,
    Password,
    Refuse,
    SessionSummary,
    SessionView,
    Sliding,
    TokenBucket,
    Verified,
)
from popproxy.api.fakes import FakeClock, FakeServices, FakeStore, World
from popproxy.api.testing import play
from tests.plugins.driving import drive

AT = "192.0.2.7"


class Rig:
    """Workers with one store."""

    def __init__(self, *limits: dict[str, Any], workers: int = 1, **options: Any) -> None:
        self.clock = FakeClock()
        self.store = FakeStore(self.clock)
        given: Any = [{"limit": 2, "per": "1m", **limit} for limit in limits]
        self.config = RateLimitConfig(limits=given, **options)
        self.workers: list[tuple[RateLimit, FakeServices]] = []
        for _ in range(workers):
            services, plugin = FakeServices(self.clock, World()), RateLimit(self.config)
            services.store = self.store
            plugin.start(services)
            self.workers.append((plugin, services))

    def session(self, user: str = "joe", client: str = AT, listener: str = "pop3s") -> SessionView:
        return SessionView("s", listener, client=client, user=user)

    def connect(self, client: str = AT) -> Any:
        return drive(self.workers[0][0].on_connect(SessionView("s", "pop3s", client=client)))

    def login(self, user: str = "joe", client: str = AT, code: str | None = None, worker: int = 0, **more: Any) -> Any:
        """The refusal of a login, None when it was let through; ``code`` is how it ended."""
        plugin, session = self.workers[worker][0], self.session(user, client, **more)
        verdict = None
        if "on_login" not in plugin.skips:
            verdict = drive(plugin.on_login(session, Password(user, b"x")))
        if verdict is not None:
            drive(plugin.on_login_result(session, LoginResult(False, verdict.code.value.decode(), "", "", "")))
            return verdict
        return drive(plugin.on_login_result(session, LoginResult(code is None, code, "", "", "main")))

    def counted(self, limit: str, result: str) -> float:
        return sum(services.metrics.limited[limit, result].value for _, services in self.workers)

    def events(self) -> list[str]:
        return [line.event for _, services in self.workers for line in services.log.lines]


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ("user", ("JOE", "203.0.113.1"), ("ann", AT)),
        ("address", ("ann", "::ffff:192.0.2.7"), ("joe", "192.0.2.8")),
        ("address/24", ("ann", "192.0.2.200"), ("joe", "192.0.3.7")),
        ("network", ("ann", "192.0.2.200"), ("joe", "192.0.3.7")),
        ("domain", ("joe@x@B.example", "203.0.113.1"), ("joe@c.example", AT)),
    ],
)
def test_who_counts_as_one(key: str, same: tuple[str, str], other: tuple[str, str]) -> None:
    rig = Rig({"name": "one", "key": key})
    first = "ann@b.example" if key == "domain" else "joe"
    assert rig.login(first) is None
    assert rig.login(*same) is None
    refused = rig.login(*same)
    assert isinstance(refused, Refuse)
    assert (refused.code and refused.code.value, refused.limited) == (b"SYS/TEMP", True)
    assert rig.login(*other) is None


def test_networks_of_ipv6() -> None:
    rig = Rig({"name": "n", "key": "network", "network": {"v4": 32, "v6": 48}}, {"name": "p", "key": "address/64"})
    assert [rig.login(client=f"2001:db8:1:{n}::1") is None for n in range(3)] == [True, True, False]
    # /64 is for IPv6 only: IPv4 clients are counted by n alone.
    assert [rig.login(client=f"192.0.2.{n}") is None for n in range(5)] == [True] * 5


def test_a_listener_is_one_key() -> None:
    rig = Rig({"name": "l", "key": "listener"})
    assert [rig.login(client="unix") is None for _ in range(3)] == [True, True, False]
    assert rig.login(listener="other") is None


@pytest.mark.parametrize(
    ("key", "user", "client"),
    [("address", "joe", "unix"), ("domain", "joe", AT), ("domain", "joe@", AT), ("user", "", AT)],
)
def test_who_has_no_such_key_has_no_such_limit(key: str, user: str, client: str) -> None:
    rig = Rig({"name": "one", "key": key})
    assert [rig.login(user, client) for _ in range(9)] == [None] * 9


def test_each_moment_counts_what_it_says() -> None:
    rig = Rig(
        {"name": "c", "key": "address", "on": "connect"},
        {"name": "s", "key": "user", "on": "success"},
        {"name": "f", "key": "address", "on": "failure"},
    )
    assert [rig.connect() is None for _ in range(3)] == [True, True, False]
    assert [rig.login("ann") is None for _ in range(3)] == [True, True, False]
    for code in ("SYS/TEMP", "IN-USE", None):
        assert rig.login(f"user {code}", "203.0.113.9", code=code) is None
    assert [rig.login("joe", "203.0.113.9", code="AUTH") is None for _ in range(3)] == [True, True, False]
    # Who is refused reads so before the password was looked at; also with the right one.
    assert rig.login("zoe", "203.0.113.9") is not None


def test_two_successes_at_once_are_one_too_many() -> None:
    rig = Rig({"name": "s", "key": "user", "on": "success", "limit": 1}, workers=2)
    sessions = [rig.session() for _ in rig.workers]
    for (plugin, _), session in zip(rig.workers, sessions, strict=True):
        assert drive(plugin.on_login(session, Password("joe", b"x"))) is None
    ends = [
        drive(plugin.on_login_result(session, LoginResult(True, None, "", "", "main")))
        for (plugin, _), session in zip(rig.workers, sessions, strict=True)
    ]
    assert ends[0] is None
    assert isinstance(ends[1], Refuse)


def test_scram_counts_before_the_proof_and_once() -> None:
    rig = Rig({"name": "l", "key": "user"})
    plugin = rig.workers[0][0]
    for n in range(4):
        session = rig.session()
        session.mechanism = "SCRAM-SHA-256"
        verdict = drive(plugin.on_verifier(session, "joe", "SCRAM-SHA-256"))
        assert (verdict is None) == (n < 2)
        if n == 1:
            assert drive(plugin.on_login(session, Verified("joe"))) is None
        drive(plugin.on_login_result(session, LoginResult(n == 1, "AUTH", "", "", "")))
    assert rig.counted("l", "allowed") == 2


@pytest.mark.parametrize("on", ["login", "success", "failure"])
def test_a_cancelled_exchange_does_not_pay_for_the_login_behind_it(on: str) -> None:
    """AUTH SCRAM-SHA-256 with any name, ``*``, then USER and PASS: nobody is told of the cancelling."""
    rig = Rig({"name": "l", "key": "user", "on": on})
    plugin = rig.workers[0][0]
    let_in = 0
    for n in range(10):
        session = rig.session("joe")
        session.mechanism = "SCRAM-SHA-256"
        assert drive(plugin.on_verifier(session, f"nobody{n}", "SCRAM-SHA-256")) is None
        session.mechanism = "USER"
        verdict = drive(plugin.on_login(session, Password("joe", b"x")))
        code = verdict.code.value.decode() if verdict else "AUTH" if on == "failure" else None
        refused = drive(plugin.on_login_result(session, LoginResult(code is None, code, "", "", "main")))
        let_in += verdict is None and refused is None
    assert let_in == 2


def test_of_a_cancelled_exchange_nothing_is_left_when_a_plugin_in_front_refuses() -> None:
    rig = Rig({"name": "l", "key": "user", "on": "failure", "limit": 1})
    session = rig.session("joe")
    session.mechanism = "SCRAM-SHA-256"
    drive(rig.workers[0][0].on_verifier(session, "ann", "SCRAM-SHA-256"))
    session.mechanism = "USER"
    drive(rig.workers[0][0].on_login_result(session, LoginResult(False, "AUTH", "", "", "")))
    assert rig.login("ann") is None


@pytest.mark.parametrize(
    ("reason", "seconds", "server", "counts"),
    [
        ("client_eof", 0.5, "192.0.2.1:110", True),
        ("client_reset", 19.0, "192.0.2.1:110", True),
        ("client_eof", 30.0, "192.0.2.1:110", False),
        ("client_eof", 0.5, None, False),
        ("shutdown", 0.5, "192.0.2.1:110", False),
    ],
)
def test_who_does_not_wait_for_the_answer_has_failed(
    reason: str, seconds: float, server: str | None, counts: bool
) -> None:
    rig = Rig({"name": "l", "key": "address", "on": "failure"})
    plugin = rig.workers[0][0]
    for _ in range(2):
        session = rig.session()
        assert drive(plugin.on_login(session, Password("joe", b"x"))) is None
        session.server = server
        rig.clock.wait(seconds)
        plugin.on_close(session, SessionSummary(reason, "logging_in", seconds, {}, 0, 0, 0, 0))
    assert (rig.login() is not None) == counts


def test_all_or_nothing_in_one_call() -> None:
    rig = Rig({"name": "u", "key": "user", "limit": 5}, {"name": "a", "key": "address", "limit": 1})
    assert rig.login() is None
    runs = rig.store.runs
    for _ in range(10):
        assert rig.login() is not None
    assert rig.store.runs - runs == 10
    # Ten refusals took nothing of the user's five.
    assert [rig.login(client=f"203.0.113.{n}") is None for n in range(5)] == [True] * 4 + [False]
    assert rig.counted("a", "denied") == 10
    assert rig.counted("u", "denied") == 1
    assert rig.counted("u", "allowed") == rig.counted("a", "allowed") == 5


def test_audit_counts_and_refuses_nothing() -> None:
    rig = Rig({"name": "a", "key": "address", "mode": "audit"}, {"name": "u", "key": "user", "limit": 4})
    assert [rig.login() is None for _ in range(5)] == [True] * 4 + [False]
    assert rig.counted("a", "audited") == 3
    assert rig.counted("a", "denied") == 0
    assert rig.events().count("audited") == 3


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_the_store_is_down_for_a_while(fail: str) -> None:
    rig = Rig({"name": "a", "key": "address", "fail": fail}, {"name": "b", "key": "user"})
    rig.store.down = True
    for _ in range(5):
        verdict = rig.login()
        assert (verdict is None) == (fail == "open")
        assert verdict is None or verdict.code.value == b"SYS/TEMP"
    assert rig.counted("a", "error") == rig.counted("b", "error") == 5
    rig.store.down = False
    assert rig.login() is None
    assert rig.events() == ["store_failed", "store_back"]


def test_who_is_allowed_has_no_limit() -> None:
    rig = Rig({"name": "a", "key": "address"}, {"name": "c", "key": "address", "on": "connect"}, allow=["192.0.2.0/24"])
    assert [rig.login() for _ in range(9)] == [None] * 9
    assert [rig.connect() for _ in range(9)] == [None] * 9
    assert rig.store.runs == 0


def test_hooks_that_no_limit_needs_are_not_called() -> None:
    assert Rig({"name": "c", "key": "address", "on": "connect"}).workers[0][0].skips == {
        "on_login", "on_verifier", "on_login_result", "on_close"
    }  # fmt: skip
    assert Rig({"name": "l", "key": "user"}).workers[0][0].skips == {"on_connect", "on_close"}


@pytest.mark.parametrize(
    ("window", "burst", "counts"),
    [
        ("fixed", None, Fixed(10, 60.0)),
        ("sliding", None, Sliding(10, 60.0)),
        ("bucket", None, TokenBucket(10, 60.0)),
        ("bucket", 3, TokenBucket(3, 18.0)),
        ("bucket", 30, TokenBucket(30, 180.0)),
    ],
)
def test_windows(window: str, burst: int | None, counts: object) -> None:
    rig = Rig({"name": "w", "key": "user", "limit": 10, "window": window, "burst": burst})
    assert rig.config.limits[0].counts == counts


def test_a_bucket_refills_evenly() -> None:
    rig = Rig({"name": "w", "key": "user", "limit": 6, "window": "bucket", "burst": 2})
    assert [rig.login() is None for _ in range(3)] == [True, True, False]
    rig.clock.wait(10)
    assert [rig.login() is None for _ in range(2)] == [True, False]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0, 40)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_order_of_logins_exceeds_a_limit(logins: list[tuple[int, int, float]]) -> None:
    """Four workers, three users, one address; periods that begin at multiples of a minute."""
    rig = Rig(
        {"name": "u", "key": "user", "limit": 2, "window": "fixed"},
        {"name": "a", "key": "address", "limit": 4, "window": "fixed"},
        workers=4,
    )
    passed: dict[tuple[object, float], int] = {}
    for worker, user, pause in logins:
        period = rig.clock.now() // 60
        keys = ((user, period), ("all", period))
        room = passed.get(keys[0], 0) < 2 and passed.get(keys[1], 0) < 4
        assert (rig.login(f"user{user}", worker=worker) is None) == room
        for key in keys if room else ():
            passed[key] = passed.get(key, 0) + 1
        rig.clock.wait(pause)


def test_what_a_client_reads() -> None:
    script = """
S~ \\+OK.*
C: USER joe
S~ \\+OK.*
C: PASS x
@ connect
U< +OK upstream
U> CAPA
U< -ERR no CAPA
U> USER joe
U< +OK
U> PASS x
U< -ERR [AUTH] no
S: -ERR [AUTH] Authentication failed
C: USER joe
S~ \\+OK.*
C: PASS x
S: -ERR [LOGIN-DELAY] Not yet
"""
    limit = {"name": "l", "key": "user", "limit": 1, "per": 600, "code": "LOGIN-DELAY", "text": "Not yet"}
    played = play(RateLimit, script, config={"limits": [limit]})
    assert [result for _, result in played.logins] == ["bad_credentials", "rate_limited"]


@pytest.mark.parametrize(
    ("limit", "cure"),
    [
        ({"key": "nobody"}, "write one of user, address"),
        ({"key": "address/0"}, "write one of user, address"),
        ({"key": "address/129"}, "write one of user, address"),
        ({"key": "user", "on": "connect"}, 'write on = "login"'),
        ({"key": "domain", "on": "connect"}, 'write on = "login"'),
        ({"key": "user", "burst": 3}, 'window = "bucket"'),
        ({"key": "user", "network": {"v4": 8}}, 'key = "network"'),
        ({"key": "user", "name": "Not a name"}, "write 1 to 40"),
        ({"key": "user", "limit": 0}, "greater than or equal to 1"),
        ({"key": "user", "per": "soon"}, "is no duration"),
        ({"key": "user", "text": "[AUTH] x"}, "do not begin with ["),
        ({"key": "user", "text": "two\nlines"}, "cannot be sent in a status line"),
        ({"key": "address", "on": "connect", "code": "LOGIN-DELAY"}, 'code = "SYS/TEMP"'),
    ],
)
def test_what_is_wrong_with_a_limit(limit: dict[str, Any], cure: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Rig({"name": "x", **limit})
    assert cure in str(caught.value)


def test_two_limits_of_one_name() -> None:
    with pytest.raises(ValidationError, match="two limits are called x"):
        Rig({"name": "x", "key": "user"}, {"name": "x", "key": "address"})


def test_explain_names_what_counts() -> None:
    rig = Rig(
        {"name": "u", "key": "user", "limit": 10},
        {"name": "n", "key": "address/24", "on": "failure", "window": "bucket", "burst": 4, "mode": "audit"},
        {"name": "six", "key": "address/64"},
        allow=["10.0.0.0/8"],
    )
    plugin = rig.workers[0][0]
    assert plugin.explain(rig.session(), "joe") == Explained(
        (
            "u: 10 in 60 s (sliding) for user joe, on login",
            "n: 2 in 60 s, 4 at once (bucket) for network 192.0.2.0/24, on failure, only audited",
        )
    )
    assert plugin.explain(rig.session(client="10.1.2.3"), "joe") == Explained(("no limit: 10.1.2.3 is in allow",))


def test_keys_are_short_whatever_a_client_sends() -> None:
    rig = Rig({"name": "u", "key": "user"}, {"name": "d", "key": "domain"})
    for name in ("x" * 100_000 + "@" + "y" * 100_000, "\udcff@\udc80", "\ud800@\udfff", "a\0b@c\nd"):
        assert rig.login(name) is None

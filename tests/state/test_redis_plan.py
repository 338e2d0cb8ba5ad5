"""What a URL of Redis says, and that nothing tells its password."""

from __future__ import annotations

import pytest

from popproxy.state.redis.plan import Place, RedisPlan, read_url

GOOD = (
    ("redis://db", Place("single", (("db", 6379),))),
    ("redis://db:7000/3", Place("single", (("db", 7000),), database=3)),
    ("redis://[::1]:7000", Place("single", (("::1", 7000),))),
    ("redis://[2001:db8::1]", Place("single", (("2001:db8::1", 6379),))),
    ("rediss://u%40x:p%3Aw@db/", Place("single", (("db", 6379),), tls=True, username="u@x", password="p:w")),
    ("redis://:secret@db", Place("single", (("db", 6379),), password="secret")),
    ("unix:///run/redis/redis.sock", Place("unix", path="/run/redis/redis.sock")),
    (
        "redis+sentinel://a,b:1/mymaster/2",
        Place("sentinel", (("a", 26379), ("b", 1)), service="mymaster", database=2),
    ),
    ("rediss+sentinel://a/mymaster", Place("sentinel", (("a", 26379),), tls=True, service="mymaster")),
    ("redis+cluster://a:1,b", Place("cluster", (("a", 1), ("b", 6379)))),
    ("rediss+cluster://a/0", Place("cluster", (("a", 6379),), tls=True)),
)

BAD = (
    ("", "scheme"),
    ("http://db", "scheme 'http' is unknown; write one of: redis://"),
    ("redis+x://db", "unknown"),
    ("redis+://db", "unknown"),
    ("redis://", "no host"),
    ("redis://:1", "no host"),
    ("redis://a,b", "write redis[+]sentinel"),
    ("redis://db/x", "the database is no number"),
    ("redis://db/0/1", "the database is no number"),
    ("redis://db:99999", "no number from 1 to 65535"),
    ("redis://db:x", "no number from 1 to 65535"),
    ("redis://[::1", "write one of|not closed"),
    ("redis://[::1]x", "write one of|not closed"),
    ("redis://db?db=3", "keys of their own"),
    ("redis+sentinel://a", "no service"),
    ("redis+cluster://a/1", "database 0 only"),
    ("unix://socket", "write unix:///path"),
)


@pytest.mark.parametrize(("url", "place"), GOOD)
def test_a_url_says_where_redis_is(url: str, place: Place) -> None:
    assert read_url(url) == place


@pytest.mark.parametrize(("url", "words"), BAD)
def test_what_is_wrong_with_a_url_is_said(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_url(url)


@pytest.mark.parametrize(
    "url",
    (
        "redis://u:hunter2@",
        "redis://u:hunter2@db:x",
        "redis://u:hun?hunter2@db",
        "x://u:hunter2@db",
        "redis://hunter2@[",
    ),
)
def test_an_error_tells_no_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_url(url)
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


def test_no_repr_tells_a_password() -> None:
    plan = RedisPlan(read_url("redis://u:hunter2@db"), password="hunter2", sentinel_password="hunter2")
    assert "hunter2" not in repr(plan)


@pytest.mark.parametrize(("prefix", "timeout", "lease"), (("", 1.0, 30.0), ("a{b}", 1.0, 30.0), ("a", 30.0, 30.0)))
def test_a_plan_that_cannot_work_is_refused(prefix: str, timeout: float, lease: float) -> None:
    with pytest.raises(ValueError, match=r"write|lasts longer"):
        RedisPlan(read_url("redis://db"), prefix=prefix, timeout=timeout, lease=lease)

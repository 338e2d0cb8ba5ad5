"""``[store]``: what each kind takes, and what it compiles to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from popproxy.config import storechecks
from popproxy.config.load import Loaded
from popproxy.config.plan import StorePlan
from popproxy.state.redis.plan import Place, RedisPlan, Tls

Good = Callable[[str], Loaded]
Bad = Callable[[str], list[str]]


def test_without_a_table_it_is_memory(good: Good) -> None:
    assert good("").plan.store == StorePlan("memory")
    assert good('[store]\nuse = "memory"\n').plan.store == StorePlan("memory")


def test_sqlite(good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    plan = good('[store]\nuse = "sqlite"\n').plan.store
    assert plan == StorePlan("sqlite", tmp_path / "state" / "store.sqlite")
    plan = good('[store]\nuse = "sqlite"\npath = "limits.db"\nlease = "10s"\n').plan.store
    assert plan == StorePlan("sqlite", tmp_path / "limits.db", lease=10.0)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ('url = "redis://127.0.0.1"', RedisPlan(Place("single", (("127.0.0.1", 6379),)))),
        (
            'url = "redis://127.0.0.1:7000/3"\nusername = "pop"\npassword = "hunter2"\nprefix = "test"\ntimeout = "1s"'
            '\nlease = "10s"',
            RedisPlan(
                Place("single", (("127.0.0.1", 7000),), database=3), None, "pop", "hunter2", prefix="test", timeout=1.0,
                lease=10.0,
            ),
        ),
        ('url = "unix:///run/redis.sock"', RedisPlan(Place("unix", path="/run/redis.sock"))),
        (
            'url = "redis+sentinel://127.0.0.1,[::1]:26380/main/1"\nsentinel_password = "hunter3"',
            RedisPlan(
                Place("sentinel", (("127.0.0.1", 26379), ("::1", 26380)), service="main", database=1),
                sentinel_password="hunter3",
            ),
        ),
        (
            'url = "rediss+cluster://a:7000,b:7001"\nverify_name = false',
            RedisPlan(Place("cluster", (("a", 7000), ("b", 7001)), tls=True), Tls(check_hostname=False)),
        ),
        ('url = "REDISS://store.example.com"', RedisPlan(Place("single", (("store.example.com", 6379),), tls=True),
                                                         Tls())),
    ],
)  # fmt: skip
def test_redis(text: str, plan: RedisPlan, good: Good) -> None:
    loaded = good(f'[store]\nuse = "redis"\n{text}\n')
    assert loaded.plan.store.redis == plan
    assert not [warning for warning in loaded.warnings if warning.key.startswith("store")]
    assert "hunter" not in repr(loaded.plan) + repr(loaded.config)


def test_the_hash_covers_no_secret_of_the_store(good: Good) -> None:
    text = '[store]\nuse = "redis"\nurl = "redis://127.0.0.1"\npassword = "{}"\nprefix = "{}"\n'
    one, other, third = (good(text.format(*given)).plan.hash for given in (("a", "x"), ("b", "x"), ("a", "y")))
    assert one == other != third


def test_certificates(good: Good, bad: Bad, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("proxy.example.com")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
    text = '[store]\nuse = "redis"\nurl = "{}://store.example.com"\nca_file = "{}"\nclient_certificate = {}\n'
    plan = good(text.format("rediss", "ca.pem", '{ cert = "me.pem" }')).plan.store.redis
    assert plan is not None
    assert plan.tls == Tls(str(tmp_path / "ca.pem"), str(tmp_path / "me.pem"), str(tmp_path / "me.pem"))
    assert bad(text.format("redis", "ca.pem", '{ cert = "me.pem" }')) == [
        "4: store.ca_file: has no effect without TLS; leave it out, or write rediss://",
        "5: store.client_certificate: has no effect without TLS; leave it out, or write rediss://",
    ]
    (tmp_path / "no.pem").write_text("nothing\n")
    assert bad(text.format("rediss", "no.pem", '{ cert = "ca.pem" }')) == [
        f"4: store.ca_file: {tmp_path}/no.pem holds no PEM certificate; write a file with -----BEGIN CERTIFICATE-----",
        "5: store.client_certificate: cannot be used; write a PEM certificate and its key, not encrypted",
    ]
    (wrong,) = bad(text.format("rediss", "ca.pem", '{ cert = "me.pem", password = "x" }'))
    assert "an encrypted key cannot be used here" in wrong


REDIS = 'use = "redis"\nurl = "redis://127.0.0.1"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('use = "valkey"', '2: store.use: "valkey" is not one of the choices; write "memory", "sqlite" or "redis"'),
        ('path = "x"', '2: store.path: has no effect with use = "memory"; leave it out, or write use = "sqlite"'),
        ('lease = "9s"', 'has no effect with use = "memory"; leave it out, or write use = "sqlite" or "redis"'),
        ('use = "sqlite"\nurl = "redis://a"', '3: store.url: has no effect with use = "sqlite"; leave it out, or write '
         'use = "redis"'),
        (REDIS + 'path = "x"', '4: store.path: has no effect with use = "redis"; leave it out, or write use = "sqlite'),
        ('use = "sqlite"\npath = "."', " is a directory; write the path of a file; it is made when it is missing"),
        ('use = "sqlite"\npath = "no/store"', "there is no directory "),
        ('use = "redis"', '1: store: does not say where Redis is; write url = "redis://127.0.0.1:6379/0"'),
        (REDIS + 'timeout = "30s"', "store.lease: is no longer than timeout; write a longer one, as 30s"),
        (REDIS + 'sentinel_username = "x"', "4: store.sentinel_username: has no effect without Sentinels; leave it "
         "out, or write redis+sentinel://"),
        (REDIS + 'prefix = "a{b}"', "4: store.prefix: 'a{b}' is no prefix; write 1 to 64 characters without { and }"),
        ('use = "redis"\nurl = 6379', '3: store.url: 6379 is no URL; write a string like "redis://127.0.0.1:6379/0"'),
        ('use = "redis"\nurl = "localhost:6379"', "3: store.url: the URL has no scheme; write one like"),
        ('use = "redis"\nurl = "http://a"', "store.url: scheme 'http' is unknown; write one of: redis://host:port"),
        ('use = "redis"\nurl = "redis://a,b"', "store.url: several hosts; write redis+sentinel:// or redis+cluster://"),
        ('use = "redis"\nurl = "redis+sentinel://a"', "store.url: no service; write redis+sentinel://"),
        ('use = "redis"\nurl = "redis://a:99999"', "store.url: the port of a is no number from 1 to 65535; write one"),
        ('use = "redis"\nurl = "unix://run/x"', "store.url: unix; write unix:///path/of/the/socket"),
    ],
)  # fmt: skip
def test_what_is_wrong(text: str, problem: str, bad: Bad) -> None:
    (found,) = bad(f"[store]\n{text}\n")
    assert problem in found


def test_a_password_in_the_url_is_not_repeated(bad: Bad) -> None:
    (found,) = bad('[store]\nuse = "redis"\nurl = "redis://pop:hunter2@store.example.com"\n')
    assert "3: store.url: user information in the URL; write it as username" in found
    assert "hunter2" not in found and "pop:" not in found


def test_the_library_may_be_missing(bad: Bad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storechecks, "find_spec", lambda name: None)
    assert bad(f"[store]\n{REDIS}") == [
        "2: store.use: the store in Redis needs the package redis, which is not installed; "
        'pip install "popproxy[redis]"'
    ]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("redis://store.example.com", True),
        ("redis+cluster://127.0.0.1,192.0.2.1", True),
        ("rediss://store.example.com", False),
        ("redis://localhost", False),
        ("redis://[::1]:6379", False),
    ],
)
def test_what_travels_in_clear(url: str, warned: bool, good: Good) -> None:
    found = [warning for warning in good(f'[store]\nuse = "redis"\nurl = "{url}"\n').warnings if "store" in warning.key]
    assert bool(found) == warned

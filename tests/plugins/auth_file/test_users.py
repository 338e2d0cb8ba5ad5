"""The users file: Dovecot's shape, its fields, and an error with its line for everything else."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from popproxy_plugins.auth_file.users import User, read

from popproxy.api import LineError

DOVECOT = b"""\
# A passwd-file as Dovecot's documentation shows it
user:{plain}pass:1000:1000::/home/user::userdb_mail=maildir:~/Maildir allow_nets=192.168.0.0/24

user2:{plain}pass2:1001:1001::/home/user2
bill:{SHA256}%s::::::proxy=y host=192.0.2.7 port=1110 starttls=any-cert destuser=%%n+x pass=master nodelay
ann@example.com::::::
"""
SHA = b"gPgQTAJXBd0Sm7zQDV1CpTLmqkNTdZOO8WmLaYu6FRA="


def test_a_file_of_dovecots_works() -> None:
    users = read(DOVECOT % b"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", scheme="PLAIN")
    assert len(users) == 4
    user = users.get("USER")
    assert user is not None and user.secret is not None
    assert (user.secret.plain, user.networks, user.line) == (b"pass", (ip_network("192.168.0.0/24"),), 2)
    bill = users.get("bill")
    assert bill is not None and bill.secret is not None
    assert (bill.host, bill.port, bill.tls, bill.destuser) == ("192.0.2.7", 1110, "starttls", "bill+x")
    assert bill.password == b"master"
    assert bill.secret.proven(b"abc")
    ann = users.get("ann@example.com")
    assert ann is not None and ann.secret is None and ann.host is None
    assert "pass" not in repr(bill).replace("password", "") and "master" not in repr(bill)


def one(extra: str, **options: Any) -> User:
    user = read(f"joe:{{PLAIN}}x::::::{extra}\n".encode(), **options).get("joe")
    assert user is not None
    return user


@pytest.mark.parametrize(
    ("extra", "values"),
    [
        ("host=2001:db8::1 port=995 ssl=yes", {"host": "2001:db8::1", "port": 995, "tls": "implicit"}),
        ("host=[2001:DB8::1]", {"host": "2001:db8::1"}),
        ("host=mail.example.com tls=off", {"host": "mail.example.com", "tls": "off"}),
        ("host=a starttls=no ssl=any-cert", {"tls": "implicit"}),
        ("host=a ssl=no", {"tls": None}),
        ("upstream=old", {"upstream": "old"}),
        ("destuser=%u", {"destuser": "joe"}),
        ("destuser=%n@%d%%", {"destuser": "joe@%"}),
        ("disabled", {"disabled": True}),
        ("nologin=y reason=x", {"disabled": True}),
        ("nologin=no", {"disabled": False}),
        ("userdb_host=a userdb_quota_rule=*:bytes=1 proxy_maybe", {"host": None}),
        ("allow_nets=local", {"networks": (), "local": True}),
        ("allow_nets=10.0.0.1", {"local": False}),
        ("pass=a:b%c", {"password": b"a:b%c"}),
        ("pass=\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), {"password": "\xff".encode()}),
        ("\t  host=a\t", {"host": "a"}),
        ("groups=staff,dev", {"groups": ("staff", "dev")}),
        ("", {"groups": None}),
    ],
)
def test_extra_fields(extra: str, values: dict[str, Any]) -> None:
    user = one(extra)
    assert {name: getattr(user, name) for name in values} == values


def test_networks() -> None:
    user = one("allow_nets=192.0.2.0/24,2001:db8::/32,local")
    assert [user.welcome(a) for a in ("192.0.2.9", "2001:db8::5", "unix")] == [True] * 3
    assert [user.welcome(a) for a in ("192.0.3.9", "::1")] == [False] * 2
    assert not one("allow_nets=192.0.2.1").welcome("unix")
    assert one("").welcome("203.0.113.1") and one("").welcome("unix")


BAD = [
    (b"joe", "no colon"),
    (b":x", "the user name is empty"),
    (b" joe:x", "a space"),
    (b"joe:{MD4}x", "the scheme {MD4}"),
    (b"joe:x\x00", "a control character"),
    (b"joe:x\rjim:y", "a control character"),
    (b"joe:::::::host=a host=b", "host= is there twice"),
    (b"joe:::::::host", "host needs a value"),
    (b"joe:::::::host=", "host= is empty"),
    (b"joe:::::::host=a_b.-", "no host name and no IP address"),
    (b"joe:::::::host=1.2.3", "no host name and no IP address"),
    (b"joe:::::::host=a port=0", "port=0"),
    (b"joe:::::::host=a port=pop3", "port=pop3"),
    (b"joe:::::::host=a tls=yes", "tls=yes"),
    (b"joe:::::::port=110", "need host="),
    (b"joe:::::::starttls=yes", "need host="),
    (b"joe:::::::allow_nets=10.0.0.0/99", "is no network"),
    (b"joe:::::::groups=", "groups= is empty"),
    (b"joe:::::::groups=staff,", "groups=: '' is no group"),
    (b"joe:::::::destuser=%x", "destuser= has %x"),
    (b"joe:::::::destuser=a%", "destuser= has %"),
    (b"joe:::::::destuser=%d", "destuser=%d is empty for this user"),
    (b"joe:::::::upstream=nowhere", "there is no upstream 'nowhere'"),
    (b"ann:\nJoe:\njoe:", "'joe' is on line 3 already"),
]


@pytest.mark.parametrize(("data", "told"), BAD)
def test_a_broken_line_is_named(data: bytes, told: str) -> None:
    with pytest.raises(LineError) as caught:
        read(b"# one\n" + data, upstreams=("main",))
    assert told in str(caught.value)
    assert caught.value.line == 2 + data.count(b"\n")


def test_a_password_for_the_upstream_needs_somebody_who_judges_the_clients() -> None:
    assert one("pass=x").password == b"x"
    with pytest.raises(LineError, match="nobody would judge"):
        one("pass=x", judged_here=False)


def test_names_with_case() -> None:
    users = read(b"Joe:\njoe:", ignore_case=False)
    assert (users.get("Joe"), users.get("JOE")) != (None, None)
    assert users.get("JOE") is None


def test_windows_line_ends() -> None:
    assert one("host=a\r").host == "a"


def test_who_stands_in_is_always_the_same_and_not_always_one() -> None:
    users = read(b"".join(b"u%d:{PLAIN}p%d\n" % (n, n) for n in range(8)), key=b"k")
    chosen = [users.stand_in(f"x{n}") for n in range(100)]
    assert chosen == [users.stand_in(f"x{n}") for n in range(100)]
    assert len(set(map(id, chosen))) > 3
    assert read(b"a:\n").stand_in("x") is None


SCRAM = b"{SCRAM-SHA-256}4096,c2FsdA==,%b,%b" % ((b"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=",) * 2)


@pytest.mark.parametrize(
    ("line", "mechanisms"),
    [
        (b"a:{PLAIN}x", {"SCRAM-SHA-256", "SCRAM-SHA-1", "APOP", "CRAM-MD5"}),
        (b"a:" + SCRAM, set()),
        (b"a:" + SCRAM + b"::::::pass=x", {"SCRAM-SHA-256"}),
        (b"a:{SHA256}ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=::::::pass=x", set()),
        (b"", set()),
    ],
)
def test_mechanisms_are_those_that_can_succeed(line: bytes, mechanisms: set[str]) -> None:
    assert read(line).mechanisms() == mechanisms


@pytest.mark.parametrize(("line", "mechanisms"), [(b"a:" + SCRAM, {"SCRAM-SHA-256"}), (b"a:", set())])
def test_a_plugin_behind_brings_the_password(line: bytes, mechanisms: set[str]) -> None:
    assert read(line).mechanisms(passwords_behind=True) == mechanisms


@given(st.binary())
def test_any_octets_are_users_or_a_line_error(data: bytes) -> None:
    try:
        read(data)
    except LineError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1


WORDS = ("joe", ":", "{PLAIN}", "{SHA256}", "$6$", "\n", " ", "::::::", "1", "a.b", "%", "\xff")
PARTS = st.sampled_from([*WORDS, "host=", "port=", "allow_nets=", "destuser="])


@given(st.lists(PARTS))
def test_any_pieces_of_a_file_are_users_or_a_line_error(parts: list[str]) -> None:
    data = "".join(parts).encode("latin-1")
    try:
        users = read(data, scheme="PLAIN")
    except LineError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1
    else:
        assert len(users) <= data.count(b":")


@pytest.mark.parametrize("password", ["x", "*", "!", "!!", "*LK*", "!$6$salt$gone", "{CRYPT}*", "{crypt}!x"])
def test_what_stands_for_no_password_in_files_of_the_system(password: str) -> None:
    found = read(f"joe:{password}:1000:1000".encode()).get("joe")
    assert found is not None and found.secret is None


@pytest.mark.parametrize("password", ["x", "*sesame", "!"])
def test_a_plain_password_may_look_so(password: str) -> None:
    found = read(f"joe:{password}".encode(), scheme="PLAIN").get("joe")
    assert found is not None and found.secret is not None and found.secret.plain == password.encode()

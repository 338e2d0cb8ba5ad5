"""AUTH on the client's leg: every way through an exchange, and every way out of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from popproxy.api import Password
from popproxy.core.limits import Limits
from popproxy.core.phases import Phase
from tests.core.rig import Rig


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def begun(**plan: Any) -> Rig:
    rig = Rig(**plan).start()
    rig.said()
    return rig


def seen_by(rig: Rig) -> Password:
    """The credentials that would go upstream with USER and PASS."""
    rig.connected()
    assert rig.s.phase is Phase.LOGGING_IN
    user = rig.asked().removeprefix(b"USER ").removesuffix(b"\r\n")
    password = rig.upstream(b"+OK\r\n").asked().removeprefix(b"PASS ").removesuffix(b"\r\n")
    return Password(user.decode("utf-8", "surrogateescape"), password)


@pytest.mark.parametrize(
    "lines",
    [
        [b"AUTH PLAIN " + b64(b"\0joe\0sesame")],
        [b"AUTH PLAIN", b64(b"\0joe\0sesame")],
        [b"auth login", b64(b"joe"), b64(b"sesame")],
        [b"AUTH LOGIN " + b64(b"joe"), b64(b"sesame")],
    ],
)
def test_complete(lines: list[bytes]) -> None:
    rig = begun()
    for line in lines:
        rig.client(line + b"\r\n")
    assert rig.view.user == "joe"
    assert seen_by(rig) == Password("joe", b"sesame")
    assert rig.view.mechanism == lines[0].split()[1].decode().upper()
    assert b"sesame" not in rig.all_client


def test_a_token_of_many_octets() -> None:
    rig = begun()
    rig.client(b"AUTH PLAIN " + b64(b"\0joe\0" + b"x" * 40_000) + b"\r\n")
    assert seen_by(rig).password == b"x" * 40_000


def test_names_keep_what_utf8_has() -> None:
    rig = begun().client(b"AUTH PLAIN " + b64("\0jö@ü\0p ä ".encode()) + b"\r\n")
    assert rig.view.user == "jö@ü"
    assert seen_by(rig) == Password("jö@ü", "p ä ".encode())


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"AUTH PLAIN !!!!", "sasl"),
        (b"AUTH PLAIN =", "sasl"),
        (b"AUTH PLAIN " + b64(b"joe\0sesame"), "sasl"),
        (b"AUTH PLAIN " + b64(b"\0\0sesame"), "sasl"),
        (b"AUTH PLAIN " + b64(b"\0joe\0"), "sasl"),
        (b"AUTH PLAIN " + b64(b"\0j\xf6e\0x"), "sasl"),
        (b"AUTH PLAIN " + b64(b"\0joe\0a\r\nQUIT"), "sasl"),
        (b"AUTH LOGIN " + b64(b"a\0b"), "sasl"),
    ],
)
def test_malformed(line: bytes, kind: str) -> None:
    rig = begun().client(line + b"\r\n")
    assert rig.said().startswith(b"-ERR Bad AUTH exchange: ")
    assert rig.meter.violations == [("client", kind)]
    assert rig.meter.logins[0][1] == "malformed"
    assert rig.asked() == b""
    rig.client(b"QUIT\r\n").ended("quit")


@pytest.mark.parametrize(("line", "kind"), [(b"a\0b\r\n", "nul"), (b"a\rb\r\n", "bare_cr"), (b"YQ==\n", "bare_lf")])
def test_a_line_that_is_none(line: bytes, kind: str) -> None:
    rig = begun().client(b"AUTH PLAIN\r\n" + line)
    assert rig.said().startswith(b"+ \r\n-ERR Bad AUTH exchange: ")
    assert rig.meter.violations == [("client", kind)]


def test_bare_lf_where_the_operator_allows_it() -> None:
    rig = begun(bare_lf=True).client(b"AUTH PLAIN\n" + b64(b"\0joe\0sesame") + b"\n")
    assert seen_by(rig) == Password("joe", b"sesame")


def test_cancelled_and_begun_anew() -> None:
    rig = begun().client(b"AUTH LOGIN\r\n*\r\nAUTH PLAIN\r\n")
    assert rig.said() == b"+ VXNlcm5hbWU6\r\n-ERR Authentication cancelled\r\n+ \r\n"
    assert rig.meter.logins == [("LOGIN", "aborted", 0.0)]
    assert rig.meter.outcomes() == {("AUTH", "err"): 1}


def test_unknown_mechanism_and_too_many_words() -> None:
    rig = begun().client(b"AUTH NTLM\r\nAUTH PLAIN a b\r\n")
    assert rig.said() == b"-ERR Unknown authentication mechanism\r\n-ERR Wrong number of arguments\r\n"


def test_the_list_of_mechanisms() -> None:
    rig = begun().client(b"AUTH\r\nAUTH \r\n")
    assert rig.said() == b"+OK\r\nPLAIN\r\nLOGIN\r\n.\r\n" * 2
    assert rig.meter.outcomes() == {("AUTH", "ok"): 2}


@pytest.mark.parametrize("size", [1, 10_000])
def test_lines_of_an_exchange_are_bounded(size: int) -> None:
    line = b"x" * 101
    rig = begun(limits=Limits(line=50, auth_line=100)).client(b"AUTH PLAIN\r\n")
    for place in range(0, len(line), size):
        rig.client(line[place : place + size])
    assert rig.said() == b"+ \r\n-ERR Line longer than 100 octets\r\n"
    rig.ended("protocol_error")


def test_too_many_bad_exchanges_end_the_session() -> None:
    rig = begun(limits=Limits(bad_commands=2)).client(b"AUTH PLAIN !\r\nAUTH PLAIN !\r\nAUTH PLAIN !\r\n")
    assert rig.said().count(b"-ERR") == 2
    rig.ended("protocol_error")

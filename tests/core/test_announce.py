"""Which capabilities are shown: never one that does not work, never one nobody knows the framing of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.core.announce import RELAYED, announce
from popproxy.core.plan import SessionPlan, UpstreamPolicy
from popproxy.wire.capabilities import Capabilities


def plan(**given: Any) -> SessionPlan:
    return SessionPlan("pop3", {"main": UpstreamPolicy("main")}, "main", **given)


ALL = frozenset({"USER", "PLAIN", "LOGIN"})
NONE = frozenset[str]()


def lines(*theirs: bytes, logins: frozenset[str] = ALL, stls: bool = False, **given: Any) -> list[bytes]:
    return announce(plan(**given), Capabilities.parse(theirs), logins=logins, stls=stls).lines()


OWN = [b"RESP-CODES", b"AUTH-RESP-CODE"]
LOGINS = [b"USER", b"SASL PLAIN LOGIN"]


def test_without_an_upstream_only_what_the_proxy_does() -> None:
    assert announce(plan(), None, logins=ALL, stls=True).lines() == [*OWN, *LOGINS, b"STLS"]
    assert announce(plan(), None, logins=NONE, stls=False).lines() == OWN


@pytest.mark.parametrize("line", [b"TOP", b"UIDL", b"EXPIRE 0", b"LOGIN-DELAY 60 USER", b"UTF8 USER", b"LANG"])
def test_the_upstreams_are_passed_with_their_parameters(line: bytes) -> None:
    assert lines(line, logins=NONE) == [line, *OWN]


def test_pipelining_needs_both() -> None:
    assert lines(b"PIPELINING", logins=NONE) == [b"PIPELINING", *OWN]
    assert lines(b"PIPELINING", logins=NONE, pipelining=False) == OWN


def test_user_sasl_and_stls_are_the_proxys() -> None:
    assert lines(b"USER", b"SASL CRAM-MD5", b"STLS", logins=NONE) == OWN
    assert lines(b"USER", b"SASL CRAM-MD5", b"STLS", stls=True) == [*OWN, *LOGINS, b"STLS"]


def test_unknown_ones_only_when_the_operator_passes_them() -> None:
    assert lines(b"X-A 1", b"X-B", logins=NONE) == OWN
    assert lines(b"X-A 1", b"X-B", logins=NONE, capabilities=frozenset({b"X-A"})) == [*OWN, b"X-A 1"]


def test_implementation_is_the_operators() -> None:
    assert lines(b"IMPLEMENTATION theirs", logins=NONE) == OWN
    assert lines(logins=NONE, implementation="popproxy 1 ü") == [*OWN, b"IMPLEMENTATION popproxy 1 ?"]


def test_mechanisms_that_are_welcome_are_shown_the_strongest_first() -> None:
    assert lines(logins=frozenset({"XOAUTH2", "SCRAM-SHA-256", "LOGIN", "APOP"})) == [
        *OWN,
        b"SASL SCRAM-SHA-256 XOAUTH2 LOGIN",
    ]
    assert lines(logins=frozenset({"USER"})) == [*OWN, b"USER"]
    assert lines(logins=frozenset({"APOP"})) == OWN


@given(st.lists(st.sampled_from([*RELAYED, b"X", b"USER", b"SASL PLAIN", b"STLS", b"PIPELINING", b"RESP-CODES"])))
@settings(max_examples=50, deadline=None)
def test_nothing_is_invented(theirs: list[bytes]) -> None:
    shown = announce(plan(), Capabilities.parse(theirs), logins=ALL, stls=True)
    own = {b"RESP-CODES", b"AUTH-RESP-CODE", b"USER", b"SASL", b"STLS"}
    assert set(shown) - own <= {name.split()[0] for name in theirs}
    assert b"X" not in shown

"""What an upstream is spoken to by."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from popproxy.core.mechanisms import PASSWORDS, TOKENS, spoken
from popproxy.core.plan import Mechanism, UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.sasl import CLIENT_MECHANISMS


def caps(*lines: bytes) -> Capabilities:
    return Capabilities.parse(lines)


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (None, ("USER",)),
        (caps(), ("USER",)),
        (caps(b"TOP"), ("USER",)),
        (caps(b"SASL GSSAPI CRAM-MD5"), ("USER",)),
        (caps(b"USER", b"SASL xoauth2 scram-sha-256 login"), ("USER", "LOGIN", "SCRAM-SHA-256", "XOAUTH2")),
        (caps(b"SASL XOAUTH2 OAUTHBEARER"), ("OAUTHBEARER", "XOAUTH2")),
        (caps(b"SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256"), ("SCRAM-SHA-256",)),
        (caps(b"SASL \xff PLAIN"), ("PLAIN",)),
    ],
)
def test_auto_takes_what_is_announced(known: Capabilities | None, names: tuple[str, ...]) -> None:
    policy = UpstreamPolicy("main")
    assert spoken(policy, known) == names


@pytest.mark.parametrize("mechanism", [name for name in get_args(Mechanism) if name != "auto"])
def test_the_operators_word_counts_and_no_other(mechanism: Any) -> None:
    policy = UpstreamPolicy("main", mechanism=mechanism)
    for known in (None, caps(b"USER", b"SASL PLAIN XOAUTH2")):
        assert spoken(policy, known) == (mechanism.upper(),)
    assert mechanism.upper() in PASSWORDS + TOKENS


def test_everything_that_is_spoken_is_there() -> None:
    assert {name.encode() for name in PASSWORDS + TOKENS} - {b"USER"} == set(CLIENT_MECHANISMS)

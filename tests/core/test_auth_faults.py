"""AUTH cut anywhere: whoever dies, falls silent or talks nonsense at any step of any mechanism, on either leg."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from popproxy.api import Bearer, Credentials, Password, Route, Verifier
from popproxy.core.effects import Derive, Dial
from popproxy.core.failures import Failure, Kind
from popproxy.core.phases import Phase
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.sasl import (
    SERVER_MECHANISMS,
    Challenge,
    Complete,
    Derivation,
    Identity,
    ScramClient,
    ServerMechanism,
    Wanted,
    encode_challenge,
)
from tests.core.rig import AWAY, Rig
from tests.core.test_offer import makes

SESAME = Verifier.derive("SCRAM-SHA-256", "sesame", b"salt", 1)
CASES = [
    (mechanism, initial, refuses)
    for mechanism in ("user", "plain", "login", "scram-sha-256", "oauthbearer", "xoauth2")
    for initial in ("auto", "never")
    for refuses in (False, True)
]


class Honest:
    """The upstream's side of a login, line by line."""

    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses
        self.mechanism: ServerMechanism | None = None
        self.told = False

    def answer(self, line: bytes) -> bytes:
        end = b"-ERR [AUTH] no\r\n" if self.refuses else b"+OK in\r\n"
        if self.told:
            return end
        words = line.split()
        if self.mechanism is not None:
            step = self.mechanism.respond(base64.b64decode(line))
        elif words[0] == b"AUTH":
            self.mechanism = SERVER_MECHANISMS[words[1]](b"server")
            step = self.mechanism.start(base64.b64decode(words[2]) if len(words) > 2 else None)
        else:
            return b"+OK\r\n" if words[0] == b"USER" else end
        if isinstance(step, Wanted):
            step = self.mechanism.supply(SESAME)
        if isinstance(step, Complete) and self.refuses and self.mechanism.refused():
            self.told = True
            step = Challenge(self.mechanism.refused() or b"")
        return encode_challenge(step.data) if isinstance(step, Challenge) else end


def opened(mechanism: Any, initial: Any) -> Rig:
    """A session whose upstream has been greeted; what it is asked is still unread."""
    credentials: Credentials = Password("joe", b"sesame")
    if mechanism in ("oauthbearer", "xoauth2"):
        credentials = Bearer("joe", b"ya29")
    policy = UpstreamPolicy("main", "off", mechanism, initial)
    turns = makes("USER", on_login=lambda *_: Route(None, credentials))
    rig = Rig(turns, policy=policy, known=[b"SASL X"]).start()
    return rig.client(b"USER joe\r\nPASS sesame\r\n").connected()


def play(rig: Rig, server: Honest) -> Iterator[bytes]:
    """The upstream's answers, one by one; take one to have it said."""
    while lines := rig.asked().splitlines():
        (line,) = lines
        reply = server.answer(line)
        yield reply
        rig.upstream(reply)
        while derive := rig.pending(Derive):
            rig.done(derive[0].derivation.compute(), Derive)


@pytest.mark.parametrize(("mechanism", "initial", "refuses"), CASES)
def test_the_whole_login(mechanism: str, initial: str, refuses: bool) -> None:
    rig = opened(mechanism, initial)
    steps = list(play(rig, Honest(refuses)))
    assert rig.said().endswith(b"-ERR [AUTH] Authentication failed\r\n" if refuses else b"+OK in\r\n")
    assert rig.s.phase is (Phase.AUTHORIZATION if refuses else Phase.TRANSACTION)
    longest = {"login": 3, "scram-sha-256": 4, "oauthbearer": 3, "xoauth2": 3}
    assert len(steps) <= longest.get(mechanism, 2)


FAULTS: dict[str, Any] = {
    "lost": lambda rig, reply: rig.lost(Failure(Kind.LOST, "gone")),
    "reset": lambda rig, reply: rig.lost(Failure(Kind.RESET, "gone")),
    "lost in its answer": lambda rig, reply: rig.upstream(reply[:-1]).lost(Failure(Kind.LOST, "gone")),
    "silent": lambda rig, reply: rig.wait(700.0),
    "silent in its answer": lambda rig, reply: rig.upstream(reply[:-2]).wait(700.0),
    "nonsense": lambda rig, reply: rig.upstream(b"* BYE\r\n"),
    "no base64": lambda rig, reply: [rig.upstream(b"+ !\r\n") for _ in range(4)],
    "two answers": lambda rig, reply: rig.upstream(reply + reply),
    "endless": lambda rig, reply: rig.upstream(b"+ " + b"A" * 9000),
    "trouble": lambda rig, reply: rig.upstream(b"-ERR [SYS/TEMP] no\r\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("mechanism", "initial", "refuses"), CASES)
def test_promises_4_8_trouble_at_any_step_is_trouble(mechanism: str, initial: str, refuses: bool, fault: str) -> None:
    place = 0
    while True:
        rig = opened(mechanism, initial)
        steps = play(rig, Honest(refuses))
        for _ in range(place):
            next(steps)
        reply = next(steps, None)
        if reply is None:
            break
        rig.said()
        FAULTS[fault](rig, reply)
        where = (place, rig.said())
        if rig.s.phase is Phase.TRANSACTION:
            # A good answer twice: the login was good, what is behind it ends the session.
            assert fault == "two answers" and where[1] == b"", where
        elif fault == "two answers" and reply.startswith(b"-ERR"):
            assert where[1].endswith(b"-ERR [AUTH] Authentication failed\r\n"), where
        else:
            assert where[1].endswith(AWAY), where
            assert b"[AUTH]" not in where[1]
            assert rig.s.phase is Phase.AUTHORIZATION
            assert not rig.s.upstream_open
        place += 1
    assert place >= 1


def prover(rig: Rig) -> Iterator[bytes]:
    """What a client sends to prove itself by SCRAM, line by line."""
    client = ScramClient("SCRAM-SHA-256", Identity("joe", "", b"sesame"), b"client")
    yield b"AUTH SCRAM-SHA-256\r\n"
    yield base64.b64encode(client.initial()) + b"\r\n"
    derivation = client.respond(base64.b64decode(rig.said().splitlines()[-1][2:]))
    assert isinstance(derivation, Derivation)
    yield base64.b64encode(client.derived(derivation.compute())) + b"\r\n"
    yield b"\r\n"


def proving() -> Rig:
    turned = Route(None, Password("joe", b"x"))
    return Rig(makes("SCRAM-SHA-256", on_verifier=lambda *_: SESAME, on_login=lambda *_: turned)).start()


@pytest.mark.parametrize("end", ["eof", "gone", "silent", "*", "nonsense", "endless"])
def test_a_client_that_stops_anywhere(end: str) -> None:
    place = 0
    while True:
        rig = proving()
        lines = prover(rig)
        for _ in range(place):
            rig.client(next(lines))
        if rig.pending(Dial):
            break
        if end == "eof":
            rig.eof().ended("client_eof")
        elif end == "gone":
            rig.s.client_gone()
            rig.drain().ended("client_reset")
        elif end == "silent":
            rig.wait(rig.plan.timeouts.pre_auth).ended("login_timeout")
        elif end == "endless":
            rig.client(b"A" * 70_000).ended("protocol_error")
        else:
            rig.client(end.encode() + b"\r\n")
            assert rig.said().splitlines()[-1].startswith(b"-ERR ")
            assert rig.s.phase is Phase.AUTHORIZATION and not rig.pending(Dial)
        assert rig.asked() == b""
        place += 1
    assert place == 4

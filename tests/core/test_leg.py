"""The dialogue driver: whole replies from any pieces, and whatever is none ends it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Heard, Leg, Relayed, Result, Say, StartTls
from popproxy.core.limits import Limits
from popproxy.core.target import Target
from popproxy.wire.sasl import Derivation


class Bench:
    def __init__(self, **limits: int) -> None:
        self.out: list[bytes] = []
        self.secure = 0
        self.derivations: list[Derivation] = []
        self.waits: list[tuple[float, Kind]] = []
        self.results: list[Result] = []
        self.heard: list[Heard] = []
        self.closed = False
        self.leg = Leg(Target("main"), Limits(**limits), self.out.append, self.tls, self.wait, self.derivations.append)

    def tls(self) -> None:
        self.secure += 1

    def wait(self, seconds: float, kind: Kind) -> None:
        self.waits.append((seconds, kind))

    def run(self, *steps: Say | StartTls | Derivation) -> Bench:
        def dialogue() -> Generator[Say | StartTls | Derivation, Any, Result]:
            try:
                for step in steps:
                    heard = yield step
                    if isinstance(heard, Heard):
                        self.heard.append(heard)
            finally:
                self.closed = True
            return Relayed(True, b"")

        self.leg.run(dialogue(), self.results.append)
        return self

    def failure(self) -> Failure:
        (failure,) = self.results
        assert isinstance(failure, Failure)
        assert self.closed
        return failure


GREETING = Say(b"", 5, Kind.GREETING_TIMEOUT)
ASK = Say(b"A\r\n", 7)
LISTING = Say(b"L\r\n", 7, multiline=True)


def test_says_waits_and_hears() -> None:
    bench = Bench().run(GREETING, ASK)
    assert bench.out == []
    assert bench.waits == [(5, Kind.GREETING_TIMEOUT)]
    bench.leg.data(b"+OK [CODE] hi\r\n")
    assert bench.out == [b"A\r\n"]
    assert bench.waits[1] == (7, Kind.LOGIN_TIMEOUT)
    bench.leg.data(b"-ERR")
    assert bench.results == []
    bench.leg.data(b"\r\n")
    assert bench.results == [Relayed(True, b"")]
    assert [heard.ok for heard in bench.heard] == [True, False]
    assert bench.heard[0].raw == b"+OK [CODE] hi\r\n"
    assert not bench.leg.unasked


def test_a_listing_is_unstuffed_and_may_be_empty() -> None:
    bench = Bench().run(LISTING, LISTING, LISTING)
    bench.leg.data(b"+OK\r\na\r\n..b\r\n\r\n.\r\n")
    bench.leg.data(b"+OK\r\n.\r\n")
    bench.leg.data(b"-ERR a\r\n")
    assert [heard.lines for heard in bench.heard] == [(b"a", b".b", b""), (), ()]
    assert bench.results == [Relayed(True, b"")]


def test_octets_nobody_asked_for_are_seen() -> None:
    bench = Bench().run(GREETING)
    bench.leg.data(b"+OK\r\n+O")
    assert bench.results == [Relayed(True, b"")]
    assert bench.leg.unasked


def test_octets_before_the_next_command_are_never_its_reply() -> None:
    bench = Bench().run(GREETING, ASK)
    bench.leg.data(b"+OK\r\n+OK\r\n")
    assert bench.failure().kind is Kind.UNASKED
    assert bench.out == []


@pytest.mark.parametrize("line", [b"OK\r\n", b"+OK\n", b"+OKAY\r\n", b"* OK\r\n", b"\r\n", b"+ \r\n", b"+OK a\rb\r\n"])
def test_what_is_no_reply(line: bytes) -> None:
    bench = Bench().run(GREETING)
    bench.leg.data(line)
    assert bench.failure().kind is Kind.GREETING
    bench = Bench().run(ASK)
    bench.leg.data(line)
    assert bench.failure().kind is Kind.PROTOCOL
    assert repr(line)[2:-1] in bench.failure().detail


@pytest.mark.parametrize("line", [b"+\r\n", b"+ \r\n", b"+ abc\r\n"])
def test_a_challenge_only_where_one_may_be(line: bytes) -> None:
    bench = Bench().run(Say(b"A\r\n", 7, challenge=True))
    bench.leg.data(line)
    assert bench.heard == [Heard(line, None)]
    assert not bench.heard[0].ok


@pytest.mark.parametrize("line", [b"+abc\r\n", b"++\r\n"])
def test_no_challenge(line: bytes) -> None:
    bench = Bench().run(Say(b"A\r\n", 7, challenge=True))
    bench.leg.data(line)
    assert bench.failure().kind is Kind.PROTOCOL


def test_promise_6_a_reply_to_a_secret_is_never_shown() -> None:
    bench = Bench().run(Say(b"PASS x\r\n", 7, secret=True))
    bench.leg.data(b"what is PASS sesame\r\n")
    assert "sesame" not in bench.failure().detail


@pytest.mark.parametrize("cut", [1, 50])
def test_an_overlong_line(cut: int) -> None:
    bench = Bench(reply=20).run(ASK, ASK)
    bench.leg.data(b"+OK 0123456789012.\r\n")
    assert not bench.results
    line = b"+OK 0123456789012.!\r\n"
    for place in range(0, len(line), cut):
        bench.leg.data(line[place : place + cut])
    assert bench.failure().kind is Kind.OVERLONG


def test_an_endless_listing() -> None:
    bench = Bench(listing=20).run(LISTING)
    bench.leg.data(b"+OK\r\n" + b"abcdefg\r\n" * 2)
    assert not bench.results
    bench.leg.data(b"x\r\n")
    assert bench.failure().kind is Kind.OVERLONG


def test_tls_begins_on_a_clean_line() -> None:
    bench = Bench().run(ASK, StartTls(), ASK)
    bench.leg.data(b"+OK\r\n")
    assert (bench.secure, bench.leg.securing, bench.out) == (1, True, [b"A\r\n"])
    bench.leg.secured()
    assert not bench.leg.securing
    assert bench.out == [b"A\r\n", b"A\r\n"]
    bench.leg.data(b"+OK\r\n")
    assert bench.results == [Relayed(True, b"")]


@pytest.mark.parametrize("injected", [b"+", b"+OK\r\n"])
def test_promise_3_octets_behind_the_reply_to_stls(injected: bytes) -> None:
    bench = Bench().run(ASK, StartTls())
    bench.leg.data(b"+OK\r\n" + injected)
    assert bench.failure().kind is Kind.PROTOCOL
    assert bench.secure == 0
    bench = Bench().run(ASK, StartTls())
    bench.leg.data(b"+OK\r\n")
    bench.leg.data(injected)
    assert bench.failure().kind is Kind.PROTOCOL


def test_a_failure_comes_once() -> None:
    bench = Bench().run(ASK)
    failure = Failure(Kind.LOST)
    bench.leg.fail(failure)
    bench.leg.fail(Failure(Kind.RESET))
    bench.leg.secured()
    bench.leg.data(b"+OK\r\n")
    assert bench.results == [failure]
    assert bench.leg.said == ASK


def test_another_dialogue_on_the_same_leg() -> None:
    bench = Bench().run(GREETING)
    bench.leg.data(b"+OK\r\n")
    bench.run(ASK)
    bench.leg.data(b"+OK\r\n")
    assert bench.results == [Relayed(True, b"")] * 2


DERIVE = Derivation("sha256", b"pencil", b"salt", 1)


def test_what_takes_long_is_computed_elsewhere() -> None:
    bench = Bench().run(ASK, DERIVE, ASK)
    bench.leg.data(b"+OK\r\n")
    assert bench.derivations == [DERIVE]
    assert len(bench.out) == 1
    bench.leg.derived(b"salted")
    assert bench.heard[1] == Heard(b"salted", None)
    assert len(bench.out) == 2
    bench.leg.data(b"+OK\r\n")
    assert bench.results == [Relayed(True, b"")]


def test_an_outcome_that_comes_too_late_is_nothing() -> None:
    bench = Bench().run(DERIVE)
    bench.leg.fail(Failure(Kind.LOGIN_TIMEOUT, "late"))
    bench.leg.derived(b"salted")
    assert len(bench.results) == 1


@pytest.mark.parametrize("when", ["with the reply", "while it is computed"])
def test_octets_before_the_answer_to_a_challenge_are_never_its_reply(when: str) -> None:
    bench = Bench().run(ASK, DERIVE, ASK)
    bench.leg.data(b"+OK\r\n+OK\r\n" if when == "with the reply" else b"+OK\r\n")
    if when == "while it is computed":
        bench.leg.data(b"+OK\r\n")
    assert bench.failure().kind is Kind.UNASKED
    assert len(bench.out) == 1

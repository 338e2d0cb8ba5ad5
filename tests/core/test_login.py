"""The dialogues of a login: what is said in which order, and what each answer means."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Bearer, Code, Credentials, Digest, External, Password, Verified, parse
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Dialogue, Heard, LoggedIn, LoginRefused, Relayed, Result, Say, StartTls
from popproxy.core.limits import Timeouts
from popproxy.core.login import Knowledge, log_in, prepare, relay
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from popproxy.wire.replies import parse_status

TIMES = Timeouts()
JOE = Password("joe", b"sesame")


def talk(dialogue: Dialogue, *answers: bytes | None) -> tuple[list[bytes | None], Result]:
    """What it says (None for StartTls), and what it comes to. An answer is a line, or lines with a listing."""
    said: list[bytes | None] = []
    given: Any = None
    rest = list(answers)
    while True:
        try:
            step = dialogue.send(given)
        except StopIteration as stop:
            assert not rest, "it ended before all answers were given"
            return said, stop.value
        said.append(step.data if isinstance(step, Say) else None)
        assert rest, f"it says {step}, and nobody answers"
        answer = rest.pop(0)
        if isinstance(step, StartTls):
            given = None
            continue
        assert answer is not None
        line, *listed = answer.split(b"\n")
        given = Heard(line + b"\r\n", parse_status(line), tuple(listed))


def ready(policy: UpstreamPolicy, knowledge: Knowledge, *answers: bytes | None, **more: Any) -> Any:
    return talk(prepare(policy, more.pop("secure", False), knowledge, 5.0, TIMES, **more), *answers)


def test_knowledge_is_fresh_for_a_while() -> None:
    knowledge = Knowledge(lifetime=10)
    assert knowledge.get("main") is None
    assert not knowledge.fresh("main", 0)
    knowledge.learn("main", None, 5)
    assert knowledge.fresh("main", 14.9)
    assert not knowledge.fresh("main", 15)
    theirs = Capabilities.parse([b"TOP"])
    knowledge.learn("main", theirs, 15)
    assert knowledge.get("main") == theirs
    knowledge.forget("main")
    knowledge.forget("main")
    assert not knowledge.fresh("main", 15)


def test_prepare_in_the_clear() -> None:
    knowledge = Knowledge()
    clear = UpstreamPolicy("main", "off")
    assert ready(clear, knowledge, b"+OK hi", b"+OK\nTOP\nSASL PLAIN") == ([b"", b"CAPA\r\n"], None)
    assert knowledge.get("main") == Capabilities.parse([b"TOP", b"SASL PLAIN"])
    assert ready(clear, knowledge, b"+OK hi") == ([b""], None)


def test_prepare_without_capa() -> None:
    knowledge = Knowledge()
    assert ready(UpstreamPolicy("main", "off"), knowledge, b"+OK", b"-ERR") == ([b"", b"CAPA\r\n"], None)
    assert knowledge.fresh("main", 5)
    assert knowledge.get("main") is None
    other = Knowledge()
    assert ready(UpstreamPolicy("main", "off"), other, b"+OK", ask=False) == ([b""], None)
    assert other.fresh("main", 5)


def test_prepare_with_stls() -> None:
    said, result = ready(UpstreamPolicy("main", "starttls"), Knowledge(), b"+OK", b"+OK", None, b"-ERR")
    assert said == [b"", b"STLS\r\n", None, b"CAPA\r\n"]
    assert result is None


def test_prepare_does_not_ask_for_tls_that_is_on() -> None:
    for tls in ("starttls", "implicit"):
        said, _ = ready(UpstreamPolicy("main", tls), Knowledge(), b"+OK", b"-ERR", secure=True)
        assert said == [b"", b"CAPA\r\n"]


def test_promise_5_no_stls_no_login() -> None:
    _, result = ready(UpstreamPolicy("main", "starttls"), Knowledge(), b"+OK", b"-ERR no TLS here")
    assert isinstance(result, Failure)
    assert result.kind is Kind.NO_STLS
    said, result = ready(UpstreamPolicy("main", "implicit"), Knowledge())
    assert said == []
    assert isinstance(result, Failure)
    assert result.kind is Kind.TLS


def test_prepare_greeted_with_err() -> None:
    _, result = ready(UpstreamPolicy("main", "off"), Knowledge(), b"-ERR busy")
    assert result == Failure(Kind.GREETING, "greeted with b'-ERR busy\\r\\n'")


def test_relay() -> None:
    assert talk(relay(parse(b"UTF8"), TIMES), b"+OK fine") == ([b"UTF8\r\n"], Relayed(True, b"+OK fine\r\n"))
    assert talk(relay(parse(b"UTF8"), TIMES), b"-ERR no") == ([b"UTF8\r\n"], Relayed(False, b"-ERR no\r\n"))
    assert talk(relay(parse(b"LANG"), TIMES), b"-ERR no") == ([b"LANG\r\n"], Relayed(False, b"-ERR no\r\n"))
    _, listed = talk(relay(parse(b"LANG"), TIMES), b"+OK\nen\n.x")
    assert listed == Relayed(True, b"+OK\r\nen\r\n..x\r\n.\r\n")


def enter(
    *answers: bytes,
    known: bytes | None = None,
    credentials: Credentials = JOE,
    verb: bytes = b"PASS",
    **policy: Any,
) -> tuple[list[bytes | None], Result]:
    theirs = None if known is None else Capabilities.parse(known.split(b", "))
    return talk(log_in(UpstreamPolicy("main", "off", **policy), credentials, theirs, TIMES, verb), *answers)


def b64(data: bytes) -> bytes:
    return base64.b64encode(data) + b"\r\n"


USER_PASS = [b"USER joe\r\n", b"PASS sesame\r\n"]
PLAIN = b64(b"\0joe\0sesame")
IN = LoggedIn(b"+OK in\r\n")


@pytest.mark.parametrize("known", [None, b"USER, SASL PLAIN", b"TOP", b"SASL CRAM-MD5"])
def test_user_and_pass(known: bytes | None) -> None:
    assert enter(b"+OK", b"+OK in", known=known) == (USER_PASS, IN)


def test_rpop_stands_for_pass() -> None:
    assert enter(b"+OK", b"+OK in", verb=b"RPOP")[0] == [b"USER joe\r\n", b"RPOP sesame\r\n"]


def test_sasl_when_there_is_no_user() -> None:
    assert enter(b"+OK in", known=b"SASL LOGIN PLAIN") == ([b"AUTH PLAIN " + PLAIN], IN)
    said, result = enter(b"+ Vg==", b"+", b"+OK in", known=b"SASL login")
    assert (said, result) == ([b"AUTH LOGIN\r\n", b64(b"joe"), b64(b"sesame")], IN)


@pytest.mark.parametrize("challenge", [b"+", b"+ ", b"+ not base64!", b"+OK"])
def test_two_steps(challenge: bytes) -> None:
    said, result = enter(challenge, b"+OK in", known=b"SASL PLAIN", initial_response="never")
    assert (said, result) == ([b"AUTH PLAIN\r\n", PLAIN], IN)


def test_one_line_only_where_sasl_is_announced_or_the_operator_says_so() -> None:
    assert enter(b"+", b"+OK in", mechanism="plain")[0] == [b"AUTH PLAIN\r\n", PLAIN]
    assert enter(b"+OK in", mechanism="plain", initial_response="always")[0] == [b"AUTH PLAIN " + PLAIN]


def test_a_line_that_is_too_long_goes_in_two_steps_unless_the_operator_says_so() -> None:
    long = Password("joe", b"x" * 300)
    said, _ = enter(b"+", b"+OK in", known=b"SASL PLAIN", credentials=long)
    assert said[0] == b"AUTH PLAIN\r\n"
    said, _ = enter(b"+OK in", known=b"SASL PLAIN", credentials=long, initial_response="always")
    assert said == [b"AUTH PLAIN " + b64(b"\0joe\0" + b"x" * 300)]


@pytest.mark.parametrize(
    ("mechanism", "first"), [("user", b"USER joe\r\n"), ("plain", b"AUTH PLAIN " + PLAIN), ("login", b"AUTH LOGIN\r\n")]
)
def test_the_operator_chooses(mechanism: str, first: bytes) -> None:
    said, result = enter(b"-ERR", known=b"USER, SASL PLAIN", mechanism=mechanism)
    assert said == [first]
    assert isinstance(result, LoginRefused)


ANN = Password("joe", b"sesame", "ann")


def test_an_authorization_identity_travels_in_plain_or_not_at_all() -> None:
    line = b"AUTH PLAIN " + b64(b"ann\0joe\0sesame")
    assert enter(b"+OK in", known=b"USER, SASL PLAIN", credentials=ANN) == ([line], IN)
    assert enter(b"+", b"+OK in", mechanism="plain", credentials=ANN)[1] == IN
    for policy in ({"known": b"USER"}, {"known": None}, {"mechanism": "user"}, {"mechanism": "login"}):
        said, result = enter(credentials=ANN, **policy)
        assert said == []
        assert isinstance(result, Failure)
        assert result.kind is Kind.CREDENTIALS


@pytest.mark.parametrize(
    "credentials",
    [
        Bearer("joe", b"t"),
        Verified("joe"),
        External("joe"),
        Digest("joe", "APOP", b"<1@mail>", b"0"),
        Password("j\udcf6e", b"x"),
    ],
)
def test_credentials_that_do_not_fit(credentials: Credentials) -> None:
    said, result = enter(credentials=credentials, mechanism="plain")
    assert said == []
    assert isinstance(result, Failure)
    assert result.kind is Kind.CREDENTIALS
    assert result.refusal().code is Code.SYS_PERM


@pytest.mark.parametrize(
    "credentials",
    [
        Password("joe\r\nQUIT", b"x"),
        Password("joe", b"x\r\nQUIT"),
        Password("jo\0e", b"x"),
        Password("joe", b"x", "a\nb"),
        Password("", b"x"),
        Password("joe", b""),
        Password("\ud800", b"x"),
    ],
)
@pytest.mark.parametrize("mechanism", ["user", "plain"])
def test_promise_1_credentials_cannot_carry_a_command(credentials: Password, mechanism: str) -> None:
    said, result = enter(credentials=credentials, mechanism=mechanism)
    assert said == []
    assert isinstance(result, Failure)
    assert result.kind is Kind.CREDENTIALS


def test_promise_4_ok_before_all_is_said_is_no_success() -> None:
    said, result = enter(b"+OK", b"+OK", b"-ERR", known=b"SASL LOGIN")
    assert said == [b"AUTH LOGIN\r\n", b64(b"joe"), b64(b"sesame")]
    assert isinstance(result, LoginRefused)


def test_a_challenge_too_many() -> None:
    for known in (b"SASL PLAIN", b"SASL LOGIN"):
        answers = [b"+"] * (1 if b"PLAIN" in known else 3)
        _, result = enter(*answers, known=known)
        assert isinstance(result, Failure)
        assert result.kind is Kind.PROTOCOL


def test_a_challenge_where_none_may_be() -> None:
    for answers in ((b"+",), (b"+OK", b"+")):
        assert enter(*answers)[1] == Failure(Kind.PROTOCOL, "one challenge too many")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"-ERR", Code.AUTH),
        (b"-ERR no such user", Code.AUTH),
        (b"-ERR [AUTH] locked", Code.AUTH),
        (b"-ERR [auth] x", Code.AUTH),
        (b"-ERR [SYS/TEMP] x", Code.SYS_TEMP),
        (b"-ERR [SYS/TEMP/DB] x", Code.SYS_TEMP),
        (b"-ERR [SYS/PERM] x", Code.SYS_PERM),
        (b"-ERR [SYS/OTHER] x", Code.SYS_TEMP),
        (b"-ERR [IN-USE] x", Code.IN_USE),
        (b"-ERR [LOGIN-DELAY] x", Code.LOGIN_DELAY),
        (b"-ERR [UTF8] x", Code.UTF8),
        (b"-ERR [REFERRAL/a@b] try there", Code.AUTH),
        (b"-ERR Mailbox is LOCKED", Code.IN_USE),
        (b"-ERR maildrop in use", Code.IN_USE),
        (b"-ERR Service temporarily unavailable", Code.SYS_TEMP),
        (b"-ERR please try again", Code.SYS_TEMP),
    ],
)
def test_promise_8_what_a_refusal_means(line: bytes, code: Code) -> None:
    for answers in ((line,), (b"+OK", line)):
        result = enter(*answers)[1]
        assert isinstance(result, LoginRefused)
        assert result.code is code
        assert result.reason == line[5:].decode()


def test_promise_6_a_refusal_that_repeats_the_password_is_hidden() -> None:
    for password in (b"sesame", b" sesame "):
        result = enter(b"+OK", b"-ERR unknown command PASS sesame", credentials=Password("joe", password))[1]
        assert isinstance(result, LoginRefused)
        assert "sesame" not in result.reason
    blank = enter(b"+OK", b"-ERR unknown  command", credentials=Password("joe", b"  "))[1]
    assert isinstance(blank, LoginRefused)
    assert "hidden" in blank.reason


secrets = st.binary(min_size=1, max_size=40)


@given(secrets, secrets, st.sampled_from(["user", "plain", "login"]))
@settings(max_examples=100, deadline=None)
def test_promise_1_whatever_the_credentials_one_line_is_one_line(user: bytes, password: bytes, mechanism: str) -> None:
    policy: Any = {"mechanism": mechanism}
    credentials = Password(user.decode("utf-8", "surrogateescape"), password)
    dialogue = log_in(UpstreamPolicy("main", "off", **policy), credentials, None, TIMES, b"PASS")
    try:
        step = next(dialogue)
        while True:
            assert isinstance(step, Say)
            assert step.data.endswith(b"\r\n")
            assert step.data.count(b"\n") == step.data.count(b"\r") == 1
            assert b"\0" not in step.data
            step = dialogue.send(Heard(b"+OK\r\n", parse_status(b"+OK")))
    except StopIteration:
        pass

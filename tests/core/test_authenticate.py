"""Logging in upstream: what is said by which mechanism, and what each answer means."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Bearer, Code, Credentials, Digest, External, Password, Verified
from popproxy.core.authenticate import log_in
from popproxy.core.failures import Failure, Kind
from popproxy.core.leg import Heard, LoggedIn, LoginRefused, Result, Say
from popproxy.core.limits import Timeouts
from popproxy.core.plan import UpstreamPolicy
from popproxy.wire.capabilities import Capabilities
from tests.core.talk import talk

TIMES = Timeouts()
JOE = Password("joe", b"sesame")
NONCE = b"rOprNGfwEbeRWgbNEkqO"


def nonce() -> bytes:
    return NONCE


def enter(
    *answers: bytes,
    known: bytes | None = None,
    credentials: Credentials = JOE,
    verb: bytes = b"PASS",
    **policy: Any,
) -> tuple[list[bytes | None], Result]:
    theirs = None if known is None else Capabilities.parse(known.split(b", "))
    return talk(log_in(UpstreamPolicy("main", "off", **policy), credentials, theirs, TIMES, verb, nonce), *answers)


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
        External("joe"),
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


TOKEN = Bearer("joe", b"ya29.secret")
XOAUTH2 = b64(b"user=joe\x01auth=Bearer ya29.secret\x01\x01")
OAUTHBEARER = b64(b"n,a=joe,\x01auth=Bearer ya29.secret\x01\x01")
DOCUMENT = b'{"status":"invalid_token","scope":"mail"}'
TOLD = b"+ " + b64(DOCUMENT)[:-2]


@pytest.mark.parametrize(
    ("credentials", "known", "policy", "first"),
    [
        (JOE, b"USER, SASL SCRAM-SHA-256 PLAIN", {}, b"USER joe"),
        (JOE, b"SASL SCRAM-SHA-256 LOGIN PLAIN", {}, b"AUTH PLAIN"),
        (JOE, b"SASL SCRAM-SHA-256 XOAUTH2", {}, b"AUTH SCRAM-SHA-256"),
        (JOE, b"USER, SASL PLAIN", {"mechanism": "scram-sha-256"}, b"AUTH SCRAM-SHA-256"),
        (JOE, b"SASL GSSAPI", {}, b"USER joe"),
        (Password("joe", b"sesame", "ann"), b"USER, SASL LOGIN SCRAM-SHA-256", {}, b"AUTH SCRAM-SHA-256"),
        (Password("joe", b"s\xff", "ann"), b"USER, SASL SCRAM-SHA-256 PLAIN", {}, b"AUTH PLAIN"),
        (TOKEN, b"USER, SASL PLAIN XOAUTH2", {}, b"AUTH XOAUTH2"),
        (TOKEN, b"SASL XOAUTH2 OAUTHBEARER", {}, b"AUTH OAUTHBEARER"),
        (TOKEN, b"SASL XOAUTH2 OAUTHBEARER", {"mechanism": "xoauth2"}, b"AUTH XOAUTH2"),
        (TOKEN, None, {"mechanism": "xoauth2"}, b"AUTH XOAUTH2"),
        (Bearer("", b"t"), b"SASL XOAUTH2 OAUTHBEARER", {}, b"AUTH OAUTHBEARER"),
        (Bearer("joe", b"t", "ann"), b"SASL XOAUTH2 OAUTHBEARER", {}, b"AUTH OAUTHBEARER"),
    ],
)
def test_what_is_chosen(credentials: Credentials, known: bytes | None, policy: Any, first: bytes) -> None:
    said, result = enter(b"-ERR no", known=known, credentials=credentials, **policy)
    assert isinstance(result, LoginRefused)
    assert said[0] is not None
    assert said[0].startswith(first)


@pytest.mark.parametrize(
    ("credentials", "known", "policy", "why"),
    [
        (TOKEN, None, {}, "main is spoken to by USER, which cannot carry a token"),
        (TOKEN, b"USER, SASL PLAIN", {}, "main is spoken to by USER, PLAIN, which cannot carry a token"),
        (TOKEN, b"SASL XOAUTH2", {"mechanism": "plain"}, "main is spoken to by PLAIN, which cannot carry a token"),
        (JOE, b"SASL XOAUTH2", {}, "main is spoken to by XOAUTH2, which cannot carry a password"),
        (JOE, b"USER", {"mechanism": "oauthbearer"}, "main is spoken to by OAUTHBEARER, which cannot carry a password"),
        (Bearer("", b"t"), b"SASL XOAUTH2", {}, "cannot carry a token; XOAUTH2: XOAUTH2 needs a user name"),
        (Bearer("joe", b"t", "ann"), b"SASL XOAUTH2", {}, "a token with an authorization identity; XOAUTH2: "),
        (Password("joe", b"\xff"), None, {"mechanism": "scram-sha-256"}, "SCRAM-SHA-256: the password is not UTF-8"),
        (Password("j\x07e", b"x"), None, {"mechanism": "scram-sha-256"}, "the user name holds a character"),
        (Verified("joe"), b"USER", {}, "cannot carry Verified: a plugin must turn it into a password or a token"),
        (Digest("joe", "APOP", b"<1@mail>", b"0"), b"USER", {}, "cannot carry Digest: a plugin must turn it"),
    ],
)
def test_what_cannot_be_carried_is_refused_before_anything_is_said(
    credentials: Credentials, known: bytes | None, policy: Any, why: str
) -> None:
    said, result = enter(known=known, credentials=credentials, **policy)
    assert said == []
    assert isinstance(result, Failure)
    assert result.kind is Kind.CREDENTIALS
    assert why in result.detail
    assert result.refusal().code is Code.SYS_PERM


@pytest.mark.parametrize(
    ("mechanism", "message"), [("xoauth2", XOAUTH2), ("oauthbearer", OAUTHBEARER)]
)
@pytest.mark.parametrize("steps", ["one", "two", "always one", "two, unannounced"])
def test_a_token_in_one_line_and_in_two_steps(mechanism: str, message: bytes, steps: str) -> None:
    name = mechanism.upper().encode()
    known = None if steps == "two, unannounced" else b"SASL " + name
    initial = {"two": "never", "always one": "always"}.get(steps, "auto")
    if steps.endswith("one"):
        said, result = enter(b"+OK in", known=known, credentials=TOKEN, mechanism=mechanism, initial_response=initial)
        assert said == [b"AUTH " + name + b" " + message]
    else:
        answers = (b"+", b"+OK in")
        said, result = enter(*answers, known=known, credentials=TOKEN, mechanism=mechanism, initial_response=initial)
        assert said == [b"AUTH " + name + b"\r\n", message]
    assert result == IN


def test_a_token_of_16_kib_needs_two_steps_unless_the_operator_says_so() -> None:
    long = Bearer("joe", b"e" * 16_384)
    message = b64(b"user=joe\x01auth=Bearer " + long.token + b"\x01\x01")
    said, result = enter(b"+ ", b"+OK in", known=b"SASL XOAUTH2", credentials=long)
    assert (said, result) == ([b"AUTH XOAUTH2\r\n", message], IN)
    said, result = enter(b"+OK in", known=b"SASL XOAUTH2", credentials=long, initial_response="always")
    assert (said, result) == ([b"AUTH XOAUTH2 " + message], IN)


@pytest.mark.parametrize(("name", "answer"), [(b"XOAUTH2", b"\r\n"), (b"OAUTHBEARER", b"AQ==\r\n")])
def test_an_error_document_is_answered_and_the_refusal_awaited(name: bytes, answer: bytes) -> None:
    for steps in ((), (b"+",)):
        policy: Any = {"initial_response": "never"} if steps else {}
        answers = (*steps, TOLD, b"-ERR [AUTH] no")
        said, result = enter(*answers, known=b"SASL " + name, credentials=TOKEN, **policy)
        assert said[-1] == answer
        assert result == LoginRefused(Code.AUTH, f"[AUTH] no {DOCUMENT.decode()}", DOCUMENT)


@pytest.mark.parametrize(
    ("answers", "detail"),
    [
        ((TOLD, b"+OK in"), "a success behind a failure"),
        ((TOLD, TOLD), "asks for more than XOAUTH2 has"),
        ((b"+ !!",), "an octet outside the base64 alphabet"),
    ],
)
def test_promise_4_a_refused_token_stays_refused(answers: tuple[bytes, ...], detail: str) -> None:
    _, result = enter(*answers, known=b"SASL XOAUTH2", credentials=TOKEN)
    assert isinstance(result, Failure)
    assert result.kind is Kind.PROTOCOL
    assert detail in result.detail


def test_promise_6_a_document_that_repeats_the_token_is_hidden() -> None:
    told = b"+ " + b64(b'{"status":"bad ya29.secret"}')[:-2]
    _, result = enter(told, b"-ERR no", known=b"SASL XOAUTH2", credentials=TOKEN)
    assert isinstance(result, LoginRefused)
    assert b"ya29.secret" not in result.document + result.reason.encode()


# RFC 7677, with its nonce
PENCIL = Password("user", b"pencil")
FIRST = b64(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
SERVER_FIRST = (
    b"+ " + b64(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")[:-2]
)
FINAL = b64(
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"+ " + b64(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")[:-2]


def scram(*answers: bytes, **policy: Any) -> tuple[list[bytes | None], Result]:
    return enter(*answers, known=b"SASL SCRAM-SHA-256", credentials=PENCIL, **policy)


def test_scram_in_one_line_and_in_two_steps() -> None:
    said, result = scram(SERVER_FIRST, SERVER_FINAL, b"+OK in")
    assert (said, result) == ([b"AUTH SCRAM-SHA-256 " + FIRST, FINAL, b"\r\n"], IN)
    said, result = scram(b"+", SERVER_FIRST, SERVER_FINAL, b"+OK in", initial_response="never")
    assert (said, result) == ([b"AUTH SCRAM-SHA-256\r\n", FIRST, FINAL, b"\r\n"], IN)


@pytest.mark.parametrize(
    "answers",
    [
        (b"+OK in",),
        (SERVER_FIRST, b"+OK in"),
        (SERVER_FIRST, b"+ " + b64(b"v=" + b64(b"x" * 32)[:-2])[:-2]),
        (SERVER_FIRST, b"+ " + b64(b"e=other-error")[:-2], b"+OK in"),
        (SERVER_FIRST, SERVER_FINAL, SERVER_FINAL),
        (b"+ " + b64(b"r=stolen,s=AAAA,i=1")[:-2],),
        (SERVER_FIRST.replace(b"+ ", b"+OK "),),
    ],
)
def test_promise_4_a_server_that_does_not_prove_itself_lets_nobody_in(answers: tuple[bytes, ...]) -> None:
    _, result = scram(*answers)
    assert isinstance(result, Failure)
    assert result.kind is Kind.PROTOCOL
    assert result.detail.startswith("SCRAM-SHA-256: ") or result.detail == "one challenge too many"
    assert result.refusal().code is Code.SYS_TEMP


def test_scram_refused() -> None:
    wrong = b"+ " + b64(b"e=invalid-proof")[:-2]
    for answers in ((SERVER_FIRST, b"-ERR [AUTH] no"), (SERVER_FIRST, wrong, b"-ERR no")):
        _, result = scram(*answers)
        assert isinstance(result, LoginRefused)
        assert result.code is Code.AUTH


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
    for answer in (b"AUTH PLAIN " + PLAIN, b"auth plain " + PLAIN[:12] + b"..."):
        result = enter(b"-ERR unknown command " + answer.strip(), known=b"SASL PLAIN")[1]
        assert isinstance(result, LoginRefused)
        assert "hidden" in result.reason
    result = enter(b"+ Vg==", b"+", b"-ERR what is " + b64(b"sesame").strip(), known=b"SASL LOGIN")[1]
    assert isinstance(result, LoginRefused)
    assert "hidden" in result.reason
    for echo in (b"-ERR UNKNOWN COMMAND PASS SESAME", b"-ERR UNKNOWN COMMAND PASS Sesame"):
        result = enter(b"+OK", echo)[1]
        assert isinstance(result, LoginRefused)
        assert "hidden" in result.reason
    blank = enter(b"+OK", b"-ERR unknown  command", credentials=Password("joe", b"  "))[1]
    assert isinstance(blank, LoginRefused)
    assert "hidden" in blank.reason


secrets = st.binary(min_size=1, max_size=40)


@given(secrets, secrets, st.sampled_from(["user", "plain", "login", "scram-sha-256"]))
@settings(max_examples=100, deadline=None)
def test_promise_1_whatever_the_credentials_one_line_is_one_line(user: bytes, password: bytes, mechanism: str) -> None:
    policy: Any = {"mechanism": mechanism}
    credentials = Password(user.decode("utf-8", "surrogateescape"), password)
    dialogue = log_in(UpstreamPolicy("main", "off", **policy), credentials, None, TIMES, b"PASS", nonce)
    try:
        step = next(dialogue)
        while True:
            assert isinstance(step, Say)
            assert step.data.endswith(b"\r\n")
            assert step.data.count(b"\n") == step.data.count(b"\r") == 1
            assert b"\0" not in step.data
            step = dialogue.send(Heard(b"+OK\r\n", True))
    except StopIteration:
        pass

"""SASL lines and mechanisms: RFC 4616, RFC 5034, draft-murchison-sasl-login."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire import sasl
from popproxy.wire.sasl import (
    CLIENT_MECHANISMS,
    SERVER_MECHANISMS,
    Challenge,
    ClientMechanism,
    Complete,
    Identity,
    LoginClient,
    LoginServer,
    PlainClient,
    PlainServer,
    SaslError,
    Secret,
    Verifier,
)

quick = settings(max_examples=150, deadline=None)

names = st.text(st.characters(exclude_characters="\x00\r\n", exclude_categories=["Cs"]), min_size=1, max_size=64)
secrets = st.lists(st.integers(0, 255).filter(lambda o: o not in (0, 10, 13)), min_size=1, max_size=300).map(bytes)


@contextmanager
def refusal(reason: str) -> Iterator[None]:
    with pytest.raises(SaslError) as caught:
        yield
    assert caught.value.reason == reason


# The lines


@pytest.mark.parametrize(
    ("token", "data"),
    [
        (b"=", b""),
        (b"AGFiAGM=", b"\x00ab\x00c"),
        (b"dGltAHRpbQB0YW5zdGFhZnRhbnN0YWFm", b"tim\x00tim\x00tanstaaftanstaaf"),
        (b"/+//", b"\xff\xef\xff"),
    ],
)
def test_decode_initial(token: bytes, data: bytes) -> None:
    assert sasl.decode_initial(token) == data


@pytest.mark.parametrize(
    "text",
    [
        b" ", b"QQ", b"QQ=", b"QUI", b"Q", b"Q===", b"QQ==\r\n", b"QQ== ", b" QQ==", b"QQ==QQ==", b"QQ\x00=",
        b"=QQ=", b"====", b"==", b"*", b"-_8=", b"QR==", b"QUJ=", b"QUJDQR==", b"Q\nQ==", b"\xff\xfe\xfd\xfc",
    ],
)  # fmt: skip
def test_what_is_not_canonical_base64_is_refused(text: bytes) -> None:
    for decode in (sasl.decode_initial, sasl.decode_response):
        with refusal("base64"):
            decode(text)
    with refusal("base64"):
        sasl.decode_challenge(b"+ " + text)


def test_the_empty_response_has_a_spelling_of_its_own_in_each_place() -> None:
    assert sasl.decode_response(b"") == b""
    assert sasl.decode_challenge(b"+") == sasl.decode_challenge(b"+ ") == b""
    with refusal("base64"):
        sasl.decode_initial(b"")
    with refusal("base64"):
        sasl.decode_response(b"=")


@pytest.mark.parametrize("line", [b"", b"+OK", b"+QQ==", b"-ERR", b" + QQ=="])
def test_what_is_not_a_challenge_is_refused(line: bytes) -> None:
    with refusal("base64"):
        sasl.decode_challenge(line)


def test_lines_are_built_with_their_crlf() -> None:
    assert sasl.encode_challenge(b"") == b"+ \r\n"
    assert sasl.encode_challenge(b"Username:") == b"+ VXNlcm5hbWU6\r\n"
    assert sasl.encode_response(b"") == b"\r\n"
    assert sasl.encode_response(b"tim") == b"dGlt\r\n"


@given(st.binary(max_size=400))
@quick
def test_any_data_survives_the_lines(data: bytes) -> None:
    assert sasl.decode_response(sasl.encode_response(data)[:-2]) == data
    assert sasl.decode_challenge(sasl.encode_challenge(data)[:-2]) == data
    opening = sasl.command_line(b"X", data, 10_000)
    assert opening is not None
    assert sasl.decode_initial(opening[:-2].split(b" ")[2]) == data


@given(st.binary(max_size=12) | st.from_regex(rb"[A-Za-z0-9+/=]{0,12}", fullmatch=True))
@quick
def test_a_line_is_refused_or_is_the_only_spelling_of_its_data(line: bytes) -> None:
    try:
        data = sasl.decode_response(line)
    except SaslError as error:
        assert error.reason == "base64"
    else:
        assert base64.b64encode(data) == line


def test_a_long_token_decodes() -> None:
    token = b"x" * 20_000
    assert sasl.decode_response(base64.b64encode(token)) == token


def test_command_line_keeps_the_limit_of_rfc_5034() -> None:
    assert sasl.command_line(b"LOGIN", None) == b"AUTH LOGIN\r\n"
    assert sasl.command_line(b"EXTERNAL", b"") == b"AUTH EXTERNAL =\r\n"
    assert sasl.command_line(b"PLAIN", b"\x00test\x00test") == b"AUTH PLAIN AHRlc3QAdGVzdA==\r\n"
    fits = sasl.command_line(b"PLAIN", b"x" * 180)
    assert fits is not None
    assert len(fits) == 253
    assert sasl.command_line(b"PLAIN", b"x" * 181) is None
    assert sasl.command_line(b"PLAIN", b"x" * 180, 253) is not None
    assert sasl.command_line(b"PLAIN", b"x" * 180, 252) is None


@pytest.mark.parametrize("name", [b"", b"plain", b"PLAIN X", b"P" * 21, b"A\r\nDELE 1"])
def test_a_mechanism_name_cannot_carry_a_command(name: bytes) -> None:
    with refusal("syntax"):
        sasl.command_line(name, None)


# Identity


@pytest.mark.parametrize("octet", ["\x00", "\r", "\n"])
def test_no_identity_holds_nul_cr_or_lf(octet: str) -> None:
    for user, other, secret in [
        ("a" + octet, "", b"p"),
        ("a", octet + "z", b"p"),
        ("a", "", b"p" + octet.encode() + b"q"),
    ]:
        with refusal("identity"):
            Identity(user, other, secret)


def test_an_identity_needs_a_name_and_the_secret_it_speaks_of() -> None:
    for user, other, secret, kind in [
        ("", "", b"p", Secret.PASSWORD),
        ("a", "", b"", Secret.PASSWORD),
        ("a", "", b"", Secret.TOKEN),
        ("a", "", b"p", Secret.NONE),
        ("\ud800", "", b"p", Secret.PASSWORD),
        ("a", "\udcff", b"p", Secret.PASSWORD),
        ("", "", b"", Secret.TOKEN),
        ("", "", b"p", Secret.DIGEST),
        ("", "", b"", Secret.NONE),
    ]:
        with refusal("identity"):
            Identity(user, other, secret, kind)
    assert Identity("", "", b"t", Secret.TOKEN).authcid == ""
    assert Identity("a", kind=Secret.NONE).secret == b""
    assert Identity("a", "", b" \xff\t ").secret == b" \xff\t "


@given(names, names, secrets)
@quick
def test_no_repr_shows_the_secret(user: str, other: str, secret: bytes) -> None:
    marked = b"s3cret" + secret
    identity = Identity(user, other, marked)
    for text in (repr(identity), repr(Complete(identity)), repr(Challenge(marked))):
        assert "s3cret" not in text


# PLAIN, server side


@pytest.mark.parametrize(
    ("message", "identity"),
    [
        (b"\x00tim\x00tanstaaftanstaaf", Identity("tim", "", b"tanstaaftanstaaf")),
        (b"Ursel\x00Kurt\x00xipj3plmq", Identity("Kurt", "Ursel", b"xipj3plmq")),
        (b"\x00t\xc3\xafm\x00 \xff \x80 ", Identity("t\xefm", "", b" \xff \x80 ")),
        (b"tim\x00tim\x00p", Identity("tim", "tim", b"p")),
    ],
)
def test_plain_in_one_step_and_in_two(message: bytes, identity: Identity) -> None:
    assert PlainServer().start(message) == Complete(identity)
    mechanism = PlainServer()
    assert mechanism.start(None) == Challenge(b"")
    assert mechanism.respond(message) == Complete(identity)
    assert mechanism.refused() is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "syntax"),
        (b"tim", "syntax"),
        (b"tim\x00p", "syntax"),
        (b"\x00tim\x00pass\x00word", "syntax"),
        (b"\x00tim\x00password\x00", "syntax"),
        (b"\x00\x00p", "identity"),
        (b"\x00tim\x00", "identity"),
        (b"\x00t\xff\x00p", "identity"),
        (b"\xc3\x00tim\x00p", "identity"),
        (b"\x00tim\r\nDELE 1\x00p", "identity"),
        (b"\x00tim\x00p\nQUIT", "identity"),
        (b"a\rb\x00tim\x00p", "identity"),
    ],
)
def test_plain_refuses(message: bytes, reason: str) -> None:
    with refusal(reason):
        PlainServer().start(message)


def test_plain_has_one_message() -> None:
    with refusal("sequence"):
        PlainServer().respond(b"\x00a\x00b")
    mechanism = PlainServer()
    mechanism.start(b"\x00a\x00b")
    for again in (mechanism.start, mechanism.respond):
        with refusal("sequence"):
            again(b"\x00a\x00b")
    asked = PlainServer()
    asked.start(None)
    with refusal("sequence"):
        asked.start(None)
    with refusal("syntax"):
        asked.respond(b"")
    with refusal("sequence"):
        asked.respond(b"\x00a\x00b")


# LOGIN, server side


def test_login_asks_twice() -> None:
    mechanism = LoginServer()
    assert mechanism.start(None) == Challenge(b"Username:")
    assert mechanism.respond(b"tim") == Challenge(b"Password:")
    assert mechanism.respond(b" p\xff ") == Complete(Identity("tim", "", b" p\xff "))
    assert mechanism.refused() is None


def test_an_initial_response_of_login_is_the_user_name() -> None:
    mechanism = LoginServer()
    assert mechanism.start(b"tim") == Challenge(b"Password:")
    assert mechanism.respond(b"p") == Complete(Identity("tim", "", b"p"))


@pytest.mark.parametrize("user", [b"", b"a\x00b", b"a\r", b"\n", b"\xe9"])
def test_login_refuses_a_name_before_it_asks_for_the_password(user: bytes) -> None:
    mechanism = LoginServer()
    mechanism.start(None)
    with refusal("identity"):
        mechanism.respond(user)
    with refusal("sequence"):
        mechanism.respond(b"p")
    with refusal("identity"):
        LoginServer().start(user)


@pytest.mark.parametrize("password", [b"", b"a\x00b", b"a\r", b"\n"])
def test_login_refuses_a_password(password: bytes) -> None:
    mechanism = LoginServer()
    mechanism.start(b"tim")
    with refusal("identity"):
        mechanism.respond(password)


def test_login_has_two_answers() -> None:
    with refusal("sequence"):
        LoginServer().respond(b"tim")
    mechanism = LoginServer()
    mechanism.start(b"tim")
    with refusal("sequence"):
        mechanism.start(None)
    mechanism.respond(b"p")
    with refusal("sequence"):
        mechanism.respond(b"p")


@given(st.sampled_from(sorted(SERVER_MECHANISMS)), st.none() | st.binary(max_size=40), st.lists(st.binary()))
@quick
def test_whatever_a_client_sends_the_identity_is_safe(name: bytes, initial: bytes | None, answers: list[bytes]) -> None:
    mechanism = SERVER_MECHANISMS[name](b"nonce")
    try:
        step = mechanism.start(initial)
        for answer in answers:
            if isinstance(step, Complete):
                break
            step = mechanism.respond(answer)
    except SaslError:
        return
    if isinstance(step, Complete):
        who = step.identity
        assert who.authcid or who.kind is Secret.TOKEN
        assert not re.search(rb"[\x00\r\n]", who.authcid.encode() + who.authzid.encode() + who.secret)
        sent = b"\x00".join([initial or b"", *answers])
        assert who.authcid.encode() in sent
        assert who.secret in sent


# Client side


def test_plain_client() -> None:
    mechanism = PlainClient(Identity("Kurt", "Ursel", b"xipj3plmq"))
    assert mechanism.initial() == b"Ursel\x00Kurt\x00xipj3plmq"
    assert mechanism.initial() == b"Ursel\x00Kurt\x00xipj3plmq"
    with refusal("sequence"):
        mechanism.respond(b"")


@pytest.mark.parametrize("prompts", [(b"Username:", b"Password:"), (b"", b""), (b"Password:", b"Username:")])
def test_login_client_answers_in_order_whatever_the_prompts(prompts: tuple[bytes, bytes]) -> None:
    mechanism: ClientMechanism = LoginClient(Identity("t\xefm", "", b"p\xff"))
    assert mechanism.initial() is None
    assert [mechanism.respond(prompt) for prompt in prompts] == [b"t\xc3\xafm", b"p\xff"]
    with refusal("sequence"):
        mechanism.respond(b"")


def test_an_authorization_identity_is_passed_on_or_refused_never_dropped() -> None:
    identity = Identity("Kurt", "Ursel", b"x")
    assert b"Ursel\x00" in PlainClient(identity).initial()
    with refusal("identity"):
        LoginClient(identity)


@pytest.mark.parametrize("make", [PlainClient, LoginClient])
@pytest.mark.parametrize("identity", [Identity("a", "", b"t", Secret.TOKEN), Identity("a", kind=Secret.NONE)])
def test_a_password_mechanism_needs_a_password(make: Any, identity: Identity) -> None:
    with refusal("identity"):
        make(identity)


@given(st.sampled_from([b"PLAIN", b"LOGIN"]), names, names | st.just(""), secrets)
@quick
def test_what_the_client_side_says_the_server_side_understands(
    name: bytes, user: str, other: str, secret: bytes
) -> None:
    identity = Identity(user, "" if name == b"LOGIN" else other, secret)
    client, server = CLIENT_MECHANISMS[name](identity, b"c"), SERVER_MECHANISMS[name](b"s")
    step = server.start(client.initial())
    while isinstance(step, Challenge):
        line = sasl.encode_challenge(step.data)
        answer = client.respond(sasl.decode_challenge(line[:-2]))
        assert isinstance(answer, bytes)
        step = server.respond(sasl.decode_response(sasl.encode_response(answer)[:-2]))
    assert step == Complete(identity)


def test_the_registries_know_the_mechanisms_by_their_own_names() -> None:
    for name, server in SERVER_MECHANISMS.items():
        assert server(b"s").name == name
        with refusal("sequence"):
            server(b"s").respond(b"")
    for name, client in CLIENT_MECHANISMS.items():
        token = name in (b"OAUTHBEARER", b"XOAUTH2")
        made = client(Identity("a", "", b"p", Secret.TOKEN if token else Secret.PASSWORD), b"c")
        assert made.name == name
        assert (made.initial() is None) == (name == b"LOGIN")
        assert made.reads_challenges == (name not in (b"PLAIN", b"LOGIN"))
    assert set(CLIENT_MECHANISMS) <= set(SERVER_MECHANISMS)


@pytest.mark.parametrize("name", [name for name in SERVER_MECHANISMS if not name.startswith(b"SCRAM")])
def test_only_scram_wants_a_verifier(name: bytes) -> None:
    with refusal("sequence"):
        SERVER_MECHANISMS[name](b"s").supply(Verifier(b"salt", 1, b"s" * 32, b"k" * 32))


@pytest.mark.parametrize("name", [name for name in CLIENT_MECHANISMS if not name.startswith(b"SCRAM")])
def test_only_scram_derives(name: bytes) -> None:
    kind = Secret.TOKEN if b"OAUTH" in name else Secret.PASSWORD
    with refusal("sequence"):
        CLIENT_MECHANISMS[name](Identity("a", "", b"p", kind), b"c").derived(b"x")

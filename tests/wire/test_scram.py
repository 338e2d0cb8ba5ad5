"""SCRAM: the examples of RFC 5802 and RFC 7677, every way to break them, and another implementation as a witness."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import scramp  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.sasl import (
    HASHES,
    Challenge,
    Complete,
    Derivation,
    Identity,
    SaslError,
    ScramClient,
    ScramServer,
    Secret,
    Step,
    Verifier,
    Wanted,
    fake,
)

quick = settings(max_examples=40, deadline=None)
PENCIL = Identity("user", "", b"pencil")
RFC: dict[str, Any] = {
    "SCRAM-SHA-1": (
        b"fyko+d2lbbFgONRv9qkxdawL",
        b"3rfcNHYJY1ZVvWVs7j",
        "QSXCR+Q6sek8bf92",
        b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        b"rOprNGfwEbeRWgbNEkqO",
        b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}
NAMES = sorted(RFC)


@contextmanager
def refusal(reason: str) -> Iterator[None]:
    with pytest.raises(SaslError) as caught:
        yield
    assert caught.value.reason == reason


def client_of(name: str, identity: Identity = PENCIL) -> ScramClient:
    return ScramClient(name, identity, RFC[name][0])


def server_of(name: str, iterations: int = 4096) -> tuple[ScramServer, Verifier]:
    verifier = Verifier.derive(name, "pencil", base64.b64decode(RFC[name][2]), iterations)
    return ScramServer(name, RFC[name][1]), verifier


def final(client: ScramClient, server_first: bytes) -> bytes:
    derivation = client.respond(server_first)
    assert isinstance(derivation, Derivation)
    return client.derived(derivation.compute())


# The examples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_examples_of_the_rfcs_on_both_sides(name: str, steps: int) -> None:
    _, _, _, client_first, server_first, client_final, server_final = RFC[name]
    client = client_of(name)
    assert client.initial() == client.initial() == client_first
    assert final(client, server_first) == client_final
    assert client.respond(server_final) == b""
    assert not client.failed

    server, verifier = server_of(name)
    if steps == 2:
        assert server.start(None) == Challenge(b"")
    assert (server.start(client_first) if steps == 1 else server.respond(client_first)) == Wanted("user")
    assert server.supply(verifier) == Challenge(server_first)
    assert server.respond(client_final) == Challenge(server_final)
    assert server.respond(b"") == Complete(Identity("user", kind=Secret.NONE))
    assert server.refused() is None


def test_an_authorization_identity_travels() -> None:
    client = client_of("SCRAM-SHA-256", Identity("user", "a,=n", b"pencil"))
    server, verifier = server_of("SCRAM-SHA-256")
    assert client.initial().startswith(b"n,a=a=2C=3Dn,n=user,")
    server.start(client.initial())
    first = server.supply(verifier)
    assert isinstance(first, Challenge)
    last = server.respond(final(client, first.data))
    assert isinstance(last, Challenge)
    assert client.respond(last.data) == b""
    assert server.respond(b"") == Complete(Identity("user", "a,=n", kind=Secret.NONE))


# Against another implementation

# It refuses what Unicode 3.2 did not know, as for strings that are stored.
letters = st.characters(min_codepoint=0x20, max_codepoint=0x21F, exclude_characters="\xad", exclude_categories=["Cc"])
words = st.text(letters, min_size=1)


@given(st.sampled_from(NAMES), words, words, st.binary(min_size=12, max_size=30))
@quick
def test_our_client_convinces_another_server(name: str, user: str, password: str, salt: bytes) -> None:
    client = ScramClient(name, Identity(user, "", password.encode()), b"client")
    mechanism = scramp.ScramMechanism(name)
    server = mechanism.make_server(lambda _: mechanism.make_auth_info(password, 4096, salt))
    server.set_client_first(client.initial().decode())
    server.set_client_final(final(client, server.get_server_first().encode()).decode())
    assert client.respond(server.get_server_final().encode()) == b""


@given(st.sampled_from(NAMES), words, words, st.binary(min_size=12, max_size=30))
@quick
def test_our_server_is_convinced_by_another_client(name: str, user: str, password: str, salt: bytes) -> None:
    verifier = Verifier.derive(name, password, salt, 4096)
    witness = scramp.ScramMechanism(name).make_auth_info(password, 4096, salt)
    assert (verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations) == witness
    client = scramp.ScramClient([name], user, password)
    server = ScramServer(name, b"server")
    wanted = server.start(client.get_client_first().encode())
    assert isinstance(wanted, Wanted)
    first = server.supply(verifier)
    assert isinstance(first, Challenge)
    client.set_server_first(first.data.decode())
    last = server.respond(client.get_client_final().encode())
    assert isinstance(last, Challenge)
    client.set_server_final(last.data.decode())
    assert isinstance(server.respond(b""), Complete)


# The server's side


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "syntax"),
        (b"n", "syntax"),
        (b"n,", "syntax"),
        (b"n,,", "syntax"),
        (b"n,,n=user", "syntax"),
        (b"n,,r=abc,n=user", "syntax"),
        (b"n,,n=,r=abc", "syntax"),
        (b"n,,n=user,r=", "syntax"),
        (b"n,,n=user,r=a\x7fb", "syntax"),
        (b"n,,n=user,r=a\xc3\xa4", "syntax"),
        (b"n,,n=us=er,r=abc", "syntax"),
        (b"n,,n=us=2cer,r=abc", "syntax"),
        (b"n,,m=x,n=user,r=abc", "syntax"),
        (b"n,,n=user,r=abc,x", "syntax"),
        (b"x,,n=user,r=abc", "syntax"),
        (b"n,b=x,n=user,r=abc", "syntax"),
        (b"p=tls-exporter,,n=user,r=abc", "syntax"),
        (b"n,a=,n=user,r=abc", "identity"),
        (b"n,,n=us\xffer,r=abc", "identity"),
        (b"n,a=\xff,n=user,r=abc", "identity"),
        (b"n,,n=us\rer,r=abc", "identity"),
        (b"n,a=x\ny,n=user,r=abc", "identity"),
        (b"n,,n=us\0er,r=abc", "syntax"),
    ],
)
def test_a_first_message_that_is_none(message: bytes, reason: str) -> None:
    server = ScramServer("SCRAM-SHA-256", b"nonce")
    with refusal(reason):
        server.start(message)
    with refusal("sequence"):
        server.respond(b"")


@pytest.mark.parametrize("first", [b"y,,n=user,r=abc", b"n,,n=user,r=abc,x=ext", b"n,a=ann,n=user,r=abc"])
def test_a_first_message_that_is_less_common(first: bytes) -> None:
    assert ScramServer("SCRAM-SHA-1", b"nonce").start(first) == Wanted("user")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(b"p=d", b"p=e"), "proof"),
        (lambda text: text[: text.index(b",p=")], "syntax"),
        (lambda text: text[: text.index(b",p=")] + b",p=" + base64.b64encode(b"x" * 20), "syntax"),
        (lambda text: text[:-1] + b"!", "syntax"),
        (lambda text: text[:-2], "syntax"),
        (lambda text: text + b",x=y", "syntax"),
        (lambda text: text.replace(b"c=biws", b"c=eSws"), "syntax"),
        (lambda text: text.replace(b"c=biws,", b""), "syntax"),
        (lambda text: text.replace(b"r=rOpr", b"r=xOpr"), "syntax"),
        (lambda text: text.replace(b"k0,p", b"k,p"), "syntax"),
        (lambda text: b"", "syntax"),
    ],
)
def test_a_final_message_that_is_none(change: Any, reason: str) -> None:
    server, verifier = server_of("SCRAM-SHA-256")
    server.start(RFC["SCRAM-SHA-256"][3])
    server.supply(verifier)
    with refusal(reason):
        server.respond(change(RFC["SCRAM-SHA-256"][5]))
    with refusal("sequence"):
        server.respond(b"")


def test_extensions_of_the_final_message_count_for_the_proof() -> None:
    server, verifier = server_of("SCRAM-SHA-256")
    server.start(RFC["SCRAM-SHA-256"][3])
    server.supply(verifier)
    with refusal("proof"):
        server.respond(RFC["SCRAM-SHA-256"][5].replace(b",p=", b",x=y,p="))


def test_the_server_keeps_its_order() -> None:
    server, verifier = server_of("SCRAM-SHA-256")
    with refusal("sequence"):
        server.supply(verifier)
    assert server.start(None) == Challenge(b"")
    with refusal("sequence"):
        server.start(None)
    server.respond(RFC["SCRAM-SHA-256"][3])
    with refusal("sequence"):
        server.respond(RFC["SCRAM-SHA-256"][5])
    server, verifier = server_of("SCRAM-SHA-256")
    server.start(RFC["SCRAM-SHA-256"][3])
    server.supply(verifier)
    with refusal("sequence"):
        server.supply(verifier)
    server.respond(RFC["SCRAM-SHA-256"][5])
    with refusal("syntax"):
        server.respond(b"x")


def test_a_verifier_of_another_hash() -> None:
    server, _ = server_of("SCRAM-SHA-256")
    server.start(RFC["SCRAM-SHA-256"][3])
    with pytest.raises(ValueError, match="SCRAM-SHA-256"):
        server.supply(server_of("SCRAM-SHA-1")[1])


@given(st.lists(st.binary(max_size=60) | st.sampled_from([*RFC["SCRAM-SHA-256"][3:6], b"c=biws,r=abcnonce,p=AAAA"])))
@quick
def test_whatever_a_client_sends_only_a_proof_completes(answers: list[bytes]) -> None:
    server = ScramServer("SCRAM-SHA-256", b"nonce")
    step: Step = server.start(None)
    try:
        for answer in answers:
            step = server.respond(answer)
            if isinstance(step, Wanted):
                step = server.supply(fake(b"seed", "SCRAM-SHA-256", step.user))
            assert not isinstance(step, Complete)
    except SaslError as error:
        assert str(error)


# The client's side


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096",
        b"r=xOprNGfwEbeRWgbNEkqOmore,s=AAAA,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO\x7f,s=AAAA,i=4096",
        b"s=AAAA,r=rOprNGfwEbeRWgbNEkqOx,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=A,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=QR==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=04096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=9999999999999999",
        b"m=ext,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096",
        b"e=no-such-user",
    ],
)
def test_a_first_message_of_the_server_that_is_none(message: bytes) -> None:
    with refusal("syntax"):
        client_of("SCRAM-SHA-256").respond(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "syntax"),
        (b"v=" + base64.b64encode(b"x" * 32), "proof"),
        (b"v=AAAA", "proof"),
        (b"v=", "syntax"),
        (b"", "syntax"),
        (b"x=y", "syntax"),
    ],
)
def test_a_server_that_does_not_know_the_password(message: bytes, reason: str) -> None:
    client = client_of("SCRAM-SHA-256")
    final(client, RFC["SCRAM-SHA-256"][4])
    with refusal(reason):
        client.respond(message)
    with refusal("sequence"):
        client.respond(b"")


def test_a_server_that_says_no_inside_the_exchange() -> None:
    client = client_of("SCRAM-SHA-256")
    final(client, RFC["SCRAM-SHA-256"][4])
    assert client.respond(b"e=invalid-proof") == b""
    assert client.failed


def test_the_client_keeps_its_order() -> None:
    client = client_of("SCRAM-SHA-256")
    with refusal("sequence"):
        client.derived(b"x" * 32)
    client.respond(RFC["SCRAM-SHA-256"][4])
    with refusal("sequence"):
        client.respond(RFC["SCRAM-SHA-256"][6])


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        (Identity("user", "", b"p\xff"), "not UTF-8"),
        (Identity("user", "", "\u0627a".encode()), "password mixes"),
        (Identity("us\x07er", "", b"p"), "user name holds"),
        (Identity("user", "", b"t", Secret.TOKEN), "needs a password"),
        (Identity("user", kind=Secret.NONE), "needs a password"),
    ],
)
def test_what_scram_cannot_carry(identity: Identity, says: str) -> None:
    with pytest.raises(SaslError, match=says) as caught:
        ScramClient("SCRAM-SHA-256", identity, b"nonce")
    assert caught.value.reason == "identity"


def test_names_and_passwords_are_prepared() -> None:
    client = ScramClient("SCRAM-SHA-256", Identity("I\u00adX,=", "", "\u2168".encode()), b"nonce")
    assert client.initial() == b"n,,n=IX=2C=3D,r=nonce"
    derivation = client.respond(b"r=noncex,s=AAAA,i=1")
    assert isinstance(derivation, Derivation)
    assert derivation.password == b"IX"
    assert "IX" not in repr(derivation)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([*RFC["SCRAM-SHA-256"][4:], b"e=x"])))
@quick
def test_whatever_a_server_sends_it_proves_itself_or_nothing(challenges: list[bytes]) -> None:
    client = client_of("SCRAM-SHA-256")
    try:
        for challenge in challenges:
            answer = client.respond(challenge)
            if isinstance(answer, Derivation):
                client.derived(answer.compute())
            else:
                assert client.failed or challenge == RFC["SCRAM-SHA-256"][6]
    except SaslError as error:
        assert str(error)


# Verifiers


def test_a_verifier_hides_its_keys() -> None:
    assert repr(server_of("SCRAM-SHA-256")[1]) == "Verifier(iterations=4096)"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((b"", 4096, b"s" * 32, b"k" * 32), ValueError),
        ((b"salt", 0, b"s" * 32, b"k" * 32), ValueError),
        ((b"salt", 4096, b"s" * 32, b"k" * 20), ValueError),
        ((b"salt", 4096, b"s" * 16, b"k" * 16), ValueError),
        ((b"salt", "4096", b"s" * 32, b"k" * 32), ValueError),
        (("salt", 4096, b"s" * 32, b"k" * 32), TypeError),
        ((b"salt", 4096, None, b"k" * 32), TypeError),
    ],
)
def test_what_is_no_verifier(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Verifier"):
        Verifier(*arguments)


def test_what_no_verifier_can_be_made_of() -> None:
    with pytest.raises(ValueError, match="SCRAM-SHA-1"):
        Verifier.derive("PLAIN", "x", b"salt")
    with pytest.raises(ValueError, match="prohibits"):
        Verifier.derive("SCRAM-SHA-1", "\x07", b"salt")


@pytest.mark.parametrize("name", NAMES)
def test_a_fake_verifier_is_stable_and_looks_like_the_others(name: str) -> None:
    one = fake(b"seed", name, "joe", 40, 10_000)
    assert one == fake(b"seed", name, "joe", 40, 10_000)
    assert (len(one.salt), one.iterations) == (40, 10_000)
    assert len(fake(b"seed", name, "joe").salt) == 16
    others = [fake(b"seed", name, "ann"), fake(b"other", name, "joe"), *(fake(b"seed", n, "joe") for n in HASHES)]
    assert len({one.salt[:16], *(other.salt for other in others)}) == 4


def test_no_password_fits_a_fake_verifier() -> None:
    server = ScramServer("SCRAM-SHA-256", b"nonce")
    client = client_of("SCRAM-SHA-256")
    server.start(client.initial())
    first = server.supply(fake(b"seed", "SCRAM-SHA-256", "user"))
    assert isinstance(first, Challenge)
    with refusal("proof"):
        server.respond(final(client, first.data))

"""AUTH on the client's leg: every way through an exchange, and every way out of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from popproxy.api import Fail, LoginResult, Password, Plugin, Refuse, Rename, SessionView, Verified, Verifier
from popproxy.core.chain import Chain, Subscriber
from popproxy.core.conditions import condition
from popproxy.core.limits import Limits
from popproxy.core.phases import Phase
from popproxy.wire.sasl import Derivation, Identity, ScramClient
from tests.core.rig import BROKEN, Rig, plugin


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
    rig = begun(known=[]).client(b"AUTH\r\nAUTH \r\n")
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


def test_who_looks_up_names_and_cancels_does_not_go_on_for_ever() -> None:
    looked: list[str] = []

    def on_verifier(session: SessionView, user: str, mechanism: str) -> None:
        looked.append(user)

    rig = met(keeper(on_verifier), limits=Limits(auth_attempts=3))
    for number in range(9):
        rig.client(first(prover(f"user{number}")) + b"*\r\n")
    assert looked == ["user0", "user1", "user2"]
    rig.ended("policy")


# SCRAM, tokens and digests; the whole conversations are in tests/scripts

SALTED = Verifier.derive("SCRAM-SHA-256", "sesame", b"salt")


def prover(user: str = "joe", password: bytes = b"sesame") -> ScramClient:
    return ScramClient("SCRAM-SHA-256", Identity(user, "", password), b"client")


def proof(rig: Rig, client: ScramClient) -> bytes:
    """The client's last message, for the challenge it was sent."""
    challenge = rig.said()
    assert challenge.startswith(b"+ "), challenge
    derivation = client.respond(base64.b64decode(challenge[2:]))
    assert isinstance(derivation, Derivation)
    return b64(client.derived(derivation.compute())) + b"\r\n"


def keeper(on_verifier: Callable[..., Any], fail: Fail = Fail.OPEN, **hooks: Callable[..., Any]) -> Plugin[Any]:
    made = plugin(fail, on_verifier=on_verifier, **hooks)
    made.mechanisms = frozenset({"SCRAM-SHA-256"})
    return made


def met(*plugins: Plugin[Any], **plan: Any) -> Rig:
    rig = Rig(*plugins, **plan).start()
    rig.said()
    return rig


def first(client: ScramClient) -> bytes:
    return b"AUTH SCRAM-SHA-256 " + b64(client.initial()) + b"\r\n"


async def waits(*_: object) -> Any: ...


def test_a_proven_user_reaches_on_login_as_the_client_wrote_it() -> None:
    asked: list[Any] = []

    def on_verifier(session: SessionView, user: str, mechanism: str) -> Verifier | Rename:
        asked.append((session.user, user, mechanism))
        return Rename(user + "2") if len(asked) == 1 else SALTED

    seen: list[Any] = []
    first_, second = keeper(on_verifier), keeper(on_verifier, on_login=lambda session, who: seen.append(who))
    rig = met(first_, second)
    client = prover("Joe")
    rig.client(first(client))
    rig.client(proof(rig, client))
    assert rig.said().startswith(b"+ ")
    assert seen == []
    rig.client(b"\r\n")
    assert seen == [Verified("Joe")]
    assert asked == [("Joe", "Joe", "SCRAM-SHA-256"), ("Joe", "Joe2", "SCRAM-SHA-256")]
    assert rig.view.user == "Joe" and rig.view.mechanism == "SCRAM-SHA-256"


def test_lines_wait_while_a_verifier_is_looked_up() -> None:
    rig = met(keeper(waits))
    client = prover()
    rig.client(first(client) + b"QUIT\r\n")
    assert rig.said() == b""
    rig.returned(SALTED)
    # QUIT is no base64 that proves anything.
    assert rig.said().endswith(b"-ERR Bad AUTH exchange: a SCRAM message has an attribute missing, malformed or out of "
                               b"its place\r\n")


def test_who_waits_for_a_verifier_may_go() -> None:
    rig = met(keeper(waits)).client(first(prover()))
    rig.s.client_gone()
    rig.drain().returned(SALTED).ended("client_reset")
    rig = met(keeper(waits)).client(first(prover())).eof()
    assert not rig.closed
    rig.returned(SALTED).ended("client_eof")


@pytest.mark.parametrize("fail", Fail)
@pytest.mark.parametrize("how", ["raises", "late", "lies", "another hash"])
def test_promise_7_on_verifier_fails(fail: Fail, how: str) -> None:
    rig = met(keeper(waits, fail))
    client = prover()
    rig.client(first(client))
    if how == "raises":
        rig.raised(ValueError("secret"))
    elif how == "late":
        rig.raised(TimeoutError())
    else:
        rig.returned(5 if how == "lies" else Verifier.derive("SCRAM-SHA-1", "sesame", b"salt"))
    if fail is Fail.OPEN:
        rig.client(proof(rig, client))
        assert rig.said() == b"-ERR [AUTH] Authentication failed\r\n"
    else:
        assert rig.said() == BROKEN
    assert rig.meter.errors == [("p1", "on_verifier", f"fail_{fail.value}")]
    assert rig.s.phase is Phase.AUTHORIZATION
    rig.client(b"QUIT\r\n").ended("quit")


def test_a_wrong_proof_is_a_failed_login() -> None:
    results: list[LoginResult] = []
    rig = met(keeper(lambda *_: SALTED, on_login_result=lambda session, result: results.append(result)))
    for _ in range(2):
        client = prover(password=b"wrong")
        rig.client(first(client))
        rig.client(proof(rig, client))
        assert rig.said() == b"-ERR [AUTH] Authentication failed\r\n"
    assert [(result.ok, result.code) for result in results] == [(False, "AUTH")] * 2
    assert [login[:2] for login in rig.meter.logins] == [("SCRAM-SHA-256", "bad_credentials")] * 2
    assert rig.notes("login_failed")[0] == {
        "code": "AUTH", "reason": "the proof does not fit the password", "mechanism": "SCRAM-SHA-256"
    }  # fmt: skip
    assert rig.meter.outcomes() == {("AUTH", "err"): 2}
    assert rig.view.attempt == 3


def test_too_many_wrong_proofs_end_the_session() -> None:
    rig = met(keeper(lambda *_: None), limits=Limits(auth_attempts=2))
    for _ in range(2):
        client = prover()
        rig.client(first(client))
        rig.client(proof(rig, client))
        assert rig.said() == b"-ERR [AUTH] Authentication failed\r\n"
    rig.ended("policy")
    assert {note["reason"] for note in rig.notes("login_failed")} == {"no plugin has a verifier of this user"}


def test_nobody_can_tell_a_user_who_does_not_exist() -> None:
    rig = met(keeper(lambda session, user, mechanism: SHAPED if user == "joe" else None), decoy=b"seed")
    shown = {}
    for user in ("nobody", "joe", "nobody", "joe", "anybody"):
        client = prover(user)
        rig.client(first(client))
        fields = base64.b64decode(rig.said()[2:]).split(b",")
        shown.setdefault(user, []).append(fields[1:])
        rig.client(b"*\r\n")
        rig.said()
    assert shown["joe"][0][1] == shown["nobody"][1][1] == shown["anybody"][0][1] == b"i=4097"
    assert {len(fields[0]) for fields in (*shown["joe"], shown["nobody"][1], *shown["anybody"])} == {len(b"s=") + 24}
    again = met(keeper(lambda *_: None), decoy=b"seed").client(first(prover("nobody")))
    assert base64.b64decode(again.said()[2:]).split(b",")[1] == shown["nobody"][0][0]


@pytest.mark.parametrize("end", [b"*\r\n", b"no base64!\r\n"])
def test_a_name_of_an_exchange_that_led_nowhere_does_not_choose_the_plugins_of_a_later_login(end: bytes) -> None:
    guard = plugin(on_login=lambda session, who: Refuse("Not you", None))
    subscribers = [
        Subscriber("keys", keeper(lambda *_: None)),
        Subscriber("guard", guard, when=condition(users=["joe"])),
    ]
    rig = met(chain=Chain(subscribers))
    rig.client(b"USER joe\r\n" + first(prover("eve")) + end)
    rig.said()
    assert rig.view.user == "eve"
    rig.client(b"PASS sesame\r\n")
    assert rig.said() == b"-ERR Not you\r\n"
    assert rig.view.user == "joe"


@pytest.mark.parametrize("asked", [True, False])
def test_who_was_asked_about_a_name_hears_the_end_under_another(asked: bool) -> None:
    """What a plugin takes for a session it gives back in on_close; its ``when`` is about the name of the moment."""
    heard: list[str] = []
    guard = plugin(
        on_verifier=lambda session, user, mechanism: None, on_close=lambda session, summary: heard.append(session.user)
    )
    chain = Chain(
        [Subscriber("keys", keeper(lambda *_: None)), Subscriber("guard", guard, when=condition(users=["eve"]))]
    )
    rig = met(chain=chain).client(first(prover("eve" if asked else "ann")) + b"*\r\nUSER joe\r\n")
    rig.s.client_gone("client_eof")
    rig.s.summary()
    assert heard == (["joe"] if asked else [])


def test_a_made_up_salt_belongs_to_the_name_that_was_looked_up() -> None:
    rig = met(keeper(lambda session, user, mechanism: Rename(user.lower())), decoy=b"seed")
    salts = set()
    for user in ("nobody", "NOBODY", "Nobody"):
        rig.client(first(prover(user)))
        salts.add(base64.b64decode(rig.said()[2:]).split(b",")[1])
        rig.client(b"*\r\n")
        rig.said()
    assert len(salts) == 1


SHAPED = Verifier.derive("SCRAM-SHA-256", "sesame", b"0123456789abcdef", 4097)


def token_of(rig: Rig, user: str = "joe") -> Rig:
    return rig.client(b"AUTH XOAUTH2 " + b64(f"user={user}\x01auth=Bearer ya29\x01\x01".encode()) + b"\r\n")


def test_a_refused_token_counts_before_its_document_is_answered() -> None:
    rig = token_of(begun(known=[b"SASL XOAUTH2"], limits=Limits(auth_attempts=1)))
    rig.connected().upstream(b"-ERR [AUTH] no\r\n")
    assert rig.said() == b"+ " + b64(b'{"status":"invalid_token"}') + b"\r\n"
    assert rig.meter.logins[0][:2] == ("XOAUTH2", "bad_credentials")
    assert not rig.s.upstream_open
    rig.client(b"\r\n")
    assert rig.said() == b"-ERR [AUTH] Authentication failed\r\n"
    rig.ended("policy")


def test_who_does_not_answer_a_document_is_not_waited_for() -> None:
    rig = token_of(begun(known=[b"SASL XOAUTH2"])).connected().upstream(b"-ERR [AUTH] no\r\n")
    rig.wait(rig.plan.timeouts.pre_auth).ended("login_timeout")


def test_who_sends_no_more_reads_the_refusal_at_once() -> None:
    rig = token_of(begun(known=[b"SASL XOAUTH2"])).connected().eof().upstream(b"-ERR [AUTH] no\r\n")
    assert rig.said() == b"-ERR [AUTH] Authentication failed\r\n"
    rig.ended("client_eof")


def test_what_is_pipelined_behind_a_refused_token_answers_its_document() -> None:
    rig = token_of(begun(known=[b"SASL XOAUTH2"]))
    rig.client(b"\r\nQUIT\r\n").connected().upstream(b"-ERR [AUTH] no\r\n")
    assert rig.said().splitlines()[1:] == [b"-ERR [AUTH] Authentication failed", b"+OK Bye"]
    rig.ended("quit")


@pytest.mark.parametrize("code", [b"SYS/TEMP", b"SYS/PERM", b"IN-USE", b"LOGIN-DELAY"])
def test_only_a_bad_token_has_a_document(code: bytes) -> None:
    rig = token_of(begun(known=[b"SASL XOAUTH2"])).connected().upstream(b"-ERR [" + code + b"] no\r\n")
    assert rig.said().startswith(b"-ERR [" + code + b"] ")
    rig.client(b"QUIT\r\n").ended("quit")


def test_a_document_belongs_to_its_own_login() -> None:
    rig = token_of(begun(known=[b"USER", b"SASL XOAUTH2"])).connected()
    rig.upstream(b"+ " + b64(b'{"status":"x","scope":"mine"}') + b"\r\n").upstream(b"-ERR no\r\n")
    assert b64(b'{"status":"x","scope":"mine"}') in rig.said()
    rig.client(b"\r\n").client(b"USER joe\r\nPASS x\r\n")
    rig.said()
    rig.connected().upstream(b"+OK\r\n").upstream(b"-ERR no\r\n")
    assert rig.said() == b"-ERR [AUTH] Authentication failed\r\n"
    token_of(rig).connected().upstream(b"-ERR no\r\n")
    assert rig.said() == b"+ " + b64(b'{"status":"invalid_token"}') + b"\r\n"


def test_a_user_whose_password_is_of_no_use_is_told_before_sending_it() -> None:
    rig = begun(known=[b"SASL XOAUTH2"]).client(b"USER joe\r\nPASS x\r\n")
    assert rig.said().startswith(b"-ERR [SYS/PERM] No login by password here; use AUTH with a token\r\n-ERR ")
    assert rig.view.user is None
    # What it said long ago is not acted on.
    rig.now += 400
    rig.client(b"USER joe\r\n")
    assert rig.said() == b"+OK\r\n"


def test_asking_what_the_upstream_can_happens_once() -> None:
    rig = token_of(begun(known=None))
    assert rig.said() == b""
    rig.connected()
    assert rig.asked() == b"CAPA\r\n"
    rig.upstream(b"+OK\r\nSASL XOAUTH2\r\n.\r\n")
    assert rig.asked().startswith(b"AUTH XOAUTH2 ")
    rig.upstream(b"+OK in\r\n")
    assert rig.s.phase is Phase.TRANSACTION

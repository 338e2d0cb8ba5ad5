"""What somebody who looks on is shown: everything that explains a session, and no secret, however it was cut."""

from __future__ import annotations

import base64
from typing import Any, Self, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.core.effects import Derive, Dial, Dialed
from popproxy.core.plan import UpstreamPolicy
from popproxy.core.redaction import Secrets, shown, text_of
from popproxy.core.session import Session
from popproxy.core.transcriber import Transcriber
from popproxy.wire.commands import Where, parse
from tests.core.rig import Rig

SASL = b"SASL PLAIN LOGIN OAUTHBEARER XOAUTH2 SCRAM-SHA-256 CRAM-MD5"
KNOWN = (b"TOP", b"UIDL", b"PIPELINING", SASL)


class _Heard(list[bytes]):
    """What a session puts out, told to whoever looks on at the moment."""

    def __init__(self, rig: Overheard, name: str) -> None:
        super().__init__()
        self._rig = rig
        self._name = name

    def append(self, data: bytes) -> None:
        super().append(data)
        if self._rig.ear is not None:
            getattr(self._rig.ear, self._name)(data)


class Overheard(Rig):
    """A bench on which somebody may look on. ``told`` is the transcript."""

    def __init__(self, *plugins: Any, **options: Any) -> None:
        super().__init__(*plugins, **options)
        self.told: list[str] = []
        self.ear: Transcriber | None = None
        session = cast(Any, self.s)
        session.to_client, session.to_upstream = _Heard(self, "client_told"), _Heard(self, "upstream_told")

    def listen(self) -> Self:
        """Look on from here on."""
        self.ear = self.s.ear = Transcriber(self.s, lambda mark, text: self.told.append(f"{mark} {text}"))
        return self

    def client(self, data: bytes) -> Rig:
        if self.ear is not None:
            self.ear.client_data(data)
        return super().client(data)

    def upstream(self, data: bytes) -> Rig:
        if self.ear is not None:
            self.ear.upstream_data(data)
        return super().upstream(data)

    def dialed(self) -> Rig:
        if self.ear is not None:
            self.ear.upstream_new()
        return self.done(Dialed("mail:110", False))


def coded(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_a_whole_session() -> None:
    rig = Overheard(greeting="popproxy", known=None).listen()
    rig.start()
    rig.client(b"CAPA\r\n")
    rig.dialed()
    rig.upstream(b"+OK ready\r\n")
    rig.upstream(b"+OK\r\nTOP\r\nUIDL\r\nPIPELINING\r\nUSER\r\n.\r\n")
    rig.client(b"USER alice\r\nPASS hunt")
    rig.client(b"er2\r\n")
    rig.upstream(b"+OK\r\n")
    rig.upstream(b"+OK alice is in\r\n")
    rig.client(b"STAT\r\nRETR 1\r\nUIDL\r\nretr 2\r\n")
    rig.upstream(b"+OK 2 31245\r\n+OK 7 octets\r\nab\r\n..c")
    rig.upstream(b"\r\n.\r\n+OK\r\n1 a\r\n2 b\r\n.\r\n-ERR no \x1b[31mmessage\r\n")
    rig.client(b"QUIT\r\n")
    rig.upstream(b"+OK bye\r\n")
    assert rig.told == [
        "<S +OK popproxy",
        "C> CAPA",
        "<U +OK ready",
        "U> CAPA",
        "<U +OK",
        "<U <capabilities: TOP, UIDL, PIPELINING, USER>",
        "<S +OK Capability list follows",
        "<S <capabilities: TOP, UIDL, PIPELINING, RESP-CODES, AUTH-RESP-CODE, USER, SASL PLAIN LOGIN>",
        "C> USER alice",
        "<S +OK",
        "C> PASS <password>",
        "U> USER alice",
        "<U +OK",
        "U> PASS <password>",
        "<U +OK alice is in",
        "<S +OK alice is in",
        "C> STAT",
        "C> RETR 1",
        "C> UIDL",
        "C> RETR 2",
        "U> STAT",
        "U> RETR 1",
        "U> UIDL",
        "U> RETR 2",
        "<U +OK 2 31245",
        "<U +OK 7 octets",
        "<S +OK 2 31245",
        "<S +OK 7 octets",
        "<U <message: 8 octets, 2 lines>",
        "<U +OK",
        "<U <listing: 10 octets, 2 lines>",
        "<U -ERR no \\x1b[31mmessage",
        "<S <message: 8 octets, 2 lines>",
        "<S +OK",
        "<S <listing: 10 octets, 2 lines>",
        "<S -ERR no \\x1b[31mmessage",
        "C> QUIT",
        "U> QUIT",
        "<U +OK bye",
        "<S +OK bye",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"RETR 1", "RETR 1"),
        (b"top 1 0", "TOP 1 0"),
        (b"USER alice", "USER alice"),
        (b"USER al\x1bice", "USER al\\x1bice"),
        (b"PASS a b", "PASS <password>"),
        (b"AUTH plain AGEAYg==", "AUTH PLAIN <sasl initial response, 8 octets>"),
        (b"AUTH NOSUCH AGEAYg==", "AUTH <unknown mechanism>"),
        (b"AUTH", "AUTH"),
        (b"APOP alice 0123456789abcdef0123456789abcdef", "APOP alice <digest>"),
        (b"APOP alice hunter2", "APOP <arguments, 13 octets>"),
        (b"PAS hunter2", "<unknown command, 11 octets>"),
        (b"hunter2", "<unknown command, 7 octets>"),
        (b"RETR hunter2", "RETR <wrong arguments, 12 octets in all>"),
        (b"LANG hunter2", "LANG <arguments, 7 octets>"),
        (b"XCLIENT NAME=hunter2", "XCLIENT <arguments, 12 octets>"),
        (b"PASS", "PASS <wrong arguments, 4 octets in all>"),
    ],
)
def test_a_command_is_shown_by_the_types_of_its_arguments(line: bytes, expected: str) -> None:
    assert shown(line, Where.AUTHORIZATION)[0] == expected


def test_behind_the_login_only_numbers_are_shown() -> None:
    assert shown(b"USER alice", Where.TRANSACTION)[0] == "USER <arguments, 5 octets>"
    assert shown(b"APOP a 0123456789abcdef0123456789abcdef", Where.TRANSACTION)[0] == "APOP <arguments, 34 octets>"
    assert shown(b"PASS x", Where.TRANSACTION)[0] == "PASS <password>"


def test_a_long_text_is_cut() -> None:
    assert text_of(b"x" * 5000) == "x" * 600 + "... (5,000 octets)"


def test_what_repeats_a_secret_is_known() -> None:
    said = Secrets()
    said.command(parse(b"PASS  hunter2 "))
    said.sasl(coded(b"n,a=bob,\x01auth=Bearer tok.en\x01\x01"))
    said.sasl(coded(b"alice"))
    assert said.repeated(b"bad hunter2") and said.repeated(b"tok.en?") and said.repeated(b"alice?")
    assert said.repeated(coded(b"n,a=bob,\x01auth=Bearer tok.en\x01\x01")[:8] + b"...")
    assert said.repeated(b"BAD HUNTER2") and said.repeated(b"TOK.EN?")
    said.strange(b"Sesame RETR")
    said.strange(b"LIST op3n")
    assert said.repeated(b"unknown command SESAME") and said.repeated(b"op3n is no number")
    assert not said.repeated(b"RETR and LIST")
    assert not said.repeated(b"alice?", None, "alice") and not said.repeated(b"authentication failed for bob")


def test_somebody_who_comes_in_the_middle_of_a_message() -> None:
    rig = Overheard()
    rig.start()
    rig.client(b"USER a\r\nPASS b\r\n")
    rig.dialed()
    rig.upstream(b"+OK\r\n")
    rig.upstream(b"+OK\r\n")
    rig.upstream(b"+OK\r\n")
    rig.client(b"RETR 1\r\nSTAT\r\nRE")
    rig.upstream(b"+OK\r\nfirst\r")
    rig.listen()
    rig.upstream(b"\n+OK no status\r\n.\r\n+OK 1 5\r\n")
    rig.client(b"TR 2\r\n")
    rig.upstream(b"+OK 3 octets\r\na\r\n.\r\n")
    assert rig.told == [
        "<U <rest of a message: 16 octets, 2 lines>",
        "<U +OK 1 5",
        "<S <rest of a message: 16 octets, 2 lines>",
        "<S +OK 1 5",
        "C> RETR 2",
        "U> RETR 2",
        "<U +OK 3 octets",
        "<U <message: 3 octets, 1 line>",
        "<S +OK 3 octets",
        "<S <message: 3 octets, 1 line>",
    ]


def test_a_message_that_the_client_sends_is_summed_up() -> None:
    rig = Overheard(opened=frozenset({b"XTND XMIT"})).listen()
    rig.start()
    rig.client(b"USER a\r\nPASS b\r\n")
    rig.dialed()
    for _ in range(3):
        rig.upstream(b"+OK\r\n")
    del rig.told[:]
    rig.client(b"XTND XMIT\r\n")
    rig.upstream(b"+OK go on\r\n")
    rig.client(b"PASS in a letter\r\n")
    rig.client(b".\r\nSTAT\r\n")
    rig.upstream(b"+OK sent\r\n+OK 0 0\r\n")
    assert rig.told == [
        "C> XTND XMIT",
        "U> XTND XMIT",
        "<U +OK go on",
        "<S +OK go on",
        "C> <message: 18 octets, 1 line>",
        "C> STAT",
        "U> <message: 18 octets, 1 line>",
        "U> STAT",
        "<U +OK sent",
        "<U +OK 0 0",
        "<S +OK sent",
        "<S +OK 0 0",
    ]


def test_a_server_that_repeats_the_password_is_not_quoted() -> None:
    rig = Overheard().listen()
    rig.start()
    rig.client(b"USER alice\r\nPASS hunter2\r\n")
    rig.dialed()
    rig.upstream(b"+OK\r\n")
    rig.upstream(b"+OK alice?\r\n")
    rig.upstream(b"-ERR hunter2 is wrong for alice\r\n")
    assert "<U -ERR <text that repeats a secret, 27 octets>" in rig.told
    assert "<U +OK alice?" in rig.told


def test_a_password_typed_as_a_command_is_not_quoted() -> None:
    rig = Overheard().listen()
    rig.start()
    rig.client(b"hunter2\r\nLIST hunter3\r\nUSER alice\r\nPASS sesame\r\n")
    rig.dialed()
    for line in (b"+OK\r\n", b"+OK\r\n", b"+OK\r\n"):
        rig.upstream(line)
    rig.client(b"hunter4\r\nSTAT\r\n")
    rig.upstream(b"-ERR what are HUNTER2, hunter3, hunter4?\r\n")
    assert "<U -ERR <text that repeats a secret, 36 octets>" in rig.told


def test_a_second_name_in_a_row_may_be_the_password() -> None:
    rig = Overheard().listen()
    rig.start()
    rig.client(b"USER alice\r\nUSER hunter2\r\nUSER alice hunter2\r\n")
    assert [line for line in rig.told if line.startswith("C>")] == [
        "C> USER alice", "C> USER <name, 7 octets>", "C> USER <name, 13 octets>",
    ]  # fmt: skip


# Any session, cut anywhere, looked on at from anywhere

SECRET = "s3cr3t"


def _secret(number: int) -> bytes:
    return f"{SECRET}{number}".encode()


LINES: list[list[bytes]] = [
    [b"USER alice"], [b"PASS %s"], [b"USER alice", b"PASS %s"], [b"USER alice", b"USER %s", b"PASS x"],
    [b"USER alice %s"], [b"%s"], [b"PAS %s"], [b"XFOO %s 1"], [b"pass  %s "], [b"PASS\t%s"], [b"PASS%s"],
    [b"AUTH PLAIN =%s"], [b"AUTH PLAIN", b"=%s"], [b"AUTH LOGIN", b"=alice", b"=%s"], [b"AUTH LOGIN", b"%s"],
    [b"AUTH %s"], [b"AUTH PLAIN %s"], [b"AUTH PLAIN =alice %s"], [b"APOP alice %s"], [b"APOP %s"], [b"RETR %s"],
    [b"RETR 1 %s"], [b"TOP %s 1"], [b"LIST %s"], [b"LANG %s"], [b"CAPA %s"], [b"STLS %s"], [b"QUIT %s"], [b"UTF8 %s"],
    [b"XCLIENT NAME=%s"], [b"XTND XMIT %s"], [b"XTND %s"], [b"UIDL %s"], [b"AUTH PLAIN", b"*"], [b"CAPA"], [b"STAT"],
    [b"AUTH CRAM-MD5", b"=alice %s"], [b"AUTH SCRAM-SHA-256 =n,,n=alice,r=%s"], [b"AUTH", b"NOOP"],
    [b"AUTH OAUTHBEARER =n,a=alice,\x01auth=Bearer %s\x01\x01"], [b"RETR 1"], [b"UIDL"], [b"XSENDER %s"],
    [b"AUTH XOAUTH2 =user=alice\x01auth=Bearer %s\x01\x01", b"%s"], [b"RPOP %s"], [b"LAST %s"], [b"DELE %s"],
]  # fmt: skip
FORMS = [SECRET.encode(), *(base64.b64encode(b"\0" * pad + SECRET.encode())[2 * pad : -4] for pad in (0, 1, 2))]


def _line(template: bytes, number: int, end: bytes) -> bytes:
    filled = template.replace(b"%s", _secret(number))
    head, mark, payload = filled.partition(b"=")
    if mark and template.startswith((b"=", b"AUTH")):
        if b"PLAIN" in template or template == b"=%s":
            payload = b"\0alice\0" + payload
        filled = head + coded(payload)
    return filled + end


def _server(rig: Overheard, echo: int, accept: bool, seen: dict[str, Any]) -> None:
    """Answer what was sent upstream; a refusal, and with ``echo`` every reply, repeats what it heard."""
    while rig.upstream_out:
        line, _, rig.upstream_out = rig.upstream_out.partition(b"\r\n")
        verb = line.split(b" ")[0].upper()
        words = b" " + line if echo else b""
        if verb == b"CAPA":
            reply = b"+OK\r\n" + b"\r\n".join(KNOWN) + b"\r\n.\r\n"
        elif verb in (b"RETR", b"TOP", b"UIDL", b"LIST") and (verb in (b"RETR", b"TOP") or b" " not in line):
            reply = b"+OK" + words + b"\r\n1 a\r\n+OK\r\n.\r\n"
        elif verb == b"AUTH" and line.count(b" ") < 2:
            reply = b"+ \r\n"
        elif verb in (b"PASS", b"AUTH") or verb not in (b"USER", b"STAT", b"DELE", b"QUIT"):
            seen["logins"] = seen.get("logins", 0) + 1
            reply = (b"+OK" if accept else b"-ERR") + words + b"\r\n"
        else:
            reply = b"+OK" + words + b"\r\n"
        rig.upstream(reply)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_secret_is_ever_shown(data: st.DataObject) -> None:
    mechanism = data.draw(st.sampled_from(["auto", "user", "plain", "login"]))
    policy = UpstreamPolicy("main", "off", mechanism=mechanism)
    rig = Overheard(policy=policy, bare_lf=data.draw(st.booleans()), known=KNOWN)
    script = data.draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=9))
    comes = data.draw(st.integers(0, 6))
    echo, accept = data.draw(st.booleans()) and comes == 0, data.draw(st.booleans())
    octets = b""
    for number, lines in enumerate(script):
        for line in lines:
            octets += _line(line, number, data.draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])))
    seen: dict[str, Any] = {}
    if comes == 0:
        rig.listen()
    rig.start()
    step = 0
    while octets:
        size = data.draw(st.integers(1, max(1, len(octets))))
        piece, octets = octets[:size], octets[size:]
        step += 1
        if step == comes:
            rig.listen()
        rig.client(piece)
        for _ in range(8):
            if any(isinstance(effect, Dial) for effect in rig.effects):
                rig.dialed()
                rig.upstream(b"+OK hello\r\n")
            _server(rig, echo, accept, seen)
            for effect in [effect for effect in rig.effects if isinstance(effect, Derive)]:
                rig.effects.remove(effect)
                rig.s.done(effect.id, effect.derivation.compute())
                rig.drain()
    for line in rig.told:
        assert line.isascii() and line.isprintable()
        for form in FORMS:
            assert form.decode() not in line, line


def test_the_search_for_secrets_would_find_them() -> None:
    for pad in (b"", b"a", b"ab"):
        assert any(form in coded(pad + _secret(7)) for form in FORMS)


def test_a_session_is_the_same_with_and_without_an_ear() -> None:
    def run(rig: Overheard) -> Session:
        rig.start()
        rig.client(b"USER a\r\nPASS b\r\nSTAT\r\n")
        rig.dialed()
        for reply in (b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", b"+OK 0 0\r\n"):
            rig.upstream(reply)
        return rig.s

    plain, heard = Overheard(), Overheard().listen()
    run(plain)
    run(heard)
    assert (plain.all_client, plain.all_upstream) == (heard.all_client, heard.all_upstream)
    assert plain.told == [] and len(heard.told) > 8

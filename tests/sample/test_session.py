"""The sample server's session, without a socket: transcripts, and what holds for any input."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from popproxy.sample import transaction
from popproxy.sample.maildir import Maildir, Maildrop
from popproxy.sample.outputs import Job, Output, StartTls
from popproxy.sample.session import LINE_LIMIT, Offer, Session
from popproxy.wire.dots import stuff, unstuff
from popproxy.wire.sasl import Derivation, Identity, ScramClient
from tests.letters import DIFFICULT, as_sent, write_maildir

PASSWORDS = {"alice": " secret  word ", "jürgen": "pässword"}
STAMP = b"<1896.697170952@dbc.mtview.ca.us>"  # the example of RFC 1939 section 7
PLAIN = base64.b64encode(b"\0alice\0 secret  word ").decode()
LOGIN = "USER alice\r\nPASS  secret  word \r\n"
LETTERS = [("first", b"Subject: 1\n\none\n.two\n"), ("second", b"Subject: 2\n\nthree"), ("third", b"x")]
TRANSACTION = b"USER alice\r\nPASS  secret  word \r\n"


class Player:
    """Drives a session as the server does: jobs at once, TLS always succeeds."""

    def __init__(self, directory: Path, *, tls: bool = False, **offer: object) -> None:
        self.box = Maildir(directory)
        offered = Offer(**{"passwords": PASSWORDS, **offer})  # type: ignore[arg-type]
        self.session = Session(offered, self.open, tls=tls, timestamp=STAMP)
        self.closed = False
        self.handshakes = 0
        self.users: list[str] = []

    def open(self, user: str) -> Maildrop:
        self.users.append(user)
        return self.box.open()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.end()

    def say(self, *chunks: bytes | str) -> bytes:
        """Everything the server answers to the chunks, one receive() each."""
        said = bytearray()
        for chunk in chunks:
            for output in self.session.receive(chunk.encode() if isinstance(chunk, str) else chunk):
                assert not self.closed, "an output after Close"
                self.obey(output, said)
        return bytes(said)

    def obey(self, output: Output, said: bytearray) -> None:
        if isinstance(output, bytes):
            said += output
        elif isinstance(output, Job):
            output.run()
        elif isinstance(output, StartTls):
            self.handshakes += 1
            self.session.tls_started()
        else:
            self.closed = True

    def lines(self, *commands: bytes | str) -> list[str]:
        """The replies to command lines, without CRLF."""
        said = self.say(*(c + b"\r\n" if isinstance(c, bytes) else c + "\r\n" for c in commands))
        assert said.endswith(b"\r\n")
        return said.decode().split("\r\n")[:-1]


@pytest.fixture
def box(tmp_path: Path) -> Path:
    write_maildir(tmp_path, LETTERS)
    return tmp_path


@pytest.fixture
def player(box: Path) -> Iterator[Player]:
    with Player(box) as made:
        yield made


@pytest.fixture
def inside(player: Player) -> Player:
    assert player.say(LOGIN).endswith(b"+OK 3 messages (49 octets)\r\n")
    return player


def files(box: Path) -> list[str]:
    return sorted(path.name.rpartition(".")[2] for path in box.glob("*/*"))


# AUTHORIZATION


def test_greeting_has_a_timestamp_only_where_apop_is_offered(box: Path) -> None:
    assert Player(box).session.greeting() == b"+OK popproxy sample mailbox ready\r\n"
    offering = Player(box, apop_secrets={"alice": "tanstaaf"})
    assert offering.session.greeting() == b"+OK popproxy sample mailbox ready " + STAMP + b"\r\n"


def test_a_session_of_rfc_1939(player: Player, box: Path) -> None:
    assert player.lines(
        *("USER alice", "PASS  secret  word ", "STAT", "LIST", "LIST 2", "UIDL 1", "RETR 1", "DELE 1"),
        *("DELE 1", "RETR 1", "LIST", "STAT", "LAST", "NOOP", "QUIT"),
    ) == [
        "+OK Send PASS",
        "+OK 3 messages (49 octets)",
        "+OK 3 49",
        *("+OK 3 messages (49 octets)", "1 25", "2 21", "3 3", "."),
        "+OK 2 21",
        "+OK 1 1600000001.M000001P1.first",
        *("+OK 25 octets", "Subject: 1", "", "one", "..two", "."),
        "+OK Marked, to be deleted at QUIT",
        "-ERR No such message",
        "-ERR No such message",
        *("+OK 2 messages (24 octets)", "2 21", "3 3", "."),
        "+OK 2 24",
        "+OK 1",
        "+OK",
        "+OK Goodbye",
    ]
    assert player.closed
    assert files(box) == ["second", "third"]


@pytest.mark.parametrize(
    "lines",
    [
        ["USER alice", "PASS secret  word "],
        ["USER alice", "PASS  secret word "],
        ["USER alice", "PASS  secret  word"],
        ["USER nobody", "PASS  secret  word "],
        ["USER alice ", "PASS  secret  word "],
        ["USER alice", "PASS x"],
        [b"USER j\xfcrgen", "PASS pässword"],
    ],
)
def test_wrong_credentials_get_auth_whatever_was_wrong(player: Player, lines: list[bytes | str]) -> None:
    assert player.lines(*lines) == ["+OK Send PASS", "-ERR [AUTH] Authentication failed"]
    assert player.users == []
    assert player.lines("PASS  secret  word ") == ["-ERR Send USER first"]


def test_names_and_passwords_may_be_utf8(player: Player) -> None:
    assert player.lines("USER jürgen", "PASS pässword")[1].startswith("+OK")
    assert player.users == ["jürgen"]


def test_apop_as_in_rfc_1939(box: Path) -> None:
    digest = "c4c9334bac560ecc979e58001b3e22fb"
    with Player(box, apop_secrets={"alice": "tanstaaf"}) as player:
        wrong = digest.replace("c", "d")
        assert (
            player.lines(f"APOP alice {wrong}", f"APOP jürgen {digest}", "APOP alice x")
            == ["-ERR [AUTH] Authentication failed"] * 3
        )
        assert player.lines(f"APOP alice {digest}") == ["+OK 3 messages (49 octets)"]


def test_apop_is_off_without_a_secret(player: Player) -> None:
    assert player.lines("APOP alice c4c9334bac560ecc979e58001b3e22fb") == ["-ERR APOP is not offered"]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (["AUTH PLAIN", PLAIN], ["+ ", "+OK 3 messages (49 octets)"]),
        (["auth plain " + PLAIN], ["+OK 3 messages (49 octets)"]),
        (
            ["AUTH PLAIN " + base64.b64encode(b"alice\0alice\0 secret  word ").decode()],
            ["+OK 3 messages (49 octets)"],
        ),
        (
            ["AUTH LOGIN", "YWxpY2U=", "IHNlY3JldCAgd29yZCA="],
            ["+ VXNlcm5hbWU6", "+ UGFzc3dvcmQ6", "+OK 3 messages (49 octets)"],
        ),
        (["AUTH LOGIN YWxpY2U=", "IHNlY3JldCAgd29yZCA="], ["+ UGFzc3dvcmQ6", "+OK 3 messages (49 octets)"]),
        (["AUTH"], ["+OK Mechanisms follow", "PLAIN", "LOGIN", "."]),
        (["AUTH "], ["+OK Mechanisms follow", "PLAIN", "LOGIN", "."]),
        (["AUTH CRAM-MD5"], ["-ERR Unknown mechanism"]),
        (["AUTH PLAIN", "*"], ["+ ", "-ERR Authentication cancelled"]),
        (
            ["AUTH LOGIN", "YWxpY2U=", "*"],
            ["+ VXNlcm5hbWU6", "+ UGFzc3dvcmQ6", "-ERR Authentication cancelled"],
        ),
        (
            ["AUTH PLAIN =", "STAT"],
            ["-ERR Authentication is malformed", "-ERR STAT is not a command of the AUTHORIZATION state"],
        ),
        (["AUTH PLAIN", "not base64!"], ["+ ", "-ERR Authentication is malformed"]),
        (["AUTH PLAIN", "NOOP"], ["+ ", "-ERR Authentication is malformed"]),
        (
            ["AUTH PLAIN", "a\0b", "AUTH"],
            ["+ ", "-ERR NUL is not allowed in a command", "+OK Mechanisms follow", "PLAIN", "LOGIN", "."],
        ),
        (["AUTH LOGIN =", "CAPA X"], ["-ERR [AUTH] Authentication is malformed"]),
        (
            ["AUTH PLAIN " + base64.b64encode(b"\0alice\0wrong").decode()],
            ["-ERR [AUTH] Authentication failed"],
        ),
        (
            ["AUTH PLAIN " + base64.b64encode(b"bob\0alice\0 secret  word ").decode()],
            ["-ERR [AUTH] Authentication failed"],
        ),
        (
            ["AUTH PLAIN " + base64.b64encode(b"\0alice\0").decode()],
            ["-ERR [AUTH] Authentication is malformed"],
        ),
    ],
)
def test_auth(player: Player, said: list[str], heard: list[str]) -> None:
    got = player.lines(*said)
    assert got[: len(heard)] == heard


def test_a_failed_auth_leaves_the_session_as_it_was(player: Player) -> None:
    player.lines("USER alice")
    player.lines("AUTH PLAIN", "*")
    assert player.lines("PASS  secret  word ") == ["+OK 3 messages (49 octets)"]


def test_states_are_kept_apart(player: Player) -> None:
    for command in ("STAT", "LIST", "UIDL", "RETR 1", "TOP 1 0", "DELE 1", "NOOP", "RSET", "LAST"):
        verb = command.partition(" ")[0]
        assert player.lines(command) == [f"-ERR {verb} is not a command of the AUTHORIZATION state"]
    player.say(LOGIN)
    for command in ("USER alice", "PASS x", "APOP alice x", "AUTH", "STLS", "UTF8"):
        verb = command.partition(" ")[0]
        assert player.lines(command) == [f"-ERR {verb} is not a command of the TRANSACTION state"]


def test_quit_before_login_closes(player: Player) -> None:
    assert player.lines("QUIT") == ["+OK Goodbye"]
    assert player.closed
    assert player.say("NOOP\r\n") == b""


@pytest.mark.parametrize(
    "line", ["", " ", "FOO", "XCLIENT ADDR=127.0.0.1", "XTND XMIT", "\r", "A" * 300, b"\xff\xfe"]
)
def test_what_is_not_known_is_refused(inside: Player, line: bytes | str) -> None:
    (reply,) = inside.lines(line)
    assert reply.startswith("-ERR ")


@pytest.mark.parametrize(
    "number", ["0", "4", "-1", "+1", "1.0", "x", "9223372036854775808", "9" * 5000, "1 2 3"]
)
@pytest.mark.parametrize("verb", ["LIST", "UIDL", "RETR", "DELE", "TOP"])
def test_what_is_no_message_number_is_refused(inside: Player, verb: str, number: str) -> None:
    (reply,) = inside.lines(f"{verb} {number}" + (" 0" if verb == "TOP" else ""))
    assert reply.startswith("-ERR ")


def test_commands_ignore_case_spaces_at_the_end_and_a_missing_cr(inside: Player) -> None:
    assert inside.say("stat \r\nnOOp\nlist 3 \n") == b"+OK 3 49\r\n+OK\r\n+OK 3 3\r\n"


@pytest.mark.parametrize("tail", ["", "\r\n"])
def test_a_line_without_end_is_answered_and_closed(inside: Player, tail: str) -> None:
    assert inside.say("N" * (LINE_LIMIT + 1) + tail) == b"-ERR Line too long\r\n"
    assert inside.closed


# Capabilities, TLS, language


def test_capabilities_of_each_state(box: Path) -> None:
    with Player(box, stls=True, clear_auth=False) as player:
        common = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER"]
        assert player.lines("CAPA")[1:-1] == [*common, "STLS", "UTF8", "LANG"]
        player.say("STLS\r\n")
        assert player.lines("CAPA")[1:-1] == [*common, "USER", "SASL PLAIN LOGIN", "UTF8", "LANG"]
        player.say(LOGIN)
        assert player.lines("CAPA now")[1:-1][:-1] == [*common, "USER", "SASL PLAIN LOGIN", "UTF8", "LANG"]
        assert player.lines("CAPA")[-2].startswith("IMPLEMENTATION popproxy-sample-")


def test_login_in_clear_can_be_refused(box: Path) -> None:
    with Player(box, stls=True, clear_auth=False, apop_secrets={"alice": "x"}) as player:
        for command in ("USER alice", "PASS x", "APOP alice 0", "AUTH PLAIN " + PLAIN, "AUTH"):
            assert player.lines(command) == ["-ERR [SYS/PERM] Use STLS before you log in"]
        player.say("STLS\r\n")
        assert player.lines("AUTH PLAIN " + PLAIN) == ["+OK 3 messages (49 octets)"]


def test_stls_forgets_the_user(box: Path) -> None:
    with Player(box, stls=True) as player:
        assert player.lines("USER alice", "STLS", "PASS  secret  word ") == [
            "+OK Send PASS",
            "+OK Begin TLS",
            "-ERR Send USER first",
        ]
        assert player.handshakes == 1
        assert player.lines("STLS") == ["-ERR TLS is already active"]


@pytest.mark.parametrize("behind", [LOGIN, "N", "\x16\x03\x01\x02\x00\x01"])
def test_what_comes_in_clear_behind_stls_is_never_heard(box: Path, behind: str) -> None:
    with Player(box, stls=True) as player:
        assert player.say("STLS\r\n" + behind) == b"-ERR Nothing may follow STLS before the handshake\r\n"
        assert player.closed
        assert player.handshakes == 0
        assert player.users == []


def test_stls_needs_a_certificate_no_argument_and_no_utf8_before(box: Path) -> None:
    assert Player(box).lines("STLS") == ["-ERR STLS is not offered"]
    assert Player(box, tls=True, stls=True).lines("STLS") == ["-ERR TLS is already active"]
    assert Player(box, stls=True).lines("STLS now")[0].startswith("-ERR")
    assert Player(box, stls=True).lines("UTF8", "STLS")[1] == "-ERR STLS is not allowed after UTF8"


@pytest.mark.parametrize(
    ("tag", "reply"),
    [
        ("*", "+OK i-default Texts are in English"),
        ("i-DEFAULT", "+OK i-default Texts are in English"),
        ("en", "+OK en Texts are in English"),
        ("en-GB-oed", "+OK en Texts are in English"),
        ("sv", "-ERR That language is not spoken here"),
        ("-", "-ERR That language is not spoken here"),
    ],
)
def test_lang_selects(player: Player, tag: str, reply: str) -> None:
    assert player.lines(f"LANG {tag}") == [reply]
    player.say(LOGIN)
    assert player.lines(f"LANG {tag}") == [reply]


def test_lang_lists(player: Player) -> None:
    assert player.lines("LANG") == ["+OK Languages follow", "i-default Default language", "en English", "."]


def test_a_header_that_is_not_ascii_needs_utf8(tmp_path: Path) -> None:
    write_maildir(
        tmp_path, [("eight", "Subject: Brötchen\n\nGrüße\n".encode()), ("seven", "a: b\n\nü\n".encode())]
    )
    with Player(tmp_path) as player:
        player.say(LOGIN)
        refused = "-ERR [UTF8] The header is not ASCII: send UTF8 before you log in"
        assert player.lines("RETR 1", "TOP 1 0") == [refused, refused]
        assert player.lines("RETR 2")[0] == "+OK 12 octets"
    with Player(tmp_path) as player:
        assert player.lines("UTF8") == ["+OK UTF-8 is welcome"]
        player.say(LOGIN)
        assert player.lines("RETR 1")[1] == "Subject: Brötchen"


def test_a_server_that_does_not_know_rfc_6856(tmp_path: Path) -> None:
    write_maildir(tmp_path, [("eight", "Subject: Brötchen\n\nGrüße\n".encode())])
    with Player(tmp_path, international=False) as player:
        assert not {"UTF8", "LANG"} & set(player.lines("CAPA"))
        assert player.lines("UTF8", "LANG", "LANG *") == ["-ERR Unknown command"] * 3
        player.say(LOGIN)
        assert player.lines("RETR 1")[1] == "Subject: Brötchen"


# TRANSACTION and UPDATE


def test_top(inside: Player) -> None:
    ok = "+OK Top of the message follows"
    assert inside.lines("TOP 1 0") == [ok, "Subject: 1", "", "."]
    assert inside.lines("TOP 1 1") == [ok, "Subject: 1", "", "one", "."]
    assert (
        inside.lines("TOP 1 2")
        == inside.lines("TOP 1 99999999")
        == [ok, "Subject: 1", "", "one", "..two", "."]
    )
    assert inside.lines("TOP 3 0") == [ok, "x", "."]
    assert inside.lines("LAST") == ["+OK 0"]
    for wrong in ("TOP", "TOP 1", "TOP 1 -1", "TOP 9 1"):
        assert inside.lines(wrong)[0].startswith("-ERR ")


def test_last_is_the_highest_message_retrieved_and_rset_forgets(inside: Player) -> None:
    inside.lines("RETR 2", "RETR 1", "DELE 3")
    assert inside.lines("LAST", "RSET", "LAST", "STAT") == [
        "+OK 2",
        "+OK 3 messages (49 octets)",
        "+OK 0",
        "+OK 3 49",
    ]


def test_uidl_lists_what_is_left(inside: Player) -> None:
    inside.lines("DELE 2")
    assert inside.lines("UIDL") == [
        "+OK 2 messages (28 octets)",
        "1 1600000001.M000001P1.first",
        "3 1600000003.M000003P1.third",
        ".",
    ]


@pytest.mark.parametrize(
    "commands", [["DELE 1", "DELE 2"], ["DELE 1", "RSET", "QUIT"], ["QUIT"], ["DELE 1", "QUIT now"]]
)
def test_nothing_is_deleted_without_dele_and_quit(inside: Player, box: Path, commands: list[str]) -> None:
    inside.lines(*commands)
    inside.session.end()
    assert files(box) == ["first", "second", "third"]


def test_quit_deletes_and_frees_the_maildrop_before_it_answers(inside: Player, box: Path) -> None:
    inside.lines("DELE 1", "DELE 3")
    for output in inside.session.receive(b"QUIT\r\n"):
        if isinstance(output, Job):
            assert files(box) == ["first", "second", "third"]
            output.run()
        elif isinstance(output, bytes):
            assert output == b"+OK Goodbye\r\n"
            assert files(box) == ["second"]
            Maildir(box).open().close()


def test_quit_says_so_when_a_message_could_not_be_deleted(inside: Player, box: Path) -> None:
    inside.lines("DELE 1", "DELE 2")
    (path,) = box.glob("new/*.first")
    path.unlink()
    path.mkdir()
    assert inside.lines("QUIT") == ["-ERR [SYS/TEMP] Some deleted messages are not removed"]
    assert files(box) == ["first", "third"]


def test_a_second_session_is_told_in_use_and_may_come_again(inside: Player, box: Path) -> None:
    with Player(box) as second:
        assert second.lines("USER alice", "PASS  secret  word ")[1] == (
            "-ERR [IN-USE] The maildrop is held by another session"
        )
        inside.session.end()
        assert second.lines("USER alice", "PASS  secret  word ")[1] == "+OK 3 messages (49 octets)"


def test_a_maildir_that_cannot_be_opened_is_temporary_trouble(box: Path) -> None:
    player = Player(box / "missing")
    assert player.lines("AUTH PLAIN " + PLAIN) == ["-ERR [SYS/TEMP] The maildrop cannot be opened now"]
    assert player.lines("STAT")[0].endswith("AUTHORIZATION state")


def test_a_message_that_is_gone_is_temporary_trouble(inside: Player, box: Path) -> None:
    next(box.glob("new/*.first")).unlink()
    assert inside.lines("RETR 1", "STAT") == ["-ERR [SYS/TEMP] The message cannot be read now", "+OK 3 49"]


@pytest.mark.parametrize("trouble", ["shorter", "error"])
def test_a_body_that_breaks_is_cut_not_ended(
    inside: Player, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def broken(file: Iterable[bytes]) -> Iterator[bytes]:
        yield b"Subject: 1\r\n"
        if trouble == "error":
            raise OSError("the disk is gone")

    monkeypatch.setattr(transaction, "wire_chunks", broken)
    assert inside.say("RETR 1\r\nNOOP\r\n") == b"+OK 25 octets\r\nSubject: 1\r\n"
    assert inside.closed


def test_retr_of_every_difficult_letter_is_the_file(tmp_path: Path) -> None:
    write_maildir(tmp_path)
    with Player(tmp_path) as player:
        player.say("UTF8\r\n" + LOGIN)
        sizes = [int(line.split()[1]) for line in player.lines("LIST")[1:-1]]
        assert player.lines("STAT") == [f"+OK {len(DIFFICULT)} {sum(sizes)}"]
        for number, (name, stored) in enumerate(DIFFICULT, 1):
            status, _, body = player.say(f"RETR {number}\r\n").partition(b"\r\n")
            assert status == b"+OK %d octets" % sizes[number - 1], name
            assert body == stuff(as_sent(stored)), name
            assert len(unstuff(body[:-3])) == sizes[number - 1], name


def test_a_body_is_read_only_as_fast_as_it_is_taken(inside: Player, box: Path) -> None:
    outputs = inside.session.receive(b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
    assert [next(outputs), next(outputs)] == [b"+OK 25 octets\r\n", b"Subject: 1\r\n\r\none\r\n..two\r\n"]
    outputs.close()
    inside.session.end()
    assert files(box) == ["first", "second", "third"]
    Maildir(box).open().close()


# Any input

VERBS = (
    *("USER alice", "PASS  secret  word ", "PASS x", "AUTH", "AUTH PLAIN", f"AUTH PLAIN {PLAIN}", PLAIN, "*"),
    *(
        "AUTH LOGIN",
        "YWxpY2U=",
        "IHNlY3JldCAgd29yZCA=",
        "CAPA",
        "LANG",
        "LANG *",
        "UTF8",
        "STAT",
        "LIST",
        "LIST 1",
    ),
    *(
        "UIDL",
        "RETR 1",
        "RETR 2",
        "RETR 4",
        "TOP 1 1",
        "DELE 1",
        "DELE 2",
        "RSET",
        "LAST",
        "NOOP",
        "QUIT",
        "APOP a b",
    ),
)
LINES = st.lists(
    st.sampled_from([verb.encode() + b"\r\n" for verb in VERBS]) | st.binary(max_size=12), max_size=25
).map(b"".join)
FAR = Path(tempfile.gettempdir())


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    def fresh() -> Path:
        made = tmp_path_factory.mktemp("box")
        write_maildir(made, LETTERS)
        return made

    return fresh


@settings(deadline=None, max_examples=60)
@given(data=LINES, logged_in=st.booleans(), cuts=st.lists(st.integers(0, 400), max_size=8))
@example(data=b"AUTH PLAIN\r\n\0\r\nQUIT\r\n", logged_in=False, cuts=[3, 12, 13])
def test_any_input_is_answered_and_its_cut_does_not_matter(
    boxes: Callable[[], Path], data: bytes, logged_in: bool, cuts: list[int]
) -> None:
    data = TRANSACTION + data if logged_in else data
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunkings = [
        [data],
        [data[start:end] for start, end in pairwise(edges)],
        [data[at : at + 1] for at in range(len(data))],
    ]
    results = []
    for chunks in chunkings:
        box = boxes()
        with Player(box) as player:
            results.append((player.say(*chunks), player.closed, files(box)))
    assert results[0] == results[1] == results[2]
    assert b"QUIT" in data or results[0][2] == ["first", "second", "third"]


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=400), tls=st.booleans())
def test_noise_raises_nothing(boxes: Callable[[], Path], data: bytes, tls: bool) -> None:
    player = Player(FAR, tls=tls, stls=True)
    for line in player.say(data).split(b"\r\n"):
        assert line[:4] in (b"-ERR", b"+OK", b"+OK ", b"+ ", b"") or not line.startswith((b"+", b"-"))
    assert player.users == []


# Mechanisms that are there when they are asked for

SPOKEN = ("SCRAM-SHA-256", "SCRAM-SHA-1", "OAUTHBEARER", "XOAUTH2")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "SCRAM-SHA-1"])
@pytest.mark.parametrize(("user", "password", "right"), [("alice", PASSWORDS["alice"], True), ("bob", "x", False)])
def test_scram(box: Path, name: str, user: str, password: str, right: bool) -> None:
    client = ScramClient(name, Identity(user, "", password.encode()), b"client")
    with Player(box, mechanisms=SPOKEN) as player:
        (first,) = player.lines(f"AUTH {name} {b64(client.initial())}")
        derivation = client.respond(base64.b64decode(first[2:]))
        assert isinstance(derivation, Derivation)
        (last,) = player.lines(b64(client.derived(derivation.compute())))
        if right:
            assert client.respond(base64.b64decode(last[2:])) == b""
            assert player.lines("")[0].startswith("+OK 3 messages")
        else:
            assert last == "-ERR [AUTH] Authentication is malformed"


@pytest.mark.parametrize("name", ["OAUTHBEARER", "XOAUTH2"])
def test_tokens(box: Path, name: str) -> None:
    def message(token: str) -> str:
        head = b"n,a=alice," if name == "OAUTHBEARER" else b"user=alice"
        return b64(head + f"\x01auth=Bearer {token}\x01\x01".encode())

    with Player(box, mechanisms=SPOKEN, tokens={"alice": "good"}) as player:
        (document,) = player.lines(f"AUTH {name} {message('bad')}")
        assert base64.b64decode(document[2:]) == b'{"status":"invalid_token"}'
        assert player.lines("") == ["-ERR [AUTH] Authentication failed"]
        assert player.lines(f"AUTH {name} {message('bad')}", "a\0")[1:] == ["-ERR NUL is not allowed in a command"]
        assert player.lines(f"AUTH {name}", message("good"))[1].startswith("+OK 3 messages")


def test_the_list_is_what_was_asked_for(box: Path) -> None:
    with Player(box, mechanisms=SPOKEN) as player:
        assert player.lines("AUTH") == ["+OK Mechanisms follow", *SPOKEN, "."]
        assert "SASL SCRAM-SHA-256 SCRAM-SHA-1 OAUTHBEARER XOAUTH2" in player.lines("CAPA")
        assert player.lines("AUTH PLAIN") == ["-ERR Unknown mechanism"]

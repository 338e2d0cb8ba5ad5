"""The transcript notation: what each line means, what it is refused for, and that it can be written back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api.transcript import (
    EVENTS,
    Event,
    Expect,
    Leg,
    Match,
    Send,
    Step,
    Transcript,
    TranscriptError,
    escape,
    load_transcript,
    notation,
    parse_transcript,
)

C, U = Leg.CLIENT, Leg.UPSTREAM
octets = st.one_of(st.binary(max_size=20), st.text("ab \\\"\r\n\t\0x0", max_size=12).map(str.encode))
events = st.sampled_from(
    [
        *(Event(name) for name, (_, needed, _) in EVENTS.items() if not needed),
        Event("connect-failed", "refused"),
        Event("upstream-gone", "reset"),
        Event("wait", "0.5"),
    ]
)
patterns = st.sampled_from([rb"\+OK", rb"a b", rb"[0-9]+ \x20", "ü".encode()]).map(re.compile)
steps = st.one_of(
    st.builds(Send, st.sampled_from(Leg), octets.filter(bool)),
    st.builds(Expect, st.sampled_from(Leg), octets.filter(bool)),
    st.builds(Match, st.sampled_from(Leg), patterns),
    events,
)
options = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.sampled_from(["off", "a b", "1"]))


def one(line: str) -> Step:
    (step,) = parse_transcript(line).steps
    return step


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("C: RETR 1", Send(C, b"RETR 1\r\n")),
        ("C:", Send(C, b"\r\n")),
        ("C:  two", Send(C, b" two\r\n")),
        ("S: +OK", Expect(C, b"+OK\r\n")),
        ("U> RETR 1", Expect(U, b"RETR 1\r\n")),
        ("U< +OK", Send(U, b"+OK\r\n")),
        (r"C: a\r\n\0\t\\\x20", Send(C, b"a\r\n\0\t\\ \r\n")),
        (r"C: \"q\"", Send(C, b'"q"\r\n')),
        ('C: "q"', Send(C, b'"q"\r\n')),
        ("C: ü", Send(C, "ü\r\n".encode())),
        (r"C: \xFF\xfe", Send(C, b"\xff\xfe\r\n")),
        ("C: # no comment", Send(C, b"# no comment\r\n")),
        ('C+ "QUIT"', Send(C, b"QUIT")),
        (r'C+ "a\r"', Send(C, b"a\r")),
        (r'C+ "\"\\"', Send(C, b'"\\')),
        ("C+ 0d 0a", Send(C, b"\r\n")),
        ("C+ 0D0Aff", Send(C, b"\r\n\xff")),
        ('U+ ".\\r"', Send(U, b".\r")),
        ('S+ "+OK\\n"', Expect(C, b"+OK\n")),
        ("U>+ 51", Expect(U, b"Q")),
        (r"S~ \+OK [0-9]+ octets", Match(C, re.compile(rb"\+OK [0-9]+ octets"))),
        ("U~ NOOP|STAT", Match(U, re.compile(b"NOOP|STAT"))),
        ("@ connect", Event("connect")),
        ("@ connect-failed refused", Event("connect-failed", "refused")),
        ("@ upstream-gone", Event("upstream-gone")),
        ("@ upstream-gone reset", Event("upstream-gone", "reset")),
        ("@ wait 0.5", Event("wait", "0.5")),
        ("@ client-closed", Event("client-closed")),
    ],
)
def test_each_kind_of_line(line: str, step: Step) -> None:
    assert one(line) == step


@pytest.mark.parametrize("name", [name for name, (_, needed, _) in EVENTS.items() if not needed])
def test_every_event(name: str) -> None:
    event = one(f"@ {name}")
    assert event == Event(name)
    assert isinstance(event, Event)
    assert event.expected is (name in ("client-closed", "upstream-closed"))


def test_wait_is_in_seconds() -> None:
    step = one("@ wait 600")
    assert isinstance(step, Event)
    assert step.seconds == 600.0
    assert not step.expected


def test_options_comments_and_line_numbers() -> None:
    text = "# law\n:tls starttls\n:auth_before_tls yes please\n\n  # indented\nC: A\r\n\nS: B"
    transcript = parse_transcript(text, "x.pop3")
    assert transcript.name == "x.pop3"
    assert transcript.options == {"tls": "starttls", "auth_before_tls": "yes please"}
    assert transcript.steps == (Send(C, b"A\r\n"), Expect(C, b"B\r\n"))
    assert [step.line for step in transcript.steps] == [6, 8]


@pytest.mark.parametrize(
    ("text", "line", "what", "write"),
    [
        ("", 0, "no step", "at least one, like C: QUIT"),
        ("# only\n:tls off\n", 0, "no step", "at least one"),
        ("C: A\nX: B", 2, "'X:' begins no step", "one of C: S: U> U< C+ U+ S+ U>+ S~ U~ @ and a space"),
        ("C:A", 1, "'C:A' begins no step", "and a space"),
        ("C : A", 1, "'C' begins no step", "one of"),
        (" C: A", 1, "'C:' begins no step", "at the beginning of the line"),
        ("C: A ", 1, "white space at the end of the line", r"\x20 for a space that counts"),
        ("S:\t", 1, "white space at the end of the line", r"\x20"),
        ("C: A\n:tls off", 2, "option tls behind the first step", "options above all steps"),
        (":tls off\n:tls on\nC: A", 2, "option tls given twice", "it once"),
        (":tls\nC: A", 1, "':tls' is no option", ":key value"),
        (":TLS off\nC: A", 1, "':TLS off' is no option", "lower case"),
        (r"C: \q", 1, r"\q is no escape", r"\r \n \t \0 \\ or \xNN"),
        (r"C: \x1", 1, r"\x is no escape", r"\xNN"),
        ("C: a\\", 1, "\\ is no escape", r"\xNN"),
        ("C+ QUIT", 1, "'QUIT' is neither quoted nor hex", r'"text\r\n" or 0d 0a'),
        ("C+ 0d 0", 1, "'0d 0' is neither quoted nor hex", "0d 0a"),
        ('C+ "a', 1, "neither quoted nor hex", "0d 0a"),
        ('C+ "a"b"', 1, "neither quoted nor hex", "0d 0a"),
        ('U+ ""', 1, "no octets", "at least one"),
        ("S+", 1, "'' is neither quoted nor hex", "0d 0a"),
        ("S~", 1, "no regular expression", "one behind the marker"),
        ("S~ (", 1, "'(' is no regular expression", "a Python regular expression"),
        ("@", 1, "'' is no event", "one of connect, connect-failed"),
        ("@ explode", 1, "'explode' is no event", "client-closed, upstream-closed"),
        ("@ connect now", 1, "'now' is no argument of connect", "@ connect"),
        ("@ connect-failed", 1, "connect-failed without its argument", "@ connect-failed KIND"),
        ("@ connect-failed 7 up", 1, "'7 up' is no argument of connect-failed", "@ connect-failed KIND"),
        ("@ upstream-gone RESET", 1, "'RESET' is no argument of upstream-gone", "@ upstream-gone, or"),
        ("@ wait", 1, "wait without its argument", "@ wait SECONDS"),
        ("@ wait soon", 1, "'soon' is no argument of wait", "like @ wait 0.5"),
        ("@ wait -1", 1, "'-1' is no argument of wait", "@ wait SECONDS"),
        ("@ wait 1e3", 1, "'1e3' is no argument of wait", "@ wait SECONDS"),
        ("@ client-tls TLSv1.3", 1, "'TLSv1.3' is no argument of client-tls", "@ client-tls"),
    ],
)
def test_every_error_says_where_what_and_what_to_write(text: str, line: int, what: str, write: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        parse_transcript(text, "bad.pop3")
    error = caught.value
    assert (error.file, error.line) == ("bad.pop3", line)
    assert what in error.what
    assert write in error.write
    assert str(error) == f"bad.pop3:{line}: {error.what}; write {error.write}"


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pop3"
    path.write_bytes("C: ü\r\n".encode())
    transcript = load_transcript(path)
    assert transcript.name == str(path)
    assert transcript.steps == (Send(C, "ü\r\n".encode()),)


def test_a_file_that_is_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.pop3"
    path.write_bytes(b"C: \xff\n")
    with pytest.raises(TranscriptError, match=r"a\.pop3:0: octet 3 is not UTF-8; write \\xNN for other octets"):
        load_transcript(path)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Send(C, b"PASS two \r\n"), r"C: PASS two\x20"),
        (Send(U, b"\r\n"), "U<"),
        (Send(U, b"."), 'U+ "."'),
        (Expect(C, b'"\\'), 'S+ "\\"\\\\"'),
        (Expect(U, b"\xff\r\n"), r"U> \xff"),
        (Expect(U, b"x"), 'U>+ "x"'),
        (Match(C, re.compile(b"a")), "S~ a"),
        (Match(U, re.compile(b"a")), "U~ a"),
        (Event("upstream-gone"), "@ upstream-gone"),
        (Event("wait", "1"), "@ wait 1"),
    ],
)
def test_notation(step: Step, line: str) -> None:
    assert notation(step) == line
    assert one(line) == step


def test_escape_leaves_printable_ascii() -> None:
    assert escape(b" a~\x7f\x00\t\\\"") == " a~\\x7f\\0\\t\\\\\""


@settings(max_examples=300, deadline=None)
@given(options, st.lists(steps, min_size=1, max_size=8))
def test_what_is_written_is_read_back(options: dict[str, str], steps: list[Step]) -> None:
    transcript = Transcript("made", options, tuple(steps))
    again = parse_transcript(str(transcript), "read")
    assert again == transcript
    assert str(again) == str(transcript)


@settings(max_examples=200, deadline=None)
@given(st.text("CSU:@<>+~ \n\\x\"0a#", max_size=40))
def test_any_text_is_a_transcript_or_a_transcript_error(text: str) -> None:
    try:
        transcript = parse_transcript(text)
    except TranscriptError as error:
        assert error.what
        assert error.write
        return
    assert parse_transcript(str(transcript)) == transcript

"""The verb table, the parser, and what a log may show."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.wire.commands import (
    FENCEABLE,
    OTHER,
    VERB_NAMES,
    VERBS,
    BadCommand,
    Command,
    Framing,
    Where,
    content,
    declared,
    parse,
    redacted,
)

octets = st.lists(
    st.one_of(
        st.sampled_from([*VERBS, b"XTND", b"xlst", b" ", b"\t", b"1", b"0", b"-1", b"*", b"\0", b"\xff"]),
        st.binary(max_size=4),
    ),
    max_size=6,
).map(b"".join)


def kind_of(text: bytes) -> str:
    with pytest.raises(BadCommand) as caught:
        parse(text)
    assert str(caught.value).isascii()
    return caught.value.kind


# The table


def test_the_table_numbers_its_rows() -> None:
    assert [verb.index for verb in VERBS.values()] == list(range(len(VERBS)))
    assert all(verb.name == name == name.upper() for name, verb in VERBS.items())
    assert len(VERBS) == OTHER
    assert VERB_NAMES[OTHER] == "_other"
    assert VERB_NAMES[VERBS[b"RETR"].index] == "RETR"
    assert len(VERB_NAMES) == OTHER + 1


def test_what_is_fenced_is_what_no_rfc_in_force_asks_for() -> None:
    assert set(FENCEABLE) == {
        "LAST",
        "RPOP",
        "XTND BBOARDS",
        "XTND X-BBOARDS",
        "XTND ARCHIVE",
        "XTND XLST",
        "XTND XMIT",
        "XOIP",
        "XSENDER",
    }


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (Where.AUTHORIZATION, "USER PASS APOP AUTH STLS UTF8 RPOP XCLIENT XOIP"),
        (Where.BOTH, "CAPA LANG QUIT"),
    ],
)
def test_where_a_command_is_legal(where: Where, names: str) -> None:
    found = {verb.name.decode() for verb in VERBS.values() if verb.where == where}
    assert found == set(names.split())
    rest = {verb.where for verb in VERBS.values() if verb.name.decode() not in found}
    assert where not in rest


# Parsing


def test_keywords_are_case_insensitive() -> None:
    assert parse(b"reTr 1") == parse(b"RETR 1")
    assert parse(b"xtnd xlst Message-Id").name == "XTND XLST"


def test_spaces_around_arguments_are_made_one() -> None:
    assert parse(b"TOP  1   0 ") == Command(VERBS[b"TOP"], b"1 0")
    assert parse(b"TOP 1 0").line == b"TOP 1 0\r\n"
    assert parse(b"NOOP ").line == b"NOOP\r\n"
    assert parse(b"NOOP").arguments == ()


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        (b"PASS secret", b"secret"),
        (b"PASS  leading", b" leading"),
        (b"PASS two  spaces ", b"two  spaces "),
        (b"PASS    ", b"   "),
        (b"PASS p\xe4\xdf\xff", b"p\xe4\xdf\xff"),
        (b"PASS a\tb", b"a\tb"),
        (b"USER john doe", b"john doe"),
        (b"USER recent:joe@example.com", b"recent:joe@example.com"),
        (b"USER j\xc3\xb6rg", b"j\xc3\xb6rg"),
        (b"APOP joe c4c9334bac560ecc979e58001b3e22fb", b"joe c4c9334bac560ecc979e58001b3e22fb"),
    ],
)
def test_names_and_passwords_keep_every_octet(line: bytes, argument: bytes) -> None:
    """PROTOCOL 4.15 and RFC 1939 section 7: everything behind the single space."""
    command = parse(line)
    assert command.argument == argument
    assert command.line == line + b"\r\n"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", "unknown"),
        (b" ", "unknown"),
        (b" NOOP", "unknown"),
        (b"NOOP\t", "unknown"),
        (b"FOO", "unknown"),
        (b"*ENV", "unknown"),
        (b"HELO there", "unknown"),
        (b"+OK", "unknown"),
        (b"\xff\xfe", "unknown"),
        (b"XTND", "unknown"),
        (b"XTND FOO 1", "unknown"),
        (b"USER", "arguments"),
        (b"USER ", "arguments"),
        (b"PASS", "arguments"),
        (b"PASS ", "arguments"),
        (b"APOP joe", "arguments"),
        (b"APOP joe ", "arguments"),
        (b"STLS now", "arguments"),
        (b"QUIT 1", "arguments"),
        (b"STAT 1", "arguments"),
        (b"RETR", "arguments"),
        (b"RETR 1 2", "arguments"),
        (b"LIST 1 2", "arguments"),
        (b"TOP 1", "arguments"),  # PROTOCOL 4.7: both arguments are required
        (b"TOP 1 2 3", "arguments"),
        (b"AUTH PLAIN a b", "arguments"),
        (b"XTND ARCHIVE", "arguments"),
        (b"XTND XLST", "arguments"),
        (b"RETR 0", "number"),
        (b"RETR 00", "number"),
        (b"RETR +1", "number"),
        (b"RETR -1", "number"),
        (b"RETR 1.", "number"),
        (b"RETR 0x1", "number"),
        (b"RETR a", "number"),
        (b"RETR 9223372036854775808", "number"),
        (b"RETR 12345678901", "number"),
        (b"RETR \xd9\xa1", "number"),  # an Arabic digit is no digit here
        (b"LIST 0", "number"),
        (b"UIDL -1", "number"),
        (b"DELE 1,2", "number"),
        (b"TOP 1 -1", "number"),
        (b"TOP 0 1", "number"),
        (b"TOP 1\t0", "arguments"),
        (b"RETR 1\t", "number"),
        (b"XTND XLST\tSubject", "unknown"),
    ],
)
def test_what_is_refused(line: bytes, kind: str) -> None:
    """PROTOCOL 4.4, 4.7, 4.15 and the reserve list: message numbers 0, +1, 2^63, unknown verbs, arity."""
    assert kind_of(line) == kind


def test_a_refusal_names_the_verb_it_knows() -> None:
    with pytest.raises(BadCommand) as caught:
        parse(b"RETR x")
    assert caught.value.verb is VERBS[b"RETR"]
    with pytest.raises(BadCommand) as caught:
        parse(b"FOO")
    assert caught.value.verb is None


@pytest.mark.parametrize("line", [b"RETR 1", b"RETR 1 ", b"RETR  1", b"RETR 01", b"RETR 1234567890"])
def test_message_numbers_that_are_right(line: bytes) -> None:
    number = parse(line).message
    assert number == int(line.split()[1])


def test_the_message_of_commands_that_name_none() -> None:
    assert parse(b"LIST").message is None
    assert parse(b"XTND XLST Subject 5").message is None
    assert parse(b"USER 5").message is None
    assert parse(b"TOP 3 0").message == 3
    assert parse(b"XSENDER 4").message == 4


def test_top_of_0_and_of_very_many_lines() -> None:
    """PROTOCOL 4.7: headers only, and RETR in disguise."""
    assert parse(b"TOP 1 0").arguments == (b"1", b"0")
    assert parse(b"TOP 1 99999999").arguments == (b"1", b"99999999")


def test_auth_of_every_dialect() -> None:
    """PROTOCOL 4.5: bare, with a trailing space, with and without an initial response, with the empty one."""
    assert parse(b"AUTH") == parse(b"AUTH ") == Command(VERBS[b"AUTH"])
    assert parse(b"AUTH PLAIN").arguments == (b"PLAIN",)
    assert parse(b"AUTH PLAIN =").arguments == (b"PLAIN", b"=")
    assert parse(b"AUTH XOAUTH2 " + b"A" * 5000).arguments[1] == b"A" * 5000


# Framing


@pytest.mark.parametrize(
    ("line", "multiline"),
    [
        (b"LIST", True),
        (b"LIST 1", False),
        (b"UIDL", True),
        (b"UIDL 1", False),
        (b"LANG", True),
        (b"LANG *", False),
        (b"LANG de", False),
        (b"CAPA", True),
        (b"CAPA ignored", True),
        (b"RETR 1", True),
        (b"TOP 1 0", True),
        (b"STAT", False),
        (b"QUIT", False),
        (b"DELE 1", False),
        (b"LAST", False),
        (b"XTND BBOARDS", True),
        (b"XTND BBOARDS name", False),
        (b"XTND X-BBOARDS", True),
        (b"XTND ARCHIVE name", False),
        (b"XTND XLST Subject", True),
        (b"XTND XLST Subject 1", True),
        (b"XTND XMIT", False),
        (b"XSENDER 1", False),
    ],
)
def test_framing_depends_on_the_arguments(line: bytes, multiline: bool) -> None:
    """PROTOCOL 4.4: one wrong and every later reply belongs to the wrong command."""
    assert parse(line).multiline is multiline


def test_a_declared_verb_has_the_framing_of_the_config() -> None:
    extra = {b"XFOO": declared(b"xfoo", Framing.MULTI), b"*ENV": declared(b"*ENV", Framing.SINGLE, Where.BOTH)}
    command = parse(b"xfoo a  b", extra)
    assert (command.name, command.argument, command.multiline) == ("XFOO", b"a b", True)
    assert command.verb.index == OTHER
    assert command.verb.where == Where.TRANSACTION
    assert parse(b"*env 1", extra).verb.where == Where.BOTH
    with pytest.raises(BadCommand):
        parse(b"XBAR", extra)


def test_a_declared_verb_takes_no_place_of_the_table() -> None:
    assert parse(b"NOOP", {b"NOOP": declared(b"NOOP", Framing.MULTI)}).verb is VERBS[b"NOOP"]


def test_a_declared_xtnd_keeps_its_whole_argument() -> None:
    extra = {b"XTND": declared(b"XTND", Framing.SINGLE)}
    assert parse(b"XTND FOO bar", extra).line == b"XTND FOO bar\r\n"
    assert parse(b"XTND XLST Subject", extra).verb is VERBS[b"XTND XLST"]


def test_a_tab_is_no_space() -> None:
    """Else a declared XTND would carry a fenced command upstream under another framing."""
    extra = {b"XTND": declared(b"XTND", Framing.SINGLE)}
    assert parse(b"XTND XLST\tSubject", extra).line == b"XTND XLST\tSubject\r\n"
    assert parse(b"AUTH PLAIN\tx").arguments == (b"PLAIN\tx",)


# The line


def test_content_takes_the_line_end_off() -> None:
    assert content(b"NOOP\r\n") == b"NOOP"
    assert content(b"\r\n") == b""
    assert content(b"NOOP\r\n", bare_lf=True) == b"NOOP"
    assert content(b"NOOP\n", bare_lf=True) == b"NOOP"


@pytest.mark.parametrize(
    ("line", "bare_lf", "kind"),
    [
        (b"NOOP\n", False, "bare_lf"),
        (b"PASS a\0b\r\n", False, "nul"),
        (b"\0\n", True, "nul"),
        (b"NOOP\r\r\n", False, "bare_cr"),
        (b"PASS a\rb\r\n", False, "bare_cr"),
        (b"NOOP\rQUIT\n", True, "bare_cr"),
    ],
)
def test_octets_no_command_line_may_hold(line: bytes, bare_lf: bool, kind: str) -> None:
    """PROTOCOL 4.15: CR, LF and NUL are refused, never cut and never passed on."""
    with pytest.raises(BadCommand) as caught:
        content(line, bare_lf)
    assert caught.value.kind == kind


# Logs


@pytest.mark.parametrize(
    "line",
    [
        b"PASS sesame",
        b"pass  sesame ",
        b"AUTH PLAIN sesame",
        b"APOP joe sesame",
        b"RPOP sesame",
    ],
)
def test_a_secret_is_never_shown(line: bytes) -> None:
    command = parse(line)
    assert "sesame" not in redacted(command)
    assert "sesame" not in repr(command)
    assert redacted(command).endswith("<hidden>")


def test_a_secret_is_hidden_by_type_not_by_pattern() -> None:
    assert redacted(parse(b"USER PASS sesame")) == "USER 'PASS sesame'"


def test_what_a_log_shows() -> None:
    assert redacted(parse(b"AUTH")) == "AUTH"
    assert redacted(parse(b"RETR 1")) == "RETR '1'"
    assert repr(parse(b"NOOP")) == "Command(NOOP)"
    shown = redacted(parse(b"USER \x1b[31m\xff\xc2\x85"))
    assert shown.isascii() or shown.isprintable()
    assert "\x1b" not in shown


# Properties


@settings(max_examples=400, deadline=None)
@given(octets)
def test_any_octets_are_a_command_or_bad_command(text: bytes) -> None:
    try:
        command = parse(text)
    except BadCommand as bad:
        assert bad.kind in {"unknown", "arguments", "number"}
        return
    assert command.verb.name in VERBS
    assert isinstance(command.multiline, bool)
    if command.message is not None:
        assert command.message >= 1
    again = parse(command.line[:-2])
    assert again == command
    assert text.upper().split(b" ")[0] == command.verb.name.split()[0]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30), st.booleans())
def test_any_line_has_content_or_is_refused(text: bytes, bare_lf: bool) -> None:
    line = text.replace(b"\n", b"") + b"\n"
    try:
        found = content(line, bare_lf)
    except BadCommand as bad:
        assert bad.kind in {"bare_lf", "bare_cr", "nul"}
        return
    assert not set(found) & {0, 10, 13}
    assert line in (found + b"\r\n", found + b"\n")
    assert bare_lf or line.endswith(b"\r\n")


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=40).filter(lambda o: not set(o) & {0, 10, 13}))
def test_a_password_travels_as_it_is(password: bytes) -> None:
    command = parse(b"PASS " + password)
    assert command.line == b"PASS " + password + b"\r\n"
    if len(password) > 6:
        assert password.decode("latin-1") not in repr(command)

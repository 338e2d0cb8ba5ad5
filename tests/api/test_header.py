"""Header: what is asked is changed, every other octet stays, nothing can be injected."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import Header
from popproxy.api.header import header_end

ODD = (
    b"From joe@example.com Thu Jan  1 00:00:00 1970\r\n"
    b"Received: from a\r\n\tby b;\r\n Thu, 1 Jan 1970\r\n"
    b"Subject : obsolete white space\r\n"
    b"this line is garbage\r\n"
    b"  continued garbage\r\n"
    b"X-Eight: \xff\xfe caf\xc3\xa9\r\n"
    b"X-Bare: ends with LF\n"
    b"X-Cr: a\rb\0c\r\n"
    b":no name\r\n"
    b"X-Empty:\r\n"
    b"x-eight: twice\r\n"
    b"\r\n"
)
lines = st.lists(
    st.sampled_from(
        [b"A: 1", b"b : 2", b"X-Spam: YES", b" folded", b"\t", b"garbage", b"From me", b"C:", b"\xff: x", b":", b"\r"]
    )
    | st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")),
    max_size=12,
)
blocks = st.tuples(lines, st.sampled_from([b"\r\n", b"\n"])).map(lambda pair: b"".join(n + pair[1] for n in pair[0]))
names = st.from_regex(r"[!-9;-~]{1,76}", fullmatch=True)
values = st.text(
    st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=150
) | st.text("ab \t=?ü", max_size=200)


def only_header(block: bytes) -> bytes:
    end = header_end(block)
    return block if end < 0 else block[:end]


def shown(raw: str) -> str:
    """What a mail client shows for an unfolded value."""
    return str(make_header(decode_header(raw)))


def field(name: str, value: str) -> bytes:
    header = Header()
    header.add(name, value)
    return bytes(header)


# Where a header ends


@pytest.mark.parametrize(
    ("message", "end"),
    [
        (b"", -1),
        (b"\r", -1),
        (b"\r\n", 2),
        (b"\n", 1),
        (b"\r\nbody", 2),
        (b"A: b\r\n", -1),
        (b"A: b\r\n\r", -1),
        (b"A: b\r\n\r\n", 8),
        (b"A: b\r\n\r\nbody\r\n\r\n", 8),
        (b"A: b\n\nbody\r\n\r\n", 6),
        (b"A: b\n\r\nbody", 7),
        (b"A: b\r\n \r\n\r\nbody", 11),
        (b"A: b\r\r\n\r\n", 9),
    ],
)
def test_header_end(message: bytes, end: int) -> None:
    assert header_end(message) == end
    assert header_end(bytearray(message)) == end


def test_header_end_within_a_limit() -> None:
    message = b"A: b\r\n\r\nbody"
    assert header_end(message, 0, 8) == 8
    assert header_end(message, 0, 7) == -1
    assert header_end(b"\r\n", 0, 1) == -1
    assert header_end(b"\n\n", 0, 0) == -1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n"]), max_size=20).map(b"".join), st.integers(0, 20))
def test_a_search_can_be_taken_up_again(message: bytes, first: int) -> None:
    end = header_end(message)
    if header_end(message[:first]) < 0:
        assert header_end(message, first - 2) == end
    else:
        assert header_end(message[:first]) == end


# Reading


def test_every_octet_of_an_odd_header_is_kept() -> None:
    header = Header(ODD)
    assert bytes(header) == ODD
    assert not header.changed
    assert header.names() == ["received", "subject", "x-eight", "x-bare", "x-cr", "x-empty", "x-eight"]
    assert repr(header) == f"Header({header.names()})"


def test_values_are_unfolded_and_octets_kept() -> None:
    header = Header(ODD)
    assert header.get_all("RECEIVED") == ["from a\tby b; Thu, 1 Jan 1970"]
    assert header.get_all("Subject") == ["obsolete white space"]
    assert header.get_all("X-Eight") == ["\udcff\udcfe café", "twice"]
    assert header.get_all("X-Bare") == ["ends with LF"]
    assert header.get_all("X-Cr") == ["a\rb\0c"]
    assert header.get_all("X-Empty") == [""]
    assert header.get_all("nobody") == []
    assert header.get_all("") == []


def test_presence_by_name_and_glob() -> None:
    header = Header(ODD)
    assert "x-EIGHT" in header
    assert "X-*" in header
    assert "X-Eigh?" in header
    assert "X-Spam-*" not in header
    assert "garbage" not in header
    assert "ü" not in header


def test_a_header_without_its_empty_line() -> None:
    assert bytes(Header(b"A: b\r\nC: d")) == b"A: b\r\nC: d"
    assert bytes(Header(b"")) == b""


@pytest.mark.parametrize("blank", [b"\r\n", b"\n"])
def test_octets_behind_the_empty_line_are_no_fields(blank: bytes) -> None:
    header = Header(b"A: b\n" + blank + b"A: body\r\n\r\nC: d")
    assert header.names() == ["a"]
    assert header.remove("*") == 1
    assert bytes(header) == blank + b"A: body\r\n\r\nC: d"


@settings(max_examples=300, deadline=None)
@given(blocks)
def test_reading_loses_nothing(block: bytes) -> None:
    block = only_header(block)
    header = Header(block)
    assert bytes(header) == block
    for name in header.names():
        assert header.get_all(name)


# Adding


def test_add_on_top_and_below() -> None:
    header = Header(b"A: b\r\n\r\n")
    header.add("X-Top", "1")
    header.add("X-Last", "2", top=False)
    assert bytes(header) == b"X-Top: 1\r\nA: b\r\nX-Last: 2\r\n\r\n"
    assert header.changed


def test_add_to_an_empty_header_and_to_none() -> None:
    for block in (b"\r\n", b"\n", b""):
        for top in (True, False):
            header = Header(block)
            header.add("X", "1", top=top)
            assert bytes(header) == b"X: 1\r\n" + block


def test_add_below_a_line_that_has_no_end() -> None:
    header = Header(b"A: b")
    header.add("X", "1", top=False)
    assert bytes(header) == b"A: b\r\nX: 1\r\n"


def test_add_goes_behind_an_mbox_line() -> None:
    header = Header(b"From joe Thu\r\nA: b\r\n\r\n")
    header.add("X", "1")
    assert bytes(header) == b"From joe Thu\r\nX: 1\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("first", [b" evil", b"\tevil"])
def test_a_message_cannot_continue_the_field_put_on_top(first: bytes) -> None:
    """A first line of white space would become the tail of our value."""
    header = Header(first)
    header.add("X-Spam-Flag", "NO")
    assert bytes(header) == first + b"\r\nX-Spam-Flag: NO\r\n"
    assert header.get_all("X-Spam-Flag") == ["NO"]


@pytest.mark.parametrize("value", ["a\r\nEvil: 1", "a\nb", "a\rb", "a\0b", "\r\n"])
def test_a_value_cannot_inject(value: str) -> None:
    header = Header(b"X: 1\r\n\r\n")
    with pytest.raises(ValueError, match="holds CR, LF or NUL"):
        header.add("X", value)
    with pytest.raises(ValueError, match="holds CR, LF or NUL"):
        header.replace("X", value)
    with pytest.raises(ValueError, match="holds CR, LF or NUL"):
        header.rewrite("X", lambda _: value)
    assert bytes(header) == b"X: 1\r\n\r\n"


@pytest.mark.parametrize("name", ["", "X Y", "X:", "X\r\nY", "X\0", "Ü", "x" * 77, "X\n"])
def test_a_name_cannot_inject(name: str) -> None:
    header = Header(b"X: 1\r\n\r\n")
    with pytest.raises(ValueError, match="is no header name: write 1 to 76 printable ASCII"):
        header.add(name, "1")
    with pytest.raises(ValueError, match="is no header name"):
        header.rename("X", name)
    with pytest.raises(ValueError, match="is no header name"):
        Header.check(name)
    assert not header.changed


# Removing, replacing, rewriting, renaming


def test_remove_by_name_and_glob() -> None:
    header = Header(b"X-Spam-Flag: 1\r\nA: b\r\nx-spam-level: 2\r\n folded\r\nX-Spam: 3\r\ngarbage\r\n\r\n")
    assert header.remove("X-Spam-*") == 2
    assert bytes(header) == b"A: b\r\nX-Spam: 3\r\ngarbage\r\n\r\n"
    assert header.remove("x-SPAM") == 1
    assert header.remove("nobody") == 0
    assert header.remove("*") == 1
    assert bytes(header) == b"garbage\r\n\r\n"


def test_remove_that_finds_nothing_changes_nothing() -> None:
    header = Header(ODD)
    assert header.remove("X-Spam-*") == 0
    assert not header.changed


def test_replace_keeps_the_place_and_drops_doubles() -> None:
    header = Header(b"A: 1\r\nx: old\r\n folded\r\nB: 2\r\nX: more\r\n\r\n")
    assert header.replace("X", "new") == 2
    assert bytes(header) == b"A: 1\r\nX: new\r\nB: 2\r\n\r\n"
    assert header.replace("Y", "new") == 0


def test_rewrite_changes_values_and_keeps_spelling() -> None:
    header = Header(b"sUBJECT: hello\r\nSubject: keep\r\n  me\r\nA: hello\r\n\r\n")
    assert header.rewrite("Subject", lambda value: value.replace("hello", "bye")) == 1
    assert bytes(header) == b"sUBJECT: bye\r\nSubject: keep\r\n  me\r\nA: hello\r\n\r\n"
    assert header.changed


def test_rewrite_that_changes_nothing() -> None:
    header = Header(ODD)
    assert header.rewrite("X-Eight", lambda value: value) == 0
    assert not header.changed


def test_rewrite_keeps_8_bit_octets_readable() -> None:
    header = Header(b"Subject: caf\xc3\xa9 \xff\r\n\r\n")
    assert header.rewrite("subject", lambda value: "[EXT] " + value) == 1
    raw = header.get_all("subject")[0]
    assert raw == "[EXT] =?unknown-8bit?b?Y2Fmw6kg/w==?="
    assert decode_header(raw)[1] == (b"caf\xc3\xa9 \xff", "unknown-8bit")


def test_rewrite_leaves_what_has_no_room() -> None:
    header = Header(b"X: a\r\nX: bb\r\nY: y\r\nX: ccc\r\n\r\n")
    assert header.rewrite("X", lambda value: value * 2, 4) == 2
    assert bytes(header) == b"X: aa\r\nX: bbbb\r\nY: y\r\nX: ccc\r\n\r\n"
    assert header.rewrite("X", lambda value: value[:1] if value == "bbbb" else value + "!!", 2) == 3
    assert bytes(header) == b"X: aa!!\r\nX: b\r\nY: y\r\nX: ccc!!\r\n\r\n", "what one loses the next may have"
    assert header.rewrite("X", lambda value: value + "!", 0) == 0


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("[SPAM]", b"Subject: hi\r\n", b"Subject: [SPAM] hi\r\n"),
        ("[SPAM] ", b"SUBJECT:hi", b"SUBJECT: [SPAM] hi"),
        ("[SPAM]", b"subject :  hi \r\n", b"subject : [SPAM] hi \r\n"),
        ("[SPAM]", b"Subject:\r\n", b"Subject: [SPAM]\r\n"),
        ("[SPAM]", b"Subject: \r\n hi\r\n", b"Subject: [SPAM]\r\n hi\r\n"),
        ("[SPAM]", b"Subject: a\xff\r\n\tb\r\n", b"Subject: [SPAM] a\xff\r\n\tb\r\n"),
        ("[SPAM]", b"Subject: =?utf-8?q?h=C3=BC?=\r\n", b"Subject: [SPAM] =?utf-8?q?h=C3=BC?=\r\n"),
        ("fast Müll", b"Subject: hi\r\n", b"Subject: fast =?utf-8?b?TcO8bGw=?= hi\r\n"),
        ("fast Müll", b"Subject: =?utf-8?q?h?=\r\n", b"Subject: =?utf-8?q?fast_M=C3=BCll_?= =?utf-8?q?h?=\r\n"),
        ("fast Müll", b"Subject:\r\n =?utf-8?q?h?=\r\n", b"Subject: =?utf-8?q?fast_M=C3=BCll_?=\r\n =?utf-8?q?h?=\r\n"),
        ("[SPAM]", b"Subject: %b\r\n" % (b"x" * 62), b"Subject: [SPAM] %b\r\n" % (b"x" * 62)),
        ("[SPAM]", b"Subject: %b\r\n" % (b"x" * 63), b"Subject: [SPAM]\r\n %b\r\n" % (b"x" * 63)),
    ],
)
def test_prefix_leaves_the_octets_of_the_value(text: str, field: bytes, expected: bytes) -> None:
    header = Header(field)
    assert header.prefix("subject", text) == 1
    assert bytes(header) == expected
    assert header.changed


def test_prefix_keeps_the_first_of_several_and_adds_nothing() -> None:
    header = Header(b"Subject: 1\r\nTo: joe\r\nSubject: 2\r\nSubject: 3\r\n\r\n")
    assert header.prefix("Subject", "[SPAM]") == 3
    assert bytes(header) == b"Subject: [SPAM] 1\r\nTo: joe\r\n\r\n"
    assert header.prefix("X-None", "[SPAM]") == 0
    with pytest.raises(ValueError, match="holds CR, LF or NUL"):
        header.prefix("Subject", "a\r\nEvil: 1")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120).map(lambda value: value.replace(b"\n", b" ").replace(b"\r", b" ")), st.text(max_size=40))
def test_prefix_grows_by_what_the_text_says(value: bytes, text: str) -> None:
    text = re.sub("[\r\n\0]", "", text).encode("utf-8", "ignore").decode()
    grown = []
    for plain in (b"Subject: a\r\n", b"Subject: =?a?q?a?=\r\n"):
        empty = Header(plain)
        empty.prefix("Subject", text)
        grown.append(len(bytes(empty)) - len(plain))
    most = max(grown) + 4
    header = Header(b"Subject:" + value + b"\r\n")
    assert header.prefix("Subject", text) == 1
    assert bytes(header).endswith(value.lstrip(b" \t") + b"\r\n")
    assert len(bytes(header)) <= len(b"Subject:" + value + b"\r\n") + most


def test_rename_keeps_what_stands_behind_the_colon() -> None:
    header = Header(b"Subject :  a\r\n\tb \r\nSUBJECT: c\nB: 2\r\n\r\n")
    assert header.rename("subject", "X-Subject") == 2
    assert bytes(header) == b"X-Subject:  a\r\n\tb \r\nX-Subject: c\nB: 2\r\n\r\n"
    assert header.rename("nobody", "X") == 0
    assert header.get_all("x-subject") == ["a\tb", "c"]


@settings(max_examples=200, deadline=None)
@given(blocks, names, values)
def test_what_is_added_is_found_and_the_rest_stays(block: bytes, name: str, value: str) -> None:
    block = only_header(block)
    header = Header(block)
    before = header.get_all(name)
    header.add(name, value)
    octets = bytes(header)
    again = Header(octets)
    found = again.get_all(name)
    assert len(found) == len(before) + 1
    assert found[0] == header.get_all(name)[0]
    added = Header()
    added.add(name, value)
    place = octets.find(bytes(added))
    assert place >= 0
    rest = octets[:place] + octets[place + len(bytes(added)) :]
    assert rest.replace(b"\r\n", b"\n").rstrip(b"\n") == block.replace(b"\r\n", b"\n").rstrip(b"\n")


# Values on the wire


def test_plain_values() -> None:
    assert field("X", "1") == b"X: 1\r\n"
    assert field("X", "  a  b\t") == b"X: a  b\r\n"
    assert field("X", "") == b"X:\r\n"
    assert field("X", " \t ") == b"X:\r\n"


def test_long_values_are_folded_at_white_space() -> None:
    value = " ".join(["word"] * 40)
    raw = field("X-Long", value)
    assert raw.startswith(b"X-Long: word word")
    assert all(len(line) <= 78 for line in raw.split(b"\r\n"))
    assert Header(raw).get_all("X-Long") == [value]


def test_a_word_that_fits_a_line_of_its_own_begins_there() -> None:
    raw = field("X-Id", "<" + "a" * 72 + ">")
    assert raw == b"X-Id:\r\n <" + b"a" * 72 + b">\r\n"


def test_a_word_too_long_for_78_stays_on_the_first_line() -> None:
    raw = field("X-Id", "a" * 300 + " b")
    assert raw == b"X-Id: " + b"a" * 300 + b"\r\n b\r\n"


def test_a_word_too_long_for_any_line_travels_encoded() -> None:
    value = "a" * 3000
    raw = field("X-Id", value)
    assert max(map(len, raw.split(b"\r\n"))) <= 78
    assert shown(Header(raw).get_all("X-Id")[0]) == value


def test_endless_white_space_is_shortened() -> None:
    raw = field("X", "a" + " " * 2000 + "b")
    assert raw == b"X: a b\r\n"
    assert field("X", "a" + " " * 64 + "b") == b"X: a" + b" " * 64 + b"b\r\n"


def test_other_text_travels_as_encoded_words() -> None:
    assert field("Subject", "Grüße aus Köln") == b"Subject: =?utf-8?b?R3LDvMOfZQ==?= aus =?utf-8?b?S8O2bG4=?=\r\n"
    assert field("Subject", "Geschäftsbericht") == b"Subject: =?utf-8?q?Gesch=C3=A4ftsbericht?=\r\n"
    assert shown(Header(field("Subject", "日本語 のメール")).get_all("Subject")[0]) == "日本語 のメール"


def test_control_characters_never_travel_raw() -> None:
    raw = field("X", "plainly\x1bcoloured text")
    assert raw == b"X: =?utf-8?q?plainly=1Bcoloured?= text\r\n"


def test_white_space_beside_encoded_words_that_were_there() -> None:
    """RFC 2047 section 6.2: it is not shown between two encoded-words, so it travels inside ours."""
    for value in ("=?utf-8?q?=C3=BC?= ö", "ö =?utf-8?q?=C3=BC?=", "=?utf-8?q?a?= ö =?utf-8?q?b?="):
        expected = " ".join(shown(word) for word in value.split(" "))
        assert shown(Header(field("Subject", value)).get_all("Subject")[0]) == expected


def test_a_value_no_charset_can_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        field("X", "\ud800")


@settings(max_examples=300, deadline=None)
@given(names, values)
def test_lines_are_lawful_and_clients_show_the_value(name: str, value: str) -> None:
    raw = field(name, value)
    assert raw.endswith(b"\r\n")
    assert b"\n\r\n" not in raw
    assert not raw.startswith((b" ", b"\t"))
    lines = raw[:-2].split(b"\r\n")
    assert all(len(line) <= 998 for line in lines)
    assert all(line[:1] in (b" ", b"\t") and line.strip() for line in lines[1:])
    assert raw.isascii()
    assert not set(raw.replace(b"\r\n", b"")) & {0, 10, 13}
    header = Header(raw + b"\r\n")
    assert header.names() == [name.lower()]
    if "=?" not in value:
        assert shown(header.get_all(name)[0]).split() == value.split()


def test_python_email_reads_what_was_made() -> None:
    header = Header(b"Subject: x\r\n\r\n")
    header.add("X-Name", "Ünï " * 40)
    message: Message = message_from_bytes(bytes(header) + b"body\r\n")
    assert message.defects == []
    assert message.get_payload() == "body\r\n"
    assert shown(str(message["X-Name"]).replace("\r\n", "")) == ("Ünï " * 40).strip()

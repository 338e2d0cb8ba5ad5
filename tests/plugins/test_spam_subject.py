"""spam: the tag in front of the Subject: right in every encoding, and never twice."""

from __future__ import annotations

import encodings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.spam.subject import decoded, put_tag

from popproxy.api import Header


def tagged(field: bytes, tag: str = "[SPAM] ") -> bytes:
    header = Header(field + b"\r\n")
    put_tag(header, tag)
    return bytes(header)[:-2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Subject: hi\r\n", b"Subject: [SPAM] hi\r\n"),
        (b"subject:hi\r\n", b"subject: [SPAM] hi\r\n"),
        (b"Subject: a\r\n b\r\n\tc\r\n", b"Subject: [SPAM] a\r\n b\r\n\tc\r\n"),
        (b"Subject: gr\xc3\xbc\xff\r\n", b"Subject: [SPAM] gr\xc3\xbc\xff\r\n"),
        (b"Subject: =?iso-8859-1?q?gr=FC?=\r\n", b"Subject: [SPAM] =?iso-8859-1?q?gr=FC?=\r\n"),
        (b"Subject:\r\n", b"Subject: [SPAM]\r\n"),
        (b"", b"Subject: [SPAM]\r\n"),
        (b"To: joe\r\n", b"Subject: [SPAM]\r\nTo: joe\r\n"),
        (b"Subject: 1\r\nSubject: 2\r\n", b"Subject: [SPAM] 1\r\n"),
    ],
)
def test_the_tag_stands_before_the_subject(before: bytes, after: bytes) -> None:
    assert tagged(before) == after


@pytest.mark.parametrize(
    "subject",
    [
        b"Subject: [SPAM] hi\r\n",
        b"Subject: [SPAM]\r\n",
        b"Subject: Re: [spam]   hi\r\n",
        b"Subject: =?utf-8?q?=5BSPAM=5D_gr=C3=BC?=\r\n",
        b"Subject: =?utf-8?b?W1NQQU1dIGhp?=\r\n",
        b"Subject: Fwd:\r\n =?utf-8?q?=5BSP?=\r\n =?utf-8?q?AM=5D?= x\r\n",
    ],
)
def test_a_tag_that_is_there_is_not_put_again(subject: bytes) -> None:
    """Whoever put it there: another filter, an earlier hop, or the sender."""
    assert tagged(subject) == subject


@pytest.mark.parametrize(
    "subject",
    [
        b"Subject: cheap pills" + b" " * 100 + b"[SPAM]\r\n",
        b"Subject: cheap\r\n" + b" " * 100 + b"[SPAM]\r\n",
        b"Subject: =?utf-8?q?cheap" + b"_" * 100 + b"=5BSPAM=5D?=\r\n",
        # No mail client reads this as [SPAM], Python would.
        b"Subject: =?raw_unicode_escape?q?=5Cu005bSPAM]?=\r\n",
    ],
)
def test_a_tag_that_nobody_sees_is_none(subject: bytes) -> None:
    once = tagged(subject)
    assert Header(once).get_all("Subject")[0].startswith("[SPAM] ")
    assert len(once) - len(subject) in (7, 9)
    assert tagged(once) == once


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "iso-8859-15", "us-ascii*en", "windows-1251", "KOI8-U", "gb2312"])
def test_charsets_that_mail_has(charset: str) -> None:
    assert decoded(f"=?{charset}?q?=5Bspam=5D?=") == "[spam]"


def test_charsets_that_senders_make_up_leave_nothing_behind() -> None:
    known = len(encodings._cache)
    words = " ".join(f"=?made-up-{number}?q?a?=" for number in range(40))
    assert decoded(words).startswith("=?made-up-0?q?a?==?made-up-1?")
    assert len(encodings._cache) == known


def test_a_tag_beyond_ascii_is_encoded_and_found_again() -> None:
    once = tagged(b"Subject: hi\r\n", "[Müll] ")
    assert decoded(Header(once).get_all("Subject")[0]) == "[Müll] hi"
    assert tagged(once, "[Müll] ") == once
    again = tagged(b"Subject: =?utf-8?q?h=C3=BC?=\r\n", "Müll:")
    assert decoded(Header(again).get_all("Subject")[0]) == "Müll: hü"
    assert tagged(again, "Müll:") == again


@pytest.mark.parametrize(
    "subject",
    ["=?utf-8?b?!!!?=", "=?utf-8?b?a?=", "=?no-such-charset?q?a?=", "=?utf-8?x?a?=", "=?", "=?a?q??=", "\udcff"],
)
def test_what_cannot_be_decoded_is_tagged_as_it_is(subject: str) -> None:
    field = f"Subject: {subject}\r\n".encode("utf-8", "surrogateescape")
    assert tagged(field) == field.replace(b"Subject: ", b"Subject: [SPAM] ")
    assert tagged(tagged(field)) == tagged(field)


VALUES = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"=?utf-8?q?", b"?=", b"=?utf-8?b?", b"W1NQQU1d", b"[SPAM]", b" ", b"\r\n ", b"\t", b"\xc3\xbc", b"x" * 70]
        ),
        max_size=8,
    ).map(b"".join),
)


@settings(max_examples=400, deadline=None)
@given(VALUES, st.sampled_from(["[SPAM] ", "[Müll]", "***", "Ж" * 30]))
def test_never_twice_and_nothing_of_the_value_is_lost(value: bytes, tag: str) -> None:
    field = b"Subject: " + value.replace(b"\n", b"").replace(b"\r", b"") + b"\r\n"
    once = tagged(field, tag)
    assert tagged(once, tag) == once
    assert once.endswith(field.partition(b":")[2].lstrip(b" \t"))

"""spam: verdicts that the upstream wrote into the header, of every scanner, forged ones, and garbage."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from popproxy_plugins.spam.verdict import Scored
from popproxy_plugins.spam.written import NAMES, read

from popproxy.api import Header


def block(*fields: str) -> Header:
    return Header("".join(f"{field}\r\n" for field in fields).encode("utf-8", "surrogateescape") + b"\r\n")


SPAMASSASSIN = (
    "X-Spam-Status: Yes, score=7.2 required=5.0 tests=BAYES_99,\r\n\tHTML_MESSAGE,RDNS_NONE autolearn=no version=4.0.1"
)


@pytest.mark.parametrize(
    ("field", "score", "spam", "required"),
    [
        (SPAMASSASSIN, 7.2, True, 5.0),
        ("X-Spam-Status: No, score=-1.9 required=5.0 tests=none", -1.9, False, 5.0),
        ("X-Spam-Status: No, hits=4.5 required=5.0", 4.5, False, 5.0),
        ("X-Spam-Status: No, hits= 4.5 required= 4.0", 4.5, True, 4.0),
        ("X-Spam-Status: Yes", 5.0, True, None),
        ("X-Spam-Flag: YES", 5.0, True, None),
        ("X-Spam-Flag: NO", 0.0, False, None),
        ("x-spam-flag: yes", 5.0, True, None),
        ("X-Spam: Yes", 5.0, True, None),
        ("X-Spam-Score: 7.2", 7.2, False, None),
        ("X-Spam-Score: 7.2 (+++++++)", 7.2, False, None),
        ("X-Spam-Score: +3", 3.0, False, None),
        ("X-Spam-Score: -2", -2.0, False, None),
        ("X-Spam-Score: 7.2 / 5.0", 7.2, True, 5.0),
        ("X-Spam-Level: *******", 7.0, False, None),
        ("X-Spam-Level:", 0.0, False, None),
        ("X-Spam-Bar: ++++++", 6.0, False, None),
        ("X-Spam-Bar: ---", -3.0, False, None),
        ("X-Spam-Bar: /", 0.0, False, None),
        ("X-Spamd-Result: default: False [1.23 / 15.00]; BAYES_HAM(-3.00)[99.99%]", 1.23, False, 15.0),
        ("X-Spamd-Result: default: True [17.50 / 15.00];\r\n\tGTUBE(0.00)[]", 17.5, True, 15.0),
        ("X-Spamd-Result: default: False [16.00 / 15.00]", 16.0, True, 15.0),
        ("X-Rspamd-Score: 3.4", 3.4, False, None),
        ("X-Rspamd-Action: add header", 5.0, True, None),
        ("X-Rspamd-Action: rewrite subject", 5.0, True, None),
        ("X-Rspamd-Action: discard", 5.0, True, None),
        ("X-Rspamd-Action: reject", 5.0, True, None),
        ("X-Rspamd-Action: no action", 0.0, False, None),
        ("X-Rspamd-Action: greylist", 0.0, False, None),
    ],
)
def test_what_scanners_write(field: str, score: float, spam: bool, required: float | None) -> None:
    verdict = read(block("Subject: hi", field))
    assert verdict is not None
    assert (verdict.score, verdict.spam, verdict.required) == (score, spam, required)


@pytest.mark.parametrize(
    "field",
    [
        "X-Spam-Score: high",
        "X-Spam-Score: 7.2.3",
        "X-Spam-Score: 0x10",
        "X-Spam-Score: 1e9",
        "X-Spam-Score: nan",
        "X-Spam-Score: inf",
        "X-Spam-Score: 123456789",
        "X-Spam-Score: 12345678901234567890",
        "X-Spam-Flag: maybe",
        "X-Spam-Flag: yesterday",
        "X-Spam-Flag: nothing",
        "X-Spam-Level: ****x",
        "X-Spamd-Result: default: False [1.23 of 15.00]",
        "X-Spamd-Result: default: False [99999999 / 15.00]",
        "X-Spam-Status: score=99999999",
        "X-Other: Yes",
    ],
)
def test_what_is_no_verdict_is_none(field: str) -> None:
    assert read(block(field)) is None


def test_the_worst_of_several_fields_counts() -> None:
    verdict = read(block("X-Spam-Flag: NO", "X-Spam-Status: Yes, score=8.0 required=5.0", "X-Spam-Score: 3.0"))
    assert verdict == Scored(8.0, True, 5.0)


def test_a_forged_ham_verdict_changes_nothing() -> None:
    mine = "X-Spam-Status: Yes, score=8.0 required=5.0 tests=A_B"
    forged = ("X-Spamd-Result: default: False [-50.00 / 15.00]", "X-Spam-Flag: NO", "X-Spam-Score: -99")
    assert read(block(mine, *forged)) == read(block(*forged, mine)) == Scored(8.0, True, 5.0, ("A_B",))


def test_only_the_topmost_fields_of_a_name_are_believed() -> None:
    fields = ("X-Spam-Score: 1.0", "X-Spam-Score: 9.0", "X-Spam-Score: 50.0")
    assert [read(block(*fields), trust=trust) for trust in (1, 2, 3, 100)] == [
        Scored(1.0, False), Scored(9.0, False), Scored(50.0, False), Scored(50.0, False)
    ]  # fmt: skip


def test_names_are_what_the_operator_says() -> None:
    header = block("X-Provider-Verdict: Yes, score=6", "X-Spam-Score: 1")
    assert read(header, names=("x-provider-verdict",)) == Scored(6.0, True)
    assert read(header) == Scored(1.0, False)


def test_a_flag_without_a_number_has_the_score_that_was_configured() -> None:
    assert read(block("X-Spam-Flag: YES"), flag_score=12.5) == Scored(12.5, True)
    assert read(block("X-Spam-Flag: YES", "X-Spam-Score: 3"), flag_score=12.5) == Scored(3.0, True)


@pytest.mark.parametrize(
    ("status", "symbols"),
    [
        (SPAMASSASSIN, ("BAYES_99", "HTML_MESSAGE", "RDNS_NONE")),
        ("X-Spam-Status: No, score=1 tests=[A=1.2,B=3]", ()),
        ("X-Spam-Status: No, score=1 tests=[A_1, B_2] autolearn=no", ("A_1", "B_2")),
        ("X-Spam-Status: No, score=1 tests=none version=3", ()),
        ("X-Spam-Status: No, score=1 tests=", ()),
        ("X-Spam-Status: No, score=1 tests=a\x01b,OK,ü,=?x?=", ("OK",)),
    ],
)
def test_the_tests_that_hit(status: str, symbols: tuple[str, ...]) -> None:
    verdict = read(block(status))
    assert verdict is not None
    assert verdict.symbols == symbols


def test_a_status_as_long_as_a_header_is_read_as_far_as_one_line() -> None:
    assert read(block("X-Spam-Status: " + "x" * 2000 + " score=9")) is None
    verdict = read(block("X-Spam-Status: No, score=1 tests=" + ",".join(f"T{n}" for n in range(5000))))
    assert verdict is not None
    assert len(verdict.symbols) == 64


PIECES = st.sampled_from(
    ["Yes", "No", ",", " ", "score=", "hits=", "required=", "tests=", "5.0", "-1", "/", "[", "]", ":", "default",
     "True", "False", "*", "+", "(", ")", "\t", "A_B", "9" * 12, "nan", "ü", "\udcff", "=", ".", ";"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.lists(PIECES, max_size=12).map("".join)), max_size=8))
@example([("X-Spam-Status", "x" * 900 + "score=" * 16)])
def test_any_header_gives_a_finite_score_or_none(fields: list[tuple[str, str]]) -> None:
    verdict = read(block(*(f"{name}: {value}" for name, value in fields)), trust=3)
    assert verdict is None or isfinite(verdict.score)


@settings(max_examples=200, deadline=None)
@given(st.floats(-9000, 9000).map(lambda score: round(score, 2)), st.booleans())
def test_what_spamassassin_writes_is_read_back(score: float, spam: bool) -> None:
    status = f"X-Spam-Status: {'Yes' if spam else 'No'}, score={score:.2f} required=5.00 tests=A,B"
    assert read(block(status)) == Scored(score, spam or score >= 5.0, 5.0, ("A", "B"))

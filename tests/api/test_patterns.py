"""Patterns that could stall a session are refused; what passes ends. A pattern that does not would run into the
time-out of the test, which is no measure of time but the end of waiting."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popproxy.api import bounded_pattern

LONGEST = 320


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a*)*",
        "(a|a)*$",
        "(a|aa)+$",
        "(?:a|b|ab)*c",
        r"(\w+\s?)*$",
        r"(\w*)*@",
        "(x+x+)+y",
        "(?:a?){30}a{30}",
        "a?" * 20 + "a" * 20,
        "(a{1,8}){1,8}b",
        ".*a.*b.*c",
        ".*?a.*?b.*?c",
        "(?>(a+)+$)",
        "(?=(a+)+$)a",
        "(?!(a+)+$)a",
        "(?:(a+)+$)++",
        "(?i)(ab|AB)*$",
        "(?i:(kx|Kx)*)y",
        "(?a)(?:\\w+\\W*)*$",
        "([一-龥]+[丁-丂])+x",
        "([^a]|b)*$",
        "(a|)*b(a|)*b(a|)*",
        r"(.)(\1*)*x",
        "(a)?(?(1)b|c)",
    ],
)
def test_a_pattern_that_may_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"may take for ever on a text of 320 characters: .* atomic \(\?>") as refused:
        bounded_pattern(pattern, LONGEST)
    assert repr(pattern) in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"(?P<first>[^.@]+)\.(?P<last>[^@]+)@old\.example",
        r"(?P<local>[\w.+-]+)@(?P<domain>[\w.-]+)",
        r"(?P<user>.+?)(?:\+(?P<tag>.*))?@(?P<domain>.*)",
        r"(?:\w+\.)+com",
        "(?>a+)+$",
        "(?:a++)+$",
        "(a+)++$",
        ".*@.*",
        "(?:ab|cd)*",
        "(?:a|ab)*c",
        r"([a-z]+)@(?:foo|bar)\.(?:com|net|co\.uk)",
        r"(?i)[a-z]{2,20}\d{0,4}",
        "(?:(?=a+)a)*b",
        r"(?<!x)(\d{4}-)*\d{4}",
        r"(?P<q>['\"]).*(?P=q)",
        "[^@]*",
        r"^\S+$",
    ],
)
def test_a_pattern_that_ends_is_compiled(pattern: str) -> None:
    assert bounded_pattern(pattern, LONGEST).pattern == pattern


def test_the_length_counts() -> None:
    assert bounded_pattern(".*a.*b.*c", 40).fullmatch("abc")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"'\(' is no regular expression: missing \), unterminated subpattern at position 0"),
        ("ab[c", "unterminated character set at position 2"),
        ("*a", "nothing to repeat at position 0"),
        ("a{2,1}", "min repeat greater than max repeat at position 2"),
        ("(?P<a>x)(?P<a>y)", "redefinition of group name 'a'"),
        ("(?<=a+)b", "look-behind requires fixed-width"),
        ("(" * 3000 + ")" * 3000, "nested too deeply or repeats too often"),
        ("a{99999999999999999999}", "nested too deeply or repeats too often"),
    ],
)
def test_what_is_no_pattern_says_where(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bounded_pattern(pattern, LONGEST)


ATOMS = st.sampled_from(["a", "b", ".", r"\w", "[ab]", "[^a]", "^", "$", r"\b"])
ENDINGS = st.sampled_from(["", "", "*", "+", "?", "{1,3}", "*?", "+?", "++", "{2,}"])
PATTERNS = st.recursive(
    st.tuples(ATOMS, ENDINGS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, ENDINGS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda text: f"(?>{text})"),
        inner.map(lambda text: f"(?={text})"),
    ),
    max_leaves=8,
)
TEXTS = ["a" * LONGEST, "ab" * (LONGEST // 2), "b" * (LONGEST - 1) + "!", "a" * (LONGEST - 1) + "!", "aab" * 106 + "!"]


@settings(max_examples=400, deadline=None)
@given(PATTERNS)
def test_whatever_passes_ends(pattern: str) -> None:
    try:
        compiled = bounded_pattern(pattern, LONGEST)
    except ValueError as error:
        assert "may take for ever" in str(error)
        return
    for text in TEXTS:
        assert compiled.fullmatch(text) is None or compiled.match(text) is not None


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab()[]{}?*+|^$.\\dw<>=!P:,1-", max_size=12))
def test_any_text_is_judged(pattern: str) -> None:
    try:
        bounded_pattern(pattern, LONGEST)
    except ValueError as error:
        assert repr(pattern) in str(error)
    else:
        assert re.compile(pattern)

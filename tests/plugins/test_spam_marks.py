"""spam: what is written for which verdict, and that it grows every message by exactly one number of octets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.spam.actions import REFUSED, Decision, decide
from popproxy_plugins.spam.config import SpamConfig
from popproxy_plugins.spam.marks import Marks
from popproxy_plugins.spam.verdict import SCORE_LIMIT, Scored, Unscanned
from pydantic import ValidationError

from popproxy.api import Code, Header, HeaderFilter

MESSAGE = b"From: a@example.com\r\nSubject: hi\r\n\r\nbody\r\n"
SPAM = Scored(7.2, True, 6.0, ("BAYES_99", "HTML_MESSAGE"))
HAM = Scored(-1.0, False, 6.0)


def marks(**options: Any) -> Marks:
    return Marks(SpamConfig.model_validate(options))


def written(judged: Scored | Unscanned, message: bytes = MESSAGE, **options: Any) -> bytes:
    """The message without its padding."""
    header = Header(message)
    marks(**options).write(header, judged)
    return bytes(header)


def actions(*given: dict[str, Any]) -> Any:
    return SpamConfig.model_validate({"actions": given}).actions


# Fields


def test_the_fields_of_spam_and_ham() -> None:
    assert written(SPAM) == (
        b"X-Spam-Flag: YES\r\nX-Spam-Score: 7.20\r\n"
        b"X-Spam-Status: Yes, score=7.20 required=6.00 tests=BAYES_99, HTML_MESSAGE\r\n" + MESSAGE
    )
    assert written(HAM) == (
        b"X-Spam-Flag: NO\r\nX-Spam-Score: -1.00\r\nX-Spam-Status: No, score=-1.00 required=6.00\r\n" + MESSAGE
    )


def test_the_threshold_shown_is_that_of_the_action() -> None:
    out = written(SPAM, actions=[{"at": 5}, {"at": 9, "tag": "x"}])
    assert b"Yes, score=7.20 required=5.00" in out
    assert b"No, score=7.20 required=8.00" in written(SPAM, actions=[{"at": 8.0}])


@pytest.mark.parametrize("why", Unscanned)
def test_a_message_without_a_verdict_says_why(why: Unscanned) -> None:
    assert written(why) == b"X-Spam-Status: Unknown, not scanned: " + why.value.encode() + b"\r\n" + MESSAGE


def test_fields_of_our_names_that_came_with_the_message_are_taken_away() -> None:
    forged = b"X-Spam-Flag: NO\r\nx-spam-status: No\r\nX-Spam-Score: 0\r\nX-Spam-Score: 1\r\nX-Spam-Level: *\r\n"
    assert written(SPAM, forged + MESSAGE) == written(SPAM, b"X-Spam-Level: *\r\n" + MESSAGE)
    assert written(Unscanned.LATE, forged + MESSAGE).count(b"X-Spam") == 2


def test_names_are_configurable_and_may_be_left_out() -> None:
    fields = {"flag": "X-Junk", "score": "", "status": "X-Junk-Status"}
    out = written(SPAM, b"X-Spam-Flag: NO\r\n" + MESSAGE, fields=fields)
    assert out.startswith(b"X-Junk: YES\r\nX-Junk-Status: Yes, score=7.20")
    assert b"X-Spam-Flag: NO\r\n" in out
    assert b"X-Spam-Score" not in out
    assert written(Unscanned.LATE, fields={"flag": "", "score": "", "status": ""}) == MESSAGE


def test_tests_are_shown_as_far_as_they_fit() -> None:
    many = Scored(1.0, False, None, tuple(f"TEST_{n:03}" for n in range(60)))
    status = Header(written(many, symbols=25)).get_all("X-Spam-Status")[0]
    assert status == "No, score=1.00 tests=TEST_000, TEST_001"
    assert "tests" not in written(many, symbols=0).decode()


# Actions


@pytest.mark.parametrize(
    ("score", "spam", "expected"),
    [
        (4.9, True, Decision(False, 5.0)),
        (5.0, False, Decision(True, 5.0, "[SPAM] ")),
        (9.0, False, Decision(True, 5.0, "[JUNK] ")),
        (12.0, False, Decision(True, 5.0, "[JUNK] ", refusal=REFUSED, code=Code.SYS_TEMP)),
    ],
)
def test_the_last_action_that_is_reached_counts(score: float, spam: bool, expected: Decision) -> None:
    given = actions(
        {"at": 5.0, "tag": "[SPAM] "},
        {"at": 8.0, "tag": "[JUNK] ", "add_headers": False},
        {"at": 11, "refuse": True, "code": "SYS/TEMP"},
    )
    assert decide(given, Scored(score, spam, 6.0)) == expected


def test_the_scanners_own_opinion_as_a_threshold() -> None:
    given = actions({"at": "spam", "tag": "[SPAM] "}, {"at": 15.0, "replace": "gone"})
    assert decide(given, Scored(1.0, True, 0.5)) == Decision(True, 15.0, "[SPAM] ")
    assert decide(given, Scored(14.0, False, 20.0)) == Decision(False, 15.0)
    assert decide(given, Scored(15.0, False)) == Decision(True, 15.0, notice="gone")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": []}, "no action: write at least one"),
        ({"actions": [{"at": 9}, {"at": 5}]}, "by rising score"),
        ({"actions": [{"at": float("nan")}]}, "nan is no score"),
        ({"actions": [{"at": 1e6}]}, "is no score: write a number like 5.0"),
        ({"actions": [{"at": 5, "tag": "a\r\nb"}]}, "holds CR, LF or NUL"),
        ({"actions": [{"at": 5, "tag": "  "}]}, "a tag of white space is not seen"),
        ({"actions": [{"at": 5, "tag": "=?utf-8?q?b?="}]}, "write the tag as it is to be read"),
        ({"actions": [{"at": 5, "tag": "x" * 77}]}, "at most 76 characters"),
        ({"actions": [{"at": 5, "replace": True, "refuse": True}]}, "replaced or refused: leave out one"),
        ({"actions": [{"at": 5, "add_headers": False}]}, "nothing is done here"),
        ({"actions": [{"at": 5, "replace": " "}]}, "an empty notice: write true"),
        ({"actions": [{"at": 5, "replace": "{password}"}]}, "knows the placeholders {from}, {subject}"),
        ({"actions": [{"at": 5, "replace": "{from!r}"}]}, "write {{ for a brace"),
        ({"actions": [{"at": 5, "replace": "a\0"}]}, "without control characters"),
        ({"actions": [{"at": 5, "replace": "x" * 701}]}, "700 in a line"),
        ({"actions": [{"at": 5, "refuse": "[AUTH] no"}]}, "is read as a response code"),
        ({"actions": [{"at": 5, "refuse": "é"}]}, "one line of at most 400 ASCII"),
        ({"actions": [{"at": 5, "refuse": True, "code": "AUTH"}]}, "SYS/PERM"),
        ({"fields": {"flag": "X Y"}}, "is no header name"),
        ({"fields": {"flag": "X-*"}}, "is a glob; write one name"),
        ({"read": []}, "no name: write at least one"),
        ({"read": ["X-Spam-*"]}, "is a glob"),
        ({"trust": 0}, "greater than or equal to 1"),
        ({"servers": ["http://localhost"]}, 'source = "headers" has no use for servers: leave it out'),
        ({"source": "rspamd", "trust": 2}, 'source = "rspamd" has no use for trust'),
        ({"source": "spamd", "password": "x"}, 'source = "spamd" has no use for password'),
        ({"source": "spamd", "servers": ["http://localhost:783"]}, "is no address of spamd: write host:port"),
        ({"source": "spamd", "servers": ["localhost"]}, "is no address of spamd"),
        ({"source": "spamd", "servers": ["localhost:99999"]}, "is no address of spamd"),
        ({"source": "spamd", "send": ["from"]}, 'write send = ["user"]'),
        ({"source": "rspamd", "servers": []}, "leaves nobody to ask"),
        ({"source": "rspamd", "servers": ["localhost:11333"]}, "is no address of rspamd: write http://host:port"),
        ({"source": "rspamd", "servers": ["http://u:p@localhost"]}, "is no address of rspamd"),
        ({"source": "rspamd", "servers": ["http://localhost/checkv2"]}, "is no address of rspamd"),
        ({"source": "rspamd", "servers": ["http://[::1"]}, "is no address of rspamd"),
        ({"source": "clamd"}, "'headers', 'rspamd' or 'spamd'"),
        ({"flag_score": float("inf")}, "is no score"),
        ({"max_size": 5, "source": "rspamd"}, "greater than or equal to 1024"),
    ],
)
def test_every_error_of_the_config_says_what_to_write(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SpamConfig.model_validate(options)
    assert message in str(caught.value)


def test_good_configs() -> None:
    for options in (
        {},
        {"source": "rspamd", "servers": ["https://scan.example.com", "unix:/run/rspamd.sock", "http://[::1]:11333/"]},
        {"source": "spamd", "servers": ["localhost:783", "[::1]:783", "unix:/run/spamd.sock"], "send": ["user"]},
    ):
        SpamConfig.model_validate(options)
    assert SpamConfig(source="rspamd").told == ("from", "rcpt", "deliver_to")
    assert SpamConfig(source="rspamd", send=()).told == ()
    assert SpamConfig(source="spamd").told == ()
    assert SpamConfig(source="spamd").asked == ("127.0.0.1:783",)


# Growth


SYMBOLS = st.lists(st.from_regex(r"[A-Za-z0-9_]{1,64}", fullmatch=True), max_size=40).map(tuple)
JUDGED = st.one_of(
    st.sampled_from(list(Unscanned)),
    st.builds(
        Scored,
        st.floats(-SCORE_LIMIT, SCORE_LIMIT),
        st.booleans(),
        st.none() | st.floats(-SCORE_LIMIT, SCORE_LIMIT),
        SYMBOLS,
    ),
)
HEADERS = st.lists(
    st.sampled_from(
        [b"Subject: hi\r\n", b"Subject:\r\n", b"subject:" + b"x" * 80, b"X-Spam-Flag: NO\r\n", b"X-Spam-Status: No\n",
         b" folded\r\n", b"garbage\r\n", b"From joe\r\n", b"\r\n", b"\n", b"\xff\0", b"Subject: =?utf-8?q?=C3=BC?=\r\n",
         b"body\r\n", b".\r\n"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip
CONFIGS = st.fixed_dictionaries(
    {
        "symbols": st.integers(0, 800),
        "fields": st.fixed_dictionaries(
            {name: st.sampled_from(["", "X", f"X-{name}", "X-" + "y" * 70]) for name in ("flag", "score", "status")}
        ),
        "actions": st.lists(
            st.fixed_dictionaries(
                {
                    "at": st.sampled_from([-99_999.0, "spam"]),
                    "tag": st.sampled_from(["", "[SPAM] ", "Müll", "Ж" * 76, "x" * 76, "a ü b"]),
                }
            ),
            min_size=1,
            max_size=3,
        ),
    }
)


@settings(max_examples=400, deadline=None)
@given(HEADERS, JUDGED, CONFIGS, st.lists(st.integers(0, 9), max_size=12), st.integers(0, 60))
def test_every_message_grows_by_the_same_number(
    message: bytes, judged: Scored | Unscanned, options: dict[str, Any], sizes: list[int], early: int
) -> None:
    made = marks(**options)
    body_filter = HeaderFilter(lambda header: made.write(header, judged), growth=made.growth)
    out = b"".join(body_filter.early() for _ in range(early))
    rest = message
    for size in sizes:
        out += body_filter.feed(rest[:size])
        rest = rest[size:]
    out += body_filter.feed(rest) + body_filter.finish()
    assert len(out) == len(message) + made.growth


def test_the_growth_of_the_defaults_is_small() -> None:
    assert marks().growth < 600
    assert marks(symbols=0, fields={"score": "", "status": ""}).growth < 100

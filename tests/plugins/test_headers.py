"""The headers plugin: each rule, in order, streaming, and every error of its config."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.headers import Headers, HeadersConfig
from pydantic import ValidationError

from popproxy.api import Fail, SessionView, parse
from popproxy.api.fakes import FakeClock, FakeServices, World
from popproxy.api.plugin import HOOKS, overrides
from tests.core.rig import Rig

MESSAGE = b"Subject: hello\r\nX-Spam-Flag: YES\r\nX-Spam-Level: 5\r\nTo: joe\r\n\r\nSubject: body\r\n"
PADDING = re.compile(rb"^X-Popproxy-Padding: -+\r\n(?: -+\r\n)*", re.MULTILINE)
RETR, TOP = parse(b"RETR 1"), parse(b"TOP 1 0")


def session(**more: Any) -> SessionView:
    view = SessionView("s1", "pop3s", client="192.0.2.7", user="joe@example.com", upstream="main")
    for name, value in more.items():
        setattr(view, name, value)
    return view


def run(rules: list[dict[str, str]], message: bytes = MESSAGE, view: SessionView | None = None) -> bytes:
    plugin = Headers(HeadersConfig.model_validate({"rules": rules}))
    view = view or session()
    growth = plugin.growth(view)
    body_filter = plugin.open_body(view, RETR)
    out = body_filter.feed(message) + body_filter.finish()
    assert len(out) == len(message) + growth, "promise 9"
    padding = PADDING.search(out)
    assert padding is not None
    return out[: padding.start()] + out[padding.end() :]


def problem(rule: dict[str, object]) -> str:
    with pytest.raises(ValidationError) as caught:
        HeadersConfig.model_validate({"rules": [rule]})
    (error,) = caught.value.errors()
    assert error["loc"][:2] == ("rules", 0)
    return str(error["msg"])


# Rules


def test_add_puts_a_field_on_top_each_time() -> None:
    assert run([{"add": "X-A", "value": "1"}, {"add": "X-A", "value": "2"}]) == b"X-A: 2\r\nX-A: 1\r\n" + MESSAGE


def test_remove_by_glob() -> None:
    assert run([{"remove": "x-spam-*"}]) == b"Subject: hello\r\nTo: joe\r\n\r\nSubject: body\r\n"


def test_set_replaces_or_adds() -> None:
    assert run([{"set": "To", "value": "all"}]) == MESSAGE.replace(b"joe", b"all")
    assert run([{"set": "X-New", "value": "1"}]) == b"X-New: 1\r\n" + MESSAGE


def test_rewrite_with_groups() -> None:
    rules = [{"rewrite": "subject", "match": "(.*)", "with": r"[EXT] \1"}]
    assert run(rules) == MESSAGE.replace(b"Subject: hello", b"Subject: [EXT] hello")


def test_rewrite_replaces_the_first_match_only_and_in_every_field() -> None:
    message = b"X: aa\r\nX: ba\r\nX: c\r\n d\r\n\r\n"
    assert run([{"rewrite": "X", "match": "a", "with": "-"}], message) == b"X: -a\r\nX: b-\r\nX: c\r\n d\r\n\r\n"


def test_rewrite_works_on_the_unfolded_value_as_sent() -> None:
    message = b"Subject: =?utf-8?q?gr=C3=BC?=\r\n\tword\r\n\r\n"
    changed = run([{"rewrite": "Subject", "match": r"C3=BC\?=\tword$", "with": "x"}], message)
    assert changed == b"Subject: =?utf-8?q?gr=x\r\n\r\n"


def test_a_field_that_does_not_match_keeps_its_octets() -> None:
    message = b"Subject: a\r\n  \tb\xff\r\n\r\n"
    assert run([{"rewrite": "Subject", "match": "zzz", "with": "x"}], message) == message


def test_nul_and_cr_in_a_value_do_not_get_it_past_a_rule() -> None:
    message = b"Subject: he\0l\rlo\r\n\r\n"
    assert run([{"rewrite": "Subject", "match": "^", "with": "[EXT] "}], message) == b"Subject: [EXT] he l lo\r\n\r\n"


def test_a_template_cannot_break_the_line() -> None:
    rule = {"rewrite": "Subject", "match": "a", "with": r"x\r\nEvil: 1"}
    assert run([rule], b"Subject: a\r\n\r\n") == b"Subject: x  Evil: 1\r\n\r\n"


def test_only_the_first_998_characters_are_matched_and_none_is_lost() -> None:
    message = b"Subject: " + b"a " * 1000 + b"end\r\n\r\n"
    assert run([{"rewrite": "Subject", "match": "end", "with": "x"}], message) == message
    changed = run([{"rewrite": "Subject", "match": "^", "with": "[EXT] "}], message)
    assert changed.replace(b"\r\n", b"").split() == b"Subject: [EXT]".split() + [b"a"] * 1000 + [b"end"]


def test_rules_run_in_order_on_what_is_left() -> None:
    rules = [
        {"remove": "X-Spam-*"},
        {"add": "X-Spam-Flag", "value": "NO"},
        {"rewrite": "X-Spam-Flag", "match": "NO", "with": "NEVER"},
    ]
    assert run(rules).startswith(b"X-Spam-Flag: NEVER\r\nSubject: hello\r\nTo: joe\r\n\r\n")


def test_conditions() -> None:
    assert run([{"add": "X", "value": "1", "if_header": "X-Spam-*"}]) == b"X: 1\r\n" + MESSAGE
    assert run([{"add": "X", "value": "1", "if_header": "X-Ham"}]) == MESSAGE
    assert run([{"add": "X", "value": "1", "unless_header": "x-ham"}]) == b"X: 1\r\n" + MESSAGE
    assert run([{"add": "X", "value": "1", "unless_header": "To"}]) == MESSAGE
    both = {"if_header": "To", "unless_header": "Cc"}
    assert run([{"remove": "Subject", **both}]) == MESSAGE.replace(b"Subject: hello\r\n", b"")
    assert run([{"remove": "To"}, {"add": "X", "value": "1", **both}]) == MESSAGE.replace(b"To: joe\r\n", b"")


def test_placeholders() -> None:
    text = "{user} {listener} {client} {session} {upstream} {{literal}}"
    expected = b"X: joe@example.com pop3s 192.0.2.7 s1 main {literal}\r\n"
    assert run([{"add": "X", "value": text}]) == expected + MESSAGE


def test_placeholders_that_are_not_known_yet_are_empty() -> None:
    assert run([{"add": "X", "value": "<{user}>"}], view=SessionView("s", "l")) == b"X: <>\r\n" + MESSAGE


def test_a_user_name_cannot_inject() -> None:
    changed = run([{"set": "X", "value": "{user}"}], view=session(user="joe\r\nEvil: 1\0"))
    assert changed == b"X: joe  Evil: 1\r\n" + MESSAGE
    assert run([{"set": "X", "value": "{user}"}], view=session(user="{listener}")) == b"X: {listener}\r\n" + MESSAGE


def test_non_ascii_values_travel_encoded() -> None:
    assert run([{"add": "X", "value": "geprüft"}]) == b"X: =?utf-8?q?gepr=C3=BCft?=\r\n" + MESSAGE


# The plugin


def test_top_and_retr_alike() -> None:
    plugin = Headers(HeadersConfig.model_validate({"rules": [{"add": "X", "value": "1"}]}))
    for command in (RETR, TOP):
        body_filter = plugin.open_body(session(), command)
        assert PADDING.sub(b"", body_filter.feed(MESSAGE)) == b"X: 1\r\n" + MESSAGE


def test_it_streams() -> None:
    plugin = Headers(HeadersConfig.model_validate({"rules": [{"add": "X", "value": "1"}]}))
    body_filter = plugin.open_body(session(), RETR)
    assert body_filter.feed(b"A: b\r\n\r") == b""
    assert body_filter.feed(b"\n").endswith(b"-\r\nX: 1\r\nA: b\r\n\r\n")
    chunk = b"body" * 1000
    assert body_filter.feed(chunk) is chunk
    assert body_filter.finish() == b""


def test_a_header_too_large_is_a_failure_for_the_fail_mode_to_judge() -> None:
    plugin = Headers(HeadersConfig.model_validate({"rules": [{"remove": "X"}]}))
    with pytest.raises(ValueError, match="above 256 KiB"):
        plugin.open_body(session(), RETR).feed(b"x" * (1 << 18))


def test_it_fails_open_and_what_it_subscribes_to() -> None:
    assert Headers.fail is Fail.OPEN
    assert [hook for hook in HOOKS if overrides(Headers, hook)] == ["growth", "open_body"]
    assert Headers.config_model is HeadersConfig


def test_it_is_registered_as_a_strangers_would_be() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    entries = tomllib.loads(project.read_text())["project"]["entry-points"]["popproxy.plugins"]
    assert EntryPoint("headers", entries["headers"], "popproxy.plugins").load() is Headers


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"Subject: hello\r\n", b"X-Spam: 1\r\n", b" f\r\n", b"\r\n", b"x\r\n", b"\0", b"\xff", b"\r"]),
        max_size=10,
    ).map(b"".join),
    st.lists(st.integers(0, 6), max_size=20),
)
def test_no_message_breaks_it_and_the_chunks_do_not_matter(message: bytes, sizes: list[int]) -> None:
    rules = [
        {"remove": "X-*"},
        {"rewrite": "Subject", "match": "(.*)", "with": r"[EXT] \1"},
        {"set": "X-User", "value": "{user}"},
    ]
    plugin = Headers(HeadersConfig.model_validate({"rules": rules}))
    body_filter = plugin.open_body(session(), RETR)
    out = b""
    rest = message
    for size in sizes:
        out += body_filter.feed(rest[:size])
        rest = rest[size:]
    out += body_filter.feed(rest) + body_filter.finish()
    assert len(out) == len(message) + plugin.growth(session())
    assert PADDING.sub(b"", out) == run(rules, message)
    assert b"X-User: joe@example.com\r\n" in out


# True sizes


def growth(rules: list[dict[str, str]], view: SessionView | None = None, **options: int) -> int:
    return Headers(HeadersConfig.model_validate({"rules": rules, **options})).growth(view or session())


def test_promise_9_what_a_message_grows_by() -> None:
    assert growth([{"remove": "X-Spam-*"}]) == 48
    assert growth([{"add": "X-A", "value": "12"}, {"set": "X-B", "value": "3"}]) == 48 + 9 + 8
    rewrite = {"rewrite": "Subject", "match": "^", "with": "[EXT] "}
    assert growth([rewrite]) == 48 + 256 + 6
    assert growth([rewrite, {**rewrite, "with": "ü"}]) == 48 + 256 + 6 + 256 + 2
    assert growth([rewrite, rewrite], room=100) == 148
    assert growth([rewrite], room=0) == 48
    assert growth([{"remove": "X"}], room=100) == 48, "it is room for rewrites"


def test_promise_9_placeholders_count_as_they_are() -> None:
    rule = {"add": "X", "value": "{user}"}
    assert growth([rule]) == 48 + len("X: joe@example.com\r\n")
    long = session(user="j" * 500 + "ü" * 100)
    assert growth([rule], long) > 600
    assert len(run([rule], view=long)) > len(MESSAGE) + 600, "it fits, however long the name is"
    other = session(user="ann")
    plugin = Headers(HeadersConfig.model_validate({"rules": [rule]}))
    assert plugin.growth(other) < plugin.growth(long)
    assert PADDING.sub(b"", plugin.open_body(other, RETR).feed(MESSAGE)) == b"X: ann\r\n" + MESSAGE


def started(rules: list[dict[str, str]], room: int, fail: Fail = Fail.OPEN) -> tuple[Headers, FakeServices]:
    plugin = Headers(HeadersConfig.model_validate({"rules": rules, "room": room}))
    services = FakeServices(FakeClock(), World(), fail)
    plugin.start(services)
    return plugin, services


def test_promise_9_a_field_without_room_is_left_alone_and_counted() -> None:
    rule = {"rewrite": "Subject", "match": "$", "with": "y" * 20}
    plugin, services = started([rule], 20)
    assert plugin.open_body(session(), RETR).feed(MESSAGE).endswith(b"hello" + b"y" * 20 + MESSAGE[14:])
    assert services.metrics.counters["unfit", ""].value == 0
    plugin, services = started([rule, {"set": "X-Mark", "value": "1"}], 19)
    made = plugin.open_body(session(), RETR).feed(MESSAGE)
    assert PADDING.sub(b"", made) == b"X-Mark: 1\r\n" + MESSAGE, "the other rules hold"
    assert len(made) == len(MESSAGE) + plugin.growth(session())
    assert services.metrics.counters["unfit", ""].value == 1


def test_promise_9_many_fields_cannot_keep_the_rules_away() -> None:
    """Sixty Subjects: as many are tagged as there is room for, from the top, and a later rule gets what is left."""
    message = b"Subject: x\r\n" * 60 + b"X-Late: b\r\n\r\nbody\r\n"
    tag = {"rewrite": "Subject", "match": "^", "with": "[EXT] "}
    plugin, services = started([tag, {"rewrite": "X-Late", "match": "b", "with": "bcde"}], 6 * 10 + 4)
    made = plugin.open_body(session(), RETR).feed(message)
    assert made.count(b"Subject: [EXT] x\r\n") == 10 and made.count(b"Subject: x\r\n") == 50
    assert b"X-Late: bcde\r\n" in made
    assert len(made) == len(message) + plugin.growth(session())
    assert services.metrics.counters["unfit", ""].value == 50


def test_promise_9_what_a_rewrite_takes_off_is_room_for_others() -> None:
    rules = [
        {"rewrite": "Subject", "match": "hello", "with": ""},
        {"rewrite": "Subject", "match": "^", "with": "z" * 5},
    ]
    plugin, services = started(rules, 0)
    message = b"Subject: hello you\r\n\r\n"
    made = plugin.open_body(session(), RETR).feed(message)
    assert b"zzzzz" in made and len(made) == len(message) + plugin.growth(session())
    assert services.metrics.counters["unfit", ""].value == 0


def test_promise_9_a_field_without_room_is_a_failure_of_a_closed_plugin() -> None:
    plugin, _ = started([{"rewrite": "Subject", "match": "$", "with": "y" * 20}], 19, Fail.CLOSED)
    with pytest.raises(ValueError, match="1 fields have no room"):
        plugin.open_body(session(), RETR).feed(MESSAGE)


def test_promise_9_a_subject_of_eight_bits_has_room() -> None:
    message = b"Subject: " + "ж".encode() * 150 + b"\r\n\r\n"
    assert b"=?utf-8?" in run([{"rewrite": "Subject", "match": "^", "with": "[EXT] "}], message)


@pytest.mark.parametrize("command", [b"RETR 1", b"TOP 1 9"])
@pytest.mark.parametrize("room", [None, 0])
def test_promise_9_in_a_session(command: bytes, room: int | None) -> None:
    rules = [{"remove": "x-spam-*"}, {"rewrite": "Subject", "match": "^", "with": "[EXT] " + "!" * 40}]
    plugin = Headers(HeadersConfig.model_validate({"rules": rules, "room": room}))
    grown = plugin.growth(SessionView("1", "pop3", user="joe"))
    size, told = len(MESSAGE), len(MESSAGE) + grown
    rig = Rig(plugin).login().client(b"STAT\r\nLIST\r\nLIST 1\r\n" + command + b"\r\n")
    rig.upstream(b"+OK 2 1000\r\n+OK 2 messages (1000 octets)\r\n1 %d\r\n2 900\r\n.\r\n+OK 1 %d\r\n" % (size, size))
    stat, listing, one = 1000 + 2 * grown, (told, 900 + grown), told
    assert rig.said() == b"+OK 2 %d\r\n+OK\r\n1 %d\r\n2 %d\r\n.\r\n+OK 1 %d\r\n" % (stat, *listing, one)
    reply = rig.upstream(b"+OK %d octets\r\n" % size + MESSAGE + b".\r\n").said()
    status, _, body = reply.partition(b"\r\n")
    assert len(body) == told + 3
    assert status == b"+OK %d octets" % (told if command.startswith(b"RETR") else size)
    assert (b"[EXT]" in body) is (room is None)
    assert not rig.meter.errors
    assert rig.asked() == b"STAT\r\nLIST\r\nLIST 1\r\n" + command + b"\r\n", "it costs no round trip"


# Its config


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "a rule is exactly one of add, remove, rewrite, set; found none of them"),
        ({"value": "1"}, "found none"),
        ({"add": "X", "remove": "Y", "value": "1"}, "found add and remove: write one rule for each"),
        ({"add": "X"}, 'add needs value: write value = "..."'),
        ({"set": "X"}, "set needs value"),
        ({"rewrite": "X", "match": "a"}, "rewrite needs with"),
        ({"rewrite": "X", "with": "a"}, "rewrite needs match"),
        ({"remove": "X", "value": "1"}, "remove takes no value: leave it out"),
        ({"add": "X", "value": "1", "match": "a"}, "add takes no match"),
        ({"rewrite": "X", "match": "a", "with": "b", "value": "c"}, "rewrite takes no value"),
        ({"add": "X Y", "value": "1"}, "'X Y' is no header name: write 1 to 76 printable ASCII"),
        ({"remove": ""}, "'' is no header name"),
        ({"remove": "X", "if_header": "Ü"}, "'Ü' is no header name"),
        ({"add": "X-*", "value": "1"}, "'X-*' is a glob; add needs one name, like X-Name"),
        ({"rewrite": "X-?", "match": "a", "with": "b"}, "'X-?' is a glob; rewrite needs one name"),
        ({"rewrite": "X", "match": "(", "with": "b"}, "'(' is no regular expression: missing ), unterminated"),
        ({"rewrite": "X", "match": "(a+)+$", "with": "b"}, "'(a+)+$' may take for ever on a text of 96 characters"),
        ({"rewrite": "X", "match": "a", "with": r"\1"}, r"with = '\\1' does not fit match = 'a': invalid group"),
        ({"rewrite": "X", "match": "a", "with": r"\g<x>"}, "unknown group name 'x'"),
        ({"rewrite": "X", "match": "a", "with": r"\q"}, r"bad escape \q"),
        ({"add": "X", "value": "{password}"}, "{password} is no placeholder; write one of {user}, {listener},"),
        ({"add": "X", "value": "{}"}, "{} is no placeholder"),
        ({"add": "X", "value": "{user.__class__}"}, "{user.__class__} is no placeholder"),
        ({"add": "X", "value": "{user!r}"}, "{user} is no placeholder"),
        ({"add": "X", "value": "{user:>9}"}, "{user} is no placeholder"),
        ({"add": "X", "value": "{user"}, "'{user': expected '}' before end of string; write {{ or }} for a brace"),
        ({"add": "X", "value": "a } b"}, "write {{ or }} for a brace"),
        ({"add": "X", "value": "a\r\nb"}, "holds CR, LF or NUL: write one line of text"),
        ({"add": 5, "value": "1"}, "Input should be a valid string"),
        ({"delete": "X"}, "Extra inputs are not permitted"),
        ({"add": "X", "value": "1", "template": "y"}, "Extra inputs are not permitted"),
    ],
)
def test_every_error_of_the_config_says_what_to_write(rule: dict[str, object], message: str) -> None:
    assert message in problem(rule)


def test_none_is_not_given() -> None:
    names = ("set", "remove", "rewrite", "match", "with", "if_header", "unless_header")
    config = HeadersConfig.model_validate({"rules": [{"add": "X", "value": "1", **dict.fromkeys(names)}]})
    assert config.rules[0].add == "X"
    assert "remove takes no value" not in problem({"remove": None, "value": None})


@pytest.mark.parametrize("options", [{}, {"rules": []}, {"rules": [{"remove": "X"}], "rule": []}])
def test_rules_are_needed(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HeadersConfig.model_validate(options)


def test_the_example_of_its_manual_page_works() -> None:
    from popproxy_plugins import headers

    example = (headers.__doc__ or "").split("```toml\n")[1].split("```")[0]
    (table,) = tomllib.loads(example)["plugin"]
    assert table.pop("use") == "headers"
    message = b"Subject: hi\r\nX-External: 1\r\nX-Spam-Flag: YES\r\n\r\n"
    changed = run(table["rules"], message)
    assert changed == (
        b"X-Fetched-By: joe@example.com through pop3s\r\nSubject: [EXT] hi\r\nX-External: 1\r\n\r\n"
    )
    assert run(table["rules"], changed) == changed

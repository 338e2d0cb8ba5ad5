"""routing: which rule decides, what a map says, and what is wrong with either."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.routing import LONGEST, Routing, RoutingConfig, parse
from pydantic import ValidationError

from popproxy.api import ConfigNames, Credentials, Explained, Fail, LineError, Plugin, PluginConfig, Route, SessionView
from popproxy.api.testing import play
from tests.net.running import LISTENER, Setup, eventually, running
from tests.net.upstream import Upstream, answering

NAMES = ConfigNames(("main", "archive", "old"))


def routing(*rules: dict[str, Any], default: str | None = None) -> Routing:
    return Routing(RoutingConfig(rules=rules, default=default))  # type: ignore[arg-type]


def route(plugin: Routing, user: str, routed: str | None = None) -> Route | None:
    return plugin._decide(routed, user)[1]


def upstream(plugin: Routing, user: str, routed: str | None = None) -> str | None:
    found = route(plugin, user, routed)
    return None if found is None else found.upstream


@pytest.mark.parametrize(
    ("user", "leads"),
    [
        ("joe@archive.example", "archive"),
        ("JOE@Archive.Example", "archive"),
        ("old-ann", "old"),
        ("Old-Ann@new.example", "old"),
        ("joe@sub.archive.example", None),
        ("joe@b.example", "old"),
        ("joe@B.EXAMPLE", "old"),
        ("joe@x@b.example", "old"),
        ("b.example", None),
        ("s123", "archive"),
        ("s123x", None),
        ("", None),
    ],
)
def test_the_first_rule_that_applies_decides(user: str, leads: str | None) -> None:
    plugin = routing(
        {"user": ["*@archive.example"], "upstream": "archive"},
        {"user": ["nobody", "old-*"], "upstream": "old"},
        {"domain": ["a.example", "b.example"], "upstream": "old"},
        {"match": r"s\d+", "upstream": "archive"},
    )
    assert upstream(plugin, user) == leads


def test_all_conditions_must_hold() -> None:
    plugin = routing({"user": ["j*"], "domain": ["a.example"], "match": r".*\d@.*", "upstream": "old"})
    assert upstream(plugin, "joe1@a.example") == "old"
    for user in ("ann1@a.example", "joe1@b.example", "joe@a.example"):
        assert upstream(plugin, user) is None


def test_what_a_plugin_in_front_said() -> None:
    plugin = routing(
        {"routed": ["legacy"], "domain": ["moved.example"], "upstream": "main"},
        {"routed": ["*"], "keep": True},
        {"domain": ["moved.example"], "upstream": "old"},
        default="archive",
    )
    assert upstream(plugin, "a@moved.example", "legacy") == "main"
    assert upstream(plugin, "a@moved.example", "other") is None
    assert upstream(plugin, "a@moved.example") == "old"
    assert upstream(plugin, "a@b.example") == "archive"
    assert upstream(plugin, "a@b.example", "legacy") is None


def test_the_default_does_not_undo_what_others_decided() -> None:
    plugin = routing({"user": ["x"], "upstream": "old"}, default="main")
    assert upstream(plugin, "joe") == "main"
    assert upstream(plugin, "joe", "archive") is None
    assert upstream(plugin, "x", "archive") == "old"


def test_a_key_is_made_of_the_name_and_the_groups() -> None:
    plugin = routing(
        {"match": r"(?P<shelf>\w)[^@]*@(?P<o>x)?big\.example", "upstream": "main", "key": "{shelf}{o}/{{{domain}}}"},
        {"user": ["*@*"], "keep": True, "key": "{local}|{domain}|{user}"},
        {"user": ["z*"], "upstream": "old", "key": "fixed"},
    )
    assert route(plugin, "Joe@big.example") == Route("main", key="j/{big.example}")
    assert route(plugin, "Joe@xbig.example") == Route("main", key="jx/{xbig.example}")
    assert route(plugin, "a@B") == Route(None, key="a|b|a@b")
    assert route(plugin, "zoe") == Route("old", key="fixed")


# Maps

MAP = """\ufeff# who is where
joe@example.com   archive
Sue@Example.com   main   Shelf7
@old.example      old

*                 main
"""


def test_a_map(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text(MAP, "utf-8")
    plugin = routing({"map": file})
    assert route(plugin, "JOE@example.com") == Route("archive")
    assert route(plugin, "sue@example.com") == Route("main", key="shelf7")
    assert route(plugin, "ann@OLD.example") == Route("old")
    assert route(plugin, "ann") == Route("main")


def test_a_name_that_is_not_in_the_map_goes_on_to_the_next_rule(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("joe archive\n")
    plugin = routing({"map": file, "domain": ["a.example"]}, {"map": file}, {"user": ["*"], "upstream": "old"})
    assert (upstream(plugin, "joe"), upstream(plugin, "ann")) == ("archive", "old")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        (b"joe\n", 1, "has 1 word: write a name, its upstream and perhaps a key"),
        (b"# x\n\na b c d\n", 3, "has 4 words"),
        (b"joe main\nJOE old\n", 2, "'JOE' is in line 1 already: leave one out"),
        (b"joe main\nann \xff\n", 2, "is not UTF-8"),
        (b"joe mian\n", 1, "there is no upstream 'mian': write one of: main, archive, old"),
    ],
)
def test_a_line_that_is_wrong(text: bytes, line: int, told: str) -> None:
    with pytest.raises(LineError) as caught:
        parse(text, NAMES.upstreams)
    assert caught.value.line == line and told in str(caught.value)


def test_a_map_in_a_session(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("joe archive\n")
    plugin = routing({"map": file})
    assert list(plugin.check(NAMES)) == []
    login = "S~ .*\nC: USER joe\nS: +OK\nC: PASS x\n@ connect\nU< -ERR\nS~ -ERR .*\n"
    played = play(plugin, login, upstreams=NAMES.upstreams, run=asyncio.run)
    assert [found.upstream for found in played.routes] == ["archive"]
    assert played.counters["logins", "1"] == 1


def test_a_map_is_read_again_when_it_changes_and_kept_when_it_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("alice main\n")
    plugin = routing({"map": file})
    with Upstream(answering()) as main, Upstream(answering()) as other:
        setup = Setup([main.url], plugins=[plugin], tail=f'[upstream.other]\nservers = ["{other.url}"]\n')
        # One upstream is called main, so the config is complete but for its default.
        setup.listeners = 'default_upstream = "main"\n' + LISTENER.format(tls="off")
        assert list(plugin.check(ConfigNames(("main", "other")))) == []
        with running(setup, tmp_path) as proxy:
            proxy.logged_in().close()
            assert proxy.session()["upstream"] == "main"
            file.write_text("alice nowhere\n")
            broken = proxy.wait("routing.file_broken")
            assert "there is no upstream 'nowhere'" in str(broken)
            proxy.logged_in().close()
            assert proxy.session(2)["upstream"] == "main"
            file.write_text("# moved\nalice other\n")

            def moved() -> bool:
                proxy.logged_in().close()
                return bool(other.peers)

            eventually(moved, "new version of the map")
            eventually(lambda: proxy.total("sessions_active") == 0, "end of all sessions")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_is_in_the_file_it_is_a_map_or_a_line_that_is_wrong(octets: bytes) -> None:
    try:
        routes = parse(octets, None)
    except LineError as error:
        assert 1 <= error.line <= octets.count(b"\n") + 1
    else:
        assert routes.find("nobody") is None or b"*" in octets or b"nobody" in octets.lower()


# What is wrong in the config


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"user": ["a"]}, "exactly one of upstream, map, keep; found none of them"),
        ({"upstream": "a", "keep": True}, "found upstream and keep: write one rule for each"),
        ({"match": "a(", "upstream": "a"}, "no regular expression: missing ), unterminated subpattern at position 1"),
        ({"match": "(a+)+b", "upstream": "a"}, "may take for ever"),
        ({"match": "(?P<user>a)", "upstream": "a"}, "the groups user are placeholders already"),
        ({"upstream": "a", "key": "{shelf}"}, "'{shelf}' is none of {user}, {local}, {domain}"),
        ({"upstream": "a", "key": "a}"}, "'}' is none of"),
        ({"match": "(?P<x>a)", "upstream": "a", "key": "{x}{y}"}, "'{y}' is none of {user}, {local}, {domain}, {x}"),
        ({"map": "/nowhere/routes"}, "cannot read /nowhere/routes"),
        ({"upstream": "a", "host": "b"}, "Extra inputs"),
    ],
)
def test_a_rule_that_cannot_be(rule: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        routing(rule)
    assert told in str(caught.value)


def test_a_plugin_that_decides_nothing() -> None:
    with pytest.raises(ValidationError, match="nothing to do"):
        RoutingConfig()


def test_names_and_maps_are_checked_with_the_config(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("joe main\nann nowhere\n")
    plugin = routing({"upstream": "man"}, {"map": file}, {"upstream": "old"}, default="olt")
    assert [(problem.key, problem.message) for problem in plugin.check(NAMES)] == [
        (("default",), "there is no upstream 'olt'"),
        (("rules", 0, "upstream"), "there is no upstream 'man'"),
        (("rules", 1, "map"), f"{file}:2: there is no upstream 'nowhere': write one of: main, archive, old"),
    ]
    file.unlink()
    assert "cannot read" in list(plugin.check(NAMES))[2].message


# Names


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400), st.none() | st.sampled_from(NAMES.upstreams))
def test_whatever_the_name_it_is_routed_or_left(user: str, routed: str | None) -> None:
    plugin = routing(
        {"user": ["*a*b*c*", "[a-z]?"], "upstream": "archive"},
        {"match": r"(?P<x>[^@]*)@.*\.example", "upstream": "old", "key": "{x}{domain}"},
        default="main",
    )
    found = route(plugin, user, routed)
    assert found is None or found.upstream in NAMES.upstreams


def test_a_name_that_is_too_long_matches_no_regular_expression() -> None:
    plugin = routing({"match": "a*", "upstream": "old"})
    assert upstream(plugin, "a" * LONGEST) == "old"
    assert upstream(plugin, "a" * (LONGEST + 1)) is None


def test_globs_of_hostile_names_are_quick() -> None:
    """fnmatch makes atomic groups of stars: no backtracking."""
    plugin = routing({"user": ["*a*a*a*a*a*a*a*a*b"], "upstream": "old"})
    assert upstream(plugin, "a" * 60_000) is None


# In a session


class Front(Plugin[PluginConfig]):
    """What auth_http would say."""

    def on_login(self, session: SessionView, credentials: Credentials) -> Route:
        return Route("archive")


LOGIN = """
S~ .*
C: USER {0}
S: +OK
C: PASS x
@ connect
U< +OK
U> CAPA
U< -ERR
U> USER {0}
U< +OK
U> PASS x
U< +OK in
S: +OK in
"""


def test_a_session_is_routed() -> None:
    plugin = routing({"domain": ["old.example"], "upstream": "old", "key": "k"})
    played = play(plugin, LOGIN.format("joe@old.example"), upstreams=NAMES.upstreams, run=asyncio.run)
    assert played.routes == [Route("old", key="k")]
    assert played.session.upstream == "old"
    played = play(plugin, LOGIN.format("joe@new.example"), upstreams=NAMES.upstreams, run=asyncio.run)
    assert played.routes == [Route("main", key="joe@new.example")]
    assert played.counters["logins", "none"] == 1


def test_it_reads_what_a_plugin_in_front_decided() -> None:
    plugin = routing({"routed": ["arch*"], "upstream": "old"}, default="main")
    played = play([Front(PluginConfig()), plugin], LOGIN.format("joe"), upstreams=NAMES.upstreams, run=asyncio.run)
    assert [found.upstream for found in played.routes] == ["old"]


def test_a_failure_sends_nobody_anywhere() -> None:
    assert Routing.fail is Fail.CLOSED


def test_it_explains_itself(tmp_path: Path) -> None:
    file = tmp_path / "routes"
    file.write_text("ann old shelf\n")
    plugin = routing({"domain": ["a.example"], "upstream": "archive"}, {"map": file}, default="main")
    view = SessionView("1", "pop3")
    assert plugin.explain(view, "joe@a.example") == Explained(("rule 1: domain: upstream archive",), upstream="archive")
    told = Explained((f"rule 2: every login: as {file} says, by the key shelf",), upstream="old", key="shelf")
    assert plugin.explain(view, "ann") == told
    assert plugin.explain(view, "bob") == Explained(("no rule applies; the default",), upstream="main")
    routed = SessionView("1", "pop3", upstream="old")
    assert plugin.explain(routed, "bob") == Explained(("no rule applies; stays where it was routed",))
    assert routing({"user": ["x"], "upstream": "old"}).explain(view, "bob") == Explained(
        ("no rule applies; stays where it is",)
    )

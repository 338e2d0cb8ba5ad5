"""auth_rewrite: each rule, every kind of credentials, the same name at every hook, and every error of its config."""

from __future__ import annotations

import base64
import hashlib
import hmac
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.auth_rewrite import AuthRewrite, AuthRewriteConfig
from popproxy_plugins.auth_rewrite.aliases import parse
from popproxy_plugins.auth_rewrite.config import LONGEST
from pydantic import ValidationError

from popproxy.api import (
    Bearer,
    Code,
    ConfigNames,
    Credentials,
    Digest,
    Explained,
    External,
    Fail,
    LineError,
    Password,
    Plugin,
    PluginConfig,
    Refuse,
    Rename,
    Route,
    SessionView,
    Verified,
    Verifier,
)
from popproxy.api.plugin import HOOKS, overrides
from popproxy.api.testing import play
from popproxy.config.load import load
from popproxy.config.problems import ConfigError

SESSION = SessionView("s1", "pop3s", client="192.0.2.7")
SECRET = b"client's own"
MASTER = {"master": "proxy", "password": "hunter2"}


def made(*rules: dict[str, Any], **options: Any) -> AuthRewrite:
    return AuthRewrite(AuthRewriteConfig.model_validate({"rules": list(rules), **options}))


def renamed(name: str, *rules: dict[str, Any], **options: Any) -> str:
    """What becomes of a user name."""
    verdict = made(*rules, **options).on_login(SESSION, Password(name, SECRET))
    if verdict is None:
        return name
    assert isinstance(verdict, Route), verdict
    assert isinstance(verdict.credentials, Password)
    assert (verdict.upstream, verdict.credentials.password) == (None, SECRET)
    return verdict.credentials.user


def refused(name: str, *rules: dict[str, Any], **options: Any) -> Refuse:
    verdict = made(*rules, **options).on_login(SESSION, Password(name, SECRET))
    assert isinstance(verdict, Refuse), verdict
    assert name == "" or name not in verdict.reason
    return verdict


# Rules


@pytest.mark.parametrize(
    ("rule", "name", "changed"),
    [
        ({"trim": True}, " \tjoe@example.com  ", "joe@example.com"),
        ({"trim": True}, "joe blow", "joe blow"),
        ({"lower": "all"}, "JOE@Example.COM", "joe@example.com"),
        ({"lower": "all"}, "JOE", "joe"),
        ({"lower": "all"}, "JÖRG@Straße.example", "jörg@straße.example"),
        ({"lower": "local"}, "JOE@Example.COM", "joe@Example.COM"),
        ({"lower": "domain"}, "JOE@Example.COM", "JOE@example.com"),
        ({"lower": "domain"}, "JOE", "JOE"),
        ({"lower": "domain"}, "A@B@C", "A@B@c"),
        ({"strip_domain": "*"}, "joe@example.com", "joe"),
        ({"strip_domain": "*"}, "joe", "joe"),
        ({"strip_domain": "*"}, "joe@a@b", "joe@a"),
        ({"strip_domain": "Example.com"}, "joe@eXample.COM", "joe"),
        ({"strip_domain": "example.com"}, "joe@other.example", "joe@other.example"),
        ({"strip_domain": ["a.example", "b.example"]}, "joe@b.example", "joe"),
        ({"strip_domain": ["a.example", "*"]}, "joe@c.example", "joe"),
        ({"add_domain": "example.com"}, "joe", "joe@example.com"),
        ({"add_domain": "example.com"}, "joe@other.example", "joe@other.example"),
        ({"template": "{local}%{domain}"}, "joe@example.com", "joe%example.com"),
        ({"template": "{local}%{domain}"}, "joe", "joe"),
        ({"template": "{domain}!{local}"}, "joe@example.com", "example.com!joe"),
        ({"template": "{user}@new.example"}, "joe", "joe@new.example"),
        ({"template": "{{{local}}}"}, "joe", "{joe}"),
        (
            {"match": r"(?P<first>[^.@]+)\.(?P<last>[^@]+)@old\.example", "template": "{last}.{first}@new.example"},
            "joe.blow@old.example",
            "blow.joe@new.example",
        ),
        ({"match": r"(?P<box>[^+@]+)(?:\+(?P<tag>[^@]*))?", "template": "{box}/{tag}"}, "joe", "joe/"),
        ({"match": "j.*", "add_domain": "example.com"}, "joe", "joe@example.com"),
        ({"match": "j", "add_domain": "example.com"}, "joe", "joe"),
        ({"match": "", "template": "nobody"}, "joe", "joe"),
        ({"domain": ["Old.example"], "strip_domain": "*"}, "joe@OLD.example", "joe"),
        ({"domain": ["old.example"], "strip_domain": "*"}, "joe@new.example", "joe@new.example"),
        ({"domain": ["old.example"], "lower": "all"}, "JOE", "JOE"),
        ({"domain": ["old.example"], "match": "j.*", "strip_domain": "*"}, "joe@old.example", "joe"),
        ({"saslprep": True}, "I\u00adX", "IX"),
        ({"saslprep": True}, "\u2168", "IX"),
        ({"saslprep": True}, "\u00aa", "a"),
        ({"saslprep": True}, "jo\u00a0e", "jo e"),
        ({"saslprep": True}, "USER", "USER"),
    ],
)
def test_a_rule(rule: dict[str, Any], name: str, changed: str) -> None:
    assert renamed(name, rule) == changed


def test_rules_run_in_order_each_on_what_those_before_it_left() -> None:
    rules = [
        {"trim": True},
        {"lower": "all"},
        {"strip_domain": "old.example"},
        {"add_domain": "example.com"},
        {"domain": ["example.com"], "template": "{local}%{domain}"},
    ]
    assert renamed(" Joe@Old.Example ", *rules) == "joe%example.com"
    assert renamed("Joe@other.example", *rules) == "joe@other.example"
    assert renamed("joe", {"add_domain": "a.example"}, {"add_domain": "b.example"}) == "joe@a.example"


def test_a_name_that_no_rule_changes_is_no_route() -> None:
    assert made({"lower": "all"}).on_login(SESSION, Password("joe", SECRET, "joe")) is None


@pytest.mark.parametrize(
    ("name", "rules", "reason"),
    [
        ("@example.com", [{"strip_domain": "*"}], "nothing is left of the user name"),
        ("  ", [{"trim": True}], "nothing is left of the user name"),
        ("\u00ad", [{"saslprep": True}], "nothing is left of the user name after SASLprep"),
        ("a\u0007b", [{"saslprep": True}], "holds a character that SASLprep (RFC 4013) prohibits"),
        ("\u0627\u0031", [{"saslprep": True}], "mixes writing directions"),
        ("j" * (LONGEST + 1), [{"lower": "all"}], "longer than 320 characters"),
        ("j" * 200, [{"template": "{user}{user}"}, {"lower": "all"}], "longer than 320 characters"),
        ("a\rb", [{"lower": "all"}], "holds NUL, CR or LF"),
        ("a\0b", [{"lower": "all"}], "holds NUL, CR or LF"),
    ],
)
def test_a_name_that_no_mailbox_can_have_is_bad_credentials(
    name: str, rules: list[dict[str, Any]], reason: str
) -> None:
    """Promise 8; RFC 4616 section 2: what cannot be prepared does not verify."""
    verdict = refused(name, *rules)
    assert (verdict.code, verdict.text) == (Code.AUTH, "Authentication failed")
    assert reason in verdict.reason


def test_promise_8_a_name_that_is_not_utf_8_is_bad_credentials_and_says_so() -> None:
    verdict = refused("j\udcf6rg", {"lower": "all"})
    assert (verdict.code, verdict.text) == (Code.AUTH, "The user name is not UTF-8")
    assert verdict.reason == "the user name is not UTF-8"
    assert renamed("J\udcf6rg", {"lower": "all"}, not_utf8="pass") == "J\udcf6rg"


def test_prefixes_are_kept_on_request() -> None:
    rules = [{"lower": "all"}, {"add_domain": "example.com"}]
    assert renamed("recent:Joe", *rules) == "recent:joe@example.com"
    assert renamed("ReCent:Joe", *rules, keep_prefixes=["all:", "recent:"]) == "ReCent:joe@example.com"
    assert renamed("Recent", *rules, keep_prefixes=["recent:"]) == "recent@example.com"
    assert refused("recent:", *rules, {"strip_domain": "*"}, keep_prefixes=["recent:"]).code is Code.AUTH


def test_a_master_form_of_the_client_is_kept_on_request() -> None:
    rules = [{"lower": "all"}, {"add_domain": "example.com"}]
    assert renamed("Joe*Support", *rules, client_master="*") == "joe@example.com*Support"
    assert renamed("Joe", *rules, client_master="*") == "joe@example.com"
    assert renamed("Joe*Support", *rules) == "joe*support@example.com"
    assert renamed("recent:Joe*x*y", *rules, client_master="*", keep_prefixes=["recent:"]) == (
        "recent:joe@example.com*x*y"
    )


# Alias maps


@pytest.fixture
def aliases(tmp_path: Path) -> Path:
    path = tmp_path / "aliases"
    path.write_text(
        "\ufeff# who moved\n\nOld@Example.com  new@example.com\r\n@old.example @new.example\n"
        "@gone.example\tpostmaster@example.com\nsales @example.net\njörg joerg\n",
        "utf-8",
    )
    return path


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("old@example.com", "new@example.com"),
        ("OLD@EXAMPLE.COM", "new@example.com"),
        ("joe@Old.example", "joe@new.example"),
        ("joe@gone.example", "postmaster@example.com"),
        ("sales", "sales@example.net"),
        ("JÖRG", "joerg"),
        ("joe@example.com", "joe@example.com"),
        ("old", "old"),
        ("@", "@"),
    ],
)
def test_an_alias(aliases: Path, name: str, changed: str) -> None:
    assert renamed(name, {"alias": str(aliases)}) == changed


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"a b\nlonely\n", 2, "has 1 word: write a name and what it becomes, with a space between them"),
        (b"a b c\n", 1, "has 3 words: write a name"),
        (b"a b\n\n# x\nA c\n", 4, "'A' is in line 1 already: leave one out"),
        (b"a \xff\n", 1, "is not UTF-8: save the file as UTF-8"),
        (b"@ b\n", 1, "holds NUL or an @ alone"),
        (b"a @\n", 1, "holds NUL or an @ alone"),
        (b"a b\0\n", 1, "holds NUL or an @ alone"),
    ],
)
def test_a_broken_line_is_named(content: bytes, line: int, message: str) -> None:
    with pytest.raises(LineError) as caught:
        parse(content)
    assert caught.value.line == line
    assert message in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.text(max_size=20))
def test_any_file_is_a_map_or_a_broken_line(content: bytes, name: str) -> None:
    try:
        found = parse(content)
    except LineError as error:
        assert 1 <= error.line <= content.count(b"\n") + 1
        return
    assert found.find(name) != ""


def test_a_broken_map_is_a_problem_of_its_key(aliases: Path) -> None:
    aliases.write_text("a b\nbroken\n")
    (problem,) = made({"trim": True}, {"alias": str(aliases)}).check(ConfigNames())
    assert problem.key == ("rules", 1, "alias")
    assert problem.message == f"{aliases}:2: has 1 word: write a name and what it becomes, with a space between them"


def test_a_map_that_vanished_is_a_problem_of_its_key(aliases: Path) -> None:
    plugin = made({"alias": str(aliases)})
    assert list(plugin.check(ConfigNames())) == []
    aliases.unlink()
    (problem,) = plugin.check(ConfigNames())
    assert problem.message == f"cannot read {aliases}: No such file or directory"


# Credentials of every kind

KINDS: list[Credentials] = [
    Password("JOE", b"pass word", "ROOT"),
    Password("JOE", b"\xff\xfe"),
    Bearer("JOE", b"token", "ROOT"),
    Bearer("JOE", b"token"),
    Verified("JOE", "ROOT"),
    Verified("JOE"),
    External("JOE"),
    Digest("JOE", "APOP", b"<1@proxy>", b"0" * 32),
    Digest("JOE", "CRAM-MD5", b"<1@proxy>", b"0" * 32),
]


@pytest.mark.parametrize("given_", KINDS, ids=repr)
def test_every_kind_keeps_all_but_its_names(given_: Credentials) -> None:
    verdict = made({"lower": "all"}).on_login(SESSION, given_)
    assert isinstance(verdict, Route)
    changed = verdict.credentials
    assert type(changed) is type(given_)
    for field in fields(given_):
        value = getattr(given_, field.name)
        expected = value.lower() if field.name in ("user", "authzid") else value
        assert getattr(changed, field.name) == expected


def test_a_token_without_a_name_stays_without() -> None:
    plugin = made({"add_domain": "example.com"})
    assert plugin.on_login(SESSION, Bearer("", b"token")) is None
    verdict = plugin.on_login(SESSION, Bearer("", b"token", "joe"))
    assert verdict == Route(credentials=Bearer("", b"token", "joe@example.com"))


def test_an_authorization_identity_that_no_mailbox_can_have_is_refused() -> None:
    verdict = made({"strip_domain": "*"}).on_login(SESSION, Password("joe", SECRET, "@example.com"))
    assert isinstance(verdict, Refuse)
    assert verdict.code is Code.AUTH


# Passwords that the proxy brings

PROVEN: list[Credentials] = [Verified("joe"), External("joe")]
CLAIMED: list[Credentials] = [kind for kind in KINDS if not isinstance(kind, Verified | External)]


@pytest.mark.parametrize("given_", PROVEN, ids=repr)
def test_who_was_proven_at_the_proxy_goes_as_the_master(given_: Credentials) -> None:
    verdict = made(**MASTER).on_login(SESSION, given_)
    assert verdict == Route(credentials=Password("joe*proxy", b"hunter2"))


@pytest.mark.parametrize("given_", CLAIMED, ids=repr)
def test_who_was_not_proven_keeps_the_own_secret(given_: Credentials) -> None:
    """Else whoever connects would open every mailbox."""
    assert made(**MASTER).on_login(SESSION, given_) is None


def test_the_operator_may_say_that_a_plugin_before_it_checks_passwords() -> None:
    plugin = made(**MASTER, password_for=["password"])
    assert plugin.on_login(SESSION, Password("joe", SECRET)) == Route(credentials=Password("joe*proxy", b"hunter2"))
    assert plugin.on_login(SESSION, Verified("joe")) is None


@pytest.mark.parametrize(
    ("form", "user", "authzid"),
    [
        ("{user}*{master}", "joe*proxy", ""),
        ("{master}%{user}", "proxy%joe", ""),
        ("{user}/{master}/x", "joe/proxy/x", ""),
        ("authzid", "proxy", "joe"),
    ],
)
def test_master_forms(form: str, user: str, authzid: str) -> None:
    verdict = made({"lower": "all"}, **MASTER, master_form=form).on_login(SESSION, Verified("Joe"))
    assert verdict == Route(credentials=Password(user, b"hunter2", authzid))


def test_a_name_cannot_choose_the_master() -> None:
    verdict = made(**MASTER).on_login(SESSION, Verified("joe*root"))
    assert isinstance(verdict, Refuse)
    assert (verdict.code, verdict.text) == (Code.AUTH, "Authentication failed")
    assert verdict.reason == "the user name holds what separates it from the master user"


def test_a_master_user_logs_in_as_one_user_only() -> None:
    plugin = made({"lower": "all"}, **MASTER)
    verdict = plugin.on_login(SESSION, Verified("joe", "sue"))
    assert isinstance(verdict, Refuse)
    assert verdict.code is Code.SYS_PERM
    assert plugin.on_login(SESSION, Verified("joe", "JOE")) == Route(credentials=Password("joe*proxy", b"hunter2"))


def test_a_master_form_of_the_client_keeps_its_own_secret() -> None:
    plugin = made(**MASTER, client_master="*", password_for=["password", "verified"])
    assert plugin.on_login(SESSION, Password("joe*support", SECRET)) is None
    assert plugin.on_login(SESSION, Verified("joe*support")) is None


def test_a_fixed_password_is_taken_as_it_is() -> None:
    verdict = made(password="{user} }{").on_login(SESSION, Verified("joe", "sue"))
    assert verdict == Route(credentials=Password("joe", b"{user} }{", "sue"))


def test_a_templated_password() -> None:
    plugin = made({"add_domain": "example.com"}, password_template="{local}-{domain}-{user}-\u00e4{{")
    verdict = plugin.on_login(SESSION, Verified("joe"))
    password = "joe-example.com-joe@example.com-\u00e4{".encode()
    assert verdict == Route(credentials=Password("joe@example.com", password))
    assert made(password_template="x{domain}").on_login(SESSION, Verified("joe")) == Route(
        credentials=Password("joe", b"x")
    )


def test_a_kept_prefix_stands_before_the_master_form() -> None:
    verdict = made(**MASTER, keep_prefixes=["recent:"]).on_login(SESSION, Verified("recent:joe"))
    assert verdict == Route(credentials=Password("recent:joe*proxy", b"hunter2"))


def test_promise_6_no_repr_shows_a_secret() -> None:
    plugin = made(**MASTER)
    assert "hunter2" not in repr(plugin.config)
    assert "hunter2" not in repr(plugin.on_login(SESSION, Verified("joe")))


# The same name at every hook

NAMES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="aA@.*%! \u00ad\u2168\u0627\udcff\ud800\0\r\n\u0130\u03a3", max_size=12),
    st.sampled_from(["j" * 321, "recent:", "recent:a*b@c", "@", "@@", "*"]),
)
ALL: list[dict[str, Any]] = [
    {"trim": True},
    {"lower": "all"},
    {"saslprep": True, "match": "[^*]*"},
    {"strip_domain": ["old.example", "a"]},
    {"add_domain": "example.com"},
    {"match": r"(?P<box>[^+@]*)\+(?P<tag>[^@]*)@(?P<at>.*)", "template": "{box}@{at}"},
    {"domain": ["example.com"], "template": "{domain}!{local}"},
]
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "keep_prefixes": st.just(["recent:", "a"]),
        "client_master": st.just("*"),
        "not_utf8": st.just("pass"),
    },
)
RULES = st.lists(st.sampled_from(ALL), min_size=1, max_size=7)


@settings(max_examples=300, deadline=None)
@given(NAMES, RULES, OPTIONS)
def test_no_name_breaks_a_rule_and_every_hook_agrees(name: str, rules: list[dict[str, Any]], options: Any) -> None:
    plugin = made(*rules, **options)
    at_login = plugin.on_login(SESSION, Verified(name))
    at_scram = plugin.on_verifier(SESSION, name, "SCRAM-SHA-256")
    told = plugin.explain(SESSION, name)
    if isinstance(at_login, Refuse):
        assert at_scram == at_login
        assert (told.refused, told.user) == (True, None)
        assert at_login.code is Code.AUTH
        return
    changed = name if at_login is None else at_login.credentials.user if at_login.credentials is not None else None
    assert isinstance(changed, str)
    assert at_scram == (None if changed == name else Rename(changed))
    assert (told.user, told.refused) == (changed, False)
    assert changed


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["trim", "lower", "add_domain", "saslprep"]))
def test_a_rule_that_only_tidies_does_nothing_the_second_time(name: str, action: str) -> None:
    (rule,) = [rule for rule in ALL if action in rule]
    plugin = made(rule)
    once = plugin.explain(SESSION, name)
    if once.user is not None:
        assert plugin.explain(SESSION, once.user).user == once.user


# explain


def test_each_step_is_told(aliases: Path) -> None:
    plugin = made(
        {"lower": "all"},
        {"strip_domain": ["a.example", "b.example"]},
        {"alias": str(aliases)},
        {"match": "x", "saslprep": True},
        {"domain": ["a.example"], "template": "{local}"},
        {"add_domain": "example.com"},
        keep_prefixes=["recent:"],
        client_master="*",
    )
    assert plugin.explain(SESSION, "Recent:Sales*Boss") == Explained(
        (
            "kept aside: Recent:",
            "kept aside: *Boss",
            'rule 1, lower = "all": sales',
            'rule 2, strip_domain = ["a.example", "b.example"]: left alone, it has no domain',
            f'rule 3, alias = "{aliases}": sales@example.net',
            "rule 4, saslprep = true: left alone, no match",
            'rule 5, template = "{local}": left alone, another domain',
            'rule 6, add_domain = "example.com": left alone, it has a domain',
        ),
        user="Recent:sales@example.net*Boss",
    )


def test_a_refusal_is_told() -> None:
    told = made({"trim": True}, {"strip_domain": "*"}).explain(SESSION, " @x")
    assert told.refused
    assert told.steps[-1] == "refused: nothing is left of the user name"
    assert made({"trim": True}).explain(SESSION, "\udcff").steps == ("refused: the user name is not UTF-8",)


def test_the_master_login_is_told_without_its_password() -> None:
    told = made(**MASTER).explain(SESSION, "joe")
    assert told == Explained(
        ("credentials of the kinds verified, external: as joe*proxy, with the config's password",), user="joe"
    )
    told = made(**MASTER, master_form="authzid", password_for=["password"]).explain(SESSION, "joe")
    assert told.user == "proxy"
    assert told.steps == (
        "credentials of the kinds password: as proxy, with the authorization identity joe, with the config's password",
    )
    assert "hunter2" not in repr(told)


# Through a session

LOGIN = """
S~ \\+OK.*
C: USER {given}
S~ \\+OK.*
C: PASS sesame
@ connect
U< +OK upstream
U> CAPA
U< +OK
U< USER
U< SASL PLAIN
U< .
{upstream}
"""


def script(given_: str, upstream: str) -> str:
    return LOGIN.format(given=given_, upstream=upstream)


LOGGED_IN = "\nU< +OK\nU> PASS sesame\nU< +OK in\nS: +OK in"


def plain(authzid: str, user: str, password: str) -> str:
    return base64.b64encode(f"{authzid}\0{user}\0{password}".encode()).decode()


def test_a_name_goes_upstream_as_the_rules_make_it(aliases: Path) -> None:
    rules = [{"trim": True}, {"lower": "all"}, {"alias": str(aliases)}, {"template": "{local}%{domain}"}]
    played = play(
        made(*rules),
        script("Joe@OLD.example", "U> USER joe%new.example" + LOGGED_IN),
    )
    assert played.logins == [("USER", "ok")]


def test_a_map_is_read_again_and_a_broken_one_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    path.write_text("joe first\n")

    class Edits(Plugin[PluginConfig]):
        """Changes the file at the second and at the third login."""

        contents = iter(["joe first\n", "joe second\n", "joe third\nbroken\n"])

        def on_login(self, session: SessionView, credentials: Credentials) -> None:
            path.write_text(next(self.contents))

    turn = """
C: USER joe
S~ \\+OK.*
C: PASS sesame
@ connect
U< +OK upstream
{capa}U> USER {name}
U< +OK
U> PASS sesame
U< -ERR no
S~ -ERR \\[AUTH\\] .*
"""
    names = ["first", "second", "second"]
    capa = "U> CAPA\nU< -ERR\n"
    turns = "".join(turn.format(name=name, capa=capa if place == 0 else "") for place, name in enumerate(names))
    played = play([Edits(PluginConfig()), made({"alias": str(path)})], "S~ \\+OK.*\n" + turns)
    (line,) = [line for line in played.log if line.event == "file_broken"]
    assert f"{path}:2: has 1 word" in str(line.fields["detail"])


def test_octets_that_are_no_utf_8_are_refused_before_any_upstream() -> None:
    play(
        made({"lower": "all"}),
        """
S~ \\+OK.*
C: USER j\\xf6rg
S~ \\+OK.*
C: PASS sesame
S: -ERR [AUTH] The user name is not UTF-8
C: QUIT
S~ \\+OK.*
@ client-closed
""",
    )


def test_octets_that_are_no_utf_8_pass_on_request() -> None:
    play(
        made({"lower": "all"}, not_utf8="pass"),
        script("J\\xf6rg", "U> USER J\\xf6rg" + LOGGED_IN),
    )


def test_utf_8_names_pass_through_the_rules() -> None:
    play(
        made({"lower": "all"}, {"add_domain": "m\u00fcnchen.example"}),
        script("J\\xc3\\x96RG", "U> USER j\\xc3\\xb6rg@m\\xc3\\xbcnchen.example" + LOGGED_IN),
    )


def test_an_authorization_identity_goes_through_the_rules_and_on() -> None:
    play(
        made({"add_domain": "example.com"}),
        f"""
S~ \\+OK.*
C: AUTH PLAIN {plain("sue", "joe", "sesame")}
@ connect
U< +OK upstream
U> CAPA
U< +OK
U< USER
U< SASL PLAIN
U< .
U> AUTH PLAIN {plain("sue@example.com", "joe@example.com", "sesame")}
U< +OK in
S: +OK in
""",
    )


def test_a_checked_password_is_replaced_by_the_masters() -> None:
    play(
        made({"lower": "all"}, **MASTER, password_for=["password"]),
        script("Joe", "U> USER joe*proxy\nU< +OK\nU> PASS hunter2\nU< +OK in\nS: +OK in"),
    )


def test_a_master_of_the_client_logs_in_with_its_own_password() -> None:
    play(
        made({"add_domain": "example.com"}, client_master="*"),
        script("joe*boss", "U> USER joe@example.com*boss" + LOGGED_IN),
    )


class Holder(Plugin[PluginConfig]):
    """Knows the verifier of one user."""

    mechanisms = frozenset({"SCRAM-SHA-256"})

    def __init__(self, user: str) -> None:
        super().__init__(PluginConfig())
        self.user = user
        self.logins: list[str] = []

    async def on_verifier(self, session: SessionView, user: str, mechanism: str) -> Verifier | None:
        return Verifier.derive(mechanism, "sesame", b"salt") if user == self.user else None

    def on_login(self, session: SessionView, credentials: Credentials) -> None:
        self.logins.append(credentials.user)


def scram(user: str) -> str:
    """The exchange of a client that knows the password, up to its last word."""
    first, server = f"n={user},r=client", f"r=clientnonce1,s={base64.b64encode(b'salt').decode()},i=4096"
    final = "c=biws,r=clientnonce1"
    salted = hashlib.pbkdf2_hmac("sha256", b"sesame", b"salt", 4096)
    key, said = hmac.digest(salted, b"Client Key", "sha256"), f"{first},{server},{final}".encode()
    signature = hmac.digest(hashlib.sha256(key).digest(), said, "sha256")
    proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
    lines = [f"n,,{first}", server, f"{final},p={base64.b64encode(proof).decode()}"]
    one, two, three = (base64.b64encode(line.encode()).decode() for line in lines)
    return f"S~ \\+OK.*\nC: AUTH SCRAM-SHA-256 {one}\nS: + {two}\nC: {three}\nS~ \\+ .*\nC:\n"


def test_a_scram_client_is_looked_up_and_logged_in_under_the_same_name() -> None:
    holder = Holder("joe@example.com")
    played = play(
        [made({"lower": "all"}, {"add_domain": "example.com"}), holder, made(**MASTER)],
        scram("JOE")
        + """
@ connect
U< +OK upstream
U> USER joe@example.com*proxy
U< +OK
U> PASS hunter2
U< +OK in
S: +OK in
""",
        known="none",
    )
    assert holder.logins == ["joe@example.com"]
    assert (played.session.user, played.session.login) == ("JOE", "joe@example.com*proxy")


def test_its_failure_lets_nobody_in(tmp_path: Path) -> None:
    """Fail.CLOSED: with the rules not applied the name might be another user's."""
    path = tmp_path / "aliases"
    path.write_text("joe sue\n")

    class Breaks(AuthRewrite):
        """Its file cannot be had any more."""

        def _name(self, *_: Any) -> Any:
            raise OSError("gone")

    play(
        Breaks(AuthRewriteConfig.model_validate({"rules": [{"alias": str(path)}]})),
        """
S~ \\+OK.*
C: USER joe
S~ \\+OK.*
C: PASS sesame
S~ -ERR \\[SYS/TEMP\\] .*
""",
        may_fail=True,
    )


def test_without_its_map_it_does_not_start(aliases: Path) -> None:
    plugin = made({"alias": str(aliases)})
    aliases.write_text("broken\n")
    with pytest.raises(Exception, match="has 1 word"):
        play(plugin, "S~ \\+OK.*\n")


# Its config


def problem(options: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(ValidationError) as caught:
        AuthRewriteConfig.model_validate(options)
    (error,) = caught.value.errors(include_url=False)
    return error["loc"], error["msg"]


@pytest.mark.parametrize(
    ("rule", "key", "message"),
    [
        ({}, (), "a rule is exactly one of trim, lower, strip_domain, add_domain, alias, template, saslprep; found"),
        ({"match": "x"}, (), "found none of them"),
        ({"trim": True, "lower": "all"}, (), "found trim and lower: write one rule for each"),
        ({"trim": False}, ("trim",), "Input should be True"),
        ({"lower": "upper"}, ("lower",), "Input should be 'all', 'local' or 'domain'"),
        ({"add_domain": "@example.com"}, ("add_domain",), "'@example.com' is no domain: write it like example.com"),
        ({"add_domain": "*"}, ("add_domain",), "'*' is no domain"),
        ({"add_domain": ""}, ("add_domain",), "'' is no domain"),
        ({"strip_domain": "a b"}, ("strip_domain",), "'a b' is no domain"),
        ({"strip_domain": []}, ("strip_domain",), 'no domain: write one, or "*" for any'),
        ({"trim": True, "domain": ["*"]}, ("domain",), "'*' is no domain"),
        ({"alias": "nowhere"}, ("alias",), "cannot read nowhere: No such file or directory; write the path of a file"),
        ({"template": "{password}"}, ("template",), "{password} is no placeholder here; write one of {domain}, {l"),
        ({"template": "{}"}, ("template",), "a place is a name in braces, like {user}; write {{ for a brace"),
        ({"template": "{0}"}, ("template",), "a place is a name in braces"),
        ({"template": "{user!r}"}, ("template",), "a place is a name in braces"),
        ({"template": "{user:>9}"}, ("template",), "a place is a name in braces"),
        ({"template": "{user.x}"}, ("template",), "a place is a name in braces"),
        ({"template": "{user"}, ("template",), "expected '}' before end of string; write {{ or }} for a brace"),
        ({"match": "(?P<a>x)", "template": "{b}"}, ("template",), "{b} is no placeholder here; write one of {a},"),
        ({"match": "(", "template": "x"}, ("match",), "is no regular expression: missing ), unterminated subpattern"),
        ({"match": "(", "template": "{b}"}, ("match",), "at position 0"),
        ({"match": "(a+)+$", "trim": True}, ("match",), "'(a+)+$' may take for ever on a text of 320 characters: "),
        ({"match": "(?P<user>x)", "trim": True}, ("match",), "the groups user are placeholders already: write o"),
        ({"delete": "x"}, ("delete",), "Extra inputs are not permitted"),
    ],
)
def test_every_error_of_a_rule_says_where_and_what_to_write(rule: dict[str, Any], key: Any, message: str) -> None:
    where, said = problem({"rules": [rule]})
    place = [part for part in where if part not in ("str", "tuple[str, ...]", "function-plain[_readable()]")]
    assert tuple(place) == ("rules", 0, *key)
    assert message in said


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({}, (), 'nothing to do: write rules, like rules = [{ lower = "all" }], or a password'),
        ({"rules": []}, (), "nothing to do"),
        ({"password": ""}, ("password",), "is empty, or holds NUL, CR or LF: write one line of text"),
        ({"password": "a\nb"}, ("password",), "is empty, or holds NUL, CR or LF"),
        ({"password_template": "a\0b"}, ("password_template",), "is empty, or holds NUL, CR or LF"),
        ({"password_template": "{pass}"}, ("password_template",), "has a place that is none of {user}, {local}, {do"),
        ({"password_template": "{"}, ("password_template",), "has a place that is none of"),
        ({"password": "a", "password_template": "b"}, (), "password and password_template exclude one another"),
        ({"master": "proxy"}, (), "master needs its password: write password = "),
        ({"password": "a", "master": ""}, ("master",), "at least 1 character"),
        ({"password": "a", "master": "m", "master_form": "{user}"}, ("master_form",), "needs {user} and {master}"),
        ({"password": "a", "master": "m", "master_form": "{u}*{master}"}, ("master_form",), "{u} is no placeholder"),
        ({"password": "a", "master_form": "authzid"}, (), "master_form does nothing without master: write master"),
        ({"rules": [{"trim": True}], "password_for": ["password"]}, (), "password_for does nothing without password"),
        ({"password": "a", "password_for": ["all"]}, ("password_for", 0), "Input should be 'verified', 'external'"),
        ({"rules": [{"trim": True}], "keep_prefixes": [""]}, ("keep_prefixes",), 'an empty prefix: write one like'),
        ({"rules": [{"trim": True}], "client_master": ""}, ("client_master",), "at least 1 character"),
        ({"rules": [{"trim": True}], "not_utf8": "latin1"}, ("not_utf8",), "Input should be 'refuse' or 'pass'"),
    ],
)
def test_every_error_of_the_config_says_what_to_write(options: dict[str, Any], key: Any, message: str) -> None:
    where, said = problem(options)
    assert where == key
    assert message in said


CONFIG = """\
[[listener]]
name = "pop3s"
bind = ["[::]:995"]
tls = "implicit"
[upstream.main]
servers = ["pop3s://mail.example.com"]
[[plugin]]
use = "auth_rewrite"
rules = [
  { trim = true },
  { alias = "aliases" },
  { match = "(a+)+$", lower = "all" },
  { match = "x(", lower = "all" },
  { template = "{nobody}" },
  { alias = "nowhere" },
  { trim = true, lower = "all" },
]
password_template = "hunter2 {"
"""


def test_check_names_file_key_and_line(tmp_path: Path) -> None:
    config = tmp_path / "popproxy.toml"
    config.write_text(CONFIG)
    (tmp_path / "aliases").write_text("broken\n")
    problems = checked(config)
    assert [problem.partition("; ")[0] for problem in problems[1:]] == [
        "13: plugin[auth_rewrite].rules[#4].match: 'x(' is no regular expression: missing ), unterminated subpattern "
        "at position 1",
        "14: plugin[auth_rewrite].rules[#5].template: {nobody} is no placeholder here",
        f"15: plugin[auth_rewrite].rules[#6].alias: cannot read {tmp_path}/nowhere: No such file or directory",
        "16: plugin[auth_rewrite].rules[#7]: a rule is exactly one of trim, lower, strip_domain, add_domain, alias, "
        "template, saslprep",
        "18: plugin[auth_rewrite].password_template: has a place that is none of {user}, {local}, {domain}: write one "
        "of them, or {{ for a brace",
    ]
    assert problems[0].startswith("12: plugin[auth_rewrite].rules[#3].match: '(a+)+$' may take for ever")
    assert "hunter2" not in "".join(problems)
    config.write_text("".join(line for line in CONFIG.splitlines(True)[:11]) + "]\n")
    assert checked(config) == [
        f"11: plugin[auth_rewrite].rules[#2].alias: {tmp_path}/aliases:1: has 1 word: write a name and what it "
        "becomes, with a space between them"
    ]


def checked(config: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(config)
    return [str(problem).removeprefix(f"{config}:") for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["password", "password_template"])
def test_promise_6_no_error_shows_a_secret(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AuthRewriteConfig.model_validate({name: "hunter2{\n"})
    assert "hunter2" not in str(caught.value)


def test_it_fails_closed_and_subscribes_to_what_names_need() -> None:
    assert AuthRewrite.fail is Fail.CLOSED
    assert [hook for hook in HOOKS if overrides(AuthRewrite, hook)] == ["on_verifier", "on_login"]
    assert AuthRewrite.mechanisms == frozenset()


def test_it_is_registered_as_a_strangers_would_be() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    entries = tomllib.loads(project.read_text())["project"]["entry-points"]["popproxy.plugins"]
    assert EntryPoint("auth_rewrite", entries["auth_rewrite"], "popproxy.plugins").load() is AuthRewrite


def test_what_comes_out_keeps_the_types_of_credentials() -> None:
    """A kind of credentials that is new must be looked at here."""
    assert {type(kind) for kind in KINDS} == set(get_args(Credentials))
    assert replace(Verified("a"), user="b") == Verified("b")

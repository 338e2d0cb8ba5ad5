"""What is wrong with the options, and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from popproxy_plugins.policy.config import PolicyConfig
from pydantic import ValidationError

from popproxy.api import ConfigNames
from popproxy.config.translate import words

NAMES = ConfigNames(listeners=("pop3", "pop3s"))


def wrong(rule: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    """Key, and what ``popproxy check`` says of it."""
    with pytest.raises(ValidationError) as caught:
        PolicyConfig.model_validate({"rules": [{"name": "one", **rule}], **options})
    return [
        (".".join(map(str, error["loc"])), "; ".join(filter(None, words(error, PolicyConfig, tuple(error["loc"])))))
        for error in caught.value.errors()
    ]


@pytest.mark.parametrize(
    ("rule", "key", "told"),
    [
        ({"name": "Office 1"}, "name", "does not match ^[a-z0-9_-]{1,40}$; write name = \"office\""),
        ({"when": {"country": ["Germany"]}}, "when.country", "'Germany' is no country: write two letters"),
        ({"countries": ["DE", "ZZ"]}, "countries", "'ZZ' is no country"),
        ({"when": {"mechanism": ["GSSAPI"]}}, "when.mechanism", "'GSSAPI' is no way to log in: write some of USER,"),
        ({"mechanisms": []}, "mechanisms", "an empty list says nothing: write at least one entry"),
        ({"when": {"user": []}}, "when.user", "an empty list says nothing: write"),
        ({"when": {"network": ["10.0.0.1/8"]}}, "when.network.0", 'has bits set behind its prefix; write "10.0.0.0/8"'),
        ({"networks": ["10.0.0.300"]}, "networks.0", "'10.0.0.300' is no network"),
        ({"hours": ["9 to 5"]}, "hours", "'9 to 5' is no time of the week: write it like"),
        ({"when": {"hours": ["Mo 08:00-09:00"]}}, "when.hours", "'Mo' is no day: write one of Mon"),
        ({"timezone": "Berlin"}, "timezone", "there is no time zone 'Berlin': write"),
        ({"tls": "1.2"}, "tls", "'1.2' says nothing of TLS: write true, false, or one of TLSv1, TLSv1.1"),
        ({"when": {"tls": "TLSv1.4"}}, "when.tls", "'TLSv1.4' says nothing of TLS"),
        ({"commands": {"deny": ["QUIT"]}}, "commands", "QUIT cannot be denied"),
        ({"commands": {"deny": ["DELETE"]}}, "commands.deny", "'DELETE' is no command behind a login: write some"),
        ({"commands": {"allow": ["USER"]}}, "commands.allow", "'USER' is no command behind a login"),
        ({"commands": {"allow": ["RETR"], "deny": ["TOP"]}}, "commands", 'write either allow = ["RETR"]'),
        ({"commands": {}}, "commands", 'write either allow = ["RETR"]'),
        ({"code": "AUTH"}, "code", '"AUTH" is not one of the choices; write "SYS/PERM"'),
        ({"rate": "1 MB/s"}, "rate", "'1 MB/s' is no size; write octets (65536)"),
        ({"rate": 0}, "rate", "0 is out of range; write at least 1"),
        ({"octets_per_day": 2**52 + 1}, "octets_per_day", "is out of range; write at most 4503599627370496"),
        ({"max_messages": 0}, "max_messages", "0 is out of range; write at least 1"),
        ({"max_messages": True}, "max_messages", "must be a whole number, not true; write max_messages = 500"),
        ({"sessions_per_user": "3"}, "sessions_per_user", "must be a whole number, not a string"),
        ({"login_delay": "5"}, "login_delay", "'5' is no duration; write seconds"),
        ({"logins": "100"}, "logins", "'100' is no number of logins in a time: write it like \"100/day\""),
        ({"logins": "0/day"}, "logins", "'0/day' is no number of logins"),
        ({"logins": "10/fortnight"}, "logins", "'fortnight' is no time: write it like"),
        ({"expire": "never"}, "expire", "'never' is no EXPIRE (RFC 2449 section 6.7): write days like 30"),
        ({"expire": True}, "expire", "true is no EXPIRE"),
        ({"leave_on_server": {"days": 0}}, "leave_on_server.days", "0 is out of range; write at least 1"),
        ({"leave_on_server": 14}, "leave_on_server", "must be a table, not a whole number; write leave_on_server = {"),
        ({"text": "two\r\nlines", "login": "deny"}, "text", "cannot be sent in a status line: write 1 to 400"),
        ({"wen": {}}, "wen", "unknown key; did you mean when?"),
        ({"when": {"users": ["ann"]}}, "when.users", "unknown key; did you mean user?"),
        ({"when": {"domain": ["@a.example"]}}, "when.domain", "'@a.example' is no domain: write 'a.example', what"),
        ({"when": {"domain": ["*.a"]}}, "when.domain", 'a pattern, which domain does not take: write user = ["*@*.a"]'),
        ({"when": {"domain": [""]}}, "when.domain", "'' is no domain: write 'example.com'"),
        # Contradictions
        ({"code": "IN-USE", "dele": "refuse"}, "", "code is for refused logins, and the rule refuses none: write"),
        ({"store_failure": "closed", "login": "deny"}, "", "store_failure is of no use, the rule sets none of"),
        ({"login": "deny", "rate": 5}, "", 'has no use for rate: write login = "deny" alone'),
        ({"rate": 5, "text": "slow"}, "", "text and code are of no use, the rule refuses nothing: write"),
        ({"login": "allow", "code": "IN-USE"}, "", "text and code are of no use"),
        ({"dele": "keep", "leave_on_server": {"days": 3}}, "", 'dele = "keep" lets no message go, however old: write'),
        ({"commands": {"allow": ["RETR"]}, "dele": "keep"}, "", "commands denies DELE already: write only one"),
        ({"max_octets": 5, "octets_per_day": 4}, "", "max_octets is more than octets_per_day"),
        ({"max_message_octets": 5, "max_octets": 4}, "", "max_message_octets is more than max_octets"),
        ({"rate": 5, "user_rate": 4}, "", "rate is more than user_rate"),
        (
            {"sessions_per_user_and_address": 5, "sessions_per_user": 4},
            "",
            "sessions_per_user_and_address is more than sessions_per_user: the user has fewer sessions in all; write",
        ),
        ({"hide_larger": 5, "max_message_octets": 5}, "", "max_message_octets never counts, hide_larger hides"),
        (
            {"when": {"group": ["a"]}, "unless": {"group": ["b", "a"]}, "rate": 5},
            "",
            "it never applies: all of when.group is in unless.group, too",
        ),
        ({"when": {"tls": True}, "unless": {"tls": True}, "rate": 5}, "", "it never applies: all of when.tls"),
    ],
)
def test_a_rule_that_is_wrong(rule: dict[str, Any], key: str, told: str) -> None:
    ((place, said),) = wrong(rule)
    assert place == ".".join(filter(None, ("rules.0", key)))
    assert told in said
    assert "write" in said or "did you mean" in said


def test_rules_have_names_of_their_own() -> None:
    with pytest.raises(ValidationError, match="two rules named 'a': write another name for one of them"):
        PolicyConfig.model_validate({"rules": [{"name": "a", "rate": 1}, {"name": "a", "rate": 2}]})
    with pytest.raises(ValidationError, match="rules"):
        PolicyConfig.model_validate({})
    with pytest.raises(ValidationError, match="no time zone 'Berlin'"):
        PolicyConfig.model_validate({"timezone": "Berlin", "rules": [{"name": "a", "rate": 1}]})


def problems(*rules: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    named = [{"name": f"rule{number}", **rule} for number, rule in enumerate(rules)]
    found = PolicyConfig.model_validate({"rules": named, **options}).problems(NAMES)
    return [(".".join(map(str, problem.key)), f"{problem.message}; {problem.hint}") for problem in found]


def test_what_does_not_fit_the_rest_of_the_config() -> None:
    assert problems({"when": {"listener": ["pop3", "pops"]}, "unless": {"listener": ["x"]}, "rate": 1}) == [
        ("rules.0.when.listener.1", "there is no listener 'pops'; did you mean pop3s?"),
        ("rules.0.unless.listener.0", "there is no listener 'x'; write one of: pop3, pop3s"),
    ]


def test_hours_need_a_time_zone() -> None:
    told = "needs timezone; write timezone = \"Europe/Berlin\" in the plugin's table or in the rule"
    windows = ["08:00-18:00"]
    assert problems({"hours": windows}, {"unless": {"hours": windows}, "rate": 1}) == [
        ("rules.0.hours", told),
        ("rules.1.unless.hours", told),
    ]
    assert problems({"hours": windows, "timezone": "UTC"}) == []
    assert problems({"hours": windows}, timezone="UTC") == []
    assert problems({"hours": False}) == []


def test_countries_need_a_database() -> None:
    told = "needs countries; write countries = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\" in the plugin's table"
    assert problems({"countries": ["DE"]}, {"when": {"country": ["DE"]}, "rate": 1}) == [
        ("rules.0.countries", told),
        ("rules.1.when.country", told),
    ]
    assert problems({"countries": ["DE"]}, countries=__file__) == []


def test_a_rule_that_sets_nothing_is_an_exemption_of_first_only() -> None:
    assert problems({"when": {"user": ["boss"]}}) == [
        ("rules.0", 'sets nothing, so it has no effect; write what it sets, or match = "first"')
    ]
    assert problems({"when": {"user": ["boss"]}}, match="first") == []


def test_lists_of_commands() -> None:
    lists = ({"allow": ["retr"]}, {"deny": ["Top", "UIDL"]})
    rules = [{"name": f"rule{number}", "commands": commands} for number, commands in enumerate(lists)]
    policy = PolicyConfig.model_validate({"rules": rules})
    allow, deny = (rule.commands for rule in policy.rules)
    assert allow is not None and deny is not None
    commands = ("RETR", "TOP", "UIDL", "QUIT", "NOOP", "CAPA", "XFOO")
    assert [name for name in commands if allow.permits(name)] == ["RETR", "QUIT", "NOOP", "CAPA"]
    assert [name for name in commands if deny.permits(name)] == ["RETR", "QUIT", "NOOP", "CAPA", "XFOO"]

"""Which rule decides: the compiled rules against rules that are read one by one, as the page says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from popproxy_plugins.policy.config import POINTS, PolicyConfig
from popproxy_plugins.policy.decide import Decided, Decision, Rules, Settings, decide
from popproxy_plugins.policy.match import Address, Facts

COUNTRIES = {"192.0.2.1": "DE", "192.0.2.200": "FR"}
WEEKDAY = datetime(2026, 11, 27, 10, 30, tzinfo=UTC).timestamp()
NIGHT = datetime(2026, 11, 27, 23, 30, tzinfo=UTC).timestamp()


def locate(address: Address) -> str:
    return COUNTRIES.get(str(address), "unknown")


def config(*rules: dict[str, Any], **options: Any) -> PolicyConfig:
    named = [{"name": f"rule{number}", **rule} for number, rule in enumerate(rules, 1)]
    return PolicyConfig.model_validate({"timezone": "UTC", **options, "rules": named})


def decided(policy: PolicyConfig, facts: Facts) -> Decision:
    return decide(Rules(policy), facts)


def shown(found: Settings) -> dict[str, tuple[str, Any]]:
    """Each point that is set, or lifted (False), and the rule."""
    told: dict[str, tuple[str, Any]] = {point: (head.name, False) for point, head in found.lifted}
    for point in POINTS:
        value: Decided[Any] | None = getattr(found, point)
        if value is not None:
            told[point] = (value.rule.name, value.value)
    return told


# The other way to the same answer


def holds(key: str, wanted: Any, facts: Facts, groups: dict[str, list[str]]) -> bool | None:
    name = None if facts.user is None else facts.user.lower()
    match key:
        case "user" | "domain" | "group" if name is None:
            return None
        case "user":
            return any(fnmatchcase(name or "", glob.lower()) for glob in wanted)
        case "domain":
            return "@" in (name or "") and (name or "").split("@")[-1] in {domain.lower() for domain in wanted}
        case "group":
            static = {group for group, globs in groups.items() if any(fnmatchcase(name or "", g) for g in globs)}
            return bool((static | facts.groups) & set(wanted))
        case "network":
            return any(facts.client in ip_network(network) for network in wanted) if facts.client else False
        case "country":
            return (locate(facts.client) if facts.client else "unknown") in wanted
        case "listener":
            return facts.listener in wanted
        case "tls":
            order = ["", "?", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
            if facts.tls is None:
                return None
            if isinstance(wanted, bool):
                return (facts.tls != "") == wanted
            return order.index(facts.tls) >= order.index(wanted)
        case "mechanism":
            return None if facts.mechanism is None else facts.mechanism in wanted
        case "hours":
            return 8 * 60 <= (facts.now / 60) % 1440 < 18 * 60
    raise AssertionError(key)


def naive(policy: dict[str, Any], facts: Facts, audit: bool) -> dict[str, tuple[str, Any]]:
    """What is set when audited rules count, and when not. Before the login every rule for certain users may apply."""
    told: dict[str, tuple[str, Any]] = {}
    open_: set[str] = set()
    for rule in policy["rules"]:
        if rule.get("mode", policy["mode"]) == "audit" and not audit:
            continue
        answers = [holds(key, value, facts, policy["groups"]) for key, value in rule["when"].items()]
        answers += [
            None if found is None else not found
            for found in (holds(key, value, facts, policy["groups"]) for key, value in rule["unless"].items())
        ]
        for_some = {"user", "domain", "group"} & {*rule["when"], *rule["unless"]}
        sets = {point: value for point, value in rule.items() if point in POINTS}
        if facts.user is None and for_some:
            answers = [None]
        if False in answers:
            continue
        if None in answers:
            open_ |= set(sets)
            if policy["match"] == "first":
                break
            continue
        for point, value in sets.items():
            if point not in told and point not in open_:
                told[point] = (rule["name"], value)
        if policy["match"] == "first":
            break
    return told


USERS = (
    "ann@a.example", "Bob@B.example", "bob@b.example", "ann@b.example", "carl", "", "*@a.example", "* staff",
    "eve@sub.a.example",
)  # fmt: skip
CONDITION = st.fixed_dictionaries(
    {},
    optional={
        "user": st.lists(
            st.sampled_from(
                ("ann@a.example", "BOB@b.example", "*@a.example", "*@b.*", "carl", "a*", "?arl", "*.a.example")
            ),
            min_size=1, max_size=3,
        ),
        "domain": st.lists(st.sampled_from(("a.example", "B.example")), min_size=1, max_size=2),
        "group": st.lists(st.sampled_from(("staff", "old", "looked-up")), min_size=1, max_size=2),
        "network": st.lists(st.sampled_from(("192.0.2.0/25", "192.0.2.0/24", "2001:db8::/32")), min_size=1),
        "country": st.lists(st.sampled_from(("DE", "FR", "unknown")), min_size=1),
        "listener": st.lists(st.sampled_from(("pop3", "pop3s")), min_size=1),
        "tls": st.sampled_from((True, False, "TLSv1.2", "TLSv1.3")),
        "mechanism": st.lists(st.sampled_from(("USER", "PLAIN", "XOAUTH2")), min_size=1),
        "hours": st.just(["08:00-18:00"]),
    },
)
SETS = st.fixed_dictionaries(
    {},
    optional={
        "networks": st.just(False),
        "dele": st.sampled_from(("allow", "refuse", "keep")),
        "rate": st.one_of(st.integers(1, 9), st.just(False)),
        "max_messages": st.one_of(st.integers(1, 9), st.just(False)),
        "sessions_per_address": st.one_of(st.integers(1, 9), st.just(False)),
    },
)
RULE = st.builds(
    lambda when, unless, sets, mode: {
        "when": when,
        "unless": {key: value for key, value in unless.items() if key not in when},
        **sets,
        **mode,
    },
    CONDITION,
    st.one_of(st.just({}), CONDITION),
    SETS,
    st.fixed_dictionaries({}, optional={"mode": st.sampled_from(("enforce", "audit"))}),
)
FACTS = st.builds(
    Facts,
    user=st.sampled_from((None, *USERS)),
    groups=st.frozensets(st.sampled_from(("looked-up", "staff", "other"))),
    client=st.sampled_from((None, *map(ip_address, ("192.0.2.1", "192.0.2.200", "198.51.100.1", "2001:db8::1")))),
    listener=st.sampled_from(("pop3", "pop3s", "other")),
    tls=st.sampled_from((None, "", "?", "TLSv1.2", "TLSv1.3")),
    mechanism=st.sampled_from((None, "USER", "PLAIN")),
    now=st.sampled_from((WEEKDAY, NIGHT)),
    locate=st.just(locate),
)
GROUPS = {"staff": ["*@a.example", "carl"], "old": ["b*"]}


@given(
    st.lists(RULE, min_size=1, max_size=6),
    st.lists(FACTS, min_size=1, max_size=6),
    st.sampled_from(("merge", "first")),
    st.sampled_from(("enforce", "audit")),
)
@settings(max_examples=200, deadline=None)
def test_the_index_changes_nothing(rules: list[dict[str, Any]], asked: list[Facts], match: str, mode: str) -> None:
    """One Rules for several sessions: what is kept of one is right for the next."""
    written = [{"name": f"rule{number}", **rule} for number, rule in enumerate(rules, 1)]
    policy = {"rules": written, "match": match, "mode": mode, "groups": GROUPS, "timezone": "UTC"}
    compiled = Rules(PolicyConfig.model_validate(policy))
    audits = {rule["name"] for rule in written if rule.get("mode", mode) == "audit"}
    for facts in asked:
        found = decide(compiled, facts)
        assert shown(found.enforced) == naive(policy, facts, audit=False)
        tried = naive(policy, facts, audit=True)
        assert shown(found.audited) == {point: told for point, told in tried.items() if told[0] in audits}


def test_a_decision_has_a_field_for_each_thing_a_rule_can_set() -> None:
    assert tuple(field.name for field in fields(Settings)) == (*POINTS, "lifted")


# The semantics, one by one

ANN = Facts(user="ann@a.example", mechanism="USER", tls="TLSv1.3")


def test_merge_takes_each_thing_from_the_first_rule_that_sets_it() -> None:
    policy = config({"rate": 5}, {"when": {"user": ["ann@*"]}, "rate": 7, "max_messages": 3}, {"max_messages": 4})
    assert shown(decided(policy, ANN).enforced) == {"rate": ("rule1", 5), "max_messages": ("rule2", 3)}
    assert [head.name for head in decided(policy, ANN).applied] == ["rule1", "rule2", "rule3"]


def test_first_takes_everything_from_the_first_rule_that_applies() -> None:
    rules = ({"when": {"user": ["bob"]}, "rate": 1}, {"when": {"domain": ["a.example"]}}, {"rate": 9})
    assert shown(decided(config(*rules, match="first"), ANN).enforced) == {}
    assert shown(decided(config(*rules, match="first"), replace(ANN, user="eve")).enforced) == {"rate": ("rule3", 9)}


def test_a_glob_that_ends_like_one_of_a_domain_is_another_one() -> None:
    policy = config({"when": {"user": ["*@a.example", "*.a.example", "*+a.example"]}, "login": "deny"})
    for user in ("ann@a.example", "ann@sub.a.example", "ann+a.example"):
        assert shown(decided(policy, replace(ANN, user=user)).enforced) == {"login": ("rule1", "deny")}, user


def test_another_spelling_of_a_name_is_no_other_user() -> None:
    deny, slow = {"when": {"user": ["ann@a.example"]}, "login": "deny"}, {"when": {"domain": ["a.example"]}, "rate": 5}
    policy = config(deny, slow)
    for user in ("ANN@a.example", " ann@a.example ", "\uff41nn@a.example", "a\u200bnn@A.example"):
        found = decided(policy, replace(ANN, user=user))
        assert shown(found.enforced) == {"login": ("rule1", "deny"), "rate": ("rule2", 5)}, user


def test_false_lifts_what_a_later_rule_would_set() -> None:
    policy = config({"when": {"user": ["ann@*"]}, "rate": False, "networks": False}, {"rate": 5})
    found = decided(policy, ANN).enforced
    assert (found.rate, found.networks) == (None, None)
    assert [(point, head.name) for point, head in found.lifted] == [("networks", "rule1"), ("rate", "rule1")]


def test_an_audited_rule_takes_nothing_away() -> None:
    policy = config({"mode": "audit", "dele": "refuse"}, {"dele": "keep"}, {"mode": "audit", "dele": "allow"})
    found = decided(policy, ANN)
    assert shown(found.enforced) == {"dele": ("rule2", "keep")}
    assert shown(found.audited) == {"dele": ("rule1", "refuse")}


def test_a_rule_behind_the_one_that_decides_has_nothing_to_try() -> None:
    policy = config({"dele": "keep"}, {"mode": "audit", "dele": "refuse"})
    assert shown(decided(policy, ANN).audited) == {}


def test_the_mode_of_the_plugin_is_that_of_rules_that_have_none() -> None:
    policy = config({"rate": 5}, {"mode": "enforce", "dele": "keep"}, mode="audit")
    found = decided(policy, ANN)
    assert shown(found.enforced) == {"dele": ("rule2", "keep")}
    assert shown(found.audited) == {"rate": ("rule1", 5)}


def test_before_the_login_only_what_no_user_can_change_is_decided() -> None:
    deny = {"unless": {"network": ["192.0.2.0/24"]}, "login": "deny"}
    outside = Facts(client=IPv4Address("198.51.100.1"))
    assert shown(decided(config(deny), outside).enforced) == {"login": ("rule1", "deny")}
    boss = {"when": {"user": ["boss"]}, "login": "allow"}
    assert shown(decided(config(boss, deny), outside).enforced) == {}
    assert shown(decided(config({**boss, "mode": "audit"}, deny), outside).enforced) == {"login": ("rule2", "deny")}
    assert shown(decided(config({"when": {"tls": False}, "login": "allow"}, deny), outside).enforced) == {}
    assert shown(decided(config(boss, deny), replace(outside, user="eve")).enforced) == {"login": ("rule2", "deny")}


def test_an_exemption_in_front_of_first_holds_before_the_login() -> None:
    policy = config({"when": {"listener": ["inside"]}}, {"login": "deny"}, match="first")
    assert shown(decided(policy, Facts(listener="inside")).enforced) == {}
    assert shown(decided(policy, Facts(listener="pop3s")).enforced) == {"login": ("rule2", "deny")}


def test_a_country_is_looked_up_only_when_a_rule_asks() -> None:
    asked: list[Address] = []

    def counting(address: Address) -> str:
        asked.append(address)
        return "DE"

    facts = replace(ANN, client=IPv4Address("192.0.2.1"), locate=counting)
    near = {"when": {"country": ["DE"]}}
    eve = {"when": {"user": ["eve"], "country": ["DE"]}, "rate": 2}
    policy = config({**near, "rate": 1}, {**near, "dele": "keep"}, eve)
    compiled = Rules(policy.model_copy(update={"rules": policy.rules[2:]}))
    decide(compiled, facts)
    assert asked == []
    assert shown(decided(policy, facts).enforced) == {"rate": ("rule1", 1), "dele": ("rule2", "keep")}
    assert asked == [IPv4Address("192.0.2.1")]


@pytest.mark.parametrize("key", ["user", "domain", "group"])
def test_rules_for_others_are_not_asked(key: str) -> None:
    """A thousand rules by name: only the one that is filed under this user is looked at."""
    value = {"user": "u{}@a{}.example", "domain": "a{}.example", "group": "g{}"}[key]
    compiled = Rules(
        config(*({"when": {key: [value.format(n, n)]}, "rate": n} for n in range(1, 1001)), {"max_messages": 1})
    )
    asked: list[int] = []
    for rule in compiled.items:
        rule.when = _Watched(rule.head.number, rule.when, asked)  # type: ignore[assignment]
    found = decide(compiled, Facts(user="U500@A500.example", groups=frozenset({"g500"})))
    assert shown(found.enforced) == {"rate": ("rule500", 500), "max_messages": ("rule1001", 1)}
    assert asked == [500, 1001]
    asked.clear()
    assert shown(decide(compiled, Facts()).enforced) == {"max_messages": ("rule1001", 1)}
    assert asked == [1001]


class _Watched:
    def __init__(self, number: int, tests: Any, asked: list[int]) -> None:
        self._number, self._tests, self._asked = number, tests, asked

    def all_hold(self, look: Any) -> bool | None:
        self._asked.append(self._number)
        answer: bool | None = self._tests.all_hold(look)
        return answer


def test_the_same_rules_give_the_same_decision() -> None:
    compiled = Rules(config({"when": {"domain": ["a.example"]}, "rate": 5}))
    assert decide(compiled, ANN) is decide(compiled, replace(ANN, user="eve@A.example"))


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popproxy_plugins.policy.decide.KEPT", 3)
    compiled = Rules(config(*({"when": {"user": [f"u{n}"]}, "rate": n} for n in range(1, 9))))
    for n in (*range(1, 9), *range(1, 9)):
        assert shown(decide(compiled, Facts(user=f"u{n}")).enforced) == {"rate": (f"rule{n}", n)}
        assert len(compiled._kept) <= 3


def every_point() -> Iterator[tuple[str, Any, Any]]:
    """Each thing a rule can set: as written, and as decided."""
    yield "login", "deny", "deny"
    yield "networks", ["192.0.2.0/24"], (ip_network("192.0.2.0/24"),)
    yield "countries", ["de", "unknown"], frozenset({"DE", "unknown"})
    yield "tls", True, True
    yield "mechanisms", ["xoauth2"], frozenset({"XOAUTH2"})
    yield "dele", "keep", "keep"
    yield "expire", "NEVER", "NEVER"
    yield "login_delay", "5m", 300.0
    sessions = [point for point in POINTS if point.startswith("sessions")]
    for point in ("max_messages", "hide_older", "commands_per_minute", *sessions):
        yield point, 7, 7
    for point in ("max_octets", "octets_per_day", "max_message_octets", "hide_larger", "rate", "user_rate"):
        yield point, "64KiB", 65536


@pytest.mark.parametrize(("point", "written", "value"), list(every_point()))
def test_what_is_written_is_decided(point: str, written: Any, value: Any) -> None:
    policy = config({point: written}, countries=__file__)
    assert shown(decided(policy, ANN).enforced) == {point: ("rule1", value)}


def test_the_rest_of_what_can_be_written() -> None:
    written = {"commands": {"deny": ["top"]}, "logins": "100/day", "leave_on_server": {"days": 3}}
    found = decided(config({"hours": ["Mon 08:00-09:00"], **written}), ANN).enforced
    assert found.hours is not None and found.hours.value.spans == (480, 540)
    assert found.commands is not None and found.commands.value.deny == ("TOP",)
    assert found.logins is not None and (found.logins.value.count, found.logins.value.seconds) == (100, 86400.0)
    assert found.leave_on_server is not None and found.leave_on_server.value.days == 3
    covered = {point for point, _, _ in every_point()} | {"hours", "commands", "logins", "leave_on_server"}
    assert covered == set(POINTS)

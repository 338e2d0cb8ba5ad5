"""Which server a login gets, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from popproxy.config.load import load
from popproxy.config.plan import Plan, UpstreamPlan
from popproxy.net.balance import ranking
from popproxy.run.explain import explain, render
from popproxy.run.placement import bounds, health, placement, told

LISTENER = '[[listener]]\nname = "pop3s"\nbind = ["[::]:995"]\ntls = "implicit"\n'
THREE = 'servers = ["pop3s://a", { url = "pop3s://b:1995", weight = 3 }, "pop3s://[::1]:996"]\n'

Made = Callable[[str], Plan]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def plan(text: str) -> Plan:
        file = tmp_path / "popproxy.toml"
        file.write_text(text + LISTENER, "utf-8")
        return load(file).plan

    return plan


def upstream(made: Made, text: str) -> UpstreamPlan:
    return made(f"[upstream.main]\n{text}\n").upstreams["main"]


def test_one_server(made: Made) -> None:
    found = placement(upstream(made, 'servers = ["pop3s://a"]'), "joe")
    assert (found.servers, found.because) == (("a:995",), "the only server")


@pytest.mark.parametrize(
    ("balance", "because"),
    [
        ("first", "the first in the list that is in rotation"),
        ("round_robin", "in turn, weighted 1:3:1"),
        ("least_sessions", "the one with the fewest sessions of its process, weighted 1:3:1"),
    ],
)
def test_a_group(made: Made, balance: str, because: str) -> None:
    found = placement(upstream(made, THREE + f'balance = "{balance}"'), "joe")
    assert (found.servers, found.because) == (("a:995", "b:1995", "[::1]:996"), because)


def test_a_sticky_user(made: Made) -> None:
    plan = upstream(made, THREE + 'balance = "sticky"')
    for user in ("joe", "ann", "bob"):
        found = placement(plan, user)
        order = [server.host for server in ranking(plan.servers, user)]
        assert [name.rpartition(":")[0].strip("[]") for name in found.servers] == order
        assert found.because == f"sticky by '{user}'; the next one only while those before it are out of rotation"


def test_bounds_health_and_introduction(made: Made) -> None:
    plan = upstream(made, 'servers = ["pop3s://a"]')
    assert bounds(plan) == "no limit"
    assert health(plan) == "out behind 3 faults in a row; tried again after 1s to 30s"
    assert told(plan) == "not told the client's address"
    plan = upstream(
        made,
        'servers = ["pop3s://a", { url = "pop3s://b", max_sessions = 5 }]\nmax_sessions = 9\nqueue = 4\n'
        'send_proxy = "v2"\nxclient = "required"\nhealth = { fall = 2, backoff = 5, longest = 60, probe = 10 }',
    )
    assert bounds(plan) == "all servers together 9, b:995 5; then 4 logins wait at most 5s"
    assert health(plan) == "out behind 2 faults in a row; tried again after 5s to 60s; probed every 10s"
    assert told(plan) == "PROXY v2; XCLIENT, required"
    plan = upstream(made, 'servers = [{ url = "pop3s://b", max_sessions = 5 }]\nqueue = 0\nxclient = true')
    assert bounds(plan) == "b:995 5; then nobody waits"
    assert told(plan) == "XCLIENT where it is announced"


def test_explain_follows_the_plugins_to_the_server(made: Made) -> None:
    plan = made(
        'default_upstream = "main"\n[upstream.main]\nservers = ["pop3s://m"]\n[upstream.big]\nbalance = "sticky"\n'
        + THREE
        + '[[plugin]]\nuse = "auth_rewrite"\nrules = [{ lower = "all" }]\n'
        + '[[plugin]]\nuse = "routing"\nrules = [{ domain = ["big.example"], upstream = "big", key = "{local}" }]\n'
    )
    found = explain(plan, "Joe@Big.example", "192.0.2.1").listeners[0]
    group = plan.upstreams["big"].servers
    assert found.placement is not None
    assert found.placement.servers[0].strip("[").startswith(ranking(group, "joe")[0].host)
    text = render(explain(plan, "Joe@Big.example", "192.0.2.1"))
    assert "rule 1: domain: upstream big, by the key joe" in text
    assert f"  to       {', '.join(found.placement.servers)}: sticky by 'joe'" in text
    # Without a key it is the name used upstream, as plugins have made it.
    other = explain(plan, "Joe@Other.example", "192.0.2.1").listeners[0]
    assert other.placement is not None and other.placement.servers == ("m:995",)


def test_a_refused_login_leads_nowhere(made: Made) -> None:
    plan = made(
        '[upstream.main]\nservers = ["pop3s://m"]\n[[plugin]]\nuse = "auth_rewrite"\nrules = [{ strip_domain = "*" }]\n'
    )
    found = explain(plan, "@example.com", "192.0.2.1").listeners[0]
    assert found.placement is None and "  to " not in render(explain(plan, "@example.com", "192.0.2.1"))
